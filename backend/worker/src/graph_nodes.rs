//! Nodes of graphs beyond those of [`graphs`](crate::graphs): events and conditions; the graphs inside
//! of nodes, and clones.

use crate::call::{Call, Outcome};
use crate::graphs::{finish_adding, live_ctx, take_adding};
use crate::live::{Entry, Kind};
use vgpu_protocol::cuda::{CUcontext, CUevent, CUgraph, CUgraphNode, CUgraphNodeParams, CUresult};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, ConditionalNode, Result as _};

/// Most graphs of a conditional node.
const MAX_BODIES: u32 = 256;

/// `CU_GRAPH_NODE_TYPE_CONDITIONAL`.
const CONDITIONAL: u32 = 13;

/// `cuGraphAddEventRecordNode`, `cuGraphAddEventWaitNode`.
///
/// # Errors
/// What the client gets.
pub fn add_event(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    let event = CUevent(call.take::<u64>()?);
    call.done()?;
    call.live(event)?;
    let driver = call.driver();
    let function = if call.number() == number::cuGraphAddEventRecordNode {
        driver.cuGraphAddEventRecordNode
    } else {
        driver.cuGraphAddEventWaitNode
    };
    let function = function.ok_or(CUresult::NOT_SUPPORTED)?;
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph, dependencies and event are live, the result has room.
    let result = unsafe { function(&raw mut node, adding.graph, list, count, event) };
    finish_adding(call, &adding, node, result)
}

/// `cuGraphConditionalHandleCreate`.
///
/// # Errors
/// What the client gets.
pub fn create_condition(call: &mut Call<'_>) -> Outcome {
    let args = call.take::<wire::cuGraphConditionalHandleCreate::Args>()?;
    let ctx = CUcontext(call.take::<u64>()?);
    call.done()?;
    let graph: CUgraph = args.graph.get();
    call.live(graph)?;
    live_ctx(call, ctx)?;
    let create = call
        .driver()
        .cuGraphConditionalHandleCreate
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut handle = 0_u64;
    // SAFETY: graph and context are live, the result has room.
    call.result(unsafe {
        create(
            &raw mut handle,
            graph,
            ctx,
            args.value.get(),
            args.flags.get(),
        )
    })?;
    let entry = Entry {
        owner: graph.0,
        ..Entry::default()
    };
    call.worker.live.enter(Kind::Condition, handle, entry);
    call.reply(&handle)
}

/// `cuGraphAddNode_v2`, for conditional nodes; all others travel as the calls of their own.
///
/// # Errors
/// What the client gets.
pub fn add_conditional(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    let node = call.take::<ConditionalNode>()?;
    call.done()?;
    live_ctx(call, adding.ctx)?;
    let known = call.worker.live.contains(Kind::Condition, node.handle);
    if !known || node.size == 0 || node.size > MAX_BODIES {
        return Err(CUresult::INVALID_VALUE);
    }
    let add = call
        .driver()
        .cuGraphAddNode_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut params = CUgraphNodeParams {
        kind: CONDITIONAL,
        ..CUgraphNodeParams::default()
    };
    let [handle, shape, _, ctx, ..] = &mut params.words;
    *handle = node.handle;
    *shape = u64::from(node.kind) | u64::from(node.size) << 32;
    *ctx = adding.ctx.0;
    let (list, count) = adding.list();
    let mut added = CUgraphNode::NULL;
    // SAFETY: graph, dependencies, condition and context are live; parameters and result live here.
    // Without edge data all edges are plain.
    let result = unsafe {
        add(
            &raw mut added,
            adding.graph,
            list,
            std::ptr::null(),
            count,
            &raw mut params,
        )
    };
    finish_adding(call, &adding, added, result)?;
    let bodies = params.words[2] as *const CUgraph;
    if bodies.is_null() {
        return Err(CUresult::UNKNOWN);
    }
    // SAFETY: the driver's own array, with a graph per body, valid as long as the node.
    let bodies = unsafe { std::slice::from_raw_parts(bodies, node.size as usize) }.to_vec();
    for body in bodies {
        enter_inner(call, body, adding.graph, added);
        call.reply(&body)?;
    }
    Ok(())
}

/// Enters a graph that belongs to a node of another one.
fn enter_inner(call: &Call<'_>, inner: CUgraph, outer: CUgraph, node: CUgraphNode) {
    let entry = Entry {
        owner: outer.0,
        data: node.0,
        ..Entry::default()
    };
    call.worker.live.enter(Kind::Graph, inner.0, entry);
}

/// `cuGraphChildGraphNodeGetGraph`.
///
/// # Errors
/// What the client gets.
pub fn child_graph(call: &mut Call<'_>) -> Outcome {
    let node: CUgraphNode = call
        .decode::<wire::cuGraphChildGraphNodeGetGraph::Args>()?
        .node
        .get();
    let outer = call.entry(node)?.owner;
    let get = call
        .driver()
        .cuGraphChildGraphNodeGetGraph
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut inner = CUgraph::NULL;
    // SAFETY: the node is live, the result has room.
    call.result(unsafe { get(node, &raw mut inner) })?;
    enter_inner(call, inner, CUgraph(outer), node);
    call.reply(&inner.to_wire())
}

/// `cuGraphNodeFindInClone`.
///
/// # Errors
/// What the client gets.
pub fn find_in_clone(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphNodeFindInClone::Args>()?;
    let (original, clone): (CUgraphNode, CUgraph) = (args.original.get(), args.clone.get());
    call.live(original)?;
    call.live(clone)?;
    let find = call
        .driver()
        .cuGraphNodeFindInClone
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut node = CUgraphNode::NULL;
    // SAFETY: node and graph are live, the result has room.
    call.result(unsafe { find(&raw mut node, original, clone) })?;
    call.enter(node, clone.0);
    call.reply(&node.to_wire())
}
