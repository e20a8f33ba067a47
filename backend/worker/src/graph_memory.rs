//! Memory that belongs to graphs: nodes that allocate and free, and a device's figures about it.

use crate::call::{Call, Outcome};
use crate::graphs::{finish_adding, take_adding};
use crate::memory::{only_here, take_descriptors};
use vgpu_protocol::cuda::{
    CUDA_MEM_ALLOC_NODE_PARAMS, CUdevice, CUdeviceptr, CUgraph, CUgraphNode, CUmemPoolProps,
    CUresult, CUstream, Scalar,
};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AttributeReply, AttributeRequest, Result as _};

/// `cuGraphAddMemAllocNode`. The memory is charged for as long as the graph or one made of it lives.
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
    if let Err(error) = call.result(result) {
        call.worker.quota.give_back(bytes);
        return Err(error);
    }
    if let Err(error) = call.worker.placed(params.dptr.0) {
        // The client must not see the address. Where the driver keeps the node, it stays charged.
        // SAFETY: added just now and known to nobody.
        let removed = unsafe { vgpu_driver::call!(call.driver(), cuGraphDestroyNode(node)) };
        if removed == CUresult::SUCCESS {
            call.worker.quota.give_back(bytes);
        } else {
            belongs(call, node, adding.graph, params.dptr, bytes, adding.ctx.0);
        }
        return Err(error);
    }
    belongs(call, node, adding.graph, params.dptr, bytes, adding.ctx.0);
    finish_adding(call, &adding, node, CUresult::SUCCESS)?;
    call.reply(&params.dptr.to_wire())
}

/// Leaves `bytes`, charged already, to a node of a graph, but for what other nodes of the graph are charged for.
fn belongs(
    call: &Call<'_>,
    node: CUgraphNode,
    graph: CUgraph,
    dptr: CUdeviceptr,
    bytes: u64,
    ctx: u64,
) {
    // A range that ends behind the last address is nobody's: it is charged in full.
    let range = dptr
        .0
        .checked_add(bytes)
        .map_or(0..bytes, |end| dptr.0..end);
    let worker = call.worker;
    let shared = worker.graph_charges.keep(node.0, graph.0, range, ctx);
    worker.quota.give_back(shared);
}

/// Has memory that a capture made a node of be charged to the graph: it lives as long as that does, whatever frees it in
/// there.
pub(crate) fn captured(call: &Call<'_>, stream: CUstream, dptr: CUdeviceptr) {
    const MEM_ALLOC: u32 = 10;
    if !call.worker.captures.any() {
        return;
    }
    let driver = call.driver();
    let (mut status, mut graph) = (0_u32, CUgraph::NULL);
    let (mut list, mut count) = (std::ptr::null::<CUgraphNode>(), 0_usize);
    // SAFETY: the stream is live, results have room or are not wanted.
    let asked = unsafe {
        vgpu_driver::call!(
            driver,
            cuStreamGetCaptureInfo_v2(
                stream,
                &raw mut status,
                std::ptr::null_mut(),
                &raw mut graph,
                &raw mut list,
                &raw mut count
            )
        )
    };
    // Behind a captured command the stream depends on its node only.
    if asked != CUresult::SUCCESS || status != 1 || count != 1 || list.is_null() {
        return;
    }
    // SAFETY: one node lies there until the capture goes on, which it does only on this thread.
    let node = unsafe { *list };
    let mut kind = 0_u32;
    // SAFETY: a node that the driver named just now, and the result has room.
    let typed = unsafe { vgpu_driver::call!(driver, cuGraphNodeGetType(node, &raw mut kind)) };
    if typed == CUresult::SUCCESS
        && kind == MEM_ALLOC
        && let Some(bytes) = call.worker.quota.hand_over(dptr.0)
    {
        belongs(call, node, graph, dptr, bytes, call.request.header.scope);
    }
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
    call.worker.placed(params.dptr.0)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Executor, Request, execute};
    use crate::live::{Entry, Kind};
    use crate::state::{Addresses, Parts, Worker};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use vgpu_channel::link::Hello;
    use vgpu_channel::loopback;
    use vgpu_channel::server::Config;
    use vgpu_driver::Driver;
    use vgpu_protocol::cuda::CUcontext;
    use vgpu_protocol::wire::AddNode;
    use zerocopy::IntoBytes;

    /// Whether the driver lets the node go again.
    static LETS_GO: AtomicBool = AtomicBool::new(true);

    unsafe extern "C" fn set_current(_: CUcontext) -> CUresult {
        CUresult::SUCCESS
    }

    /// Adds a node whose memory lies where the client has its own.
    unsafe extern "C" fn add(
        node: *mut CUgraphNode,
        _: CUgraph,
        _: *const CUgraphNode,
        _: usize,
        params: *mut CUDA_MEM_ALLOC_NODE_PARAMS,
    ) -> CUresult {
        // SAFETY: the worker's own variables.
        unsafe {
            *node = CUgraphNode(0x70);
            (*params).dptr = CUdeviceptr(0x1000);
        }
        CUresult::SUCCESS
    }

    unsafe extern "C" fn destroy_node(_: CUgraphNode) -> CUresult {
        match LETS_GO.load(Ordering::Relaxed) {
            true => CUresult::SUCCESS,
            false => CUresult::NOT_SUPPORTED,
        }
    }

    unsafe extern "C" fn destroy(_: CUgraph) -> CUresult {
        CUresult::SUCCESS
    }

    #[test]
    fn a_node_whose_address_cannot_be_told_is_taken_back_or_stays_charged() {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel");
        let worker = Worker::new(Parts {
            quota: 1000,
            addresses: Addresses::Window,
            ..Parts::bare(
                Driver {
                    cuCtxSetCurrent: Some(set_current),
                    cuGraphAddMemAllocNode: Some(add),
                    cuGraphDestroyNode: Some(destroy_node),
                    cuGraphDestroy: Some(destroy),
                    ..Driver::default()
                },
                Arc::clone(&pair.server),
            )
        });
        let slot = pair.client.alloc_reply().expect("a slot");
        let mut thread = Executor::new(&worker.driver, 0);
        let mut ask = |call: u16, payload: &[u8]| {
            let request = Request::of_client(call, slot);
            execute(&worker, &mut thread, request, payload);
        };
        worker.live.enter(Kind::Graph, 0x10, Entry::default());
        let head = AddNode {
            graph: 0x10,
            ..AddNode::default()
        };
        let mut payload = head.as_bytes().to_vec();
        payload.extend_from_slice(CUmemPoolProps::default().as_bytes());
        payload.extend_from_slice([400_u64, 0].as_bytes());
        ask(number::cuGraphAddMemAllocNode, &payload);
        assert!(!worker.live.contains(Kind::Node, 0x70));
        assert_eq!(worker.counters.misplaced.load(Ordering::Relaxed), 1);
        assert_eq!(worker.quota.clip_free(1000), 1000);
        LETS_GO.store(false, Ordering::Relaxed);
        ask(number::cuGraphAddMemAllocNode, &payload);
        assert_eq!(worker.quota.clip_free(1000), 600);
        ask(number::cuGraphDestroy, &0x10_u64.to_le_bytes());
        assert_eq!(worker.quota.clip_free(1000), 1000);
    }
}
