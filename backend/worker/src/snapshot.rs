//! What a client may know of the devices without asking, taken before it is welcomed.

use crate::quota::Quota;
use vgpu_driver::Driver;
use vgpu_protocol::cuda::{CUcontext, CUdevice, CUresult, CUuuid, DEVICE_ATTRIBUTE_COUNT};
use vgpu_protocol::wire::{DeviceSnapshot, SNAPSHOT_SOFTWARE, SNAPSHOT_STREAM_MEMOPS, Snapshot};
use zerocopy::{FromZeros, IntoBytes};

/// Most devices that are shown: what fits the snapshot area.
pub const MAX_DEVICES: i32 = 64;

/// Attributes that read 0 because what they promise does not work through a channel
/// (`semantics.md` 18).
const MASKED: &[usize] = &[
    88,  // pageable memory access
    89,  // concurrent managed access
    96,  // cooperative launches on several devices
    100, // pageable access through the host's page tables
    101, // direct managed access from the host
    103, // export of memory as a POSIX descriptor
    104, // … as a Win32 handle
    105, // … as a Win32 KMT handle
    112, // sparse arrays
    113, // … read-only
    114, // timeline semaphores of other interfaces
    116, // GPUDirect RDMA
    117, // its flush options
    118, // its write ordering
    119, // exportable handle types of pools
    121, // deferred mapping of arrays
    124, // dma-buf
    128, // fabric handles
    129, // unified function pointers
    132, // multicast
    133, // MPS
    135, // compute in graphics, Direct3D
    136, // decompression in hardware: algorithms
    137, // … largest size
    138, // compute in graphics, Vulkan
    141, // virtual memory management on host NUMA nodes
    142, // pools on host NUMA nodes
    143, // IPC between host NUMA nodes
    144, // pools in host memory
];

/// Managed memory, which the channel provides itself: in its heap, where the device reaches it if it
/// maps host memory ([`CAN_MAP_HOST_MEMORY`]) at the host's own addresses ([`UNIFIED_ADDRESSING`]).
const MANAGED_MEMORY: usize = 83;
const CAN_MAP_HOST_MEMORY: usize = 19;
const UNIFIED_ADDRESSING: usize = 41;

/// Registration of the program's own memory, which needs a channel of ordinary pages.
const HOST_REGISTER: usize = 99;

/// Stream memory operations of the first version, and the 64-bit ones of the second.
const MEMOPS: [usize; 2] = [92, 122];

/// The driver's private table of runtime helpers.
const CUDART_TABLE: CUuuid = CUuuid {
    bytes: [
        0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d,
        0xf9,
    ],
};

/// A snapshot ready for the channel, and the primary contexts in it.
#[derive(Debug)]
pub struct Taken {
    /// [`Snapshot`] and [`DeviceSnapshot`]s.
    pub bytes: Vec<u8>,
    /// Primary context of each device, 0 where the driver does not say.
    pub primaries: Vec<u64>,
}

/// Asks an initialised driver with `devices` devices about everything. `registers`: the program's own
/// memory can be registered.
pub fn take(
    driver: &Driver,
    devices: i32,
    software: bool,
    registers: bool,
    quota: &Quota,
) -> Taken {
    let devices = devices.clamp(0, MAX_DEVICES);
    let mut version = 0;
    // SAFETY: the result has room.
    let _ = unsafe { vgpu_driver::call!(driver, cuDriverGetVersion(&raw mut version)) };
    let snapshots: Vec<DeviceSnapshot> = (0..devices)
        .map(|ordinal| device(driver, CUdevice(ordinal), registers, quota))
        .collect();
    let writes = driver.cuStreamWriteValue32_v2.is_some()
        && snapshots.iter().all(|device| {
            MEMOPS
                .iter()
                .any(|&id| device.attributes.get(id).is_some_and(|&value| value != 0))
        });
    let head = Snapshot {
        driver_version: u32::try_from(version).unwrap_or(0),
        init_status: 0,
        device_count: snapshots.len() as u32,
        flags: if software { SNAPSHOT_SOFTWARE } else { 0 }
            | if writes { SNAPSHOT_STREAM_MEMOPS } else { 0 },
    };
    let mut bytes = head.as_bytes().to_vec();
    for device in &snapshots {
        bytes.extend_from_slice(device.as_bytes());
    }
    Taken {
        bytes,
        primaries: snapshots.iter().map(|device| device.primary_ctx).collect(),
    }
}

/// A snapshot that only says why there is no device.
pub fn failed(status: CUresult) -> Vec<u8> {
    Snapshot {
        init_status: status.0,
        ..Snapshot::default()
    }
    .as_bytes()
    .to_vec()
}

