//! Devices: everything is answered from the snapshot taken when the process connected.

use crate::client::{self, Device};
use crate::{register, write};
use core::ffi::{CStr, c_char};
use vgpu_protocol::cuda::*;

/// Device attributes by their number in `cuda.h`.
mod attribute {
    pub const MAX_THREADS_PER_BLOCK: i32 = 1;
    pub const MAX_BLOCK_DIM_X: i32 = 2;
    pub const MAX_GRID_DIM_X: i32 = 5;
    pub const MAX_SHARED_MEMORY_PER_BLOCK: i32 = 8;
    pub const TOTAL_CONSTANT_MEMORY: i32 = 9;
    pub const WARP_SIZE: i32 = 10;
    pub const MAX_PITCH: i32 = 11;
    pub const MAX_REGISTERS_PER_BLOCK: i32 = 12;
    pub const CLOCK_RATE: i32 = 13;
    pub const TEXTURE_ALIGNMENT: i32 = 14;
    pub const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
    pub const COMPUTE_CAPABILITY_MINOR: i32 = 76;
}

/// Copies a text and its terminator into a caller's buffer of `len` bytes, cutting it if need be.
///
/// # Safety
/// `to` is null or has `len` bytes.
unsafe fn copy_text(text: &[u8], to: *mut c_char, len: i32) -> Result<(), CUresult> {
    let room = usize::try_from(len).map_err(|_| CUresult::INVALID_VALUE)?;
    if to.is_null() || room == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let count = text.len().min(room - 1);
    // SAFETY: at most `room` bytes, terminator included.
    unsafe {
        core::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), count);
        to.add(count).write(0);
    }
    Ok(())
}

fn device(dev: CUdevice) -> Result<&'static Device, CUresult> {
    client::entered()?.device(dev)
}

/// `cuDriverGetVersion`.
///
/// # Safety
/// `version` is null or valid.
pub unsafe fn cuDriverGetVersion(version: *mut i32) -> Result<(), CUresult> {
    if version.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    write(version, client::driver_version() as i32)
}

/// `cuGetErrorName`.
///
/// # Safety
/// `text` is null or valid.
pub unsafe fn cuGetErrorName(error: CUresult, text: *mut *const c_char) -> Result<(), CUresult> {
    error_text(error.describe().map(|(name, _)| name), text)
}

/// `cuGetErrorString`.
///
/// # Safety
/// `text` is null or valid.
pub unsafe fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> Result<(), CUresult> {
    error_text(error.describe().map(|(_, text)| text), text)
}

fn error_text(found: Option<&'static CStr>, text: *mut *const c_char) -> Result<(), CUresult> {
    write(text, found.map_or(core::ptr::null(), CStr::as_ptr))?;
    if found.is_some() {
        Ok(())
    } else {
        Err(CUresult::INVALID_VALUE)
    }
}

/// `cuDeviceGetCount`.
///
/// # Safety
/// `count` is null or valid.
pub unsafe fn cuDeviceGetCount(count: *mut i32) -> Result<(), CUresult> {
    write(count, client::entered()?.devices().len() as i32)
}

/// `cuDeviceGet`.
///
/// # Safety
/// `dev` is null or valid.
pub unsafe fn cuDeviceGet(dev: *mut CUdevice, ordinal: i32) -> Result<(), CUresult> {
    device(CUdevice(ordinal))?;
    write(dev, CUdevice(ordinal))
}

/// `cuDeviceGetName`.
///
/// # Safety
/// `name` is null or has `len` bytes.
pub unsafe fn cuDeviceGetName(name: *mut c_char, len: i32, dev: CUdevice) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { copy_text(&device(dev)?.snapshot().name, name, len) }
}

/// `cuDeviceGetPCIBusId`.
///
/// # Safety
/// `text` is null or has `len` bytes.
pub unsafe fn cuDeviceGetPCIBusId(
    text: *mut c_char,
    len: i32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { copy_text(&device(dev)?.snapshot().pci_bus_id, text, len) }
}

/// Domain, bus, device and function of a PCI id such as `0000:0a:00.0`, `0a:00.0` or `0a:00`.
fn parse_pci(text: &str) -> Option<[u32; 4]> {
    let hex = |part: &str| u32::from_str_radix(part, 16).ok();
    let (text, function) = match text.rsplit_once('.') {
        Some((text, function)) => (text, hex(function)?),
        None => (text, 0),
    };
    let parts: Vec<_> = text.split(':').map(hex).collect::<Option<_>>()?;
    match parts.as_slice() {
        [domain, bus, device] => Some([*domain, *bus, *device, function]),
        [bus, device] => Some([0, *bus, *device, function]),
        _ => None,
    }
}

