//! Memory operations of streams and graphs, alone and in batches: words that are waited for or
//! written.

use crate::call::{self, Completion};
use crate::client;
use crate::graph::{Place, add};
use crate::stream::{self, NullStream};
use crate::{context, read, write};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use vgpu_channel::reply::PAYLOAD_BYTES;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, MemoryOperations, Word, read_prefix};
use zerocopy::{FromBytes, IntoBytes};

/// Most operations of a batch, as the driver has it.
const MOST: u32 = 256;

/// Posts or calls one of the memory operations of a stream.
fn operation(
    default: NullStream,
    stream: CUstream,
    number: u16,
    args: impl FnOnce(CUstream) -> Vec<u8>,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    call::post(
        client,
        number,
        &state,
        &[&args(state.handle)],
        Completion::Lazy,
    )
    .map(|_| ())
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($value:ty);)*) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// Takes no pointers that are followed here.
        pub unsafe fn $name(
            default: NullStream,
            stream: CUstream,
            addr: CUdeviceptr,
            value: $value,
            flags: u32,
        ) -> Result<(), CUresult> {
            operation(default, stream, number::$name, |stream| {
                wire::$name::Args {
                    stream: Word::of(stream),
                    addr: Word::of(addr),
                    value: Word::of(value),
                    flags: Word::of(flags),
                }
                .as_bytes()
                .to_vec()
            })
        }
    )* };
}

operations! {
    /// `cuStreamWriteValue32_v2`.
    cuStreamWriteValue32_v2(u32);
    /// `cuStreamWriteValue64_v2`.
    cuStreamWriteValue64_v2(u64);
    /// `cuStreamWaitValue32_v2`.
    cuStreamWaitValue32_v2(u32);
    /// `cuStreamWaitValue64_v2`.
    cuStreamWaitValue64_v2(u64);
    /// `cuStreamWriteValue32`, by its old name: the driver serves it if attribute 92 says so.
    cuStreamWriteValue32(u32);
    /// `cuStreamWriteValue64`, by its old name.
    cuStreamWriteValue64(u64);
    /// `cuStreamWaitValue32`, by its old name.
    cuStreamWaitValue32(u32);
    /// `cuStreamWaitValue64`, by its old name.
    cuStreamWaitValue64(u64);
}

/// The program's operations.
///
/// # Errors
/// `INVALID_VALUE`.
///
/// # Safety
/// `operations` is null or has `count` entries.
unsafe fn list<'a>(
    operations: *const CUstreamBatchMemOpParams,
    count: u32,
) -> Result<&'a [CUstreamBatchMemOpParams], CUresult> {
    match count {
        0 => Ok(&[]),
        _ if operations.is_null() || count > MOST => Err(CUresult::INVALID_VALUE),
        // SAFETY: the caller's contract.
        _ => Ok(unsafe { core::slice::from_raw_parts(operations, count as usize) }),
    }
}

/// A batch for a stream.
///
/// # Safety
/// `operations` is null or has `count` entries.
unsafe fn batch(
    number: u16,
    default: NullStream,
    stream: CUstream,
    count: u32,
    operations: *const CUstreamBatchMemOpParams,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    // SAFETY: the caller's contract.
    let list = unsafe { list(operations, count)? };
    let head = MemoryOperations {
        stream: state.handle.0,
        count,
        flags,
        ..MemoryOperations::default()
    };
    let parts = [head.as_bytes(), list.as_bytes()];
    call::call_in_stream(client, number, &state, &parts, &mut []).map(|_| ())
}

/// `cuStreamBatchMemOp_v2`.
///
/// # Safety
/// `operations` is null or has `count` entries.
pub unsafe fn cuStreamBatchMemOp_v2(
    default: NullStream,
    stream: CUstream,
    count: u32,
    operations: *mut CUstreamBatchMemOpParams,
    flags: u32,
) -> Result<(), CUresult> {
    let number = number::cuStreamBatchMemOp_v2;
    // SAFETY: the caller's contract.
    unsafe { batch(number, default, stream, count, operations, flags) }
}

/// `cuStreamBatchMemOp`, by its old name: the driver serves it if attribute 92 says so.
///
/// # Safety
/// `operations` is null or has `count` entries.
pub unsafe fn cuStreamBatchMemOp(
    default: NullStream,
    stream: CUstream,
    count: u32,
    operations: *mut CUstreamBatchMemOpParams,
    flags: u32,
) -> Result<(), CUresult> {
    let number = number::cuStreamBatchMemOp;
    // SAFETY: the caller's contract.
    unsafe { batch(number, default, stream, count, operations, flags) }
}

