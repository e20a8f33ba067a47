//! The devices, all of one kind: what each says about itself, and what the embedder may choose.
//!
//! Several devices differ by number, UUID and PCI address only. They share one memory, of which each reports all, and no
//! device reaches another's by itself: there is no peer access, only copies between contexts.

use crate::memory::Memory;
use std::sync::OnceLock;
use vgpu_protocol::cuda::CUuuid;

/// What the embedder may choose before the first call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Device memory in bytes. Pages are taken from the system only when they are written.
    pub memory_bytes: u64,
    /// CPU threads one kernel launch may use, at least 1.
    pub threads: usize,
    /// Most warp instructions one kernel may execute before it counts as hung
    /// (`LAUNCH_TIMEOUT`), or `None` to let it run until its context ends.
    pub instruction_budget: Option<u64>,
    /// Devices, 1 to [`MAX_DEVICES`].
    pub devices: i32,
}

/// Most devices.
pub const MAX_DEVICES: i32 = 8;

impl Default for Options {
    /// 4 GiB or half of the machine's memory, whichever is less; all CPUs; no budget.
    fn default() -> Self {
        Self {
            memory_bytes: (physical_memory() / 2).clamp(64 << 20, 4 << 30) & !0xfffff,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            instruction_budget: None,
            devices: 1,
        }
    }
}

fn physical_memory() -> u64 {
    // SAFETY: sysconf only reads a system parameter.
    let (pages, size) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    u64::try_from(pages)
        .unwrap_or(0)
        .saturating_mul(u64::try_from(size).unwrap_or(0))
}

static OPTIONS: OnceLock<Options> = OnceLock::new();
static MEMORY: OnceLock<Memory> = OnceLock::new();

/// Sets the options. Has an effect only before the first use of the device; returns whether it had.
pub fn configure(options: Options) -> bool {
    OPTIONS
        .set(Options {
            threads: options.threads.max(1),
            devices: options.devices.clamp(1, MAX_DEVICES),
            ..options
        })
        .is_ok()
}

/// The options in force.
pub(crate) fn options() -> &'static Options {
    OPTIONS.get_or_init(Options::default)
}

/// The number of devices.
pub(crate) fn count() -> i32 {
    options().devices
}

/// The devices' memory.
pub(crate) fn memory() -> &'static Memory {
    MEMORY.get_or_init(|| Memory::new(options().memory_bytes))
}

/// The device's name. It says what it is: nobody should take its speed for a GPU's.
pub(crate) const NAME: &str = "vgpu software device";
/// What `cuDriverGetVersion` says: the CUDA version whose interface this driver offers.
pub(crate) const DRIVER_VERSION: i32 = 13000;
/// Compute capability: the lowest that tools of CUDA 13 build for without asking twice.
pub(crate) const CAPABILITY: (i32, i32) = (8, 0);
/// Domain and bus of the PCI addresses: a bus that real devices of a PC do not sit on. The number of
/// a device is its slot there.
const PCI: (i32, i32) = (0, 0x7f);
/// Most threads per block.
pub(crate) const MAX_BLOCK_THREADS: u32 = 1024;
/// Block extents.
pub(crate) const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Grid extents.
pub(crate) const MAX_GRID: [u32; 3] = [0x7fff_ffff, 65535, 65535];
/// Shared memory per block without opting in, in bytes.
pub(crate) const SHARED_PER_BLOCK: u32 = 48 << 10;
/// Shared memory per block after opting in, in bytes.
pub(crate) const SHARED_OPT_IN: u32 = 99 << 10;
/// Shared memory of a multiprocessor in bytes.
pub(crate) const SHARED_PER_SM: u32 = 100 << 10;
/// Shared memory the system takes per block, in bytes.
pub(crate) const SHARED_RESERVED: u32 = 1 << 10;
/// Resident threads per multiprocessor.
pub(crate) const THREADS_PER_SM: u32 = 2048;
/// Resident blocks per multiprocessor.
pub(crate) const BLOCKS_PER_SM: u32 = 32;
/// Registers per block and per multiprocessor.
pub(crate) const REGISTERS: u32 = 65536;
/// Constant memory in bytes.
pub(crate) const CONSTANT_BYTES: i32 = 64 << 10;
/// Alignment of allocations, and of textures and surfaces if there were any, in bytes.
pub(crate) const ALIGNMENT: u32 = 512;
/// Largest pitch of a copy in bytes.
pub(crate) const MAX_PITCH: i32 = i32::MAX;
/// Clock in kHz. A round number: the device has no clock of its own.
pub(crate) const CLOCK_KHZ: i32 = 1_000_000;
/// The highest attribute of CUDA 13.0.
const LAST_ATTRIBUTE: i32 = 144;

/// Blocks that really run side by side: one per CPU thread.
pub(crate) fn multiprocessors() -> i32 {
    i32::try_from(options().threads).unwrap_or(i32::MAX)
}

