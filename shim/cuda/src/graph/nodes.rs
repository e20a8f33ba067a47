//! Empty, copy, fill, host and child nodes.

use super::{Place, add};
use crate::client::{self, Client};
use crate::{callback, memory};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, HOST_FUNC};
use zerocopy::IntoBytes;

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

/// A host function of the program's for a node.
///
/// # Errors
/// `INVALID_VALUE` without a function.
pub(crate) fn host_function(
    client: &'static Client,
    params: &CUDA_HOST_NODE_PARAMS,
) -> Result<wire::HostFunc, CUresult> {
    let function = params.function.ok_or(CUresult::INVALID_VALUE)?;
    callback::start_dispatcher(client)?;
    Ok(wire::HostFunc {
        stream: 0,
        function: function as usize as u64,
        user: params.user as u64,
        kind: HOST_FUNC,
        pad: 0,
    })
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
    let host = host_function(client, &crate::read(params)?)?;
    let place = Place {
        graph,
        dependencies,
        count,
        ctx: CUcontext::NULL,
    };
    // SAFETY: the caller's contract.
    unsafe { add(number::cuGraphAddHostNode, node, place, &[host.as_bytes()]) }
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
