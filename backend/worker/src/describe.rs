//! What a monitor may know of the devices, asked of a driver without making a context. It is done once, by a process that
//! lives for a moment, for the daemon, which never loads a driver itself.

use std::ffi::c_char;
use vgpu_driver::Driver;
use vgpu_protocol::cuda::{CUdevice, CUresult, CUuuid};
use vgpu_protocol::facts::{DeviceFacts, SystemFacts, UNKNOWN};
use zerocopy::FromZeros;

/// `CU_DEVICE_ATTRIBUTE_…`
const MULTIPROCESSORS: i32 = 16;
const COMPUTE_MODE: i32 = 20;
const PCI_BUS: i32 = 33;
const PCI_DEVICE: i32 = 34;
const BUS_WIDTH: i32 = 37;
const PCI_DOMAIN: i32 = 50;
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;

/// Asks an initialised driver about its devices; they come in the order of their PCI addresses.
pub fn describe(driver: &Driver, devices: i32) -> (SystemFacts, Vec<DeviceFacts>) {
    let mut version = 0;
    // SAFETY: the result has room.
    let _ = unsafe { vgpu_driver::call!(driver, cuDriverGetVersion(&raw mut version)) };
    let mut list: Vec<DeviceFacts> = (0..devices)
        .map(|ordinal| device(driver, CUdevice(ordinal)))
        .collect();
    list.sort_by_key(|device| (device.pci_domain, device.pci_bus, device.pci_device));
    let mut system = SystemFacts::new_zeroed();
    system.devices = list.len() as u32;
    system.cuda_version = u32::try_from(version).unwrap_or(0);
    (system, list)
}

fn attribute(driver: &Driver, dev: CUdevice, id: i32) -> u32 {
    let mut value = 0;
    // SAFETY: the result has room.
    let result =
        unsafe { vgpu_driver::call!(driver, cuDeviceGetAttribute(&raw mut value, id, dev)) };
    match result {
        CUresult::SUCCESS => u32::try_from(value).unwrap_or(UNKNOWN),
        _ => UNKNOWN,
    }
}

fn device(driver: &Driver, dev: CUdevice) -> DeviceFacts {
    let mut facts = DeviceFacts::new_zeroed();
    let name = facts.name.as_mut_ptr().cast::<c_char>();
    let name_len = facts.name.len() as i32 - 1;
    let mut uuid = CUuuid::default();
    let mut total = 0_usize;
    // What the driver refuses stays zero, and reads as unknown.
    // SAFETY: every result has the room that is stated, one byte less for the text.
    let _ = unsafe {
        (
            vgpu_driver::call!(driver, cuDeviceGetName(name, name_len, dev)),
            vgpu_driver::call!(driver, cuDeviceGetUuid(&raw mut uuid, dev)),
            vgpu_driver::call!(driver, cuDeviceTotalMem_v2(&raw mut total, dev)),
        )
    };
    let ask = |id| attribute(driver, dev, id);
    DeviceFacts {
        uuid: uuid.bytes,
        memory_total: total as u64,
        memory_free: total as u64,
        pci_domain: ask(PCI_DOMAIN),
        pci_bus: ask(PCI_BUS),
        pci_device: ask(PCI_DEVICE),
        pci_id: UNKNOWN,
        pci_subsystem: UNKNOWN,
        capability_major: ask(CAPABILITY_MAJOR),
        capability_minor: ask(CAPABILITY_MINOR),
        compute_mode: ask(COMPUTE_MODE),
        bus_width: ask(BUS_WIDTH),
        cores: UNKNOWN,
        brand: UNKNOWN,
        architecture: UNKNOWN,
        max_link_generation: UNKNOWN,
        max_link_width: UNKNOWN,
        minor: UNKNOWN,
        multiprocessors: ask(MULTIPROCESSORS),
        ..facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::facts::text;

    #[test]
    fn the_software_device_is_described_as_it_describes_itself() {
        let driver = vgpu_software::driver();
        let devices = crate::device::initialise(&driver).unwrap();
        let (system, list) = describe(&driver, devices);
        assert_eq!((system.devices, system.cuda_version), (1, 13000));
        assert_eq!(text(&list[0].name), b"vgpu software device");
        assert_eq!(&list[0].uuid, b"vgpu-software-00");
        assert_eq!(list[0].pci_bus, 0x7f);
        assert_eq!((list[0].capability_major, list[0].capability_minor), (8, 0));
        assert!(list[0].memory_total > 0);
    }
}
