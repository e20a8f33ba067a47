//! Graphs.

use super::launch::parameters;
use crate::callback::HostCall;
use crate::context::Context;
use crate::copy::{Copy, Fill};
use crate::entry::entries;
use crate::foreign::{In, Out, Outcome};
use crate::graph::exec::{self, Exec};
use crate::graph::{self, Action};
use crate::launch::{KernelLaunch, Shape};
use crate::{capture, context, current, module, stream};
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::Arc;
use vgpu_protocol::cuda::{
    CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_HOST_NODE_PARAMS, CUDA_KERNEL_NODE_PARAMS, CUDA_MEMCPY3D,
    CUDA_MEMSET_NODE_PARAMS, CUcontext, CUfunction, CUgraph, CUgraphExec,
    CUgraphExecUpdateResultInfo, CUgraphNode, CUkernel, CUresult, CUstream,
};

/// Instantiation flags: free on launch, upload, device launch, node priorities. Only device launch
/// asks for something that is not there.
const INSTANTIATE_FLAGS: u64 = 15;
const DEVICE_LAUNCH: u64 = 4;

pub(super) fn current_or(ctx: CUcontext) -> Outcome<Arc<Context>> {
    if ctx.is_null() {
        current::context()
    } else {
        context::get(ctx)
    }
}

fn kernel_action(params: &CUDA_KERNEL_NODE_PARAMS) -> Outcome<Action> {
    let context = current_or(params.ctx)?;
    let handle = if params.function.is_null() {
        CUfunction(params.kernel.0)
    } else {
        params.function
    };
    let function = module::function(handle, &context)?;
    let shape = Shape {
        grid: params.grid,
        block: params.block,
        dynamic_shared: params.dynamic_shared,
    };
    let block = parameters(&function, params.params, params.extra)?;
    let launch = KernelLaunch::new(function, shape, block)?;
    Ok(Action::Kernel(Arc::new(launch)))
}

pub(super) fn fill_action(params: &CUDA_MEMSET_NODE_PARAMS) -> Outcome<Action> {
    let fill = Fill {
        dst: params.dst.0,
        pitch: params.pitch,
        value: params.value,
        element: params.element_size,
        width: params.width,
        height: params.height,
    };
    Ok(Action::Fill(fill.checked()?))
}

pub(super) fn host_action(params: &CUDA_HOST_NODE_PARAMS) -> Outcome<Action> {
    let function = params.function.ok_or(CUresult::INVALID_VALUE)?;
    let user = params.user as usize;
    Ok(Action::Host(HostCall::Function { function, user }))
}

/// Adds a node to the graph of a handle.
pub(super) fn add(
    node: &Out<CUgraphNode>,
    graph: CUgraph,
    after: &In<CUgraphNode>,
    count: usize,
    action: impl FnOnce() -> Outcome<Action>,
) -> Outcome {
    node.require()?;
    let graph = graph::get(graph.0)?;
    let after: Vec<u64> = after.list(count)?.iter().map(|node| node.0).collect();
    node.put(CUgraphNode(graph.add(action()?, &after)?))
}

/// Lists handles as CUDA does: with no place for them, how many there are; else as many as there is
/// room for, the rest of the room null.
fn list(handles: Vec<u64>, nodes: &Out<CUgraphNode>, count: &Out<usize>) -> Outcome {
    let total = handles.len();
    if nodes.is_null() {
        return count.put(total);
    }
    let room = count.get()?;
    let padded = handles.into_iter().chain(std::iter::repeat(0));
    nodes.put_all(padded.map(CUgraphNode), room)?;
    count.put(total.min(room))
}

fn instantiate(graph: CUgraph, flags: u64) -> Outcome<Arc<Exec>> {
    current::context()?;
    if flags & !INSTANTIATE_FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(CUresult::NOT_SUPPORTED);
    }
    Exec::create(&*graph::get(graph.0)?)
}

