//! Kernel launches.

use crate::dispatch::enqueue;
use crate::entry::entries;
use crate::foreign::{In, Outcome};
use crate::graph::Action;
use crate::launch::{KernelLaunch, Shape, params_end};
use crate::module::{self, Function};
use crate::stream;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use vgpu_protocol::cuda::{
    CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CUfunction, CUlaunchAttribute,
    CUlaunchConfig, CUresult, CUstream,
};

/// Entries an `extra` array may have before it counts as unterminated.
const MAX_EXTRA: usize = 16;
/// Attributes one launch may have.
const MAX_ATTRIBUTES: usize = 64;

/// Collects the parameter block from whichever way the caller chose to pass it.
///
/// # Errors
/// `INVALID_VALUE` if both ways are used, or none and the kernel has parameters, or for an `extra`
/// array that is not understood.
pub(crate) fn parameters(
    function: &Function,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome<Vec<u8>> {
    match (params.is_null(), extra.is_null()) {
        (false, false) => Err(CUresult::INVALID_VALUE),
        (true, false) => from_extra(extra),
        _ => from_pointers(function, params),
    }
}

fn from_pointers(function: &Function, params: *mut *mut c_void) -> Outcome<Vec<u8>> {
    let layout = function.kernel.params();
    // SAFETY: the C contract of launches: a pointer for each parameter of the kernel.
    let pointers = unsafe { In::new(params.cast_const()) }.list(layout.len())?;
    let mut block = vec![0u8; params_end(&function.kernel)];
    for (param, pointer) in layout.iter().zip(pointers) {
        // SAFETY: the C contract of launches: each pointer is good for its parameter's size.
        let bytes = unsafe { In::new(pointer.cast::<u8>().cast_const()) };
        let bytes = bytes.list(param.size as usize)?;
        let place = block.iter_mut().skip(param.offset as usize);
        for (to, from) in place.zip(bytes) {
            *to = from;
        }
    }
    Ok(block)
}

fn from_extra(extra: *mut *mut c_void) -> Outcome<Vec<u8>> {
    let (mut buffer, mut size) = (ptr::null::<u8>(), None);
    for pair in 0..MAX_EXTRA {
        // SAFETY: the C contract of launches: pairs of key and value up to a null key; the loop
        // reads no pair behind that.
        let key = unsafe { extra.add(2 * pair).read_unaligned() } as usize;
        if key == 0 {
            let size = size.ok_or(CUresult::INVALID_VALUE)?;
            // SAFETY: the C contract of launches: the buffer has this size.
            return unsafe { In::new(buffer) }.list(size);
        }
        // SAFETY: a key that is not null has a value behind it.
        let value = unsafe { extra.add(2 * pair + 1).read_unaligned() };
        match key {
            CU_LAUNCH_PARAM_BUFFER_POINTER => buffer = value.cast::<u8>().cast_const(),
            CU_LAUNCH_PARAM_BUFFER_SIZE => {
                // SAFETY: the C contract of launches: the value points to the size.
                let given = unsafe { In::new(value.cast::<usize>().cast_const()) }.get()?;
                size = Some(given).filter(|size| *size <= vgpu_ptx::MAX_PARAM_BYTES as usize);
            }
            _ => return Err(CUresult::INVALID_VALUE),
        }
    }
    Err(CUresult::INVALID_VALUE)
}

/// Whether the device can honour a launch attribute.
fn check_attribute(attribute: &CUlaunchAttribute) -> Outcome {
    let words = attribute.value.words;
    let ones = words[0] == 1 << 32 | 1 && words[1] as u32 == 1;
    let zeroes = words[0] == 0 && words[1] as u32 == 0;
    match attribute.id {
        // Nothing; access policy, synchronisation policy, priority, memory domains and shared
        // memory carve-out are hints.
        0 | 1 | 3 | 8 | 9 | 10 | 14 => Ok(()),
        // Cooperative launch, if not asked for.
        2 if words[0] as u32 == 0 => Ok(()),
        // Clusters of one block, and how to schedule them.
        4 | 11 if ones || zeroes => Ok(()),
        5 => Ok(()),
        // May start before the launch ahead is over, or may not: it never does.
        6 => Ok(()),
        _ => Err(CUresult::NOT_SUPPORTED),
    }
}

fn launch(
    function: CUfunction,
    shape: Shape,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let (context, stream) = stream::get(stream)?;
    let function = module::function(function, &context)?;
    if function.owner != stream.core.id {
        return Err(CUresult::INVALID_HANDLE);
    }
    let params = parameters(&function, params, extra)?;
    let launch = KernelLaunch::new(function, shape, params)?;
    enqueue(&stream, Action::Kernel(Arc::new(launch))).map(drop)
}

entries! {
    ready fn cuLaunchKernel(
        val function: CUfunction, val grid_x: u32, val grid_y: u32, val grid_z: u32,
        val block_x: u32, val block_y: u32, val block_z: u32, val dynamic_shared: u32,
        val stream: CUstream, val params: *mut *mut c_void, val extra: *mut *mut c_void,
    ) {
        let shape = Shape {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            dynamic_shared,
        };
        launch(function, shape, stream, params, extra)
    }

    ready fn cuLaunchKernelEx(
        src config: CUlaunchConfig, val function: CUfunction, val params: *mut *mut c_void,
        val extra: *mut *mut c_void,
    ) {
        let config = config.get()?;
        let count = config.attribute_count as usize;
        if count > MAX_ATTRIBUTES {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the C contract of the function: as many attributes as the count says.
        let attributes = unsafe { In::new(config.attributes.cast_const()) }.list(count)?;
        attributes.iter().try_for_each(check_attribute)?;
        let shape = Shape {
            grid: config.grid,
            block: config.block,
            dynamic_shared: config.dynamic_shared,
        };
        launch(function, shape, config.stream, params, extra)
    }
}
