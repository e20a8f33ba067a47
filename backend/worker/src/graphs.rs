//! Graphs: nodes with their parameters, and lists of them.

use crate::call::{Call, Outcome};
use crate::copies::check_3d;
use crate::launch::{self, Packed};
use crate::live::{Kind, Layout};
use crate::modules::{self, deliver_list, list_room};
use crate::{callbacks, graph_ends, live};
use std::ffi::c_void;
use std::sync::Arc;
use vgpu_protocol::cuda::{
    CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CUDA_GRAPH_INSTANTIATE_PARAMS,
    CUDA_KERNEL_NODE_PARAMS, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CUcontext, CUfunction,
    CUgraph, CUgraphExec, CUgraphExecUpdateResultInfo, CUgraphNode, CUkernel, CUresult,
};
use vgpu_protocol::wire::{
    self, AddNode, AttributeReply, HostFunc, Launch, ListReply, ListRequest, Result as _,
};

/// `cuGraphInstantiateWithParams`.
///
/// # Errors
/// What the client gets.
pub fn instantiate_with_params(call: &mut Call<'_>) -> Outcome {
    let args = call.take::<wire::cuGraphInstantiateWithParams::Args>()?;
    let mut params = call.take::<CUDA_GRAPH_INSTANTIATE_PARAMS>()?;
    call.done()?;
    let graph: CUgraph = args.graph.get();
    call.live(graph)?;
    params.upload_stream = call.in_stream(params.upload_stream)?;
    let function = call
        .driver()
        .cuGraphInstantiateWithParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut exec = CUgraphExec::NULL;
    // SAFETY: graph and stream are live; parameters and result live here.
    let result = unsafe { function(&raw mut exec, graph, &raw mut params) };
    if result == CUresult::SUCCESS {
        call.enter(exec, 0);
        graph_ends::instantiated(call, graph, exec);
    }
    call.reply(&wire::cuGraphInstantiateWithParams::Reply {
        exec: exec.to_wire(),
        graph: [],
        params: [],
    })?;
    call.reply(&params)?;
    call.result(result)
}

/// `cuGraphExecUpdate_v2`. The call succeeds whenever the driver was asked; its result is in the
/// answer, because the details matter most on failure.
///
/// # Errors
/// What the client gets.
pub fn exec_update(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuGraphExecUpdate_v2::Args>()?;
    let (exec, graph): (CUgraphExec, CUgraph) = (args.exec.get(), args.graph.get());
    call.live(exec)?;
    call.live(graph)?;
    let function = call
        .driver()
        .cuGraphExecUpdate_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut info = CUgraphExecUpdateResultInfo::default();
    // SAFETY: both graphs are live, the result has room.
    let result = unsafe { function(exec, graph, &raw mut info) };
    call.worker.note(result);
    call.reply(&AttributeReply {
        value: [
            u64::from(result.0),
            u64::from(info.result),
            info.error_node.0,
            info.error_from_node.0,
            0,
            0,
            0,
            0,
        ],
    })
}

type GetNodes = unsafe extern "C" fn(CUgraph, *mut CUgraphNode, *mut usize) -> CUresult;

/// `cuGraphGetNodes`, `cuGraphGetRootNodes`.
///
/// # Errors
/// What the client gets.
pub fn nodes(call: &mut Call<'_>, get: Option<GetNodes>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let graph = CUgraph(args.object);
    call.live(graph)?;
    let room = list_room(call, args.out)?;
    let get = get.ok_or(CUresult::NOT_SUPPORTED)?;
    let mut count = 0_usize;
    // SAFETY: the graph is live; without a list only the number is asked for.
    call.result(unsafe { get(graph, std::ptr::null_mut(), &raw mut count) })?;
    if room > 0 {
        let mut list = vec![CUgraphNode::NULL; room.min(count)];
        count = list.len();
        if count > 0 {
            // SAFETY: the list holds as many nodes as `count` says.
            call.result(unsafe { get(graph, list.as_mut_ptr(), &raw mut count) })?;
        }
        list.truncate(count);
        deliver_nodes(call, args.out.addr, graph, &list)?;
    }
    call.reply(&ListReply {
        count: count as u64,
    })
}

