//! Batches of memory operations: words that a stream or a node of a graph waits for or writes.

use crate::call::{Call, Outcome};
use crate::graphs::{finish_adding, live_ctx, take_adding};
use vgpu_protocol::cuda::{
    CUDA_BATCH_MEM_OP_NODE_PARAMS, CUcontext, CUgraphExec, CUgraphNode, CUresult, CUstream,
    CUstreamBatchMemOpParams,
};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, MemoryOperations};

/// Most operations of a batch, as the driver has it.
const MOST: u32 = 256;

/// `CUstreamBatchMemOpType`.
mod kind {
    pub const WAIT_32: u32 = 1;
    pub const WRITE_32: u32 = 2;
    pub const FLUSH_REMOTE_WRITES: u32 = 3;
    pub const WAIT_64: u32 = 4;
    pub const WRITE_64: u32 = 5;
    pub const BARRIER: u32 = 6;
    pub const ATOMIC_REDUCTION: u32 = 8;
}

/// Where an operation keeps an address for the driver's own use.
const ALIAS: usize = 3;

/// Takes a batch: its head and its operations, whose addresses may be handed to the driver.
///
/// # Errors
/// `INVALID_VALUE`.
fn take(
    call: &mut Call<'_>,
) -> Result<(MemoryOperations, Vec<CUstreamBatchMemOpParams>), CUresult> {
    let head = call.take::<MemoryOperations>()?;
    if head.count > MOST {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut list = call.take_list::<CUstreamBatchMemOpParams>(head.count as usize)?;
    call.done()?;
    for operation in &mut list {
        let (address, len) = match operation.operation {
            kind::WAIT_32 | kind::WRITE_32 => (operation.words[0], 4),
            kind::WAIT_64 | kind::WRITE_64 => (operation.words[0], 8),
            kind::ATOMIC_REDUCTION => (operation.words[1], 8),
            kind::FLUSH_REMOTE_WRITES | kind::BARRIER => (0, 0),
            _ => return Err(CUresult::INVALID_VALUE),
        };
        call.worker.device_range(address, len)?;
        operation.words[ALIAS] = 0;
    }
    Ok((head, list))
}

/// `cuStreamBatchMemOp`, `cuStreamBatchMemOp_v2`.
///
/// # Errors
/// What the client gets.
pub fn in_stream(call: &mut Call<'_>) -> Outcome {
    let (head, mut list) = take(call)?;
    let stream = call.in_stream(CUstream(head.stream))?;
    let driver = call.driver();
    let function = if call.number() == number::cuStreamBatchMemOp_v2 {
        driver.cuStreamBatchMemOp_v2
    } else {
        driver.cuStreamBatchMemOp
    };
    let function = function.ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the stream is live, the list is as long as said, and its addresses were checked.
    call.result(unsafe { function(stream, head.count, list.as_mut_ptr(), head.flags) })
}

/// The parameters of a node for the driver. They point into `list`.
fn params(
    ctx: CUcontext,
    head: &MemoryOperations,
    list: &[CUstreamBatchMemOpParams],
) -> CUDA_BATCH_MEM_OP_NODE_PARAMS {
    CUDA_BATCH_MEM_OP_NODE_PARAMS {
        ctx,
        count: head.count,
        operations: list.as_ptr() as u64,
        flags: head.flags,
        ..CUDA_BATCH_MEM_OP_NODE_PARAMS::default()
    }
}

/// `cuGraphAddBatchMemOpNode`.
///
/// # Errors
/// What the client gets.
pub fn add_node(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    live_ctx(call, adding.ctx)?;
    let (head, operations) = take(call)?;
    let params = params(adding.ctx, &head, &operations);
    let (list, count) = adding.list();
    let mut node = CUgraphNode::NULL;
    // SAFETY: graph, dependencies and context are live; the operations were checked, and the driver
    // copies them.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuGraphAddBatchMemOpNode(&raw mut node, adding.graph, list, count, &raw const params)
        )
    };
    finish_adding(call, &adding, node, result)
}

/// `cuGraphBatchMemOpNodeSetParams`, `cuGraphExecBatchMemOpNodeSetParams`.
///
/// # Errors
/// What the client gets.
pub fn set_node(call: &mut Call<'_>) -> Outcome {
    let (head, operations) = take(call)?;
    let (exec, node) = (CUgraphExec(head.exec), CUgraphNode(head.node));
    let ctx = CUcontext(call.request.header.scope);
    call.live(node)?;
    live_ctx(call, ctx)?;
    let params = params(ctx, &head, &operations);
    let driver = call.driver();
    let result = if call.number() == number::cuGraphExecBatchMemOpNodeSetParams {
        call.live(exec)?;
        // SAFETY: all handles are live; the operations were checked, and the driver copies them.
        unsafe {
            vgpu_driver::call!(
                driver,
                cuGraphExecBatchMemOpNodeSetParams(exec, node, &raw const params)
            )
        }
    } else {
        // SAFETY: as above.
        unsafe {
            vgpu_driver::call!(
                driver,
                cuGraphBatchMemOpNodeSetParams(node, &raw const params)
            )
        }
    };
    call.result(result)
}

/// `cuGraphBatchMemOpNodeGetParams`. Batches that do not fit an answer are not told.
///
/// # Errors
/// What the client gets.
pub fn get_node(call: &mut Call<'_>) -> Outcome {
    let node: CUgraphNode = call
        .decode::<wire::cuGraphBatchMemOpNodeGetParams::Args>()?
        .node
        .get();
    call.live(node)?;
    let get = call
        .driver()
        .cuGraphBatchMemOpNodeGetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut params = CUDA_BATCH_MEM_OP_NODE_PARAMS::default();
    // SAFETY: the node is live, the result has room.
    call.result(unsafe { get(node, &raw mut params) })?;
    let count = params.count as usize;
    let room = call
        .reply_room()
        .saturating_sub(size_of::<MemoryOperations>());
    if count > room / size_of::<CUstreamBatchMemOpParams>() {
        return Err(CUresult::NOT_SUPPORTED);
    }
    call.reply(&MemoryOperations {
        node: node.0,
        count: params.count,
        flags: params.flags,
        ..MemoryOperations::default()
    })?;
    if count == 0 || params.operations == 0 {
        return Ok(());
    }
    let first = params.operations as *const CUstreamBatchMemOpParams;
    // SAFETY: the driver's own list for this node, as long as it says, valid until its parameters
    // change; the node's graph is used by one thread at a time, as CUDA demands.
    let mut list = unsafe { std::slice::from_raw_parts(first, count) }.to_vec();
    for operation in &mut list {
        operation.words[ALIAS] = 0;
        call.reply(operation)?;
    }
    Ok(())
}
