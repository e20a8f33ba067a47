//! Memory that belongs to graphs: nodes that allocate and free, and a device's figures about it.

use crate::call;
use crate::client;
use crate::graph::{add, add_with_reply};
use crate::graph_nodes::place;
use crate::{pool, write};
use core::ffi::c_void;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AttributeReply, AttributeRequest, Word};
use zerocopy::IntoBytes;

/// `cuGraphAddMemAllocNode`.
///
/// # Safety
/// The dependencies have `count` entries; `params` is null or valid, with as many descriptors as it
/// says.
pub unsafe fn cuGraphAddMemAllocNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let params = unsafe { params.as_mut() }.ok_or(CUresult::INVALID_VALUE)?;
    let mut props = params.props;
    props.location = pool::translate(client, props.location)?;
    let access = if params.access_count == 0 {
        Vec::new()
    } else {
        let from = params.access as *const CUmemAccessDesc;
        let count = usize::try_from(params.access_count).map_err(|_| CUresult::INVALID_VALUE)?;
        // SAFETY: the caller's contract.
        unsafe { pool::descriptors(client, from, count)? }
    };
    let sizes = [params.bytes, access.len() as u64];
    let mut reply = [0_u64; 2];
    // SAFETY: the caller's contract.
    unsafe {
        add_with_reply(
            number::cuGraphAddMemAllocNode,
            node,
            place(graph, dependencies, count),
            &[props.as_bytes(), sizes.as_bytes(), access.as_bytes()],
            reply.as_mut_bytes(),
        )?;
    }
    // The address lives as long as the graph: what lies there, the driver is asked.
    params.dptr = CUdeviceptr(reply[1]);
    write(node, CUgraphNode(reply[0]))
}

/// `cuGraphMemAllocNodeGetParams`. Access descriptors are not told.
///
/// # Safety
/// `params` is null or valid.
pub unsafe fn cuGraphMemAllocNodeGetParams(
    node: CUgraphNode,
    params: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if params.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuGraphMemAllocNodeGetParams::Args {
        node: Word::of(node),
        params: [],
    };
    let mut found = CUDA_MEM_ALLOC_NODE_PARAMS::default();
    call::call(
        client,
        number::cuGraphMemAllocNodeGetParams,
        &[args.as_bytes()],
        found.as_mut_bytes(),
    )?;
    write(params, found)
}

/// `cuGraphAddMemFreeNode`.
///
/// # Safety
/// The dependencies have `count` entries.
pub unsafe fn cuGraphAddMemFreeNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    dptr: CUdeviceptr,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        add(
            number::cuGraphAddMemFreeNode,
            node,
            place(graph, dependencies, count),
            &[dptr.as_bytes()],
        )
    }
}

/// Asks for or sets a 64-bit figure of a device's graph memory.
///
/// # Safety
/// `value` is null or valid for 8 bytes.
unsafe fn memory_attribute(
    number: u16,
    dev: CUdevice,
    attribute: u32,
    value: *mut c_void,
    get: bool,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let device = client.backend_ordinal(dev)?;
    let value = value.cast::<u64>();
    if value.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut args = AttributeRequest {
        object: Word::of(device).0,
        attribute,
        len: 8,
        value: [0; 8],
    };
    if !get {
        // SAFETY: not null; the caller's contract.
        args.value[0] = unsafe { value.read_unaligned() };
    }
    let mut reply = AttributeReply::default();
    call::call(client, number, &[args.as_bytes()], reply.as_mut_bytes())?;
    if get {
        // SAFETY: not null; the caller's contract.
        unsafe { value.write_unaligned(reply.value[0]) };
    }
    Ok(())
}

/// `cuDeviceGetGraphMemAttribute`.
///
/// # Safety
/// `value` is null or valid for 8 bytes.
pub unsafe fn cuDeviceGetGraphMemAttribute(
    dev: CUdevice,
    attribute: u32,
    value: *mut c_void,
) -> Result<(), CUresult> {
    let number = number::cuDeviceGetGraphMemAttribute;
    // SAFETY: the caller's contract.
    unsafe { memory_attribute(number, dev, attribute, value, true) }
}

/// `cuDeviceSetGraphMemAttribute`.
///
/// # Safety
/// `value` is null or valid for 8 bytes.
pub unsafe fn cuDeviceSetGraphMemAttribute(
    dev: CUdevice,
    attribute: u32,
    value: *mut c_void,
) -> Result<(), CUresult> {
    let number = number::cuDeviceSetGraphMemAttribute;
    // SAFETY: the caller's contract.
    unsafe { memory_attribute(number, dev, attribute, value, false) }
}
