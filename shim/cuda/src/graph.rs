//! Graphs. The driver in the worker builds and runs them; the shim marshals nodes and their
//! parameters.

mod lists;

pub use lists::*;

use crate::call::{self, Block, Completion};
use crate::client::{self, Client};
use crate::stream::{self, NullStream};
use crate::{callback, context, function, launch, memory, module, write};
use core::ffi::{c_char, c_void};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use vgpu_channel::reply::PAYLOAD_BYTES;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AddNode, AttributeReply, HOST_FUNC, ListReply, Word, read_prefix};
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

/// `cuGraphAddEmptyNode`.
///
/// # Safety
/// The dependencies have `count` entries.
pub unsafe fn cuGraphAddEmptyNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
) -> Result<(), CUresult> {
    let place = Place {
        graph,
        dependencies,
        count,
        ctx: CUcontext::NULL,
    };
    // SAFETY: the caller's contract.
    unsafe { add(number::cuGraphAddEmptyNode, node, place, &[]) }
}

/// `cuGraphAddKernelNode_v2`.
///
/// # Safety
/// The dependencies have `count` entries; `params` is null or describes a launch.
pub unsafe fn cuGraphAddKernelNode_v2(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const CUDA_KERNEL_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        let params = params.as_ref().ok_or(CUresult::INVALID_VALUE)?;
        let ctx = if params.ctx.is_null() {
            context::current()
        } else {
            params.ctx
        };
        let (head, bytes) = launch::for_node(client, params)?;
        let place = Place {
            graph,
            dependencies,
            count,
            ctx,
        };
        add(
            number::cuGraphAddKernelNode_v2,
            node,
            place,
            &[head.as_bytes(), &bytes],
        )?;
        remember_kernel(*node, head.function);
        Ok(())
    }
}

/// That no end of a copy is the program's own pageable memory: its bytes would have to be fetched
/// anew at each replay.
///
/// # Errors
/// `NOT_SUPPORTED`.
pub(crate) fn reachable_at_replay(client: &Client, copy: &CUDA_MEMCPY3D) -> Result<(), CUresult> {
    for (kind, host) in [
        (copy.src_memory_type, copy.src_host),
        (copy.dst_memory_type, copy.dst_host),
    ] {
        if kind == CU_MEMORYTYPE_HOST && memory::side(client, host, 1)? == memory::Side::Pageable {
            return Err(CUresult::NOT_SUPPORTED);
        }
    }
    Ok(())
}

/// `cuGraphAddMemcpyNode`: both ends must be memory that the device reaches at replay.
///
/// # Safety
/// The dependencies have `count` entries; `copy` is null or describes a copy.
pub unsafe fn cuGraphAddMemcpyNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    copy: *const CUDA_MEMCPY3D,
    ctx: CUcontext,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let copy = unsafe { *copy.as_ref().ok_or(CUresult::INVALID_VALUE)? };
    reachable_at_replay(client, &copy)?;
    let place = Place {
        graph,
        dependencies,
        count,
        ctx,
    };
    // SAFETY: the caller's contract.
    unsafe {
        add(
            number::cuGraphAddMemcpyNode,
            node,
            place,
            &[copy.as_bytes()],
        )
    }
}

/// `cuGraphAddMemsetNode`.
///
/// # Safety
/// The dependencies have `count` entries; `params` is null or describes a fill.
pub unsafe fn cuGraphAddMemsetNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const CUDA_MEMSET_NODE_PARAMS,
    ctx: CUcontext,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        let params = params.as_ref().ok_or(CUresult::INVALID_VALUE)?;
        let place = Place {
            graph,
            dependencies,
            count,
            ctx,
        };
        add(
            number::cuGraphAddMemsetNode,
            node,
            place,
            &[params.as_bytes()],
        )
    }
}

/// `cuGraphAddHostNode`.
///
/// # Safety
/// The dependencies have `count` entries; `params` is null or names a host function.
pub unsafe fn cuGraphAddHostNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const CUDA_HOST_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        let params = params.as_ref().ok_or(CUresult::INVALID_VALUE)?;
        let function = params.function.ok_or(CUresult::INVALID_VALUE)?;
        callback::start_dispatcher(client)?;
        let host = wire::HostFunc {
            stream: 0,
            function: function as usize as u64,
            user: params.user as u64,
            kind: HOST_FUNC,
            pad: 0,
        };
        let place = Place {
            graph,
            dependencies,
            count,
            ctx: CUcontext::NULL,
        };
        add(number::cuGraphAddHostNode, node, place, &[host.as_bytes()])
    }
}

