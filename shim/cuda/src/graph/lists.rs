//! Lists of what a graph consists of: nodes, roots, edges.

use super::MAX_DEPENDENCIES;
use crate::call::{self, Block};
use crate::client::{self, Client};
use crate::{module, write};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, ListReply};
use zerocopy::IntoBytes;

/// Entries of the program's array that are used.
///
/// # Safety
/// `count` is valid.
pub(crate) unsafe fn room_of(count: *const usize) -> usize {
    // SAFETY: the caller's contract.
    unsafe { *count }.min(MAX_DEPENDENCIES)
}

/// Lists nodes into the program's array, or tells how many there are.
///
/// # Safety
/// `count` is valid; `nodes` is null or has `*count` entries.
pub(crate) unsafe fn list_nodes(
    number: u16,
    object: u64,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if count.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if nodes.is_null() {
        return write(count, how_many(client, number, object)?);
    }
    // SAFETY: not null; the caller gives a valid pointer.
    let room = unsafe { room_of(count) };
    let found = module::list(client, number, object, room)?;
    // SAFETY: the caller's array has at least as many entries as were found.
    unsafe { fill(nodes, &found, room) };
    write(count, found.len())
}

/// Stores handles and clears the rest of the array.
///
/// # Safety
/// `to` has `room` entries, at least as many as there are handles.
unsafe fn fill(to: *mut CUgraphNode, handles: &[u64], room: usize) {
    for at in 0..room {
        // SAFETY: the caller's contract.
        unsafe {
            to.add(at)
                .write(CUgraphNode(handles.get(at).copied().unwrap_or(0)))
        };
    }
}

fn how_many(client: &Client, number: u16, object: u64) -> Result<usize, CUresult> {
    let head = wire::ListRequest {
        object,
        ..wire::ListRequest::default()
    };
    let mut reply = ListReply::default();
    call::call(client, number, &[head.as_bytes()], reply.as_mut_bytes())?;
    usize::try_from(reply.count).map_err(|_| CUresult::UNKNOWN)
}

/// `cuGraphGetNodes`.
///
/// # Safety
/// `count` is null or valid; `nodes` is null or has `*count` entries.
pub unsafe fn cuGraphGetNodes(
    graph: CUgraph,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { list_nodes(number::cuGraphGetNodes, graph.0, nodes, count) }
}

/// `cuGraphGetRootNodes`.
///
/// # Safety
/// As [`cuGraphGetNodes`].
pub unsafe fn cuGraphGetRootNodes(
    graph: CUgraph,
    nodes: *mut CUgraphNode,
    count: *mut usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { list_nodes(number::cuGraphGetRootNodes, graph.0, nodes, count) }
}

/// `cuGraphGetEdges`.
///
/// # Safety
/// `count` is null or valid; both arrays are null or have `*count` entries.
pub unsafe fn cuGraphGetEdges(
    graph: CUgraph,
    from: *mut CUgraphNode,
    to: *mut CUgraphNode,
    count: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if count.is_null() || from.is_null() != to.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if from.is_null() {
        return write(count, how_many(client, number::cuGraphGetEdges, graph.0)?);
    }
    // SAFETY: not null; the caller gives a valid pointer.
    let room = unsafe { room_of(count) };
    let bytes = room.max(1) * 8;
    let (sources, targets) = (Block::new(client, bytes)?, Block::new(client, bytes)?);
    let head = wire::ListRequest {
        object: graph.0,
        out: wire::Blob {
            len: room as u64 * 8,
            ..sources.blob()
        },
        extra: targets.blob().addr,
    };
    let mut reply = ListReply::default();
    call::call(
        client,
        number::cuGraphGetEdges,
        &[head.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let found = room.min(usize::try_from(reply.count).unwrap_or(0));
    for (block, array) in [(sources, from), (targets, to)] {
        let mut handles = vec![0_u64; found];
        block.read(handles.as_mut_bytes())?;
        // SAFETY: the caller's arrays have `room` entries.
        unsafe { fill(array, &handles, room) };
    }
    write(count, found)
}
