//! What a process may know of the devices without a channel: the bodies of answers of the link
//! (`vgpu_channel::link::query`), which carries them without looking.
//!
//! | kind | index | page | body |
//! |---|---|---|---|
//! | [`QUERY_SYSTEM`] | | | [`SystemFacts`] |
//! | [`QUERY_DEVICE`] | position of the device | | [`DeviceFacts`] |
//! | [`QUERY_PROCESSES`] | position of the device | part of the list | [`ProcessFacts`] |
//! | [`QUERY_FIGURES`] | position of the device | | [`HostFigures`] |
//!
//! Devices are numbered in the order of their PCI addresses, as NVML numbers them. What is not known is [`UNKNOWN`], an
//! empty text, or for sizes 0. A body may grow at its end: what an older daemon does not send is zero.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Asks for [`SystemFacts`].
pub const QUERY_SYSTEM: u32 = 1;
/// Asks for [`DeviceFacts`].
pub const QUERY_DEVICE: u32 = 2;
/// Asks for [`ProcessFacts`].
pub const QUERY_PROCESSES: u32 = 3;
/// Asks for [`HostFigures`]; to be asked only if [`SystemFacts::host_figures`] says that they are told.
pub const QUERY_FIGURES: u32 = 4;

/// Most bytes of a body.
pub const BODY_BYTES: usize = 496;
/// A number that is not known.
pub const UNKNOWN: u32 = u32::MAX;
/// Processes in one part of the list.
pub const PROCESSES_PER_PAGE: usize = 30;

/// What holds for the whole host.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SystemFacts {
    /// Number of devices.
    pub devices: u32,
    /// `cuDriverGetVersion`.
    pub cuda_version: u32,
    /// Version of the host's driver, for example `580.65.06`; NUL-terminated.
    pub driver_version: [u8; 80],
    /// Version of the host's management library; NUL-terminated.
    pub nvml_version: [u8; 80],
    /// 1 if clients are told [`HostFigures`], else 0 (`isolation.md` 17).
    pub host_figures: u32,
}

const _: () = assert!(size_of::<SystemFacts>() <= BODY_BYTES);

/// A device. Nothing in here tells one host's device of a kind from another's but UUID and PCI address, which programs see by
/// `libcuda` too (`isolation.md` 17).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DeviceFacts {
    /// UUID.
    pub uuid: [u8; 16],
    /// Name; NUL-terminated.
    pub name: [u8; 96],
    /// Part number of this kind of board; NUL-terminated.
    pub board_part: [u8; 80],
    /// Version of its firmware; NUL-terminated.
    pub vbios: [u8; 32],
    /// Bytes that the asking process, user or guest may use.
    pub memory_total: u64,
    /// Bytes of that which the driver keeps for itself.
    pub memory_reserved: u64,
    /// Bytes that can be allocated now.
    pub memory_free: u64,
    /// PCI domain.
    pub pci_domain: u32,
    /// PCI bus.
    pub pci_bus: u32,
    /// PCI device.
    pub pci_device: u32,
    /// PCI device and vendor id: the vendor in the lower half.
    pub pci_id: u32,
    /// PCI subsystem id, likewise.
    pub pci_subsystem: u32,
    /// Compute capability, major.
    pub capability_major: u32,
    /// Compute capability, minor.
    pub capability_minor: u32,
    /// `CUcomputemode`.
    pub compute_mode: u32,
    /// Bits of the memory bus.
    pub bus_width: u32,
    /// CUDA cores.
    pub cores: u32,
    /// `nvmlBrandType_t`.
    pub brand: u32,
    /// `nvmlDeviceArchitecture_t`.
    pub architecture: u32,
    /// Generation of PCI Express that device and slot can do.
    pub max_link_generation: u32,
    /// Lanes that device and slot can do.
    pub max_link_width: u32,
    /// Number in the name of the device node.
    pub minor: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
}

const _: () = assert!(size_of::<DeviceFacts>() <= BODY_BYTES);

/// A process that holds memory of a device.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ProcessMemory {
    /// Its number, where the asking process lives.
    pub process: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes.
    pub bytes: u64,
}