/// Enters listed nodes and stores them where the client wants them.
pub(crate) fn deliver_nodes(
    call: &Call<'_>,
    address: u64,
    graph: CUgraph,
    list: &[CUgraphNode],
) -> Outcome {
    for node in list {
        call.enter(*node, graph.0);
    }
    let handles: Vec<u64> = list.iter().map(|node| node.0).collect();
    deliver_list(call, address, &handles)
}

/// What all nodes that are added have in common.
pub(crate) struct Adding {
    /// The graph.
    pub graph: CUgraph,
    /// Context of the node.
    pub ctx: CUcontext,
    dependencies: Vec<CUgraphNode>,
}

impl Adding {
    /// The dependencies as the driver takes them.
    pub fn list(&self) -> (*const CUgraphNode, usize) {
        if self.dependencies.is_empty() {
            (std::ptr::null(), 0)
        } else {
            (self.dependencies.as_ptr(), self.dependencies.len())
        }
    }
}

pub(crate) fn take_nodes(call: &mut Call<'_>, count: u32) -> Result<Vec<CUgraphNode>, CUresult> {
    let list = call.take_list::<CUgraphNode>(count as usize)?;
    for node in &list {
        call.live(*node)?;
    }
    Ok(list)
}

pub(crate) fn take_adding(call: &mut Call<'_>) -> Result<Adding, CUresult> {
    let add = call.take::<AddNode>()?;
    let graph = CUgraph(add.graph);
    call.live(graph)?;
    let dependencies = take_nodes(call, add.count)?;
    let ctx = if add.ctx == 0 {
        call.request.header.scope
    } else {
        add.ctx
    };
    Ok(Adding {
        graph,
        ctx: CUcontext(ctx),
        dependencies,
    })
}

/// Context of a copy or fill, which must be live.
pub(crate) fn live_ctx(call: &mut Call<'_>, ctx: CUcontext) -> Outcome {
    call.live(ctx)
}

pub(crate) fn finish_adding(
    call: &mut Call<'_>,
    adding: &Adding,
    node: CUgraphNode,
    result: CUresult,
) -> Outcome {
    call.result(result)?;
    call.enter(node, adding.graph.0);
    // All replies of this family begin with this word.
    call.reply(&node.to_wire())
}

/// `cuGraphAddEmptyNode`.
///
/// # Errors
/// What the client gets.
pub fn add_empty(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    call.done()?;
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph and dependencies are live, the result has room.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddEmptyNode(&raw mut node, adding.graph, list, count)
        )
    };
    finish_adding(call, &adding, node, result)
}

/// A kernel node's parameters with everything they point to.
struct KernelNode<'a> {
    launch: Launch,
    packed: Packed<'a>,
    layout: Arc<Layout>,
    pointers: Vec<*mut c_void>,
    len: usize,
    extra: [*mut c_void; 5],
}

fn take_kernel<'a>(call: &mut Call<'a>) -> Result<KernelNode<'a>, CUresult> {
    let launch = call.take::<Launch>()?;
    if launch.attribute_count != 0 {
        return Err(CUresult::NOT_SUPPORTED);
    }
    call.live(CUfunction(launch.function))?;
    let layout = modules::layout_of(call, launch.function)?;
    let packed = launch::take_params(call, &launch)?;
    call.done()?;
    let pointers = if layout.known {
        launch::pointers(&layout, packed.bytes())?
    } else {
        Vec::new()
    };
    Ok(KernelNode {
        launch,
        len: packed.bytes().len(),
        packed,
        layout,
        pointers,
        extra: [std::ptr::null_mut(); 5],
    })
}

