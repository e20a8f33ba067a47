//! A real libcudart, asked for its devices: everything between a program and the driver is in play.

use super::call::call;
use super::driver::{until_nul, uuid_text};
use super::library::{mapped, open_with, taken};
use super::step;
use crate::report::Device;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_int};

/// `RTLD_NOLOAD`: only what is loaded already.
const ONLY_IF_LOADED: c_int = 4;

/// What it said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The loader's message if it did not load.
    pub load_error: Option<String>,
    /// The `libcuda.so` that it loaded.
    pub driver_file: Option<String>,
    /// What `cudaGetDeviceCount` returned.
    pub code: u32,
    /// `cudaGetErrorString` of it.
    pub text: String,
    /// The number of devices.
    pub count: i32,
    /// `cudaDriverGetVersion`, e.g. 13000.
    pub driver_version: i32,
    /// `cudaRuntimeGetVersion`.
    pub runtime_version: i32,
}

/// Asks it.
pub fn ask(path: &str) -> Answer {
    let mut answer = Answer::default();
    step(format!("loading {path}"));
    let library = match open_with(path, RTLD_NOW | RTLD_LOCAL) {
        Ok(library) => library,
        Err(error) => {
            answer.load_error = Some(error);
            return answer;
        }
    };
    match call!(
        library,
        "cudaGetDeviceCount",
        (*mut c_int),
        (&raw mut answer.count)
    ) {
        Ok(code) => answer.code = code,
        Err(missing) => answer.load_error = Some(missing),
    }
    answer.text = error_text(&library, answer.code);
    // These two fail only if the library is none at all, and then the versions stay 0.
    let _ = call!(
        library,
        "cudaDriverGetVersion",
        (*mut c_int),
        (&raw mut answer.driver_version)
    );
    let _ = call!(
        library,
        "cudaRuntimeGetVersion",
        (*mut c_int),
        (&raw mut answer.runtime_version)
    );
    answer.driver_file = taken("libcuda.so.1");
    std::mem::forget(library);
    answer
}

fn error_text(library: &Library, code: u32) -> String {
    // SAFETY: the published signature; the text is static storage of the library.
    unsafe {
        let Ok(function) =
            library.get::<unsafe extern "C" fn(u32) -> *const c_char>(b"cudaGetErrorString\0")
        else {
            return String::new();
        };
        let text = function(code);
        if text.is_null() {
            String::new()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

/// What the libcudart that is in this process already tells of a device: as ggml asks it, UUID and compute capability
/// from its properties, the PCI id from the function for it.
pub fn device_of_loaded(ordinal: c_int) -> Option<Device> {
    let path = mapped("libcudart.so")?;
    let library = open_with(&path, RTLD_NOW | RTLD_LOCAL | ONLY_IF_LOADED).ok()?;
    let mut found = Device {
        library: "CUDA".to_owned(),
        ..Device::default()
    };
    // cudaDeviceProp differs between major versions, but for its beginning: a name of 256 bytes, a UUID of 16. CUDA 12
    // has two functions, and programs built with it use the second. The largest struct known has 1,032 bytes.
    let mut properties = [0u8; 4096];
    let to = properties.as_mut_ptr();
    let result = call!(
        library,
        "cudaGetDeviceProperties_v2",
        (*mut u8, c_int),
        (to, ordinal)
    )
    .or_else(|_| {
        call!(
            library,
            "cudaGetDeviceProperties",
            (*mut u8, c_int),
            (to, ordinal)
        )
    });
    if result != Ok(0) {
        return None;
    }
    let (name, rest) = properties.split_at(256);
    found.name = until_nul(name);
    found.uuid = uuid_text(rest.first_chunk()?);
    let mut pci = [0u8; 32];
    let result = call!(
        library,
        "cudaDeviceGetPCIBusId",
        (*mut u8, c_int, c_int),
        (pci.as_mut_ptr(), 32, ordinal)
    );
    if result == Ok(0) {
        found.pci_id = until_nul(&pci).to_lowercase();
    }
    let attribute = |which: c_int| {
        let mut value: c_int = 0;
        let result = call!(
            library,
            "cudaDeviceGetAttribute",
            (*mut c_int, c_int, c_int),
            (&raw mut value, which, ordinal)
        );
        (result == Ok(0))
            .then_some(value)
            .and_then(|value| u32::try_from(value).ok())
    };
    found.compute = (attribute(75)?, attribute(76)?);
    Some(found)
}
