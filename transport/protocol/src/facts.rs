//! What a process may know of the devices without a channel: the bodies of answers of the link
//! (`vgpu_channel::link::query`), which carries them without looking.
//!
//! | kind | index | page | body |
//! |---|---|---|---|
//! | [`QUERY_SYSTEM`] | | | [`SystemFacts`] |
//! | [`QUERY_DEVICE`] | position of the device | | [`DeviceFacts`] |
//! | [`QUERY_PROCESSES`] | position of the device | part of the list | [`ProcessFacts`] |
//!
//! Devices are numbered in the order of their PCI addresses, as NVML numbers them. What is not known is [`UNKNOWN`], an
//! empty text, or for sizes 0.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Asks for [`SystemFacts`].
pub const QUERY_SYSTEM: u32 = 1;
/// Asks for [`DeviceFacts`].
pub const QUERY_DEVICE: u32 = 2;
/// Asks for [`ProcessFacts`].
pub const QUERY_PROCESSES: u32 = 3;

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
