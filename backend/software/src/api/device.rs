//! Initialisation, the device, error texts.

use crate::entry::{self, entries};
use crate::foreign::{Outcome, put_text};
use crate::{device, export};
use std::ffi::{c_char, c_void};
use std::ptr;
use vgpu_protocol::cuda::{CUdevice, CUdevprop, CUresult, CUuuid};

/// Refuses what is no device's ordinal.
pub(crate) fn check(dev: CUdevice) -> Outcome {
    if (0..device::count()).contains(&dev.0) {
        Ok(())
    } else {
        Err(CUresult::INVALID_DEVICE)
    }
}

entries! {
    anytime fn cuInit(val flags: u32) {
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        entry::initialise();
        Ok(())
    }

    anytime fn cuDriverGetVersion(out version: i32) {
        version.put(device::DRIVER_VERSION)
    }

    anytime fn cuGetErrorName(val error: CUresult, out text: *const c_char) {
        let described = error.describe().map(|(name, _)| name.as_ptr());
        text.put(described.unwrap_or(ptr::null()))?;
        described.map(drop).ok_or(CUresult::INVALID_VALUE)
    }

    anytime fn cuGetErrorString(val error: CUresult, out text: *const c_char) {
        let described = error.describe().map(|(_, text)| text.as_ptr());
        text.put(described.unwrap_or(ptr::null()))?;
        described.map(drop).ok_or(CUresult::INVALID_VALUE)
    }

    anytime fn cuGetExportTable(out table: *const c_void, src id: CUuuid) {
        let found = export::table(id.get()?);
        table.put(found.unwrap_or(ptr::null()))?;
        found.map(drop).ok_or(CUresult::INVALID_VALUE)
    }

    ready fn cuDeviceGetCount(out count: i32) {
        count.put(device::count())
    }

    ready fn cuDeviceGet(out device: CUdevice, val ordinal: i32) {
        check(CUdevice(ordinal))?;
        device.put(CUdevice(ordinal))
    }

    ready fn cuDeviceGetName(out name: c_char, val len: i32, val dev: CUdevice) {
        check(dev)?;
        put_text(&name, len, device::NAME)
    }

    ready fn cuDeviceTotalMem_v2(out bytes: usize, val dev: CUdevice) {
        check(dev)?;
        bytes.put(device::memory().total() as usize)
    }

    ready fn cuDeviceGetAttribute(out value: i32, val attribute: i32, val dev: CUdevice) {
        check(dev)?;
        value.put(device::attribute(attribute, dev.0).ok_or(CUresult::INVALID_VALUE)?)
    }

    ready fn cuDeviceGetUuid(out uuid: CUuuid, val dev: CUdevice) {
        check(dev)?;
        uuid.put(device::uuid(dev.0))
    }

    ready fn cuDeviceGetUuid_v2(out uuid: CUuuid, val dev: CUdevice) {
        check(dev)?;
        uuid.put(device::uuid(dev.0))
    }

    ready fn cuDeviceGetPCIBusId(out text: c_char, val len: i32, val dev: CUdevice) {
        check(dev)?;
        put_text(&text, len, &device::pci_bus_id(dev.0))
    }

    ready fn cuDeviceGetByPCIBusId(out dev: CUdevice, text text: c_char) {
        dev.require()?;
        let found = device::by_pci_bus_id(&text.get()?).ok_or(CUresult::INVALID_DEVICE)?;
        dev.put(CUdevice(found))
    }

    ready fn cuDeviceComputeCapability(out major: i32, out minor: i32, val dev: CUdevice) {
        check(dev)?;
        major.require()?;
        minor.put(device::CAPABILITY.1)?;
        major.put(device::CAPABILITY.0)
    }

    ready fn cuDeviceGetProperties(out prop: CUdevprop, val dev: CUdevice) {
        check(dev)?;
        prop.put(CUdevprop {
            max_threads_per_block: device::MAX_BLOCK_THREADS as i32,
            max_threads_dim: device::MAX_BLOCK.map(|extent| extent as i32),
            max_grid_size: device::MAX_GRID.map(|extent| extent as i32),
            shared_mem_per_block: device::SHARED_PER_BLOCK as i32,
            total_constant_memory: device::CONSTANT_BYTES,
            simd_width: vgpu_ptx::WARP_SIZE as i32,
            mem_pitch: device::MAX_PITCH,
            regs_per_block: device::REGISTERS as i32,
            clock_rate: device::CLOCK_KHZ,
            texture_align: device::ALIGNMENT as i32,
        })
    }

    ready fn cuDeviceCanAccessPeer(out can: i32, val dev: CUdevice, val peer: CUdevice) {
        check(dev)?;
        check(peer)?;
        can.put(0)
    }

    ready fn cuDeviceGetP2PAttribute(
        out value: i32, val attribute: i32, val src: CUdevice, val dst: CUdevice,
    ) {
        value.require()?;
        check(src)?;
        check(dst)?;
        // Performance rank, access, atomics, arrays: none of it between any two devices.
        match attribute {
            1..=4 if src != dst => value.put(0),
            1..=4 => Err(CUresult::INVALID_DEVICE),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    ready fn cuDeviceGetExecAffinitySupport(out value: i32, val kind: u32, val dev: CUdevice) {
        check(dev)?;
        if kind != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        value.put(0)
    }
}
