//! The border to C: no panic crosses it, and what is refused is named once in the log.

use crate::error::{Error, Outcome};
use crate::state;
use nvml_wrapper_sys::bindings::{nvmlReturn_enum_NVML_SUCCESS, nvmlReturn_t};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use vgpu_process::log;

/// Runs the body of the exported function `name`.
pub fn call(name: &'static str, said: &AtomicBool, body: impl FnOnce() -> Outcome) -> nvmlReturn_t {
    match catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Error::UNKNOWN)) {
        Ok(()) => nvmlReturn_enum_NVML_SUCCESS,
        Err(error) => {
            if error == Error::NOT_SUPPORTED {
                name_once(name, said);
            }
            error.0
        }
    }
}

/// The body of every function that is not served.
pub fn refuse(name: &'static str, said: &AtomicBool) -> nvmlReturn_t {
    call(name, said, || {
        state::session()?;
        Err(Error::NOT_SUPPORTED)
    })
}

/// Says that something is not supported, the first time.
pub fn name_once(name: &str, said: &AtomicBool) {
    if !said.swap(true, Ordering::Relaxed) {
        log::line(format_args!(
            "{name} is not supported: NVML_ERROR_NOT_SUPPORTED"
        ));
    }
}