/// `cuGraphAddChildGraphNode`.
///
/// # Safety
/// The dependencies have `count` entries.
pub unsafe fn cuGraphAddChildGraphNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    child: CUgraph,
) -> Result<(), CUresult> {
    let place = Place {
        graph,
        dependencies,
        count,
        ctx: CUcontext::NULL,
    };
    // SAFETY: the caller's contract.
    unsafe {
        add(
            number::cuGraphAddChildGraphNode,
            node,
            place,
            &[child.as_bytes()],
        )
    }
}

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
    let client = client::entered()?;
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
        number::cuGraphAddDependencies,
        &[head.as_bytes(), from.as_bytes(), to.as_bytes()],
        &mut [],
    )
}

/// `cuGraphInstantiateWithFlags`.
///
/// # Safety
/// `exec` is null or valid.
pub unsafe fn cuGraphInstantiateWithFlags(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    flags: u64,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if exec.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuGraphInstantiateWithFlags::Args {
        exec: [],
        graph: Word::of(graph),
        flags: Word::of(flags),
    };
    let mut reply = wire::cuGraphInstantiateWithFlags::Reply::new_zeroed();
    call::call(
        client,
        number::cuGraphInstantiateWithFlags,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(exec, reply.exec.get())
}

/// `cuGraphInstantiate_v2`, the form with a log, which stays empty.
///
/// # Safety
/// `exec`, `error_node` are null or valid, `log` is null or has `log_size` bytes.
pub unsafe fn cuGraphInstantiate_v2(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    log: *mut c_char,
    log_size: usize,
) -> Result<(), CUresult> {
    if !error_node.is_null() {
        write(error_node, CUgraphNode::NULL)?;
    }
    if !log.is_null() && log_size > 0 {
        write(log, 0)?;
    }
    // SAFETY: the caller's contract.
    unsafe { cuGraphInstantiateWithFlags(exec, graph, 0) }
}

/// `cuGraphInstantiateWithParams`.
///
/// # Safety
/// `exec` and `params` are null or valid.
pub unsafe fn cuGraphInstantiateWithParams(
    default: NullStream,
    exec: *mut CUgraphExec,
    graph: CUgraph,
    params: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let given = unsafe { params.as_mut() }.ok_or(CUresult::INVALID_VALUE)?;
    if exec.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut sent = *given;
    if !sent.upload_stream.is_null() {
        sent.upload_stream = stream::handle(client, sent.upload_stream, default)?;
    }
    let args = wire::cuGraphInstantiateWithParams::Args {
        exec: [],
        graph: Word::of(graph),
        params: [],
    };
    let mut reply = (
        wire::cuGraphInstantiateWithParams::Reply::new_zeroed(),
        CUDA_GRAPH_INSTANTIATE_PARAMS::default(),
    );
    let mut bytes = [0; size_of::<wire::cuGraphInstantiateWithParams::Reply>()
        + size_of::<CUDA_GRAPH_INSTANTIATE_PARAMS>()];
    call::call(
        client,
        number::cuGraphInstantiateWithParams,
        &[args.as_bytes(), sent.as_bytes()],
        &mut bytes,
    )?;
    let (head, rest) = read_prefix(&bytes).ok_or(CUresult::UNKNOWN)?;
    (reply.0, reply.1) = (head, read_prefix(rest).ok_or(CUresult::UNKNOWN)?.0);
    given.error_node = reply.1.error_node;
    given.result = reply.1.result;
    write(exec, reply.0.exec.get())
}

/// `cuGraphLaunch`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphLaunch(
    default: NullStream,
    exec: CUgraphExec,
    stream: CUstream,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    let args = wire::cuGraphLaunch::Args {
        exec: Word::of(exec),
        stream: Word::of(state.handle),
    };
    // The first launch of a graph uploads it and may fail at once; later ones are posted.
    let known = LAUNCHED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains_key(&exec);
    if known {
        call::post(
            client,
            number::cuGraphLaunch,
            &state,
            &[args.as_bytes()],
            Completion::Lazy,
        )?;
    } else {
        call::call_in_stream(
            client,
            number::cuGraphLaunch,
            &state,
            &[args.as_bytes()],
            &mut [],
        )?;
        LAUNCHED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(exec, ());
    }
    Ok(())
}

/// Executable graphs that were launched with success.
static LAUNCHED: LazyLock<Mutex<HashMap<CUgraphExec, ()>>> = LazyLock::new(Mutex::default);

