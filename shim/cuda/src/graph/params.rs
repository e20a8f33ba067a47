//! Parameters of nodes, read and changed: of copies, host nodes, nodes of any type; attributes of
//! kernels.

use super::any_node::{current, kind};
use super::{
    cuGraphExecKernelNodeSetParams_v2, cuGraphKernelNodeSetParams_v2, host_function,
    reachable_at_replay,
};
use crate::graph_nodes::{cuGraphEventRecordNodeSetEvent, cuGraphExecEventRecordNodeSetEvent};
use crate::memory_operations::{
    cuGraphBatchMemOpNodeSetParams, cuGraphExecBatchMemOpNodeSetParams,
};
use crate::{call, client, exports, read, write};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AttributeReply, AttributeRequest, HostFunc, Word};
use zerocopy::IntoBytes;

/// `cuGraphMemcpyNodeSetParams`.
///
/// # Safety
/// `copy` is null or describes a copy.
pub unsafe fn cuGraphMemcpyNodeSetParams(
    node: CUgraphNode,
    copy: *const CUDA_MEMCPY3D,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let copy = read(copy)?;
    reachable_at_replay(client, &copy)?;
    let args = wire::cuGraphMemcpyNodeSetParams::Args {
        node: Word::of(node),
        copy,
    };
    let number = number::cuGraphMemcpyNodeSetParams;
    call::call(client, number, &[args.as_bytes()], &mut [])
}

/// `cuGraphExecMemcpyNodeSetParams`.
///
/// # Safety
/// `copy` is null or describes a copy.
pub unsafe fn cuGraphExecMemcpyNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    copy: *const CUDA_MEMCPY3D,
    ctx: CUcontext,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let copy = read(copy)?;
    reachable_at_replay(client, &copy)?;
    let args = wire::cuGraphExecMemcpyNodeSetParams::Args {
        exec: Word::of(exec),
        node: Word::of(node),
        copy,
        ctx: Word::of(ctx),
    };
    let number = number::cuGraphExecMemcpyNodeSetParams;
    call::call(client, number, &[args.as_bytes()], &mut [])
}

/// `cuGraphHostNodeGetParams`.
///
/// # Safety
/// `params` is null or valid.
pub unsafe fn cuGraphHostNodeGetParams(
    node: CUgraphNode,
    params: *mut CUDA_HOST_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if params.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuGraphHostNodeGetParams::Args {
        node: Word::of(node),
        params: [],
    };
    let mut found = HostFunc::default();
    let number = number::cuGraphHostNodeGetParams;
    call::call(client, number, &[args.as_bytes()], found.as_mut_bytes())?;
    let address = found.function as *const core::ffi::c_void;
    // SAFETY: null, or the address of a function that the program gave for this node; it is only
    // handed back to the program.
    let function = unsafe { core::mem::transmute::<*const core::ffi::c_void, CUhostFn>(address) };
    write(
        params,
        CUDA_HOST_NODE_PARAMS {
            function,
            user: found.user as *mut core::ffi::c_void,
        },
    )
}

/// Changes the function of a host node, in a graph or in an executable one.
///
/// # Safety
/// `params` is null or names a host function.
unsafe fn set_host(
    number: u16,
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_HOST_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let host = host_function(client, &read(params)?)?;
    let parts = [exec.as_bytes(), node.as_bytes(), host.as_bytes()];
    call::call(client, number, &parts, &mut [])
}

/// `cuGraphHostNodeSetParams`.
///
/// # Safety
/// `params` is null or names a host function.
pub unsafe fn cuGraphHostNodeSetParams(
    node: CUgraphNode,
    params: *const CUDA_HOST_NODE_PARAMS,
) -> Result<(), CUresult> {
    let number = number::cuGraphHostNodeSetParams;
    // SAFETY: the caller's contract.
    unsafe { set_host(number, CUgraphExec::NULL, node, params) }
}

/// `cuGraphExecHostNodeSetParams`.
///
/// # Safety
/// `params` is null or names a host function.
pub unsafe fn cuGraphExecHostNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_HOST_NODE_PARAMS,
) -> Result<(), CUresult> {
    let number = number::cuGraphExecHostNodeSetParams;
    // SAFETY: the caller's contract.
    unsafe { set_host(number, exec, node, params) }
}

/// `CU_LAUNCH_ATTRIBUTE_DEVICE_UPDATABLE_KERNEL_NODE`.
const DEVICE_UPDATABLE: u32 = 13;

