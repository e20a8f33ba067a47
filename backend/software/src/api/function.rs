//! Attributes and parameters of functions and kernels; occupancy.

use super::device::check;
use crate::device::{
    BLOCKS_PER_SM, MAX_BLOCK_THREADS, REGISTERS, SHARED_PER_SM, SHARED_RESERVED, THREADS_PER_SM,
};
use crate::entry::entries;
use crate::foreign::{Out, Outcome};
use crate::launch::{dynamic_shared_limit, dynamic_shared_opt_in};
use crate::module::{self, Function, Settings};
use crate::{current, device};
use parking_lot::Mutex;
use std::sync::Arc;
use vgpu_protocol::cuda::{CUdevice, CUfunction, CUkernel, CUoccupancyB2DSize, CUresult};
use vgpu_ptx::WARP_SIZE;

/// `CU_FUNC_ATTRIBUTE_*` that can be set here.
const MAX_DYNAMIC_SHARED: i32 = 8;
const CARVEOUT: i32 = 9;
/// Attributes about clusters, which the device lacks.
const CLUSTERS: std::ops::RangeInclusive<i32> = 10..=15;
/// Occupancy flags: the default, and no caching override, which is no different here.
const OCCUPANCY_FLAGS: u32 = 1;

/// Value of an attribute (`CUfunction_attribute`).
fn attribute(kernel: &vgpu_ptx::Kernel, settings: &Mutex<Settings>, id: i32) -> Outcome<i32> {
    let settings = settings.lock();
    let static_shared = kernel.static_shared_bytes();
    let value = match id {
        0 => kernel.max_threads(),
        1 => static_shared,
        // Constant memory is not counted per kernel.
        2 => 0,
        3 => kernel.local_bytes(),
        4 => kernel.registers(),
        // PTX and binary version: what the device executes.
        5 | 6 => (device::CAPABILITY.0 * 10 + device::CAPABILITY.1) as u32,
        7 => 0,
        MAX_DYNAMIC_SHARED => settings
            .max_dynamic_shared
            .unwrap_or(device::SHARED_PER_BLOCK.saturating_sub(static_shared)),
        CARVEOUT => return Ok(settings.carveout.unwrap_or(-1)),
        id if CLUSTERS.contains(&id) => 0,
        _ => return Err(CUresult::INVALID_VALUE),
    };
    i32::try_from(value).map_err(|_| CUresult::INVALID_VALUE)
}

