//! Devices: how they are found, and what is the same for the life of one.

use crate::error::{Error, Outcome};
use crate::state::{self, MAX_DEVICES, Session};
use crate::{figures, give, pci};
use core::ffi::{c_char, c_int, c_uint};
use nvml::{nvmlDevice_t, nvmlFieldValue_t, nvmlGpuP2PCapsIndex_t, nvmlGpuP2PStatus_t, nvmlUUID_t};
use nvml_wrapper_sys::bindings as nvml;
use std::sync::Arc;
use vgpu_protocol::facts::{DeviceFacts, text};

/// What handles point to: the one for a device is the same for the life of the process.
static HANDLES: [u64; MAX_DEVICES] = [0; MAX_DEVICES];

/// `nvmlUUIDType_t`
const UUID_ASCII: c_uint = 1;
const UUID_BINARY: c_uint = 2;

/// The handle of the device at a position.
fn handle(index: usize) -> nvmlDevice_t {
    HANDLES.get(index).map_or(core::ptr::null_mut(), |place| {
        core::ptr::from_ref(place).cast_mut().cast()
    })
}

/// A device that a program named by its handle.
#[derive(Debug)]
pub struct Device {
    session: Arc<Session>,
    /// Its position.
    pub index: usize,
}

impl Device {
    /// The device with this handle.
    ///
    /// # Errors
    /// [`Error::UNINITIALIZED`], [`Error::INVALID_ARGUMENT`].
    pub fn of(device: nvmlDevice_t) -> Result<Device, Error> {
        let session = state::session()?;
        let index = (0..session.devices.len())
            .find(|&index| handle(index) == device)
            .ok_or(Error::INVALID_ARGUMENT)?;
        Ok(Device { session, index })
    }

    /// What is known of it since `nvmlInit`.
    ///
    /// # Errors
    /// None: the position was looked up.
    pub fn facts(&self) -> Result<&DeviceFacts, Error> {
        self.session.devices.get(self.index).ok_or(Error::UNKNOWN)
    }

    /// Whether the backend tells what the device does for everybody.
    pub fn tells_figures(&self) -> bool {
        self.session.system.host_figures != 0
    }
}

fn find(to: *mut nvmlDevice_t, is_it: impl Fn(&DeviceFacts) -> bool) -> Outcome {
    let session = state::session()?;
    let index = session.devices.iter().position(is_it);
    give::value(to, handle(index.ok_or(Error::NOT_FOUND)?))
}

