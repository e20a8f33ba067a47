//! The border to C: no panic crosses it.

use crate::{log, stats, thread};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use vgpu_protocol::cuda::CUresult;
use vgpu_protocol::number::Class;

/// Runs `body` and turns its outcome into a result code; a panic, which would be a defect of ours,
/// becomes `CUDA_ERROR_UNKNOWN`.
pub fn result(body: impl FnOnce() -> Result<(), CUresult>) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.into(),
        Err(_) => CUresult::UNKNOWN,
    }
}

/// Like [`result`], for the exported function `name` of `class`: every call of a program comes through here. Inside a host
/// function only look-ups are permitted. The first time the function answers `NOT_SUPPORTED`, whatever part of it is not, the
/// log says so.
#[inline]
pub fn call(
    name: &'static str,
    class: Class,
    body: impl FnOnce() -> Result<(), CUresult>,
) -> CUresult {
    let begun = stats::begin();
    if !class.in_host_function() && thread::in_host_function() {
        return CUresult::NOT_PERMITTED;
    }
    let code = result(body);
    if let Some(begun) = begun {
        stats::end(name, &begun);
    }
    if code == CUresult::NOT_SUPPORTED {
        refused(name);
    }
    code
}

#[cold]
fn refused(name: &'static str) {
    static NAMED: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    if !log::enabled() {
        return;
    }
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    if !named.contains(&name) {
        named.push(name);
        log::line(format_args!(
            "{name} is not supported: CUDA_ERROR_NOT_SUPPORTED"
        ));
    }
}

/// Like [`result`], for bodies with a value.
pub fn value<T>(body: impl FnOnce() -> Result<T, CUresult>) -> Result<T, CUresult> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(CUresult::UNKNOWN))
}