fn forget_launch(exec: CUgraphExec) {
    LAUNCHED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&exec);
}

/// `cuGraphExecDestroy`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphExecDestroy(exec: CUgraphExec) -> Result<(), CUresult> {
    let client = client::entered()?;
    forget_launch(exec);
    let args = wire::cuGraphExecDestroy::Args {
        exec: Word::of(exec),
    };
    call::call(
        client,
        number::cuGraphExecDestroy,
        &[args.as_bytes()],
        &mut [],
    )
}

/// `cuGraphExecUpdate_v2`.
///
/// # Safety
/// `result` is null or valid.
pub unsafe fn cuGraphExecUpdate_v2(
    exec: CUgraphExec,
    graph: CUgraph,
    result: *mut CUgraphExecUpdateResultInfo,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuGraphExecUpdate_v2::Args {
        exec: Word::of(exec),
        graph: Word::of(graph),
        result: [],
    };
    let mut reply = AttributeReply::default();
    call::call(
        client,
        number::cuGraphExecUpdate_v2,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    forget_launch(exec);
    let [status, info, error_node, error_from_node, ..] = reply.value;
    if !result.is_null() {
        write(
            result,
            CUgraphExecUpdateResultInfo {
                result: info as u32,
                pad: 0,
                error_node: CUgraphNode(error_node),
                error_from_node: CUgraphNode(error_from_node),
            },
        )?;
    }
    CUresult(status as u32).ok()
}

/// `cuGraphExecKernelNodeSetParams_v2` and its sibling for graphs.
///
/// # Safety
/// `params` is null or describes a launch.
unsafe fn set_kernel_params(
    number: u16,
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let (head, bytes) =
        unsafe { launch::for_node(client, params.as_ref().ok_or(CUresult::INVALID_VALUE)?)? };
    call::call(
        client,
        number,
        &[exec.as_bytes(), node.as_bytes(), head.as_bytes(), &bytes],
        &mut [],
    )
}

/// `cuGraphExecKernelNodeSetParams_v2`.
///
/// # Safety
/// `params` is null or describes a launch.
pub unsafe fn cuGraphExecKernelNodeSetParams_v2(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        set_kernel_params(
            number::cuGraphExecKernelNodeSetParams_v2,
            exec,
            node,
            params,
        )
    }
}

/// `cuGraphKernelNodeSetParams_v2`.
///
/// # Safety
/// `params` is null or describes a launch.
pub unsafe fn cuGraphKernelNodeSetParams_v2(
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        set_kernel_params(
            number::cuGraphKernelNodeSetParams_v2,
            CUgraphExec::NULL,
            node,
            params,
        )
    }
}

/// Kernels that nodes were made with: some drivers only tell the function behind them.
static NODE_KERNELS: LazyLock<Mutex<HashMap<CUgraphNode, CUkernel>>> =
    LazyLock::new(Mutex::default);

fn remember_kernel(node: CUgraphNode, handle: u64) {
    let kernel = match function::find(handle) {
        Ok(info) if info.is_kernel => CUkernel(handle),
        Ok(info) => info.kernel,
        Err(_) => return,
    };
    NODE_KERNELS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node, kernel);
}

fn remembered_kernel(node: CUgraphNode) -> CUkernel {
    let kernels = NODE_KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
    kernels.get(&node).copied().unwrap_or_default()
}

/// Parameters handed out for a node: the bytes, and a pointer to each parameter.
#[derive(Debug, Default)]
struct HandedOut {
    bytes: Box<[u8]>,
    pointers: Box<[usize]>,
}

/// What `cuGraphKernelNodeGetParams` handed out, by node; replaced at the next question.
static HANDED_OUT: LazyLock<Mutex<HashMap<CUgraphNode, HandedOut>>> = LazyLock::new(Mutex::default);