/// A UUID as NVML writes it.
fn uuid_text(facts: &DeviceFacts) -> String {
    use std::fmt::Write;
    let mut text = "GPU".to_owned();
    for (at, byte) in facts.uuid.iter().enumerate() {
        let dash = if matches!(at, 0 | 4 | 6 | 8 | 10) {
            "-"
        } else {
            ""
        };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}

/// `nvmlDeviceGetCount`, `…_v2`.
pub fn count(count: *mut c_uint) -> Outcome {
    give::value(count, state::session()?.devices.len() as c_uint)
}

/// `nvmlDeviceGetHandleByIndex`, `…_v2`.
pub fn by_index(index: c_uint, to: *mut nvmlDevice_t) -> Outcome {
    let devices = state::session()?.devices.len();
    let index = index as usize;
    if index >= devices {
        return Err(Error::INVALID_ARGUMENT);
    }
    give::value(to, handle(index))
}

/// `nvmlDeviceGetHandleByUUID`.
pub fn by_uuid(uuid: *const c_char, to: *mut nvmlDevice_t) -> Outcome {
    state::session()?;
    let wanted = give::read_text(uuid)?;
    find(to, |facts| uuid_text(facts).eq_ignore_ascii_case(wanted))
}

/// `nvmlDeviceGetHandleByUUIDV`.
pub fn by_uuid_struct(uuid: *const nvmlUUID_t, to: *mut nvmlDevice_t) -> Outcome {
    state::session()?;
    let version = give::read(uuid.cast::<c_uint>())?;
    if version != struct_version::<nvmlUUID_t>(1) {
        return Err(Error::VERSION_MISMATCH);
    }
    let uuid = give::read(uuid)?;
    match uuid.type_ {
        UUID_ASCII => {
            // SAFETY: both members of the union are plain bytes.
            let bytes = unsafe { uuid.value.str_ }.map(c_char::cast_unsigned);
            let wanted = text(&bytes);
            find(to, |facts| {
                uuid_text(facts).as_bytes().eq_ignore_ascii_case(wanted)
            })
        }
        UUID_BINARY => {
            // SAFETY: as above.
            let wanted = unsafe { uuid.value.bytes };
            find(to, |facts| facts.uuid == wanted)
        }
        _ => Err(Error::INVALID_ARGUMENT),
    }
}

/// `nvmlDeviceGetHandleByPciBusId`, `…_v2`.
pub fn by_pci_bus_id(id: *const c_char, to: *mut nvmlDevice_t) -> Outcome {
    state::session()?;
    let wanted = pci::Address::parse(give::read_text(id)?).ok_or(Error::INVALID_ARGUMENT)?;
    find(to, |facts| pci::Address::of(facts) == wanted)
}

/// The version field of a struct, as NVML's header makes it.
pub const fn struct_version<T>(version: c_uint) -> c_uint {
    size_of::<T>() as c_uint | version << 24
}

/// `nvmlDeviceGetName`.
pub fn name(device: nvmlDevice_t, name: *mut c_char, length: c_uint) -> Outcome {
    give::text(name, length, text(&Device::of(device)?.facts()?.name))
}

/// `nvmlDeviceGetUUID`.
pub fn uuid(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint) -> Outcome {
    let text = uuid_text(Device::of(device)?.facts()?);
    give::text(uuid, length, text.as_bytes())
}

/// `nvmlDeviceGetBoardPartNumber`: of the kind of board.
pub fn board_part(device: nvmlDevice_t, part: *mut c_char, length: c_uint) -> Outcome {
    give::text(part, length, text(&Device::of(device)?.facts()?.board_part))
}

/// `nvmlDeviceGetVbiosVersion`.
pub fn vbios(device: nvmlDevice_t, version: *mut c_char, length: c_uint) -> Outcome {
    give::text(version, length, text(&Device::of(device)?.facts()?.vbios))
}

/// `nvmlDeviceGetIndex`.
pub fn index(device: nvmlDevice_t, index: *mut c_uint) -> Outcome {
    give::value(index, Device::of(device)?.index as c_uint)
}

/// `nvmlDeviceGetMinorNumber`.
pub fn minor(device: nvmlDevice_t, minor: *mut c_uint) -> Outcome {
    give::known(minor, Device::of(device)?.facts()?.minor)
}

/// `nvmlDeviceGetBrand`.
pub fn brand(device: nvmlDevice_t, brand: *mut nvml::nvmlBrandType_t) -> Outcome {
    give::known(brand, Device::of(device)?.facts()?.brand)
}

/// `nvmlDeviceGetArchitecture`.
pub fn architecture(
    device: nvmlDevice_t,
    architecture: *mut nvml::nvmlDeviceArchitecture_t,
) -> Outcome {
    give::known(architecture, Device::of(device)?.facts()?.architecture)
}

/// `nvmlDeviceGetCudaComputeCapability`.
pub fn capability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) -> Outcome {
    let device = Device::of(device)?;
    let facts = device.facts()?;
    let number = |word: u32| c_int::try_from(word).map_err(|_| Error::NOT_SUPPORTED);
    if major.is_null() || minor.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    give::value(major, number(facts.capability_major)?)?;
    give::value(minor, number(facts.capability_minor)?)
}

/// `nvmlDeviceGetComputeMode`.
pub fn compute_mode(device: nvmlDevice_t, mode: *mut nvml::nvmlComputeMode_t) -> Outcome {
    give::known(mode, Device::of(device)?.facts()?.compute_mode)
}

/// `nvmlDeviceGetNumGpuCores`.
pub fn cores(device: nvmlDevice_t, cores: *mut c_uint) -> Outcome {
    give::known(cores, Device::of(device)?.facts()?.cores)
}