fn device(driver: &Driver, dev: CUdevice, registers: bool, quota: &Quota) -> DeviceSnapshot {
    let mut snapshot = DeviceSnapshot::new_zeroed();
    let (name, name_len) = (
        snapshot.name.as_mut_ptr().cast(),
        snapshot.name.len() as i32 - 1,
    );
    let (bus, bus_len) = (
        snapshot.pci_bus_id.as_mut_ptr().cast(),
        snapshot.pci_bus_id.len() as i32 - 1,
    );
    let (mut uuid, mut uuid_v2) = (CUuuid::default(), CUuuid::default());
    let mut total = 0_usize;
    // What the driver refuses stays zero, and reads as unknown.
    // SAFETY: every result has the room that is stated, one byte less for texts.
    let _ = unsafe {
        (
            vgpu_driver::call!(driver, cuDeviceGetName(name, name_len, dev)),
            vgpu_driver::call!(driver, cuDeviceGetPCIBusId(bus, bus_len, dev)),
            vgpu_driver::call!(driver, cuDeviceGetUuid(&raw mut uuid, dev)),
            vgpu_driver::call!(driver, cuDeviceGetUuid_v2(&raw mut uuid_v2, dev)),
            vgpu_driver::call!(driver, cuDeviceTotalMem_v2(&raw mut total, dev)),
        )
    };
    snapshot.uuid = uuid.bytes;
    snapshot.uuid_v2 = uuid_v2.bytes;
    snapshot.total_memory = quota.clip_total(total as u64);
    snapshot.primary_ctx = primary(driver, dev);
    for id in 1..DEVICE_ATTRIBUTE_COUNT {
        let mut value = 0;
        // SAFETY: the result has room; the driver refuses ids that it does not know.
        let result = unsafe {
            vgpu_driver::call!(driver, cuDeviceGetAttribute(&raw mut value, id as i32, dev))
        };
        if MASKED.contains(&id) || (id == HOST_REGISTER && !registers) {
            value = 0;
        }
        if let (Some(to), Some(status)) = (
            snapshot.attributes.get_mut(id),
            snapshot.attribute_status.get_mut(id),
        ) {
            (*to, *status) = (value, result.0);
        }
    }
    let has = |id: usize| snapshot.attributes.get(id).is_some_and(|&value| value != 0);
    let managed = i32::from(has(CAN_MAP_HOST_MEMORY) && has(UNIFIED_ADDRESSING));
    if let Some(to) = snapshot.attributes.get_mut(MANAGED_MEMORY) {
        *to = managed;
    }
    if let Some(status) = snapshot.attribute_status.first_mut() {
        *status = CUresult::INVALID_VALUE.0;
    }
    snapshot
}

/// The primary context's handle without activating it: slot 2 of the runtime's table
/// (`cuda-driver-facts.md` 2).
fn primary(driver: &Driver, dev: CUdevice) -> u64 {
    type Primary = unsafe extern "C" fn(*mut CUcontext, CUdevice) -> CUresult;
    let mut table = std::ptr::null();
    let id = CUDART_TABLE;
    // SAFETY: the result has room.
    let result = unsafe {
        vgpu_driver::call!(
            driver,
            cuGetExportTable(&raw mut table, (&raw const id).cast())
        )
    };
    if result != CUresult::SUCCESS || table.is_null() {
        return 0;
    }
    let words = table.cast::<usize>();
    // SAFETY: the table's first word is its size in bytes, and slot 2 is read only if it is inside.
    let slot = unsafe {
        if *words < 3 * size_of::<usize>() {
            return 0;
        }
        *words.add(2)
    };
    if slot == 0 {
        return 0;
    }
    let mut ctx = CUcontext::NULL;
    // SAFETY: slot 2 of this table has this signature in every driver known; it was not null.
    let result = unsafe {
        let function = std::mem::transmute::<usize, Primary>(slot);
        function(&raw mut ctx, dev)
    };
    if result == CUresult::SUCCESS {
        ctx.0
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn always_one(value: *mut i32, _attribute: i32, _dev: CUdevice) -> CUresult {
        // SAFETY: the snapshot passes room for the value.
        unsafe { *value = 1 };
        CUresult::SUCCESS
    }

    #[test]
    fn what_does_not_work_through_a_channel_reads_zero() {
        let driver = Driver {
            cuDeviceGetAttribute: Some(always_one),
            ..Driver::default()
        };
        let quota = Quota::new(0, crate::figures::Counts::private());
        let snapshot = device(&driver, CUdevice(0), false, &quota);
        for masked in [88, 89, 99, 100, 101, 113, 116, 124, 128, 132, 133] {
            assert_eq!(snapshot.attributes[masked], 0, "attribute {masked}");
        }
        let registers = device(&driver, CUdevice(0), true, &quota);
        assert_eq!(registers.attributes[HOST_REGISTER], 1);
        // Warp size, streams beside copies, unified addressing, cooperative launches, IPC events.
        for kept in [10, 15, 41, 95, 125] {
            assert_eq!(snapshot.attributes[kept], 1, "attribute {kept}");
        }
    }
}