/// `cuGraphKernelNodeGetParams_v2`.
///
/// # Safety
/// `params` is null or valid.
pub unsafe fn cuGraphKernelNodeGetParams_v2(
    node: CUgraphNode,
    params: *mut CUDA_KERNEL_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if params.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuGraphKernelNodeGetParams_v2::Args {
        node: Word::of(node),
        params: [],
    };
    let mut buffer = [0; PAYLOAD_BYTES];
    let len = call::call_variable(
        client,
        number::cuGraphKernelNodeGetParams_v2,
        &[args.as_bytes()],
        &mut buffer,
    )?;
    let (head, bytes) = read_prefix::<wire::Launch>(&buffer[..len]).ok_or(CUresult::UNKNOWN)?;
    let is_kernel = head.flags & launch::IS_KERNEL != 0;
    module::enumerated(client, head.function, is_kernel, 0)?;
    let info = function::find(head.function)?;
    let mut handed = HandedOut {
        bytes: bytes.into(),
        pointers: Box::default(),
    };
    let layout = &info.parameters(client)?.list;
    let start = handed.bytes.as_mut_ptr() as usize;
    if layout
        .iter()
        .any(|param| (param.offset + param.size) as usize > handed.bytes.len())
    {
        return Err(CUresult::UNKNOWN);
    }
    handed.pointers = layout
        .iter()
        .map(|param| start + param.offset as usize)
        .collect();
    let pointers = handed.pointers.as_mut_ptr().cast::<*mut c_void>();
    HANDED_OUT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node, handed);
    write(
        params,
        CUDA_KERNEL_NODE_PARAMS {
            function: if info.is_kernel {
                CUfunction::NULL
            } else {
                CUfunction(head.function)
            },
            grid: head.grid,
            block: head.block,
            dynamic_shared: head.dynamic_shared,
            params: pointers,
            extra: core::ptr::null_mut(),
            kernel: if info.is_kernel {
                CUkernel(head.function)
            } else if head.stream != 0 {
                CUkernel(head.stream)
            } else if info.kernel.is_null() {
                remembered_kernel(node)
            } else {
                info.kernel
            },
            ctx: CUcontext::NULL,
        },
    )
}

/// `cuGraphExecUpdate`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuGraphExecUpdate(
    exec: CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    result: *mut u32,
) -> Result<(), CUresult> {
    let mut info = CUgraphExecUpdateResultInfo::default();
    // SAFETY: a pointer to a local.
    let updated = unsafe { cuGraphExecUpdate_v2(exec, graph, &raw mut info) };
    if !error_node.is_null() {
        write(error_node, info.error_node)?;
    }
    if !result.is_null() {
        write(result, info.result)?;
    }
    updated
}

/// `cuGraphAddKernelNode`.
///
/// # Safety
/// As [`cuGraphAddKernelNode_v2`].
pub unsafe fn cuGraphAddKernelNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> Result<(), CUresult> {
    let params = CUDA_KERNEL_NODE_PARAMS::from(crate::read(params)?);
    // SAFETY: the caller's contract.
    unsafe { cuGraphAddKernelNode_v2(node, graph, dependencies, count, &raw const params) }
}

/// `cuGraphExecKernelNodeSetParams`.
///
/// # Safety
/// `params` is null or describes a launch.
pub unsafe fn cuGraphExecKernelNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> Result<(), CUresult> {
    let params = CUDA_KERNEL_NODE_PARAMS::from(crate::read(params)?);
    // SAFETY: the caller's contract.
    unsafe { cuGraphExecKernelNodeSetParams_v2(exec, node, &raw const params) }
}

/// `cuGraphKernelNodeSetParams`.
///
/// # Safety
/// `params` is null or describes a launch.
pub unsafe fn cuGraphKernelNodeSetParams(
    node: CUgraphNode,
    params: *const CUDA_KERNEL_NODE_PARAMS_v1,
) -> Result<(), CUresult> {
    let params = CUDA_KERNEL_NODE_PARAMS::from(crate::read(params)?);
    // SAFETY: the caller's contract.
    unsafe { cuGraphKernelNodeSetParams_v2(node, &raw const params) }
}

/// `cuGraphKernelNodeGetParams`.
///
/// # Safety
/// `params` is null or valid.
pub unsafe fn cuGraphKernelNodeGetParams(
    node: CUgraphNode,
    params: *mut CUDA_KERNEL_NODE_PARAMS_v1,
) -> Result<(), CUresult> {
    let mut new = core::mem::MaybeUninit::<CUDA_KERNEL_NODE_PARAMS>::uninit();
    // SAFETY: room for the struct; it is written whenever the call succeeds.
    let found = unsafe {
        cuGraphKernelNodeGetParams_v2(node, new.as_mut_ptr())?;
        new.assume_init()
    };
    let function = if found.function.is_null() {
        CUfunction(found.kernel.0)
    } else {
        found.function
    };
    write(
        params,
        CUDA_KERNEL_NODE_PARAMS_v1 {
            function,
            grid: found.grid,
            block: found.block,
            dynamic_shared: found.dynamic_shared,
            params: found.params,
            extra: found.extra,
        },
    )
}
