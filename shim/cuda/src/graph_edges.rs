//! Edges of graphs: made, removed, listed; nodes and their neighbours.
//!
//! Edge data that says no more than a plain dependency does travels as none: every driver takes that.

use crate::call::{self, Block};
use crate::client;
use crate::graph::{cuGraphGetEdges, list_nodes, node_list, room_of};
use crate::write;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{AddNode, Blob, ListReply, ListRequest};
use zerocopy::{FromBytes, IntoBytes};

/// Edge data as the program gave it; none if all edges are plain ones.
///
/// # Safety
/// `edges` is null or has `count` entries.
pub(crate) unsafe fn edge_data<'a>(
    edges: *const CUgraphEdgeData,
    count: usize,
) -> Option<&'a [CUgraphEdgeData]> {
    if edges.is_null() || count == 0 {
        return None;
    }
    // SAFETY: the caller's contract.
    let edges = unsafe { core::slice::from_raw_parts(edges, count) };
    edges
        .iter()
        .any(|edge| *edge != CUgraphEdgeData::default())
        .then_some(edges)
}

/// That edge data says no more than a plain dependency does.
///
/// # Errors
/// `NOT_SUPPORTED`.
///
/// # Safety
/// `edges` is null or has `count` entries.
pub(crate) unsafe fn plain_edges(
    edges: *const CUgraphEdgeData,
    count: usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    match unsafe { edge_data(edges, count) } {
        None => Ok(()),
        Some(_) => Err(CUresult::NOT_SUPPORTED),
    }
}

/// Adds or removes edges: the numbers of the call without and with edge data.
///
/// # Safety
/// All lists have `count` entries; `edges` may be null.
unsafe fn change(
    (plain, with_data): (u16, u16),
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let (from, to, edges) = unsafe {
        let (from, to) = (node_list(from, count)?, node_list(to, count)?);
        (from, to, edge_data(edges, count))
    };
    let head = AddNode {
        graph: graph.0,
        ctx: 0,
        count: from.len() as u32,
        pad: 0,
    };
    let number = if edges.is_some() { with_data } else { plain };
    let edges = edges.unwrap_or(&[]).as_bytes();
    call::call(
        client,
        number,
        &[head.as_bytes(), from.as_bytes(), to.as_bytes(), edges],
        &mut [],
    )
}

/// The calls that add edges.
const ADD: (u16, u16) = (
    number::cuGraphAddDependencies,
    number::cuGraphAddDependencies_v2,
);

/// The calls that remove edges.
const REMOVE: (u16, u16) = (
    number::cuGraphRemoveDependencies,
    number::cuGraphRemoveDependencies_v2,
);

/// `cuGraphAddDependencies`.
///
/// # Safety
/// Both lists have `count` entries.
pub unsafe fn cuGraphAddDependencies(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { change(ADD, graph, from, to, core::ptr::null(), count) }
}

/// `cuGraphAddDependencies_v2`.
///
/// # Safety
/// All lists have `count` entries; `edges` may be null.
pub unsafe fn cuGraphAddDependencies_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { change(ADD, graph, from, to, edges, count) }
}

/// `cuGraphRemoveDependencies`.
///
/// # Safety
/// Both lists have `count` entries.
pub unsafe fn cuGraphRemoveDependencies(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { change(REMOVE, graph, from, to, core::ptr::null(), count) }
}

/// `cuGraphRemoveDependencies_v2`.
///
/// # Safety
/// All lists have `count` entries; `edges` may be null.
pub unsafe fn cuGraphRemoveDependencies_v2(
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { change(REMOVE, graph, from, to, edges, count) }
}

/// Stores what was listed, as many entries as there is room for; the rest is cleared.
///
/// # Safety
/// `to` is null or has `room` entries.
unsafe fn store<T: Copy + Default>(to: *mut T, found: &[T], room: usize) {
    if to.is_null() {
        return;
    }
    for at in 0..room {
        let entry = found.get(at).copied().unwrap_or_default();
        // SAFETY: the caller's contract.
        unsafe { to.add(at).write(entry) };
    }
}

