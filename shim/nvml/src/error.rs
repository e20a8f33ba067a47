//! NVML's results, and what they are called.

use core::ffi::{CStr, c_char};
use nvml_wrapper_sys::bindings as nvml;

/// `nvmlReturn_t` of a call that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(pub nvml::nvmlReturn_t);

impl Error {
    /// `nvmlInit` was not called in this process, or was undone.
    pub const UNINITIALIZED: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED);
    /// A null pointer, a handle that is none, an index beyond the end.
    pub const INVALID_ARGUMENT: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT);
    /// Not known, or not for clients to know.
    pub const NOT_SUPPORTED: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED);
    /// No device or process of that name.
    pub const NOT_FOUND: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_NOT_FOUND);
    /// The program's buffer is too small.
    pub const INSUFFICIENT_SIZE: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE);
    /// No backend answers.
    pub const DRIVER_NOT_LOADED: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED);
    /// The backend answered once and does not any more.
    pub const GPU_IS_LOST: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST);
    /// Nothing happened in time.
    pub const TIMEOUT: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_TIMEOUT);
    /// A struct of a version that is not known.
    pub const VERSION_MISMATCH: Error =
        Error(nvml::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    /// A defect of ours.
    pub const UNKNOWN: Error = Error(nvml::nvmlReturn_enum_NVML_ERROR_UNKNOWN);
}

/// What a call comes to.
pub type Outcome = Result<(), Error>;

/// Texts by number, as NVIDIA's library has them.
const TEXTS: [&CStr; 31] = [
    c"Success",
    c"Uninitialized",
    c"Invalid Argument",
    c"Not Supported",
    c"Insufficient Permissions",
    c"Already Initialized",
    c"Not Found",
    c"Insufficient Size",
    c"Insufficient External Power",
    c"Driver Not Loaded",
    c"Timeout",
    c"Interrupt Request Issue",
    c"NVML Shared Library Not Found",
    c"Function Not Found",
    c"Corrupted infoROM",
    c"GPU is lost",
    c"GPU requires restart",
    c"The operating system has blocked the request.",
    c"RM has detected an NVML/RM version mismatch.",
    c"GPU is currently in use",
    c"Insufficient Memory",
    c"No data",
    c"The requested vgpu operation is not available on target device, because ECC is enabled",
    c"Insufficient Resources",
    c"Requested frequency is not supported",
    c"The provided version is invalid/unsupported",
    c"The requested functionality has been deprecated",
    c"The system is not ready for the request",
    c"No GPUs were found",
    c"Resource not in correct state to perform requested operation",
    c"Reset not supported for given device/parameters",
];

/// `nvmlErrorString`: works always, before `nvmlInit` too.
pub fn text(result: nvml::nvmlReturn_t) -> *const c_char {
    let text = TEXTS.get(result as usize).copied();
    text.unwrap_or(c"Unknown Error").as_ptr()
}
