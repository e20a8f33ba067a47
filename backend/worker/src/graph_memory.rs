//! Memory that belongs to graphs: nodes that allocate and free, and a device's figures about it.

use crate::call::{Call, Outcome};
use crate::graphs::{finish_adding, take_adding};
use crate::memory::{only_here, take_descriptors};
use vgpu_protocol::cuda::{
    CUDA_MEM_ALLOC_NODE_PARAMS, CUdevice, CUdeviceptr, CUgraphNode, CUmemPoolProps, CUresult,
    Scalar,
};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AttributeReply, AttributeRequest, Result as _};

/// `cuGraphAddMemAllocNode`. The memory is charged until the graph is destroyed.
///
/// # Errors
/// What the client gets.
pub fn add_alloc(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    let props = call.take::<CUmemPoolProps>()?;
    let [bytes, count] = call.take::<[u64; 2]>()?;
    let access = take_descriptors(call, usize::try_from(count).unwrap_or(usize::MAX))?;
    if props.handle_types != 0
        || props.security_attributes != 0
        || only_here(props.alloc_type, props.location)
    {
        return Err(CUresult::NOT_SUPPORTED);
    }
    let function = call
        .driver()
        .cuGraphAddMemAllocNode
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut params = CUDA_MEM_ALLOC_NODE_PARAMS {
        props,
        access: if access.is_empty() {
            0
        } else {
            access.as_ptr() as u64
        },
        access_count: access.len() as u64,
        bytes,
        dptr: CUdeviceptr::NULL,
    };
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    call.worker.quota.charge(bytes)?;
    // SAFETY: graph and dependencies are live; the properties name no other process, the
    // descriptors are as many as said; results have room.
    let result = unsafe { function(&raw mut node, adding.graph, list, count, &raw mut params) };
    let placed = call
        .result(result)
        .and_then(|()| call.worker.placed(params.dptr.0));
    if let Err(error) = placed {
        call.worker.quota.give_back(bytes);
        return Err(error);
    }
    call.worker.quota.keep(node.0, bytes, adding.ctx.0);
    finish_adding(call, &adding, node, CUresult::SUCCESS)?;
    call.reply(&params.dptr.to_wire())
}

/// `cuGraphMemAllocNodeGetParams`.
///
/// # Errors
/// What the client gets.
pub fn get_alloc(call: &mut Call<'_>) -> Outcome {
    let node: CUgraphNode = call
        .decode::<wire::cuGraphMemAllocNodeGetParams::Args>()?
        .node
        .get();
    call.live(node)?;
    let get = call
        .driver()
        .cuGraphMemAllocNodeGetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut params = CUDA_MEM_ALLOC_NODE_PARAMS::default();
    // SAFETY: the node is live, the result has room.
    call.result(unsafe { get(node, &raw mut params) })?;
    // The descriptors lie in the driver's memory; the client keeps its own.
    (params.access, params.access_count) = (0, 0);
    call.reply(&params)
}

/// `cuGraphAddMemFreeNode`.
///
/// # Errors
/// What the client gets.
pub fn add_free(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    let dptr = CUdeviceptr(call.take::<u64>()?);
    call.done()?;
    call.worker.device_address(dptr.0)?;
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph and dependencies are live; a plain address, which the driver looks up.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddMemFreeNode(&raw mut node, adding.graph, list, count, dptr)
        )
    };
    finish_adding(call, &adding, node, result)
}

/// `cuDeviceGetGraphMemAttribute`, `cuDeviceSetGraphMemAttribute`: 64-bit values.
///
/// # Errors
/// What the client gets.
pub fn memory_attribute(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<AttributeRequest>()?;
    let device = call.device(CUdevice::from_word(args.object))?;
    let mut value = args.value;
    let at = value.as_mut_ptr().cast();
    let driver = call.driver();
    // SAFETY: the value has 64 bytes of room, more than any attribute takes.
    let result = unsafe {
        if call.number() == number::cuDeviceSetGraphMemAttribute {
            vgpu_driver::call!(
                driver,
                cuDeviceSetGraphMemAttribute(device, args.attribute, at)
            )
        } else {
            vgpu_driver::call!(
                driver,
                cuDeviceGetGraphMemAttribute(device, args.attribute, at)
            )
        }
    };
    call.result(result)?;
    call.reply(&AttributeReply { value })
}