/// `cuDeviceGetByPCIBusId`.
///
/// # Safety
/// `dev` is null or valid, `text` null or a C string.
pub unsafe fn cuDeviceGetByPCIBusId(
    dev: *mut CUdevice,
    text: *const c_char,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if dev.is_null() || text.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let text = unsafe { CStr::from_ptr(text) };
    let wanted = text
        .to_str()
        .ok()
        .and_then(parse_pci)
        .ok_or(CUresult::INVALID_VALUE)?;
    let found = client.devices().iter().position(|device| {
        CStr::from_bytes_until_nul(&device.snapshot().pci_bus_id)
            .ok()
            .and_then(|id| id.to_str().ok())
            .and_then(parse_pci)
            == Some(wanted)
    });
    write(dev, CUdevice(found.ok_or(CUresult::INVALID_DEVICE)? as i32))
}

/// `cuDeviceTotalMem_v2`.
///
/// # Safety
/// `bytes` is null or valid.
pub unsafe fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice) -> Result<(), CUresult> {
    write(bytes, device(dev)?.snapshot().total_memory as usize)
}

/// `CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED`.
const HOST_REGISTER_SUPPORTED: i32 = 99;

/// `cuDeviceGetAttribute`.
///
/// # Safety
/// `value` is null or valid.
pub unsafe fn cuDeviceGetAttribute(
    value: *mut i32,
    attribute: i32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    let known = device(dev)?.attribute(attribute)?;
    let masked = attribute == HOST_REGISTER_SUPPORTED && !register::offered();
    write(value, if masked { 0 } else { known })
}

/// `cuDeviceGetUuid`.
///
/// # Safety
/// `uuid` is null or valid.
pub unsafe fn cuDeviceGetUuid(uuid: *mut CUuuid, dev: CUdevice) -> Result<(), CUresult> {
    write(
        uuid,
        CUuuid {
            bytes: device(dev)?.uuid(),
        },
    )
}

/// `cuDeviceGetUuid_v2`.
///
/// # Safety
/// `uuid` is null or valid.
pub unsafe fn cuDeviceGetUuid_v2(uuid: *mut CUuuid, dev: CUdevice) -> Result<(), CUresult> {
    write(
        uuid,
        CUuuid {
            bytes: device(dev)?.snapshot().uuid_v2,
        },
    )
}

/// `cuDeviceGetLuid`: only Windows has such ids.
///
/// # Safety
/// Follows no pointers.
pub unsafe fn cuDeviceGetLuid(
    _luid: *mut c_char,
    _mask: *mut u32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    device(dev)?;
    Err(CUresult::NOT_SUPPORTED)
}

/// `cuDeviceComputeCapability`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuDeviceComputeCapability(
    major: *mut i32,
    minor: *mut i32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    let device = device(dev)?;
    write(
        major,
        device.attribute(attribute::COMPUTE_CAPABILITY_MAJOR)?,
    )?;
    write(
        minor,
        device.attribute(attribute::COMPUTE_CAPABILITY_MINOR)?,
    )
}

/// `cuDeviceGetProperties`.
///
/// # Safety
/// `prop` is null or valid.
pub unsafe fn cuDeviceGetProperties(prop: *mut CUdevprop, dev: CUdevice) -> Result<(), CUresult> {
    let device = device(dev)?;
    let value = |id| device.attribute_or_zero(id);
    let three = |first| [value(first), value(first + 1), value(first + 2)];
    write(
        prop,
        CUdevprop {
            max_threads_per_block: value(attribute::MAX_THREADS_PER_BLOCK),
            max_threads_dim: three(attribute::MAX_BLOCK_DIM_X),
            max_grid_size: three(attribute::MAX_GRID_DIM_X),
            shared_mem_per_block: value(attribute::MAX_SHARED_MEMORY_PER_BLOCK),
            total_constant_memory: value(attribute::TOTAL_CONSTANT_MEMORY),
            simd_width: value(attribute::WARP_SIZE),
            mem_pitch: value(attribute::MAX_PITCH),
            regs_per_block: value(attribute::MAX_REGISTERS_PER_BLOCK),
            clock_rate: value(attribute::CLOCK_RATE),
            texture_align: value(attribute::TEXTURE_ALIGNMENT),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_ids_come_in_three_shapes() {
        assert_eq!(parse_pci("0000:0A:00.0"), Some([0, 10, 0, 0]));
        assert_eq!(parse_pci("0a:1f.1"), Some([0, 10, 31, 1]));
        assert_eq!(parse_pci("0a:00"), Some([0, 10, 0, 0]));
        assert_eq!(parse_pci("nonsense"), None);
        assert_eq!(parse_pci(""), None);
    }
}