/// Identifies a device. The same in every process: each worker has such devices of its own and
/// nothing is shared through them.
pub(crate) fn uuid(ordinal: i32) -> CUuuid {
    let mut bytes = *b"vgpu-software-00";
    bytes[15] += ordinal as u8;
    CUuuid { bytes }
}

/// Value of a device attribute (`CUdevice_attribute`), or `None` for a number CUDA 13.0 does not
/// know. What the device lacks (textures, managed memory, virtual memory management, cooperative
/// launches, clusters, IPC …) reads 0.
pub(crate) fn attribute(id: i32, ordinal: i32) -> Option<i32> {
    if !(1..=LAST_ATTRIBUTE).contains(&id) {
        return None;
    }
    let value = match id {
        1 => MAX_BLOCK_THREADS as i32,
        2 => MAX_BLOCK[0] as i32,
        3 => MAX_BLOCK[1] as i32,
        4 => MAX_BLOCK[2] as i32,
        5 => MAX_GRID[0] as i32,
        6 => MAX_GRID[1] as i32,
        7 => MAX_GRID[2] as i32,
        8 => SHARED_PER_BLOCK as i32,
        9 => CONSTANT_BYTES,
        10 => vgpu_ptx::WARP_SIZE as i32,
        11 => MAX_PITCH,
        12 => REGISTERS as i32,
        13 | 36 => CLOCK_KHZ,
        14 | 30 => ALIGNMENT as i32,
        // Copies overlap with kernels, kernels with one another, host memory can be mapped.
        15 | 19 | 31 => 1,
        16 => multiprocessors(),
        33 => PCI.1,
        34 => ordinal,
        // Memory bus width in bits.
        37 => 64,
        // L2 cache in bytes.
        38 => 1 << 20,
        39 => THREADS_PER_SM as i32,
        // Copy engines.
        40 => 2,
        // Unified addressing.
        41 => 1,
        50 => PCI.0,
        // Alignment of texture pitches.
        51 => 32,
        75 => CAPABILITY.0,
        76 => CAPABILITY.1,
        // Stream priorities are accepted; global and local accesses are cached.
        78..=80 => 1,
        81 => SHARED_PER_SM as i32,
        82 => REGISTERS as i32,
        // Ratio of single to double precision throughput.
        87 => 2,
        // Registered host memory is used by its host address.
        91 => 1,
        // Stream memory operations, their 64-bit forms, and the NOR wait.
        92..=94 | 122 | 123 => 1,
        97 => SHARED_OPT_IN as i32,
        // Host registration, also read-only.
        99 | 113 => 1,
        106 => BLOCKS_PER_SM as i32,
        111 => SHARED_RESERVED as i32,
        // Memory pools.
        115 => 1,
        // Events that other processes can open.
        125 => 1,
        // Memory synchronisation domains.
        126 => 1,
        // NUMA node of the device and of its host: none.
        131 | 134 => -1,
        _ => 0,
    };
    Some(value)
}

/// Bus id as `cuDeviceGetPCIBusId` prints it.
pub(crate) fn pci_bus_id(ordinal: i32) -> String {
    format!("{:04x}:{:02x}:{ordinal:02x}.0", PCI.0, PCI.1)
}

/// The device that a text names: `domain:bus:device.function`, `domain:bus:device`,
/// or `bus:device.function`, in hexadecimal.
pub(crate) fn by_pci_bus_id(text: &str) -> Option<i32> {
    let mut numbers = Vec::new();
    let (address, function) = text.split_once('.').unwrap_or((text, "0"));
    for part in address.split(':') {
        numbers.push(i32::from_str_radix(part, 16).ok()?);
    }
    let place = match *numbers {
        [bus, device] => (0, bus, device),
        [domain, bus, device] => (domain, bus, device),
        _ => return None,
    };
    let (domain, bus, slot) = place;
    let found = (domain, bus) == PCI && i32::from_str_radix(function, 16) == Ok(0);
    (found && (0..count()).contains(&slot)).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_cuda_ends() {
        assert_eq!(attribute(0, 0), None);
        assert_eq!(attribute(145, 0), None);
        assert_eq!(attribute(144, 0), Some(0));
        assert_eq!((attribute(75, 0), attribute(76, 0)), (Some(8), Some(0)));
    }

    #[test]
    fn the_printed_bus_id_names_the_device() {
        assert_eq!(by_pci_bus_id(&pci_bus_id(0)), Some(0));
        assert_eq!(by_pci_bus_id("7f:00.0"), Some(0));
        for other in [&*pci_bus_id(1), "0000:01:00.0", "nonsense"] {
            assert_eq!(by_pci_bus_id(other), None, "{other}");
        }
        assert_ne!(uuid(0).bytes, uuid(1).bytes);
    }
}
