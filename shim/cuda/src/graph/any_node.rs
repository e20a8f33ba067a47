//! Nodes of any type by one function.

use super::{
    cuGraphAddChildGraphNode, cuGraphAddEmptyNode, cuGraphAddHostNode, cuGraphAddKernelNode_v2,
    cuGraphAddMemcpyNode, cuGraphAddMemsetNode,
};
use crate::graph_edges::{cuGraphAddDependencies_v2, edge_data};
use crate::graph_memory::{cuGraphAddMemAllocNode, cuGraphAddMemFreeNode};
use crate::graph_nodes::{
    add_conditional, cuGraphAddEventRecordNode, cuGraphAddEventWaitNode, cuGraphDestroyNode, place,
};
use crate::memory_operations::cuGraphAddBatchMemOpNode;
use crate::{client, context};
use vgpu_protocol::cuda::*;

/// `CU_GRAPH_NODE_TYPE_*`.
pub(crate) mod kind {
    pub const KERNEL: u32 = 0;
    pub const MEMCPY: u32 = 1;
    pub const MEMSET: u32 = 2;
    pub const HOST: u32 = 3;
    pub const GRAPH: u32 = 4;
    pub const EMPTY: u32 = 5;
    pub const WAIT_EVENT: u32 = 6;
    pub const EVENT_RECORD: u32 = 7;
    pub const MEM_ALLOC: u32 = 10;
    pub const MEM_FREE: u32 = 11;
    pub const BATCH_MEM_OP: u32 = 12;
    pub const CONDITIONAL: u32 = 13;
}

/// Adds a node without dependencies, then its edges with their data. Without the edges there is no
/// node either.
///
/// # Safety
/// There are as many dependencies as edges; `params` is null or describes a node.
unsafe fn add_behind_edges(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    edges: &[CUgraphEdgeData],
    params: *mut CUgraphNodeParams,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    let kind = unsafe { params.as_ref() }
        .ok_or(CUresult::INVALID_VALUE)?
        .kind;
    if matches!(kind, kind::MEM_ALLOC | kind::MEM_FREE) {
        // The driver would not let the node go again.
        return Err(CUresult::NOT_SUPPORTED);
    }
    let (none, plain) = (core::ptr::null(), core::ptr::null());
    // SAFETY: the caller's contract; the node was stored if the first call succeeds.
    unsafe {
        cuGraphAddNode_v2(node, graph, none, plain, 0, params)?;
        let to = vec![*node; edges.len()];
        let (data, count) = (edges.as_ptr(), edges.len());
        let joined = cuGraphAddDependencies_v2(graph, dependencies, to.as_ptr(), data, count);
        if joined.is_err() {
            let _ = cuGraphDestroyNode(*node);
        }
        joined
    }
}

/// `cuGraphAddNode_v2`: the call of the node's own type.
///
/// # Safety
/// The dependencies have `count` entries, and so has `edges` unless it is null; `params` is null or
/// describes a node.
pub unsafe fn cuGraphAddNode_v2(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
    params: *mut CUgraphNodeParams,
) -> Result<(), CUresult> {
    client::entered()?;
    // SAFETY: the caller's contract; what a type's parameters are, `cuda.h` says.
    unsafe {
        if let Some(edges) = edge_data(edges, count) {
            return add_behind_edges(node, graph, dependencies, edges, params);
        }
        let params = params.as_mut().ok_or(CUresult::INVALID_VALUE)?;
        if node.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let words = params.words.as_mut_ptr();
        match params.kind {
            kind::KERNEL => cuGraphAddKernelNode_v2(node, graph, dependencies, count, words.cast()),
            kind::MEMCPY => {
                // Flags, context, the copy.
                let (copy, ctx) = (words.add(2).cast(), CUcontext(params.words[1]));
                cuGraphAddMemcpyNode(node, graph, dependencies, count, copy, current(ctx)?)
            }
            kind::MEMSET => {
                let ctx = current(CUcontext(params.words[5]))?;
                cuGraphAddMemsetNode(node, graph, dependencies, count, words.cast(), ctx)
            }
            kind::HOST => cuGraphAddHostNode(node, graph, dependencies, count, words.cast()),
            kind::GRAPH => {
                let [child, ownership, ..] = params.words;
                if ownership as u32 != 0 {
                    // The child would have to change hands.
                    return Err(CUresult::NOT_SUPPORTED);
                }
                cuGraphAddChildGraphNode(node, graph, dependencies, count, CUgraph(child))
            }
            kind::EMPTY => cuGraphAddEmptyNode(node, graph, dependencies, count),
            kind::WAIT_EVENT => {
                let event = CUevent(params.words[0]);
                cuGraphAddEventWaitNode(node, graph, dependencies, count, event)
            }
            kind::EVENT_RECORD => {
                let event = CUevent(params.words[0]);
                cuGraphAddEventRecordNode(node, graph, dependencies, count, event)
            }
            kind::MEM_ALLOC => {
                cuGraphAddMemAllocNode(node, graph, dependencies, count, words.cast())
            }
            kind::MEM_FREE => {
                let dptr = CUdeviceptr(params.words[0]);
                cuGraphAddMemFreeNode(node, graph, dependencies, count, dptr)
            }
            kind::BATCH_MEM_OP => {
                cuGraphAddBatchMemOpNode(node, graph, dependencies, count, words.cast())
            }
            kind::CONDITIONAL => add_conditional(node, place(graph, dependencies, count), params),
            _ => Err(CUresult::NOT_SUPPORTED),
        }
    }
}

/// A context, or the current one for null.
pub(crate) fn current(ctx: CUcontext) -> Result<CUcontext, CUresult> {
    if ctx.is_null() {
        context::required()
    } else {
        Ok(ctx)
    }
}

/// `cuGraphAddNode`.
///
/// # Safety
/// As [`cuGraphAddNode_v2`].
pub unsafe fn cuGraphAddNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *mut CUgraphNodeParams,
) -> Result<(), CUresult> {
    let none = core::ptr::null();
    // SAFETY: the caller's contract.
    unsafe { cuGraphAddNode_v2(node, graph, dependencies, none, count, params) }
}