/// Lists something with its edge data, as the driver has it: one or two lists of nodes, and the data.
///
/// # Safety
/// `count` is valid; each array is null or has `*count` entries.
unsafe fn list_with_data(
    number: u16,
    object: u64,
    nodes: &[*mut CUgraphNode],
    edges: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let room = unsafe { room_of(count) };
    let lists = nodes.len() + 1;
    // The lists lie one behind the other, the data last; entries of all have 8 bytes.
    let block = Block::new(client, room.max(1) * 8 * lists)?;
    let head = ListRequest {
        object,
        out: Blob {
            addr: block.blob().addr,
            len: room as u64 * 8,
        },
        extra: 0,
    };
    let mut reply = ListReply::default();
    call::call(client, number, &[head.as_bytes()], reply.as_mut_bytes())?;
    let found = room.min(usize::try_from(reply.count).unwrap_or(0));
    let mut bytes = vec![0_u64; room.max(1) * lists];
    block.read(bytes.as_mut_bytes())?;
    let list = |at: usize| &bytes[at * room..at * room + found];
    for (at, to) in nodes.iter().enumerate() {
        let handles: Vec<_> = list(at).iter().map(|word| CUgraphNode(*word)).collect();
        // SAFETY: the caller's contract.
        unsafe { store(*to, &handles, room) };
    }
    let data = <[CUgraphEdgeData]>::ref_from_bytes(list(nodes.len()).as_bytes());
    // SAFETY: the caller's contract.
    unsafe { store(edges, data.map_err(|_| CUresult::UNKNOWN)?, room) };
    write(count, found)
}

/// Tells the data of edges, all of which are plain: others the driver would not have listed without.
///
/// # Safety
/// `edges` is null or has `*count` entries, and `count` is valid.
unsafe fn tell_plain(edges: *mut CUgraphEdgeData, count: *mut usize) {
    // SAFETY: the caller's contract.
    unsafe { store(edges, &[], *count) };
}

/// `cuGraphGetEdges_v2`.
///
/// # Safety
/// `count` is null or valid; the arrays are null or have `*count` entries.
pub unsafe fn cuGraphGetEdges_v2(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    edges: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract; `count` is not null after success.
    unsafe {
        match cuGraphGetEdges(graph, from, to, count) {
            Err(CUresult::LOSSY_QUERY) if !edges.is_null() => {
                let number = number::cuGraphGetEdges_v2;
                return list_with_data(number, graph.0, &[from, to], edges, count);
            }
            listed => listed?,
        }
        if !from.is_null() {
            tell_plain(edges, count);
        }
    }
    Ok(())
}

/// Lists a node's neighbours: the numbers of the call without and with edge data.
///
/// # Safety
/// `count` is null or valid; both arrays are null or have `*count` entries.
unsafe fn neighbours(
    (plain, with_data): (u16, u16),
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    edges: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract; `count` is not null after success.
    unsafe {
        match list_nodes(plain, node.0, nodes, count) {
            Err(CUresult::LOSSY_QUERY) if !edges.is_null() => {
                return list_with_data(with_data, node.0, &[nodes], edges, count);
            }
            listed => listed?,
        }
        if !nodes.is_null() {
            tell_plain(edges, count);
        }
    }
    Ok(())
}

/// The calls that list what a node depends on.
const DEPENDENCIES: (u16, u16) = (
    number::cuGraphNodeGetDependencies,
    number::cuGraphNodeGetDependencies_v2,
);

/// The calls that list what depends on a node.
const DEPENDENTS: (u16, u16) = (
    number::cuGraphNodeGetDependentNodes,
    number::cuGraphNodeGetDependentNodes_v2,
);

/// `cuGraphNodeGetDependencies`.
///
/// # Safety
/// `count` is null or valid; `nodes` is null or has `*count` entries.
pub unsafe fn cuGraphNodeGetDependencies(
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { neighbours(DEPENDENCIES, node, nodes, core::ptr::null_mut(), count) }
}

/// `cuGraphNodeGetDependentNodes`.
///
/// # Safety
/// As [`cuGraphNodeGetDependencies`].
pub unsafe fn cuGraphNodeGetDependentNodes(
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { neighbours(DEPENDENTS, node, nodes, core::ptr::null_mut(), count) }
}

/// `cuGraphNodeGetDependencies_v2`.
///
/// # Safety
/// As [`cuGraphNodeGetDependencies`]; `edges` is null or has `*count` entries.
pub unsafe fn cuGraphNodeGetDependencies_v2(
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    edges: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { neighbours(DEPENDENCIES, node, nodes, edges, count) }
}

/// `cuGraphNodeGetDependentNodes_v2`.
///
/// # Safety
/// As [`cuGraphNodeGetDependencies_v2`].
pub unsafe fn cuGraphNodeGetDependentNodes_v2(
    node: CUgraphNode,
    nodes: *mut CUgraphNode,
    edges: *mut CUgraphEdgeData,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { neighbours(DEPENDENTS, node, nodes, edges, count) }
}
