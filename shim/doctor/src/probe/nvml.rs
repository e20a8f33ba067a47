//! NVML as Ollama's runners use it: loaded, initialised, asked, shut down and unloaded, again and again.

use super::call::must;
use super::driver::until_nul;
use super::library::{open_with, taken};
use super::step;
use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, c_char, c_uint, c_void};

/// What NVML said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The loader's message if it did not load.
    pub load_error: Option<String>,
    /// The file that was loaded.
    pub file: Option<String>,
    /// Functions that the discovering programs need and that are not there.
    pub missing: Vec<String>,
    /// The first call that failed, and its code.
    pub failed: Option<(String, u32)>,
    /// `nvmlSystemGetDriverVersion`.
    pub driver_version: String,
    /// `nvmlDeviceGetCount_v2`.
    pub count: u32,
    /// Total memory of the device looked up by UUID.
    pub memory_total: Option<u64>,
}

/// What Ollama, PyTorch and `torch.cuda` look up by name. A library that lacks one of them is worse than none.
const NEEDED: [&str; 13] = [
    "nvmlInit",
    "nvmlInit_v2",
    "nvmlShutdown",
    "nvmlErrorString",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetCount_v2",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetHandleByUUID",
    "nvmlDeviceGetHandleByPciBusId_v2",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
];

/// Rounds from load to unload.
const ROUNDS: usize = 3;

/// Asks it.
pub fn ask(name: &str, uuid: Option<&str>) -> Answer {
    let mut answer = Answer::default();
    for round in 0..ROUNDS {
        step(format!("loading {name}, round {}", round + 1));
        let library = match open_with(name, RTLD_LAZY | RTLD_LOCAL) {
            Ok(library) => library,
            Err(error) => {
                answer.load_error = Some(error);
                return answer;
            }
        };
        if round == 0 {
            answer.file = taken(name);
            answer.missing = missing(&library);
        }
        if let Err(failed) = query(&library, uuid, &mut answer) {
            answer.failed = Some(failed);
            return answer;
        }
        step("unloading");
        drop(library);
    }
    answer
}

fn missing(library: &Library) -> Vec<String> {
    let absent = |name: &&&str| {
        // SAFETY: the symbol is only looked up, never called.
        unsafe { library.get::<*const c_void>(name.as_bytes()).is_err() }
    };
    NEEDED
        .iter()
        .filter(absent)
        .map(|name| (*name).to_owned())
        .collect()
}

fn query(library: &Library, uuid: Option<&str>, answer: &mut Answer) -> Result<(), (String, u32)> {
    must!(library, "nvmlInit_v2", (), ())?;
    let mut version = [0u8; 96];
    must!(
        library,
        "nvmlSystemGetDriverVersion",
        (*mut u8, c_uint),
        (version.as_mut_ptr(), 96)
    )?;
    answer.driver_version = until_nul(&version);
    must!(
        library,
        "nvmlDeviceGetCount_v2",
        (*mut c_uint),
        (&raw mut answer.count)
    )?;
    if let Some(uuid) = uuid.and_then(|uuid| CString::new(uuid).ok()) {
        let mut device: *mut c_void = std::ptr::null_mut();
        must!(
            library,
            "nvmlDeviceGetHandleByUUID",
            (*const c_char, *mut *mut c_void),
            (uuid.as_ptr(), &raw mut device)
        )?;
        // nvmlMemory_t: total, free, used.
        let mut memory = [0u64; 3];
        must!(
            library,
            "nvmlDeviceGetMemoryInfo",
            (*mut c_void, *mut u64),
            (device, memory.as_mut_ptr())
        )?;
        answer.memory_total = memory.first().copied();
    }
    must!(library, "nvmlShutdown", (), ())?;
    Ok(())
}
