//! Initialisation, and the host.

use crate::error::{Error, Outcome};
use crate::{give, state};
use core::ffi::{c_char, c_int, c_uint};
use vgpu_protocol::facts::text;

/// `nvmlInit`, `nvmlInit_v2`.
pub fn init() -> Outcome {
    state::initialise()
}

/// `nvmlInitWithFlags`: the flags there are ask for less than is done.
pub fn init_with_flags(_flags: c_uint) -> Outcome {
    state::initialise()
}

/// `nvmlShutdown`.
pub fn shutdown() -> Outcome {
    state::shut_down()
}

/// `nvmlSystemGetDriverVersion`.
pub fn driver_version(version: *mut c_char, length: c_uint) -> Outcome {
    let session = state::session()?;
    give::text(version, length, text(&session.system.driver_version))
}

/// `nvmlSystemGetNVMLVersion`: natively it works without `nvmlInit`.
pub fn nvml_version(version: *mut c_char, length: c_uint) -> Outcome {
    give::text(version, length, text(&state::system()?.nvml_version))
}

/// `nvmlSystemGetCudaDriverVersion`, `…_v2`: likewise.
pub fn cuda_version(version: *mut c_int) -> Outcome {
    let number = state::system()?.cuda_version;
    give::value(
        version,
        c_int::try_from(number).map_err(|_| Error::UNKNOWN)?,
    )
}

/// `nvmlSystemGetProcessName`: of this machine's processes, so it is looked up here.
pub fn process_name(process: c_uint, name: *mut c_char, length: c_uint) -> Outcome {
    state::session()?;
    let found = name_of(process).ok_or(Error::NOT_FOUND)?;
    let room = (length as usize).saturating_sub(1);
    give::text(name, length, found.get(..room).unwrap_or(&found))
}

/// What a process was started as.
pub fn name_of(process: u32) -> Option<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let name = text(&line);
    (!name.is_empty()).then(|| name.to_vec())
}

/// `nvmlUnitGetCount`, `nvmlGetExcludedDeviceCount`: there is none.
pub fn none(count: *mut c_uint) -> Outcome {
    state::session()?;
    give::value(count, 0)
}
