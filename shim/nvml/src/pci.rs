//! PCI addresses in the structs that NVML had over time.

use crate::device::{Device, struct_version};
use crate::error::{Error, Outcome};
use crate::give;
use core::ffi::{c_char, c_uint};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlPciInfo_t, nvmlPciInfoExt_t};
use vgpu_protocol::facts::{DeviceFacts, UNKNOWN};

/// What `nvmlDeviceGetPciInfo` without a suffix fills in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PciInfoV1 {
    bus_id: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
}

/// What `nvmlDeviceGetPciInfo_v2` fills in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PciInfoV2 {
    first: PciInfoV1,
    pci_subsystem_id: c_uint,
    reserved: [c_uint; 4],
}

const _: () = assert!(size_of::<PciInfoV1>() == 32);
const _: () = assert!(size_of::<PciInfoV2>() == 52);
const _: () = assert!(size_of::<nvmlPciInfo_t>() == 68);
const _: () = assert!(size_of::<nvmlPciInfoExt_t>() == 64);

/// Base class of a display controller, sub class of one that drives no display.
const CLASS: (c_uint, c_uint) = (3, 2);

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    domain: u32,
    bus: u32,
    device: u32,
}

impl Address {
    /// A device's.
    pub fn of(facts: &DeviceFacts) -> Address {
        Address {
            domain: facts.pci_domain,
            bus: facts.pci_bus,
            device: facts.pci_device,
        }
    }

    /// Reads `domain:bus:device.function` or `bus:device.function`, in hexadecimal; the function can be missing.
    pub fn parse(text: &str) -> Option<Address> {
        let (address, function) = text.split_once('.').unwrap_or((text, "0"));
        let number = |part: &str| u32::from_str_radix(part, 16).ok();
        if number(function)? != 0 {
            return None;
        }
        let parts: Vec<u32> = address.split(':').map(number).collect::<Option<_>>()?;
        let (domain, bus, device) = match parts[..] {
            [domain, bus, device] => (domain, bus, device),
            [bus, device] => (0, bus, device),
            _ => return None,
        };
        Some(Address {
            domain,
            bus,
            device,
        })
    }

    fn short(self) -> String {
        format!("{:04X}:{:02X}:{:02X}.0", self.domain, self.bus, self.device)
    }

    fn long(self) -> String {
        format!("{:08X}:{:02X}:{:02X}.0", self.domain, self.bus, self.device)
    }
}

/// Ids in structs that have no other way to say that they are not known.
fn or_zero(id: u32) -> c_uint {
    if id == UNKNOWN { 0 } else { id }
}

fn v1(facts: &DeviceFacts) -> PciInfoV1 {
    PciInfoV1 {
        bus_id: give::array(&Address::of(facts).short()),
        domain: facts.pci_domain,
        bus: facts.pci_bus,
        device: facts.pci_device,
        pci_device_id: or_zero(facts.pci_id),
    }
}

/// `nvmlDeviceGetPciInfo`.
pub fn info_v1(device: nvmlDevice_t, pci: *mut PciInfoV1) -> Outcome {
    give::value(pci, v1(Device::of(device)?.facts()?))
}

/// `nvmlDeviceGetPciInfo_v2`.
pub fn info_v2(device: nvmlDevice_t, pci: *mut PciInfoV2) -> Outcome {
    let device = Device::of(device)?;
    let facts = device.facts()?;
    let info = PciInfoV2 {
        first: v1(facts),
        pci_subsystem_id: or_zero(facts.pci_subsystem),
        reserved: [0; 4],
    };
    give::value(pci, info)
}

/// `nvmlDeviceGetPciInfo_v3`.
pub fn info_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t) -> Outcome {
    let device = Device::of(device)?;
    let facts = device.facts()?;
    let address = Address::of(facts);
    let info = nvmlPciInfo_t {
        busIdLegacy: give::array(&address.short()),
        domain: facts.pci_domain,
        bus: facts.pci_bus,
        device: facts.pci_device,
        pciDeviceId: or_zero(facts.pci_id),
        pciSubSystemId: or_zero(facts.pci_subsystem),
        busId: give::array(&address.long()),
    };
    give::value(pci, info)
}

/// `nvmlDeviceGetPciInfoExt`.
pub fn info_ext(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t) -> Outcome {
    let device = Device::of(device)?;
    let facts = device.facts()?;
    let version = struct_version::<nvmlPciInfoExt_t>(1);
    if give::read(pci.cast::<c_uint>())? != version {
        return Err(Error::VERSION_MISMATCH);
    }
    let info = nvmlPciInfoExt_t {
        version,
        domain: facts.pci_domain,
        bus: facts.pci_bus,
        device: facts.pci_device,
        pciDeviceId: or_zero(facts.pci_id),
        pciSubSystemId: or_zero(facts.pci_subsystem),
        baseClass: CLASS.0,
        subClass: CLASS.1,
        busId: give::array(&Address::of(facts).long()),
    };
    give::value(pci, info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_forms() {
        let address = Address {
            domain: 0,
            bus: 0x7f,
            device: 0,
        };
        for text in [
            "00000000:7F:00.0",
            "0000:7f:00.0",
            "0:7f:0",
            "7F:00.0",
            &address.long(),
            &address.short(),
        ] {
            assert_eq!(Address::parse(text), Some(address), "{text}");
        }
        for text in ["", "7f", "0:0:7f:0.0", "0000:7f:00.1", "g:0.0", ":"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