impl KernelNode<'_> {
    /// The struct for the driver. It points into `self`.
    fn params(&mut self, call: &Call<'_>, ctx: CUcontext) -> CUDA_KERNEL_NODE_PARAMS {
        let kernel = launch::is_kernel(call, self.launch.function);
        let extra = if self.layout.known {
            std::ptr::null_mut()
        } else {
            self.extra = [
                CU_LAUNCH_PARAM_BUFFER_POINTER as *mut c_void,
                self.packed.bytes().as_ptr().cast_mut().cast(),
                CU_LAUNCH_PARAM_BUFFER_SIZE as *mut c_void,
                (&raw mut self.len).cast(),
                std::ptr::null_mut(),
            ];
            self.extra.as_mut_ptr()
        };
        let handle = self.launch.function;
        CUDA_KERNEL_NODE_PARAMS {
            function: CUfunction(if kernel { 0 } else { handle }),
            grid: self.launch.grid,
            block: self.launch.block,
            dynamic_shared: self.launch.dynamic_shared,
            params: if self.pointers.is_empty() {
                std::ptr::null_mut()
            } else {
                self.pointers.as_mut_ptr()
            },
            extra,
            kernel: CUkernel(if kernel { handle } else { 0 }),
            // A function knows its context; only a kernel needs to be told.
            ctx: if kernel { ctx } else { CUcontext::NULL },
        }
    }
}

/// `cuGraphAddKernelNode_v2`.
///
/// # Errors
/// What the client gets.
pub fn add_kernel(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    live_ctx(call, adding.ctx)?;
    let mut kernel = take_kernel(call)?;
    let params = kernel.params(call, adding.ctx);
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph, dependencies, function and context are live; parameters are private and have
    // the sizes that the driver stated. The driver copies them.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddKernelNode_v2(&raw mut node, adding.graph, list, count, &raw const params)
        )
    };
    finish_adding(call, &adding, node, result)
}

/// `cuGraphAddMemcpyNode`.
///
/// # Errors
/// What the client gets.
pub fn add_copy(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    live_ctx(call, adding.ctx)?;
    let copy = call.take::<CUDA_MEMCPY3D>()?;
    call.done()?;
    check_3d(call, &copy)?;
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph, dependencies and context are live; both sides of the copy were checked.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddMemcpyNode(
                &raw mut node,
                adding.graph,
                list,
                count,
                &raw const copy,
                adding.ctx
            )
        )
    };
    finish_adding(call, &adding, node, result)
}

/// `cuGraphAddMemsetNode`.
///
/// # Errors
/// What the client gets.
pub fn add_fill(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    live_ctx(call, adding.ctx)?;
    let fill = call.take::<CUDA_MEMSET_NODE_PARAMS>()?;
    call.done()?;
    call.worker.device_address(fill.dst.0)?;
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph, dependencies and context are live; the address lies in the window.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddMemsetNode(
                &raw mut node,
                adding.graph,
                list,
                count,
                &raw const fill,
                adding.ctx
            )
        )
    };
    finish_adding(call, &adding, node, result)
}

/// `cuGraphAddHostNode`.
///
/// # Errors
/// What the client gets.
pub fn add_host(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    let function = call.take::<HostFunc>()?;
    call.done()?;
    let params = callbacks::node_params(call.worker, function);
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph and dependencies are live; the function's data is never freed.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddHostNode(&raw mut node, adding.graph, list, count, &raw const params)
        )
    };
    finish_adding(call, &adding, node, result)
}

/// `cuGraphAddChildGraphNode`.
///
/// # Errors
/// What the client gets.
pub fn add_child(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    let child = CUgraph(call.take::<u64>()?);
    call.done()?;
    call.live(child)?;
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: both graphs and the dependencies are live.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddChildGraphNode(&raw mut node, adding.graph, list, count, child)
        )
    };
    finish_adding(call, &adding, node, result)
}

/// `cuGraphKernelNodeSetParams_v2`, `cuGraphExecKernelNodeSetParams_v2`.
///
/// # Errors
/// What the client gets.
pub fn set_kernel(call: &mut Call<'_>) -> Outcome {
    let exec = CUgraphExec(call.take::<u64>()?);
    let node = CUgraphNode(call.take::<u64>()?);
    call.live(node)?;
    if exec != CUgraphExec::NULL {
        call.live(exec)?;
    }
    let ctx = CUcontext(call.request.header.scope);
    live_ctx(call, ctx)?;
    let mut kernel = take_kernel(call)?;
    let params = kernel.params(call, ctx);
    let driver = call.driver();
    // SAFETY: all handles are live; parameters are private and have the sizes that the driver
    // stated. The driver copies them.
    let result = unsafe {
        if exec == CUgraphExec::NULL {
            vgpu_driver::call!(
                driver,
                cuGraphKernelNodeSetParams_v2(node, &raw const params)
            )
        } else {
            vgpu_driver::call!(
                driver,
                cuGraphExecKernelNodeSetParams_v2(exec, node, &raw const params)
            )
        }
    };
    call.result(result)
}