/// Reads or writes an attribute of a kernel node.
fn kernel_attribute(
    number: u16,
    node: CUgraphNode,
    attribute: u32,
    value: [u64; 8],
) -> Result<[u64; 8], CUresult> {
    let client = client::entered()?;
    if attribute == DEVICE_UPDATABLE {
        return Err(CUresult::NOT_SUPPORTED);
    }
    let args = AttributeRequest {
        object: node.0,
        attribute,
        len: 64,
        value,
    };
    let mut reply = AttributeReply::default();
    call::call(client, number, &[args.as_bytes()], reply.as_mut_bytes())?;
    Ok(reply.value)
}

/// `cuGraphKernelNodeGetAttribute`.
///
/// # Safety
/// `value` is null or valid.
pub unsafe fn cuGraphKernelNodeGetAttribute(
    node: CUgraphNode,
    attribute: u32,
    value: *mut CUlaunchAttributeValue,
) -> Result<(), CUresult> {
    if value.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let number = number::cuGraphKernelNodeGetAttribute;
    let words = kernel_attribute(number, node, attribute, [0; 8])?;
    write(value, CUlaunchAttributeValue { words })
}

/// `cuGraphKernelNodeSetAttribute`.
///
/// # Safety
/// `value` is null or valid.
pub unsafe fn cuGraphKernelNodeSetAttribute(
    node: CUgraphNode,
    attribute: u32,
    value: *const CUlaunchAttributeValue,
) -> Result<(), CUresult> {
    let number = number::cuGraphKernelNodeSetAttribute;
    kernel_attribute(number, node, attribute, read(value)?.words).map(|_| ())
}

/// `cuGraphNodeSetParams`: the call of the node's own type. The others' parameters do not change.
///
/// # Safety
/// `params` is null or describes a node.
pub unsafe fn cuGraphNodeSetParams(
    node: CUgraphNode,
    params: *mut CUgraphNodeParams,
) -> Result<(), CUresult> {
    client::entered()?;
    let params = read(params)?;
    let words = params.words.as_ptr();
    // SAFETY: the caller's contract; what a type's parameters are, `cuda.h` says.
    unsafe {
        match params.kind {
            kind::KERNEL => cuGraphKernelNodeSetParams_v2(node, words.cast()),
            kind::MEMCPY => cuGraphMemcpyNodeSetParams(node, words.add(2).cast()),
            kind::MEMSET => exports::cuGraphMemsetNodeSetParams(node, words.cast()).ok(),
            kind::HOST => cuGraphHostNodeSetParams(node, words.cast()),
            kind::EVENT_RECORD => cuGraphEventRecordNodeSetEvent(node, CUevent(params.words[0])),
            kind::WAIT_EVENT => {
                exports::cuGraphEventWaitNodeSetEvent(node, CUevent(params.words[0])).ok()
            }
            kind::BATCH_MEM_OP => cuGraphBatchMemOpNodeSetParams(node, words.cast()),
            _ => Err(CUresult::NOT_SUPPORTED),
        }
    }
}

/// `cuGraphExecNodeSetParams`: the call of the node's own type.
///
/// # Safety
/// `params` is null or describes a node.
pub unsafe fn cuGraphExecNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *mut CUgraphNodeParams,
) -> Result<(), CUresult> {
    client::entered()?;
    let params = read(params)?;
    let (words, event) = (params.words.as_ptr(), CUevent(params.words[0]));
    // SAFETY: the caller's contract; what a type's parameters are, `cuda.h` says.
    unsafe {
        match params.kind {
            kind::KERNEL => cuGraphExecKernelNodeSetParams_v2(exec, node, words.cast()),
            kind::MEMCPY => {
                let ctx = current(CUcontext(params.words[1]))?;
                cuGraphExecMemcpyNodeSetParams(exec, node, words.add(2).cast(), ctx)
            }
            kind::MEMSET => {
                let ctx = current(CUcontext(params.words[5]))?;
                exports::cuGraphExecMemsetNodeSetParams(exec, node, words.cast(), ctx).ok()
            }
            kind::HOST => cuGraphExecHostNodeSetParams(exec, node, words.cast()),
            kind::GRAPH => {
                let child = CUgraph(params.words[0]);
                exports::cuGraphExecChildGraphNodeSetParams(exec, node, child).ok()
            }
            kind::EVENT_RECORD => cuGraphExecEventRecordNodeSetEvent(exec, node, event),
            kind::WAIT_EVENT => exports::cuGraphExecEventWaitNodeSetEvent(exec, node, event).ok(),
            kind::BATCH_MEM_OP => cuGraphExecBatchMemOpNodeSetParams(exec, node, words.cast()),
            _ => Err(CUresult::NOT_SUPPORTED),
        }
    }
}