entries! {
    ready fn cuGraphCreate(out graph: CUgraph, val flags: u32) {
        graph.require()?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        graph.put(CUgraph(graph::Graph::create().handle))
    }

    ready fn cuGraphDestroy(val graph: CUgraph) {
        graph::destroy(graph.0)
    }

    ready fn cuGraphClone(out clone: CUgraph, val graph: CUgraph) {
        clone.require()?;
        clone.put(CUgraph(graph::get(graph.0)?.duplicate()?.handle))
    }

    uncaptured fn cuGraphInstantiateWithFlags(
        out exec: CUgraphExec, val graph: CUgraph, val flags: u64,
    ) {
        exec.require()?;
        exec.put(CUgraphExec(instantiate(graph, flags)?.handle))
    }

    uncaptured fn cuGraphInstantiateWithParams(
        out exec: CUgraphExec, val graph: CUgraph, out params: CUDA_GRAPH_INSTANTIATE_PARAMS,
    ) {
        exec.require()?;
        let given = params.get()?;
        let made = instantiate(graph, given.flags);
        params.put(CUDA_GRAPH_INSTANTIATE_PARAMS {
            error_node: CUgraphNode::NULL,
            // CUDA_GRAPH_INSTANTIATE_SUCCESS or _ERROR.
            result: u32::from(made.is_err()),
            ..given
        })?;
        exec.put(CUgraphExec(made?.handle))
    }

    uncaptured fn cuGraphInstantiate_v2(
        out exec: CUgraphExec, val graph: CUgraph, out error_node: CUgraphNode, out log: c_char,
        val log_size: usize,
    ) {
        exec.require()?;
        error_node.put_optional(CUgraphNode::NULL);
        if !log.is_null() && log_size > 0 {
            log.put(0)?;
        }
        exec.put(CUgraphExec(instantiate(graph, 0)?.handle))
    }

    ready fn cuGraphExecDestroy(val exec: CUgraphExec) {
        exec::destroy(exec.0)
    }

    ready fn cuGraphLaunch(val exec: CUgraphExec, val stream: CUstream) {
        let (_, stream) = stream::get(stream)?;
        let exec = exec::get(exec.0)?;
        // In a capture this would become a child node of its own making.
        if capture::is_capturing(&stream) {
            return Err(CUresult::NOT_SUPPORTED);
        }
        capture::refuse_stream(&stream)?;
        exec.launch(&stream)
    }

    ready fn cuGraphUpload(val exec: CUgraphExec, val stream: CUstream) {
        let (_, stream) = stream::get(stream)?;
        exec::get(exec.0)?;
        capture::refuse_stream(&stream)
    }

    uncaptured fn cuGraphExecUpdate_v2(
        val exec: CUgraphExec, val graph: CUgraph, out result: CUgraphExecUpdateResultInfo,
    ) {
        result.require()?;
        let exec = exec::get(exec.0)?;
        let mismatch = exec.update(&*graph::get(graph.0)?)?.err();
        let mut info = CUgraphExecUpdateResultInfo::default();
        if let Some(mismatch) = mismatch {
            info.result = mismatch.result;
            info.error_node = CUgraphNode(mismatch.node);
        }
        result.put(info)?;
        mismatch.map_or(Ok(()), |_| Err(CUresult::GRAPH_EXEC_UPDATE_FAILURE))
    }

    ready fn cuGraphGetNodes(val graph: CUgraph, out nodes: CUgraphNode, out count: usize) {
        count.require()?;
        list(graph::get(graph.0)?.nodes(), &nodes, &count)
    }

    ready fn cuGraphGetRootNodes(val graph: CUgraph, out nodes: CUgraphNode, out count: usize) {
        count.require()?;
        list(graph::get(graph.0)?.roots(), &nodes, &count)
    }

    ready fn cuGraphGetEdges(
        val graph: CUgraph, out from: CUgraphNode, out to: CUgraphNode, out count: usize,
    ) {
        count.require()?;
        if from.is_null() != to.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let edges = graph::get(graph.0)?.edges();
        let (starts, ends): (Vec<u64>, Vec<u64>) = edges.into_iter().unzip();
        let room = count.get()?;
        list(starts, &from, &count)?;
        if !to.is_null() {
            count.put(room)?;
        }
        list(ends, &to, &count)
    }

    ready fn cuGraphNodeGetType(val node: CUgraphNode, out kind: u32) {
        kind.require()?;
        kind.put(graph::owner(node.0)?.node(node.0)?.action.node_type())
    }

    ready fn cuGraphDestroyNode(val node: CUgraphNode) {
        graph::owner(node.0)?.remove(node.0)
    }

    ready fn cuGraphAddEmptyNode(
        out node: CUgraphNode, val graph: CUgraph, src after: CUgraphNode, val count: usize,
    ) {
        add(&node, graph, &after, count, || Ok(Action::Empty))
    }

    ready fn cuGraphAddKernelNode_v2(
        out node: CUgraphNode, val graph: CUgraph, src after: CUgraphNode, val count: usize,
        src params: CUDA_KERNEL_NODE_PARAMS,
    ) {
        add(&node, graph, &after, count, || kernel_action(&params.get()?))
    }

    ready fn cuGraphAddMemcpyNode(
        out node: CUgraphNode, val graph: CUgraph, src after: CUgraphNode, val count: usize,
        src copy: CUDA_MEMCPY3D, val ctx: CUcontext,
    ) {
        add(&node, graph, &after, count, || {
            current_or(ctx)?;
            Ok(Action::Copy(Copy::planes(&copy.get()?)?))
        })
    }

    ready fn cuGraphAddMemsetNode(
        out node: CUgraphNode, val graph: CUgraph, src after: CUgraphNode, val count: usize,
        src params: CUDA_MEMSET_NODE_PARAMS, val ctx: CUcontext,
    ) {
        add(&node, graph, &after, count, || {
            current_or(ctx)?;
            fill_action(&params.get()?)
        })
    }

    ready fn cuGraphAddHostNode(
        out node: CUgraphNode, val graph: CUgraph, src after: CUgraphNode, val count: usize,
        src params: CUDA_HOST_NODE_PARAMS,
    ) {
        add(&node, graph, &after, count, || host_action(&params.get()?))
    }

    ready fn cuGraphAddChildGraphNode(
        out node: CUgraphNode, val graph: CUgraph, src after: CUgraphNode, val count: usize,
        val child: CUgraph,
    ) {
        add(&node, graph, &after, count, || {
            if child == graph {
                return Err(CUresult::INVALID_VALUE);
            }
            // The node owns a copy: later changes of the child do not reach it.
            Ok(Action::Child(graph::get(child.0)?.duplicate()?))
        })
    }

    ready fn cuGraphAddDependencies(
        val graph: CUgraph, src from: CUgraphNode, src to: CUgraphNode, val count: usize,
    ) {
        let graph = graph::get(graph.0)?;
        let pairs = from.list(count)?.into_iter().zip(to.list(count)?);
        let edges: Vec<(u64, u64)> = pairs.map(|(from, to)| (from.0, to.0)).collect();
        graph.connect(&edges)
    }

    ready fn cuGraphExecKernelNodeSetParams_v2(
        val exec: CUgraphExec, val node: CUgraphNode, src params: CUDA_KERNEL_NODE_PARAMS,
    ) {
        exec::get(exec.0)?.replace(node.0, kernel_action(&params.get()?)?)
    }

    ready fn cuGraphKernelNodeGetParams_v2(
        val node: CUgraphNode, out params: CUDA_KERNEL_NODE_PARAMS,
    ) {
        params.require()?;
        let Action::Kernel(launch) = graph::owner(node.0)?.node(node.0)?.action else {
            return Err(CUresult::INVALID_VALUE);
        };
        let pointers = match launch.pointers.len() {
            0 => ptr::null_mut(),
            // The array belongs to the node and is there until its parameters are set again.
            _ => launch.pointers.as_ptr().cast_mut().cast::<*mut c_void>(),
        };
        params.put(CUDA_KERNEL_NODE_PARAMS {
            function: launch.function.handle,
            grid: launch.shape.grid,
            block: launch.shape.block,
            dynamic_shared: launch.shape.dynamic_shared,
            params: pointers,
            extra: ptr::null_mut(),
            kernel: CUkernel::NULL,
            ctx: CUcontext::NULL,
        })
    }

    ready fn cuGraphKernelNodeSetParams_v2(
        val node: CUgraphNode, src params: CUDA_KERNEL_NODE_PARAMS,
    ) {
        graph::owner(node.0)?.replace(node.0, kernel_action(&params.get()?)?)
    }
}
