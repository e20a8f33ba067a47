//! The driver API, asked for what libcudart asks at initialisation.

use super::call::{call, must};
use super::library::{open, taken};
use super::step;
use crate::report::Device;
use libloading::os::unix::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The driver's answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The loader's message if the library did not load.
    pub load_error: Option<String>,
    /// The file that was loaded.
    pub file: Option<String>,
    /// The first call that failed, and its code.
    pub failed: Option<(String, u32)>,
    /// Further calls that failed without ending the probe.
    pub complaints: Vec<String>,
    /// `cuDriverGetVersion`.
    pub version: i32,
    /// The devices.
    pub devices: Vec<Device>,
    /// Attribute 102 of the first device.
    pub virtual_memory: bool,
}

/// The private tables that libcudart 12 and 13 ask for at initialisation.
const TABLES: [(&str, u128); 6] = [
    ("CUDART", 0x6bd5fb6c_5bf4_e74a_8987_d93912fd9df9),
    ("HOOKS", 0xa094798c_2e74_2e74_93f2_0800200c0a66),
    ("TLS", 0x42d85a81_23f6_cb47_8298_f6e78a3aecdc),
    ("CLS", 0xc693336e_1121_df11_a8c3_68f355d89593),
    ("CTXCHECK", 0x263e8860_7cd2_6143_92f6_bbd5006dfa7e),
    ("INTEGRITY", 0xd4082055_bde6_704b_8d34_ba123c66e1f2),
];

/// Asks the driver.
pub fn ask(name: &str) -> Answer {
    let mut answer = Answer::default();
    step(format!("loading {name}"));
    let library = match open(name) {
        Ok(library) => library,
        Err(error) => {
            answer.load_error = Some(error);
            return answer;
        }
    };
    answer.file = taken(name);
    if let Err(failed) = initialise(&library, &mut answer) {
        answer.failed = Some(failed);
    }
    std::mem::forget(library);
    answer
}

fn initialise(library: &Library, answer: &mut Answer) -> Result<(), (String, u32)> {
    must!(library, "cuInit", (c_uint), (0))?;
    must!(
        library,
        "cuDriverGetVersion",
        (*mut c_int),
        (&raw mut answer.version)
    )?;
    let mut count = 0;
    must!(library, "cuDeviceGetCount", (*mut c_int), (&raw mut count))?;
    for ordinal in 0..count.clamp(0, 64) {
        let device = device(library, ordinal, answer)?;
        answer.devices.push(device);
    }
    entry_points(library, answer);
    Ok(())
}

fn device(library: &Library, ordinal: c_int, answer: &mut Answer) -> Result<Device, (String, u32)> {
    let mut device = 0;
    must!(
        library,
        "cuDeviceGet",
        (*mut c_int, c_int),
        (&raw mut device, ordinal)
    )?;
    let mut found = Device {
        library: "CUDA".to_owned(),
        ..Device::default()
    };
    let mut name = [0u8; 256];
    must!(
        library,
        "cuDeviceGetName",
        (*mut u8, c_int, c_int),
        (name.as_mut_ptr(), 256, device)
    )?;
    found.name = until_nul(&name);
    let mut uuid = [0u8; 16];
    must!(
        library,
        "cuDeviceGetUuid",
        (*mut u8, c_int),
        (uuid.as_mut_ptr(), device)
    )?;
    found.uuid = uuid_text(&uuid);
    let mut pci = [0u8; 32];
    match call!(
        library,
        "cuDeviceGetPCIBusId",
        (*mut u8, c_int, c_int),
        (pci.as_mut_ptr(), 32, device)
    ) {
        Ok(0) => found.pci_id = until_nul(&pci).to_lowercase(),
        Ok(code) => answer
            .complaints
            .push(format!("cuDeviceGetPCIBusId: {}", crate::codes::name(code))),
        Err(missing) => answer.complaints.push(missing),
    }
    let attribute = |which: c_int| -> Result<u32, (String, u32)> {
        let mut value = 0;
        must!(
            library,
            "cuDeviceGetAttribute",
            (*mut c_int, c_int, c_int),
            (&raw mut value, which, device)
        )?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    found.compute = (attribute(75)?, attribute(76)?);
    // CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED; without it ggml takes plain allocations.
    answer.virtual_memory = attribute(102)? != 0;
    let mut total = 0usize;
    must!(
        library,
        "cuDeviceTotalMem_v2",
        (*mut usize, c_int),
        (&raw mut total, device)
    )?;
    found.memory_total = total as u64;
    found.memory_free = free_memory(library, device)?;
    Ok(found)
}

/// `cuMemGetInfo` in the primary context.
fn free_memory(library: &Library, device: c_int) -> Result<u64, (String, u32)> {
    let mut context: *mut c_void = std::ptr::null_mut();
    must!(
        library,
        "cuDevicePrimaryCtxRetain",
        (*mut *mut c_void, c_int),
        (&raw mut context, device)
    )?;
    must!(library, "cuCtxSetCurrent", (*mut c_void), (context))?;
    let (mut free, mut total) = (0usize, 0usize);
    must!(
        library,
        "cuMemGetInfo_v2",
        (*mut usize, *mut usize),
        (&raw mut free, &raw mut total)
    )?;
    Ok(free as u64)
}

/// `cuGetProcAddress` by way of itself, and libcudart's private tables.
fn entry_points(library: &Library, answer: &mut Answer) {
    let mut function: *mut c_void = std::ptr::null_mut();
    let found = call!(
        library,
        "cuGetProcAddress_v2",
        (*const c_char, *mut *mut c_void, c_int, u64, *mut c_int),
        (
            c"cuGetProcAddress".as_ptr(),
            &raw mut function,
            12000,
            0,
            std::ptr::null_mut()
        )
    );
    if found != Ok(0) || function.is_null() {
        answer
            .complaints
            .push("cuGetProcAddress does not find cuGetProcAddress of CUDA 12".to_owned());
    }
    for (name, id) in TABLES {
        let id = id.to_be_bytes();
        let mut table: *const c_void = std::ptr::null();
        let found = call!(
            library,
            "cuGetExportTable",
            (*mut *const c_void, *const u8),
            (&raw mut table, id.as_ptr())
        );
        if found != Ok(0) || table.is_null() {
            answer.complaints.push(format!(
                "cuGetExportTable has no table {name}, which libcudart needs"
            ));
        }
    }
}

/// The text before the first zero byte.
pub(super) fn until_nul(bytes: &[u8]) -> String {
    CStr::from_bytes_until_nul(bytes)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// `GPU-` and the UUID, as CUDA's tools write it.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = "GPU-".to_owned();
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_written_as_cuda_does() {
        let uuid = std::array::from_fn(|at| at as u8);
        assert_eq!(uuid_text(&uuid), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