/// The parameters of a node for the wire.
///
/// # Safety
/// `params` is null or valid, with as many operations as it says.
unsafe fn of_node<'a>(
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
    exec: CUgraphExec,
    node: CUgraphNode,
) -> Result<(CUcontext, MemoryOperations, &'a [CUstreamBatchMemOpParams]), CUresult> {
    let params = read(params)?;
    // SAFETY: the caller's contract.
    let list = unsafe {
        list(
            params.operations as *const CUstreamBatchMemOpParams,
            params.count,
        )?
    };
    let head = MemoryOperations {
        exec: exec.0,
        node: node.0,
        count: params.count,
        flags: params.flags,
        ..MemoryOperations::default()
    };
    Ok((params.ctx, head, list))
}

/// `cuGraphAddBatchMemOpNode`.
///
/// # Safety
/// The dependencies have `count` entries; `params` is null or valid, with as many operations as it
/// says.
pub unsafe fn cuGraphAddBatchMemOpNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Result<(), CUresult> {
    client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        let (ctx, head, list) = of_node(params, CUgraphExec::NULL, CUgraphNode::NULL)?;
        let place = Place {
            graph,
            dependencies,
            count,
            ctx,
        };
        let parts = [head.as_bytes(), list.as_bytes()];
        add(number::cuGraphAddBatchMemOpNode, node, place, &parts)
    }
}

/// Changes the operations of a node, in a graph or in an executable one.
///
/// # Safety
/// `params` is null or valid, with as many operations as it says.
unsafe fn set(
    number: u16,
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let (ctx, head, list) = unsafe { of_node(params, exec, node)? };
    let send = || {
        let parts = [head.as_bytes(), list.as_bytes()];
        call::call(client, number, &parts, &mut [])
    };
    if ctx.is_null() {
        return send();
    }
    context::device_of(ctx).ok_or(CUresult::INVALID_CONTEXT)?;
    context::with_current(ctx, send)
}

/// `cuGraphBatchMemOpNodeSetParams`.
///
/// # Safety
/// `params` is null or valid, with as many operations as it says.
pub unsafe fn cuGraphBatchMemOpNodeSetParams(
    node: CUgraphNode,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Result<(), CUresult> {
    let number = number::cuGraphBatchMemOpNodeSetParams;
    // SAFETY: the caller's contract.
    unsafe { set(number, CUgraphExec::NULL, node, params) }
}

/// `cuGraphExecBatchMemOpNodeSetParams`.
///
/// # Safety
/// `params` is null or valid, with as many operations as it says.
pub unsafe fn cuGraphExecBatchMemOpNodeSetParams(
    exec: CUgraphExec,
    node: CUgraphNode,
    params: *const CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Result<(), CUresult> {
    let number = number::cuGraphExecBatchMemOpNodeSetParams;
    // SAFETY: the caller's contract.
    unsafe { set(number, exec, node, params) }
}

/// What `cuGraphBatchMemOpNodeGetParams` handed out, by node; replaced at the next question.
static HANDED_OUT: LazyLock<Mutex<HashMap<CUgraphNode, Box<[CUstreamBatchMemOpParams]>>>> =
    LazyLock::new(Mutex::default);

/// `cuGraphBatchMemOpNodeGetParams`. The context is not told.
///
/// # Safety
/// `params` is null or valid.
pub unsafe fn cuGraphBatchMemOpNodeGetParams(
    node: CUgraphNode,
    params: *mut CUDA_BATCH_MEM_OP_NODE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if params.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuGraphBatchMemOpNodeGetParams::Args {
        node: Word::of(node),
        params: [],
    };
    let mut buffer = [0; PAYLOAD_BYTES];
    let number = number::cuGraphBatchMemOpNodeGetParams;
    let len = call::call_variable(client, number, &[args.as_bytes()], &mut buffer)?;
    let (head, mut rest) =
        read_prefix::<MemoryOperations>(&buffer[..len]).ok_or(CUresult::UNKNOWN)?;
    let mut operations = Vec::new();
    while let Ok((operation, behind)) = CUstreamBatchMemOpParams::read_from_prefix(rest) {
        operations.push(operation);
        rest = behind;
    }
    if operations.len() != head.count as usize {
        return Err(CUresult::UNKNOWN);
    }
    let operations: Box<[_]> = operations.into();
    let at = operations.as_ptr() as u64;
    HANDED_OUT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(node, operations);
    write(
        params,
        CUDA_BATCH_MEM_OP_NODE_PARAMS {
            count: head.count,
            operations: at,
            flags: head.flags,
            ..CUDA_BATCH_MEM_OP_NODE_PARAMS::default()
        },
    )
}
