//! Graphs. The driver in the worker builds and runs them; the shim marshals nodes and their
//! parameters.
//!
//! | module | what lives there |
//! |---|---|
//! | `nodes` | empty, copy, fill, host and child nodes |
//! | `any_node` | nodes of any type by one function |
//! | `kernels` | kernel nodes and their parameters |
//! | `exec` | instantiation, launch, update |
//! | `lists` | nodes, roots and edges of a graph |
//! | `params` | parameters of nodes, read and changed |
//! | `text`, `user_objects` | a graph as text; objects whose end it puts off |

mod any_node;
mod exec;
mod kernels;
mod lists;
mod nodes;
mod params;
mod text;
mod user_objects;

pub use any_node::*;
pub use exec::*;
pub use kernels::*;
pub use lists::*;
pub use nodes::*;
pub use params::*;
pub use text::*;
pub use user_objects::*;

use crate::client;
use crate::{call, write};
use vgpu_protocol::cuda::*;
use vgpu_protocol::wire::{self, AddNode};
use zerocopy::{FromZeros, IntoBytes};

/// Most dependencies of a node that are sent.
const MAX_DEPENDENCIES: usize = 1 << 20;

/// Dependencies as bytes.
///
/// # Safety
/// `nodes` is null or has `count` entries.
pub(crate) unsafe fn node_list<'a>(
    nodes: *const CUgraphNode,
    count: usize,
) -> Result<&'a [CUgraphNode], CUresult> {
    match count {
        0 => Ok(&[]),
        _ if nodes.is_null() || count > MAX_DEPENDENCIES => Err(CUresult::INVALID_VALUE),
        // SAFETY: the caller's contract.
        _ => Ok(unsafe { core::slice::from_raw_parts(nodes, count) }),
    }
}

/// Where a node goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The graph.
    pub graph: CUgraph,
    /// What the node depends on.
    pub dependencies: *const CUgraphNode,
    /// Number of dependencies.
    pub count: usize,
    /// Context of the node, or null for the current one.
    pub ctx: CUcontext,
}

/// Adds a node described by `params` and stores its handle.
///
/// # Safety
/// The dependencies have as many entries as they say.
pub(crate) unsafe fn add(
    number: u16,
    node: *mut CUgraphNode,
    place: Place,
    params: &[&[u8]],
) -> Result<(), CUresult> {
    let mut reply = wire::cuGraphAddEmptyNode::Reply::new_zeroed();
    // SAFETY: the caller's contract.
    unsafe { add_with_reply(number, node, place, params, reply.as_mut_bytes())? };
    write(node, reply.node.get())
}

/// As [`add`], for answers that hold more than the node; nothing is stored.
///
/// # Safety
/// As [`add`].
pub(crate) unsafe fn add_with_reply(
    number: u16,
    node: *mut CUgraphNode,
    place: Place,
    params: &[&[u8]],
    reply: &mut [u8],
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if node.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let dependencies = unsafe { node_list(place.dependencies, place.count)? };
    let head = AddNode {
        graph: place.graph.0,
        ctx: place.ctx.0,
        count: dependencies.len() as u32,
        pad: 0,
    };
    let mut parts = vec![head.as_bytes(), dependencies.as_bytes()];
    parts.extend_from_slice(params);
    call::call(client, number, &parts, reply)
}
