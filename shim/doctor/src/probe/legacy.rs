//! What the Ollama server did itself from 0.1.34 to 0.12.3: open a `libcuda.so` that it found by file name, look up ten
//! functions, and give up on the library at the first that is missing.

use super::call::must;
use super::driver::{until_nul, uuid_text};
use super::library::open_with;
use super::step;
use crate::report::Device;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use serde::{Deserialize, Serialize};
use std::ffi::{c_int, c_uint, c_void};

/// What became of the candidates.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Refused files with the reason.
    pub refused: Vec<(String, String)>,
    /// The file that was taken.
    pub taken: Option<String>,
    /// `cuDriverGetVersion`; its thousands choose `cuda_v12` or `cuda_v13`.
    pub version: i32,
    /// The devices.
    pub devices: Vec<Device>,
}

/// All of them are mandatory; two carry suffixes that no header suggests.
const NEEDED: [&str; 10] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetUuid",
    "cuDeviceGetName",
    "cuCtxCreate_v3",
    "cuMemGetInfo_v2",
    "cuCtxDestroy",
];

/// Tries the candidates until one works, then unloads it and does it again, as the server does at each refresh.
pub fn ask(candidates: &[String]) -> Answer {
    let mut answer = Answer::default();
    for candidate in candidates {
        match attempt(candidate) {
            Ok((version, devices)) => {
                answer.taken = Some(candidate.clone());
                answer.version = version;
                answer.devices = devices;
                if let Err(reason) = attempt(candidate) {
                    answer
                        .refused
                        .push((candidate.clone(), format!("loaded a second time: {reason}")));
                    answer.devices.clear();
                }
                return answer;
            }
            Err(reason) => answer.refused.push((candidate.clone(), reason)),
        }
    }
    answer
}

fn attempt(path: &str) -> Result<(i32, Vec<Device>), String> {
    step(format!("loading {path}"));
    let library = open_with(path, RTLD_LAZY | RTLD_LOCAL)?;
    for name in NEEDED {
        // SAFETY: the symbol is only looked up, never called.
        if unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err() {
            return Err(format!("symbol lookup for {name} failed"));
        }
    }
    must!(library, "cuInit", (c_uint), (0))?;
    let (mut version, mut count) = (0, 0);
    must!(
        library,
        "cuDriverGetVersion",
        (*mut c_int),
        (&raw mut version)
    )?;
    must!(library, "cuDeviceGetCount", (*mut c_int), (&raw mut count))?;
    let mut devices = Vec::new();
    for ordinal in 0..count.clamp(0, 64) {
        devices.push(device(&library, ordinal)?);
    }
    step("unloading");
    drop(library);
    Ok((version, devices))
}

fn device(library: &Library, ordinal: c_int) -> Result<Device, String> {
    let mut handle = 0;
    must!(
        library,
        "cuDeviceGet",
        (*mut c_int, c_int),
        (&raw mut handle, ordinal)
    )?;
    let attribute = |which: c_int| -> Result<u32, String> {
        let mut value = 0;
        must!(
            library,
            "cuDeviceGetAttribute",
            (*mut c_int, c_int, c_int),
            (&raw mut value, which, handle)
        )?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let compute = (attribute(75)?, attribute(76)?);
    let mut uuid = [0u8; 16];
    must!(
        library,
        "cuDeviceGetUuid",
        (*mut u8, c_int),
        (uuid.as_mut_ptr(), handle)
    )?;
    let mut name = [0u8; 256];
    must!(
        library,
        "cuDeviceGetName",
        (*mut u8, c_int, c_int),
        (name.as_mut_ptr(), 256, handle)
    )?;
    let mut context: *mut c_void = std::ptr::null_mut();
    must!(
        library,
        "cuCtxCreate_v3",
        (*mut *mut c_void, *mut c_void, c_int, c_uint, c_int),
        (&raw mut context, std::ptr::null_mut(), 0, 0, handle)
    )?;
    let (mut free, mut total) = (0usize, 0usize);
    must!(
        library,
        "cuMemGetInfo_v2",
        (*mut usize, *mut usize),
        (&raw mut free, &raw mut total)
    )?;
    must!(library, "cuCtxDestroy", (*mut c_void), (context))?;
    // This era's answer has no PCI id.
    Ok(Device {
        library: "cuda".to_owned(),
        name: until_nul(&name),
        uuid: uuid_text(&uuid),
        pci_id: String::new(),
        memory_total: total as u64,
        memory_free: free as u64,
        compute,
    })
}