/// `cuGraphKernelNodeGetParams_v2`.
///
/// # Errors
/// What the client gets.
pub fn get_kernel(call: &mut Call<'_>) -> Outcome {
    let node: CUgraphNode = call
        .decode::<wire::cuGraphKernelNodeGetParams_v2::Args>()?
        .node
        .get();
    call.live(node)?;
    let function = call
        .driver()
        .cuGraphKernelNodeGetParams_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut params = CUDA_KERNEL_NODE_PARAMS {
        function: CUfunction::NULL,
        grid: [0; 3],
        block: [0; 3],
        dynamic_shared: 0,
        params: std::ptr::null_mut(),
        extra: std::ptr::null_mut(),
        kernel: CUkernel::NULL,
        ctx: CUcontext::NULL,
    };
    // SAFETY: the node is live, the result has room.
    call.result(unsafe { function(node, &raw mut params) })?;
    let (kind, handle) = if params.function == CUfunction::NULL {
        (Kind::Kernel, params.kernel.0)
    } else {
        (Kind::Function, params.function.0)
    };
    let layout = modules::enter_function(call, kind, handle, 0);
    let packed = if params.params.is_null() {
        // SAFETY: the driver's own array for this node, ended by a null key.
        unsafe { packed_extra(params.extra) }
    } else {
        // SAFETY: the driver's own array, with a pointer per parameter of this function.
        unsafe { packed_params(params.params, &layout) }
    };
    let len = packed
        .len()
        .min(call.reply_room().saturating_sub(size_of::<Launch>()));
    call.reply(&Launch {
        function: handle,
        // The field is free in this reply: the kernel behind the function, if the driver says.
        stream: params.kernel.0,
        grid: params.grid,
        block: params.block,
        dynamic_shared: params.dynamic_shared,
        attribute_count: 0,
        params_len: len as u32,
        flags: if kind == Kind::Kernel { 2 } else { 0 },
        params: 0,
    })?;
    call.reply_bytes(packed.get(..len).unwrap_or(&[]))
}

/// # Safety
/// `params` holds a valid pointer for each parameter of `layout`.
unsafe fn packed_params(params: *mut *mut c_void, layout: &live::Layout) -> Vec<u8> {
    let mut packed = vec![0; layout.len as usize];
    for (index, param) in layout.params.iter().enumerate() {
        let (start, len) = (param.offset as usize, param.size as usize);
        if let Some(room) = packed.get_mut(start..start.saturating_add(len)) {
            // SAFETY: the caller vouches for the array and for `size` bytes behind each pointer.
            unsafe {
                std::ptr::copy_nonoverlapping((*params.add(index)).cast(), room.as_mut_ptr(), len);
            }
        }
    }
    packed
}

/// # Safety
/// `extra` is null or an array of keys and values that ends with a null key.
unsafe fn packed_extra(extra: *mut *mut c_void) -> Vec<u8> {
    let (mut buffer, mut len) = (std::ptr::null::<u8>(), 0);
    let mut at = extra;
    if !at.is_null() {
        // SAFETY: the caller vouches for the array up to its null key.
        unsafe {
            while !(*at).is_null() {
                match *at as usize {
                    CU_LAUNCH_PARAM_BUFFER_POINTER => buffer = (*at.add(1)).cast(),
                    CU_LAUNCH_PARAM_BUFFER_SIZE => len = *(*at.add(1)).cast::<usize>(),
                    _ => break,
                }
                at = at.add(2);
            }
        }
    }
    if buffer.is_null() {
        return Vec::new();
    }
    // SAFETY: the buffer has the length stated beside it.
    unsafe { std::slice::from_raw_parts(buffer, len.min(1 << 16)) }.to_vec()
}
