//! Edges of graphs: neighbours, removal, and the forms with edge data, which are served as far as
//! edges are plain ones.

use crate::call;
use crate::client::{self, Client};
use crate::graph::{cuGraphAddDependencies, cuGraphGetEdges, list_nodes, node_list};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::AddNode;
use zerocopy::IntoBytes;

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
    if edges.is_null() {
        return Ok(());
    }
    for at in 0..count {
        // SAFETY: the caller's contract.
        if unsafe { *edges.add(at) } != CUgraphEdgeData::default() {
            return Err(CUresult::NOT_SUPPORTED);
        }
    }
    Ok(())
}

/// Tells edges that are plain ones; for others the driver refuses the question that led here.
///
/// # Safety
/// `edges` is null or has `count` entries.
unsafe fn tell_plain(edges: *mut CUgraphEdgeData, count: usize) {
    if edges.is_null() {
        return;
    }
    for at in 0..count {
        // SAFETY: the caller's contract.
        unsafe { edges.add(at).write(CUgraphEdgeData::default()) };
    }
}

/// Removes dependencies.
///
/// # Safety
/// Both lists have `count` entries.
unsafe fn remove(
    client: &Client,
    graph: CUgraph,
    from: *const CUgraphNode,
    to: *const CUgraphNode,
    count: usize,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    let (from, to) = unsafe { (node_list(from, count)?, node_list(to, count)?) };
    let head = AddNode {
        graph: graph.0,
        ctx: 0,
        count: from.len() as u32,
        pad: 0,
    };
    call::call(
        client,
        number::cuGraphRemoveDependencies,
        &[head.as_bytes(), from.as_bytes(), to.as_bytes()],
        &mut [],
    )
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
    unsafe { remove(client::entered()?, graph, from, to, count) }
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
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        plain_edges(edges, count)?;
        remove(client, graph, from, to, count)
    }
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
    client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        plain_edges(edges, count)?;
        cuGraphAddDependencies(graph, from, to, count)
    }
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
        cuGraphGetEdges(graph, from, to, count)?;
        if !from.is_null() {
            tell_plain(edges, *count);
        }
    }
    Ok(())
}

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
    unsafe { list_nodes(number::cuGraphNodeGetDependencies, node.0, nodes, count) }
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
    unsafe { list_nodes(number::cuGraphNodeGetDependentNodes, node.0, nodes, count) }
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
    // SAFETY: the caller's contract; `count` is not null after success.
    unsafe {
        cuGraphNodeGetDependencies(node, nodes, count)?;
        if !nodes.is_null() {
            tell_plain(edges, *count);
        }
    }
    Ok(())
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
    // SAFETY: the caller's contract; `count` is not null after success.
    unsafe {
        cuGraphNodeGetDependentNodes(node, nodes, count)?;
        if !nodes.is_null() {
            tell_plain(edges, *count);
        }
    }
    Ok(())
}
