//! Memory: asked for anew each time.

use crate::ask::{self, NoAnswer};
use crate::device::{Device, struct_version};
use crate::error::{Error, Outcome};
use crate::give;
use core::ffi::c_uint;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t};
use vgpu_protocol::facts::{DeviceFacts, QUERY_DEVICE};

const _: () = assert!(size_of::<nvmlMemory_t>() == 24);
const _: () = assert!(size_of::<nvmlMemory_v2_t>() == 40);

fn now(device: nvmlDevice_t) -> Result<DeviceFacts, Error> {
    let index = Device::of(device)?.index as u32;
    ask::facts(QUERY_DEVICE, index, 0).map_err(|NoAnswer| Error::GPU_IS_LOST)
}

/// `nvmlDeviceGetMemoryInfo`: what the driver keeps counts as used, as natively.
pub fn info(device: nvmlDevice_t, memory: *mut nvmlMemory_t) -> Outcome {
    if memory.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    let facts = now(device)?;
    let info = nvmlMemory_t {
        total: facts.memory_total,
        free: facts.memory_free,
        used: facts.memory_total.saturating_sub(facts.memory_free),
    };
    give::value(memory, info)
}

/// `nvmlDeviceGetMemoryInfo_v2`.
pub fn info_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) -> Outcome {
    let version = struct_version::<nvmlMemory_v2_t>(2);
    Device::of(device)?;
    if give::read(memory.cast::<c_uint>())? != version {
        return Err(Error::VERSION_MISMATCH);
    }
    let facts = now(device)?;
    let used = facts
        .memory_total
        .saturating_sub(facts.memory_free)
        .saturating_sub(facts.memory_reserved);
    let info = nvmlMemory_v2_t {
        version,
        total: facts.memory_total,
        reserved: facts.memory_reserved,
        free: facts.memory_free,
        used,
    };
    give::value(memory, info)
}