/// Part of the list of those processes that the asking one may know of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProcessFacts {
    /// Length of the whole list.
    pub total: u32,
    /// Entries in this part.
    pub count: u32,
    /// The entries.
    pub list: [ProcessMemory; PROCESSES_PER_PAGE],
}

const _: () = assert!(size_of::<ProcessFacts>() <= BODY_BYTES);

/// Fans in [`HostFigures`].
pub const FANS: usize = 8;

/// What the host's management library says of a device at this moment, whoever uses it: figures of a shared device tell
/// what others do, so clients get them only where the operator says so (`isolation.md` 17). A word of all ones is not
/// known.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HostFigures {
    /// Since the driver was loaded, in mJ.
    pub energy: u64,
    /// `nvmlClocksEventReason…` bits that hold now.
    pub clocks_reasons: u64,
    /// Those that the device can tell.
    pub supported_clocks_reasons: u64,
    /// Corrected errors, then uncorrected ones; of each first those since the last boot, then those of its life.
    pub ecc_errors: [[u64; 2]; 2],
    /// Percent of the last sample period in which a kernel ran.
    pub utilization: u32,
    /// Percent in which device memory was read or written.
    pub memory_utilization: u32,
    /// Of the encoder: percent, sample period in µs.
    pub encoder: [u32; 2],
    /// Of the decoder, likewise.
    pub decoder: [u32; 2],
    /// MHz of graphics, SM, memory, video: the order of `nvmlClockType_t`.
    pub clocks: [u32; 4],
    /// Highest MHz of the same.
    pub max_clocks: [u32; 4],
    /// °C.
    pub temperature: u32,
    /// °C at which it shuts down, slows down, slows down for its memory's sake, is throttled: the order of
    /// `nvmlTemperatureThresholds_t`.
    pub temperature_thresholds: [u32; 4],
    /// mW.
    pub power: u32,
    /// Limit in force, in mW.
    pub power_enforced: u32,
    /// Limit that was asked for, in mW.
    pub power_limit: u32,
    /// Limit after boot, in mW.
    pub power_default: u32,
    /// Lowest and highest limit that can be set, in mW.
    pub power_range: [u32; 2],
    /// `nvmlPstates_t`.
    pub performance_state: u32,
    /// Number of fans.
    pub fans: u32,
    /// Percent of each.
    pub fan_speeds: [u32; FANS],
    /// Generation of PCI Express in use.
    pub link_generation: u32,
    /// Lanes in use.
    pub link_width: u32,
    /// KB/s sent and received over the last 20 ms.
    pub link_throughput: [u32; 2],
    /// Replays of PCI Express.
    pub link_replays: u32,
    /// `nvmlEnableState_t` of ECC: now, and after the next reboot.
    pub ecc: [u32; 2],
    /// `nvmlEnableState_t` of persistence mode.
    pub persistence: u32,
    /// All ones.
    pub reserved: u32,
}

const _: () = assert!(size_of::<HostFigures>() <= BODY_BYTES);

impl HostFigures {
    /// Nothing is known.
    #[must_use]
    pub fn unknown() -> HostFigures {
        zerocopy::transmute!([u8::MAX; size_of::<HostFigures>()])
    }
}

/// The text in a field that ends at its first zero byte.
#[must_use]
pub fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0);
    field.get(..end.unwrap_or(field.len())).unwrap_or_default()
}

/// Puts a text into a field, cut so that a zero byte follows it.
pub fn put_text(field: &mut [u8], text: &[u8]) {
    let room = field.len().saturating_sub(1);
    field.fill(0);
    for (to, from) in field.iter_mut().zip(text.iter().take(room)) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_figures_are_words_of_all_ones() {
        let figures = HostFigures::unknown();
        assert_eq!(figures.fan_speeds, [UNKNOWN; FANS]);
        assert_eq!((figures.temperature, figures.energy), (UNKNOWN, u64::MAX));
    }

    #[test]
    fn texts_are_cut_and_always_end() {
        let mut field = [1; 4];
        put_text(&mut field, b"abcdef");
        assert_eq!(&field, b"abc\0");
        assert_eq!(text(&field), b"abc");
        put_text(&mut field, b"");
        assert_eq!(text(&field), b"");
        assert_eq!(text(b"full"), b"full");
    }
}
