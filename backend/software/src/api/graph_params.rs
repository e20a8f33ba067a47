//! Graphs: parameters of nodes, memory operations, objects of the program, a graph as text.

use super::graph::{add, current_or, fill_action, host_action};
use crate::callback::HostCall;
use crate::copy::Copy;
use crate::entry::entries;
use crate::foreign::{In, Outcome};
use crate::graph::exec;
use crate::graph::{self, Action};
use crate::operations::Operations;
use crate::user_object;
use std::ffi::{c_char, c_void};
use std::fmt::Write;
use vgpu_protocol::cuda::{
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUDA_HOST_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS,
    CUcontext, CUgraph, CUgraphExec, CUgraphNode, CUhostFn, CUresult, CUstreamBatchMemOpParams,
    CUuserObject,
};

/// `CU_USER_OBJECT_NO_DESTRUCTOR_SYNC`.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// `CU_GRAPH_USER_OBJECT_MOVE`.
const MOVE: u32 = 1;

fn operations(params: &CUDA_BATCH_MEM_OP_NODE_PARAMS) -> Outcome<Action> {
    current_or(params.ctx)?;
    // SAFETY: the C contract of the functions that get here: as many operations as the struct says.
    let list = unsafe { In::new(params.operations as *const CUstreamBatchMemOpParams) };
    let list = list.list(params.count.min(1 << 16) as usize)?;
    Ok(Action::Operations(Operations::checked(
        &list,
        params.flags,
    )?))
}

/// Names of node types, by `CUgraphNodeType`.
fn type_name(kind: u32) -> &'static str {
    match kind {
        0 => "KERNEL",
        1 => "MEMCPY",
        2 => "MEMSET",
        3 => "HOST",
        4 => "GRAPH",
        5 => "EMPTY",
        6 => "WAIT_EVENT",
        7 => "EVENT_RECORD",
        12 => "BATCH_MEM_OP",
        _ => "NODE",
    }
}

fn text(graph: &graph::Graph) -> Outcome<String> {
    let mut text = String::from("digraph dot {\n");
    for handle in graph.nodes() {
        let name = type_name(graph.node(handle)?.action.node_type());
        let _ = writeln!(text, "\"{handle:#x}\"[label=\"{name}\"];");
    }
    for (from, to) in graph.edges() {
        let _ = writeln!(text, "\"{from:#x}\" -> \"{to:#x}\";");
    }
    text.push_str("}\n");
    Ok(text)
}