/// Sets an attribute.
fn set_attribute(
    kernel: &vgpu_ptx::Kernel,
    settings: &Mutex<Settings>,
    id: i32,
    value: i32,
) -> Outcome {
    match id {
        MAX_DYNAMIC_SHARED => {
            let limit = dynamic_shared_opt_in(kernel.static_shared_bytes());
            let bytes = u32::try_from(value).ok().filter(|bytes| *bytes <= limit);
            settings.lock().max_dynamic_shared = Some(bytes.ok_or(CUresult::INVALID_VALUE)?);
            Ok(())
        }
        CARVEOUT if (-1..=100).contains(&value) => {
            settings.lock().carveout = Some(value);
            Ok(())
        }
        id if CLUSTERS.contains(&id) => Err(CUresult::NOT_SUPPORTED),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// Offset and size of a parameter; past the last one `INVALID_VALUE`.
fn parameter(
    kernel: &vgpu_ptx::Kernel,
    index: usize,
    offset: &Out<usize>,
    size: &Out<usize>,
) -> Outcome {
    offset.require()?;
    let param = kernel.params().get(index);
    let param = param.ok_or(CUresult::INVALID_VALUE)?;
    size.put_optional(param.size as usize);
    offset.put(param.offset as usize)
}

fn known_cache_config(config: u32) -> Outcome {
    if config > 3 {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(())
}

/// The function of a handle, a kernel's included, in the current context.
fn find(function: CUfunction) -> Outcome<Arc<Function>> {
    module::function(function, &*current::context()?)
}

/// Blocks of this shape that fit on one multiprocessor at a time.
fn resident_blocks(function: &Function, threads: u32, dynamic_shared: u64) -> u32 {
    let kernel = &function.kernel;
    let limit = u64::from(dynamic_shared_limit(function));
    if threads > kernel.max_threads() || dynamic_shared > limit {
        return 0;
    }
    let warps = threads.div_ceil(WARP_SIZE);
    let by_threads = THREADS_PER_SM / (warps * WARP_SIZE).max(1);
    let by_registers = REGISTERS / (kernel.registers() * warps * WARP_SIZE).max(1);
    let shared = u64::from(kernel.static_shared_bytes() + SHARED_RESERVED) + dynamic_shared;
    let by_shared = u64::from(SHARED_PER_SM) / shared;
    by_threads
        .min(by_registers)
        .min(u32::try_from(by_shared).unwrap_or(u32::MAX))
        .min(BLOCKS_PER_SM)
}

fn occupancy(
    blocks: &Out<i32>,
    function: CUfunction,
    block_size: i32,
    dynamic_shared: usize,
    flags: u32,
) -> Outcome {
    blocks.require()?;
    let threads = u32::try_from(block_size).map_err(|_| CUresult::INVALID_VALUE)?;
    if threads == 0 || flags & !OCCUPANCY_FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let function = find(function)?;
    blocks.put(resident_blocks(&function, threads, dynamic_shared as u64) as i32)
}

/// The block size with the most resident threads, the larger one where there is a choice.
fn best_block(
    min_grid: &Out<i32>,
    block: &Out<i32>,
    function: CUfunction,
    shared_of_block: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: i32,
    flags: u32,
) -> Outcome {
    min_grid.require()?;
    block.require()?;
    let function = find(function)?;
    let most = function.kernel.max_threads().min(MAX_BLOCK_THREADS);
    let limit = match u32::try_from(limit) {
        Ok(0) => most,
        Ok(limit) => limit.min(most),
        Err(_) => return Err(CUresult::INVALID_VALUE),
    };
    if flags & !OCCUPANCY_FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut best = (0, 0, 0);
    let mut size = limit;
    while size > 0 {
        let shared = match shared_of_block {
            // SAFETY: the program gave the function to be called with block sizes.
            Some(ask) => unsafe { ask(size as i32) },
            None => dynamic_shared,
        };
        let blocks = resident_blocks(&function, size, shared as u64);
        if blocks * size > best.0 {
            best = (blocks * size, blocks, size);
        }
        // Down to the next whole number of warps.
        size = (size - 1) / WARP_SIZE * WARP_SIZE;
    }
    min_grid.put(best.1 as i32 * device::multiprocessors())?;
    block.put(best.2 as i32)
}

entries! {
    ready fn cuFuncGetAttribute(out value: i32, val id: i32, val function: CUfunction) {
        value.require()?;
        let function = find(function)?;
        value.put(attribute(&function.kernel, &function.settings, id)?)
    }

    ready fn cuFuncSetAttribute(val function: CUfunction, val id: i32, val value: i32) {
        let function = find(function)?;
        set_attribute(&function.kernel, &function.settings, id, value)
    }

    ready fn cuFuncSetCacheConfig(val function: CUfunction, val config: u32) {
        find(function)?;
        known_cache_config(config)
    }

    ready fn cuFuncSetSharedMemConfig(val function: CUfunction, val config: u32) {
        find(function)?;
        known_cache_config(config.saturating_add(1))
    }

    ready fn cuFuncGetParamInfo(
        val function: CUfunction, val index: usize, out offset: usize, out size: usize,
    ) {
        let function = module::plain_function(function)?;
        parameter(&function.kernel, index, &offset, &size)
    }

    ready fn cuKernelGetAttribute(
        out value: i32, val id: i32, val kernel: CUkernel, val dev: CUdevice,
    ) {
        value.require()?;
        check(dev)?;
        let kernel = module::kernel(kernel)?;
        value.put(attribute(&kernel.kernel, &kernel.settings, id)?)
    }

    ready fn cuKernelSetAttribute(
        val id: i32, val value: i32, val kernel: CUkernel, val dev: CUdevice,
    ) {
        check(dev)?;
        let kernel = module::kernel(kernel)?;
        set_attribute(&kernel.kernel, &kernel.settings, id, value)
    }

    ready fn cuKernelSetCacheConfig(val kernel: CUkernel, val config: u32, val dev: CUdevice) {
        check(dev)?;
        module::kernel(kernel)?;
        known_cache_config(config)
    }

    ready fn cuKernelGetParamInfo(
        val kernel: CUkernel, val index: usize, out offset: usize, out size: usize,
    ) {
        // As measured on NVIDIA's driver: without a current context it does not tell.
        current::context()?;
        let kernel = module::kernel(kernel)?;
        parameter(&kernel.kernel, index, &offset, &size)
    }

    ready fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        out blocks: i32, val function: CUfunction, val block_size: i32, val dynamic_shared: usize,
    ) {
        occupancy(&blocks, function, block_size, dynamic_shared, 0)
    }

    ready fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out blocks: i32, val function: CUfunction, val block_size: i32, val dynamic_shared: usize,
        val flags: u32,
    ) {
        occupancy(&blocks, function, block_size, dynamic_shared, flags)
    }

    ready fn cuOccupancyMaxPotentialBlockSize(
        out min_grid: i32, out block: i32, val function: CUfunction,
        val shared_of_block: CUoccupancyB2DSize, val dynamic_shared: usize, val limit: i32,
    ) {
        best_block(&min_grid, &block, function, shared_of_block, dynamic_shared, limit, 0)
    }

    ready fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        out min_grid: i32, out block: i32, val function: CUfunction,
        val shared_of_block: CUoccupancyB2DSize, val dynamic_shared: usize, val limit: i32,
        val flags: u32,
    ) {
        best_block(&min_grid, &block, function, shared_of_block, dynamic_shared, limit, flags)
    }

    ready fn cuOccupancyAvailableDynamicSMemPerBlock(
        out bytes: usize, val function: CUfunction, val blocks: i32, val block_size: i32,
    ) {
        bytes.require()?;
        let function = find(function)?;
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0);
        let blocks = blocks.ok_or(CUresult::INVALID_VALUE)?;
        let threads = u32::try_from(block_size).ok().filter(|threads| *threads > 0);
        let threads = threads.ok_or(CUresult::INVALID_VALUE)?;
        if resident_blocks(&function, threads, 0) < blocks {
            return bytes.put(0);
        }
        let taken = function.kernel.static_shared_bytes() + SHARED_RESERVED;
        let share = (SHARED_PER_SM / blocks).saturating_sub(taken);
        bytes.put(share.min(dynamic_shared_limit(&function)) as usize)
    }
}