/// `nvmlDeviceGetMemoryBusWidth`.
pub fn bus_width(device: nvmlDevice_t, bits: *mut c_uint) -> Outcome {
    give::known(bits, Device::of(device)?.facts()?.bus_width)
}

/// `nvmlDeviceGetMaxPcieLinkGeneration`.
pub fn max_link_generation(device: nvmlDevice_t, generation: *mut c_uint) -> Outcome {
    give::known(generation, Device::of(device)?.facts()?.max_link_generation)
}

/// `nvmlDeviceGetMaxPcieLinkWidth`.
pub fn max_link_width(device: nvmlDevice_t, lanes: *mut c_uint) -> Outcome {
    give::known(lanes, Device::of(device)?.facts()?.max_link_width)
}

/// `nvmlDeviceIsMigDeviceHandle`: no handle that is given out is one.
pub fn is_mig(device: nvmlDevice_t, is_mig: *mut c_uint) -> Outcome {
    Device::of(device)?;
    give::value(is_mig, 0)
}

/// `nvmlDeviceGetP2PStatus`: NCCL asks it for every pair, that of a device with itself included, and gives up where it fails. A device
/// reaches its own memory; of two devices NVML's own word is "unknown", as of a connection that only the driver can tell.
pub fn p2p_status(
    first: nvmlDevice_t,
    second: nvmlDevice_t,
    index: nvmlGpuP2PCapsIndex_t,
    status: *mut nvmlGpuP2PStatus_t,
) -> Outcome {
    let (first, second) = (Device::of(first)?, Device::of(second)?);
    give::value(status, status_of(first.index == second.index, index)?)
}

fn status_of(same: bool, index: nvmlGpuP2PCapsIndex_t) -> Result<nvmlGpuP2PStatus_t, Error> {
    match index {
        nvml::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_READ
        | nvml::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_WRITE
        | nvml::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_ATOMICS
            if same =>
        {
            Ok(nvml::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_OK)
        }
        0..nvml::nvmlGpuP2PCapsIndex_enum_NVML_P2P_CAPS_INDEX_UNKNOWN => {
            Ok(nvml::nvmlGpuP2PStatus_enum_NVML_P2P_STATUS_UNKNOWN)
        }
        _ => Err(Error::INVALID_ARGUMENT),
    }
}

/// `nvmlDeviceGetFieldValues`: succeeds as a whole, and says of each field whether it is supported.
pub fn field_values(device: nvmlDevice_t, count: c_int, values: *mut nvmlFieldValue_t) -> Outcome {
    let told = Device::of(device)?.tells_figures();
    let count = usize::try_from(count).map_err(|_| Error::INVALID_ARGUMENT)?;
    if values.is_null() || count == 0 {
        return Err(Error::INVALID_ARGUMENT);
    }
    let figures = if told {
        Some(figures::now(device)?)
    } else {
        None
    };
    for at in 0..count {
        // SAFETY: the program's array has `count` entries.
        let value = unsafe { &mut *values.add(at) };
        let field = figures.and_then(|figures| figures::field(&figures, value.fieldId));
        value.nvmlReturn = match field {
            Some((kind, figure)) => {
                value.valueType = kind;
                // Little-endian, so the smaller members have it too.
                value.value.ullVal = figure;
                nvml::nvmlReturn_enum_NVML_SUCCESS
            }
            None => Error::NOT_SUPPORTED.0,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_reaches_itself_and_of_two_nothing_is_known() {
        const OK: nvmlGpuP2PStatus_t = 0;
        const UNKNOWN: nvmlGpuP2PStatus_t = 6;
        for (index, same) in [OK, OK, UNKNOWN, OK, UNKNOWN].into_iter().enumerate() {
            let index = index as nvmlGpuP2PCapsIndex_t;
            assert_eq!(status_of(true, index), Ok(same), "{index}");
            assert_eq!(status_of(false, index), Ok(UNKNOWN), "{index}");
        }
        for index in [5, 6, u32::MAX] {
            assert_eq!(status_of(true, index), Err(Error::INVALID_ARGUMENT));
        }
    }
}