entries! {
    ready fn cuGraphMemcpyNodeSetParams(val node: CUgraphNode, src copy: CUDA_MEMCPY3D) {
        graph::owner(node.0)?.replace(node.0, Action::Copy(Copy::planes(&copy.get()?)?))
    }

    ready fn cuGraphMemsetNodeSetParams(
        val node: CUgraphNode, src params: CUDA_MEMSET_NODE_PARAMS,
    ) {
        graph::owner(node.0)?.replace(node.0, fill_action(&params.get()?)?)
    }

    ready fn cuGraphHostNodeSetParams(val node: CUgraphNode, src params: CUDA_HOST_NODE_PARAMS) {
        graph::owner(node.0)?.replace(node.0, host_action(&params.get()?)?)
    }

    ready fn cuGraphHostNodeGetParams(val node: CUgraphNode, out params: CUDA_HOST_NODE_PARAMS) {
        params.require()?;
        match graph::owner(node.0)?.node(node.0)?.action {
            Action::Host(HostCall::Function { function, user }) => {
                params.put(CUDA_HOST_NODE_PARAMS {
                    function: Some(function),
                    user: user as *mut c_void,
                })
            }
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    ready fn cuGraphExecMemcpyNodeSetParams(
        val exec: CUgraphExec, val node: CUgraphNode, src copy: CUDA_MEMCPY3D, val ctx: CUcontext,
    ) {
        current_or(ctx)?;
        exec::get(exec.0)?.replace(node.0, Action::Copy(Copy::planes(&copy.get()?)?))
    }

    ready fn cuGraphExecMemsetNodeSetParams(
        val exec: CUgraphExec, val node: CUgraphNode, src params: CUDA_MEMSET_NODE_PARAMS,
        val ctx: CUcontext,
    ) {
        current_or(ctx)?;
        exec::get(exec.0)?.replace(node.0, fill_action(&params.get()?)?)
    }

    ready fn cuGraphExecHostNodeSetParams(
        val exec: CUgraphExec, val node: CUgraphNode, src params: CUDA_HOST_NODE_PARAMS,
    ) {
        exec::get(exec.0)?.replace(node.0, host_action(&params.get()?)?)
    }

    ready fn cuGraphAddBatchMemOpNode(
        out node: CUgraphNode, val graph: CUgraph, src after: CUgraphNode, val count: usize,
        src params: CUDA_BATCH_MEM_OP_NODE_PARAMS,
    ) {
        add(&node, graph, &after, count, || operations(&params.get()?))
    }

    ready fn cuGraphBatchMemOpNodeGetParams(
        val node: CUgraphNode, out params: CUDA_BATCH_MEM_OP_NODE_PARAMS,
    ) {
        params.require()?;
        let Action::Operations(operations) = graph::owner(node.0)?.node(node.0)?.action else {
            return Err(CUresult::INVALID_VALUE);
        };
        // The list belongs to the node and is there until its parameters are set again.
        params.put(CUDA_BATCH_MEM_OP_NODE_PARAMS {
            count: operations.params.len() as u32,
            operations: operations.params.as_ptr() as u64,
            ..CUDA_BATCH_MEM_OP_NODE_PARAMS::default()
        })
    }

    ready fn cuGraphBatchMemOpNodeSetParams(
        val node: CUgraphNode, src params: CUDA_BATCH_MEM_OP_NODE_PARAMS,
    ) {
        graph::owner(node.0)?.replace(node.0, operations(&params.get()?)?)
    }

    ready fn cuGraphExecBatchMemOpNodeSetParams(
        val exec: CUgraphExec, val node: CUgraphNode, src params: CUDA_BATCH_MEM_OP_NODE_PARAMS,
    ) {
        exec::get(exec.0)?.replace(node.0, operations(&params.get()?)?)
    }

    ready fn cuGraphDebugDotPrint(val graph: CUgraph, text path: c_char, val _flags: u32) {
        let text = text(&*graph::get(graph.0)?)?;
        std::fs::write(path.get()?, text).map_err(|_| CUresult::OPERATING_SYSTEM)
    }

    ready fn cuUserObjectCreate(
        out object: CUuserObject, val pointer: *mut c_void, val destroy: CUhostFn, val count: u32,
        val flags: u32,
    ) {
        object.require()?;
        let destroy = destroy.ok_or(CUresult::INVALID_VALUE)?;
        if flags != NO_DESTRUCTOR_SYNC || count == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        object.put(CUuserObject(user_object::create(destroy, pointer as usize, count)))
    }

    ready fn cuUserObjectRetain(val object: CUuserObject, val count: u32) {
        user_object::retain(object.0, count)
    }

    ready fn cuUserObjectRelease(val object: CUuserObject, val count: u32) {
        user_object::release(object.0, count)
    }

    ready fn cuGraphRetainUserObject(
        val graph: CUgraph, val object: CUuserObject, val count: u32, val flags: u32,
    ) {
        let graph = graph::get(graph.0)?;
        if flags & !MOVE != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        user_object::give(&mut graph.objects.lock(), object.0, count, flags & MOVE != 0)
    }

    ready fn cuGraphReleaseUserObject(
        val graph: CUgraph, val object: CUuserObject, val count: u32,
    ) {
        let graph = graph::get(graph.0)?;
        let last = user_object::take_back(&mut graph.objects.lock(), object.0, count)?;
        drop(last);
        Ok(())
    }
}
