//! Kernel nodes and their parameters.

use super::{Place, add};
use crate::call;
use crate::client;
use crate::{context, function, launch, module, write};
use core::ffi::c_void;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use vgpu_channel::reply::PAYLOAD_BYTES;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word, read_prefix};
use zerocopy::IntoBytes;

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
