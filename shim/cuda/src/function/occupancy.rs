//! Occupancy: asked once for each function, block size and amount of shared memory.

use super::{cuFuncGetAttribute, cuKernelGetAttribute, find};
use crate::client;
use crate::{call, write};
use std::sync::PoisonError;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire;
use zerocopy::IntoBytes;

/// A question about occupancy of a function or kernel.
#[derive(Clone, Copy, Debug)]
struct Occupancy {
    function: CUfunction,
    block: i32,
    dynamic_shared: usize,
    flags: u32,
}

fn occupancy(question: Occupancy) -> Result<i32, CUresult> {
    let client = client::entered()?;
    let info = find(question.function.0)?;
    let key = (question.block, question.dynamic_shared, question.flags);
    let known = info
        .occupancy
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
        .copied();
    if let Some(known) = known {
        return Ok(known);
    }
    let args = wire::AttributeRequest {
        object: question.function.0,
        attribute: question.flags,
        len: u32::from(info.is_kernel),
        value: [
            question.block as u64,
            question.dynamic_shared as u64,
            0,
            0,
            0,
            0,
            0,
            0,
        ],
    };
    let mut reply = wire::AttributeReply::default();
    call::call(
        client,
        number::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let blocks = reply.value[0] as i32;
    info.occupancy
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, blocks);
    Ok(blocks)
}

/// `cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags`.
///
/// # Safety
/// `blocks` is null or valid.
pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut i32,
    function: CUfunction,
    block: i32,
    dynamic_shared: usize,
    flags: u32,
) -> Result<(), CUresult> {
    write(
        blocks,
        occupancy(Occupancy {
            function,
            block,
            dynamic_shared,
            flags,
        })?,
    )
}

/// `cuOccupancyMaxActiveBlocksPerMultiprocessor`.
///
/// # Safety
/// `blocks` is null or valid.
pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut i32,
    function: CUfunction,
    block: i32,
    dynamic_shared: usize,
) -> Result<(), CUresult> {
    write(
        blocks,
        occupancy(Occupancy {
            function,
            block,
            dynamic_shared,
            flags: 0,
        })?,
    )
}

/// `cuOccupancyMaxPotentialBlockSize`.
///
/// # Safety
/// As [`cuOccupancyMaxPotentialBlockSizeWithFlags`].
pub unsafe fn cuOccupancyMaxPotentialBlockSize(
    min_grid: *mut i32,
    block: *mut i32,
    function: CUfunction,
    shared_of_block: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: i32,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        cuOccupancyMaxPotentialBlockSizeWithFlags(
            min_grid,
            block,
            function,
            shared_of_block,
            dynamic_shared,
            limit,
            0,
        )
    }
}

/// `cuOccupancyMaxPotentialBlockSizeWithFlags`: the search is done here, because the callback is the
/// program's.
///
/// # Safety
/// The pointers are null or valid, the callback null or a function of its signature.
pub unsafe fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    min_grid: *mut i32,
    block: *mut i32,
    function: CUfunction,
    shared_of_block: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: i32,
    flags: u32,
) -> Result<(), CUresult> {
    const MAX_THREADS_PER_BLOCK: i32 = 0;
    const WARP_SIZE: i32 = 10;
    const MULTIPROCESSOR_COUNT: i32 = 16;
    let client = client::entered()?;
    let device = client.device(crate::context::device()?)?;
    let mut most = 0;
    if find(function.0)?.is_kernel {
        let dev = crate::context::device()?;
        // SAFETY: a pointer to a local.
        unsafe {
            cuKernelGetAttribute(
                &raw mut most,
                MAX_THREADS_PER_BLOCK,
                CUkernel(function.0),
                dev,
            )?
        };
    } else {
        // SAFETY: a pointer to a local.
        unsafe { cuFuncGetAttribute(&raw mut most, MAX_THREADS_PER_BLOCK, function)? };
    }
    let warp = device.attribute(WARP_SIZE)?.max(1);
    let most = if limit > 0 { most.min(limit) } else { most };
    let mut best = (0, 0, 0);
    let mut size = (most + warp - 1) / warp * warp;
    while size > 0 {
        let threads = size.min(most);
        let shared = match shared_of_block {
            // SAFETY: the program's own function.
            Some(shared_of_block) => unsafe { shared_of_block(threads) },
            None => dynamic_shared,
        };
        let blocks = occupancy(Occupancy {
            function,
            block: threads,
            dynamic_shared: shared,
            flags,
        })?;
        if threads.saturating_mul(blocks) > best.0 {
            best = (threads.saturating_mul(blocks), threads, blocks);
        }
        size -= warp;
    }
    write(
        min_grid,
        best.2
            .saturating_mul(device.attribute(MULTIPROCESSOR_COUNT)?),
    )?;
    write(block, best.1)
}

/// `cuOccupancyAvailableDynamicSMemPerBlock`.
///
/// # Safety
/// `bytes` is null or valid.
pub unsafe fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    function: CUfunction,
    blocks: i32,
    block: i32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let info = find(function.0)?;
    let args = wire::AttributeRequest {
        object: function.0,
        attribute: 0,
        len: u32::from(info.is_kernel),
        value: [blocks as u64, block as u64, 0, 0, 0, 0, 0, 0],
    };
    let mut reply = wire::AttributeReply::default();
    call::call(
        client,
        number::cuOccupancyAvailableDynamicSMemPerBlock,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(bytes, reply.value[0] as usize)
}
