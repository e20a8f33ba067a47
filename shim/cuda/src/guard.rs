//! The border to C: no panic crosses it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use vgpu_protocol::cuda::CUresult;

/// Runs `body` and turns its outcome into a result code; a panic, which would be a defect of ours,
/// becomes `CUDA_ERROR_UNKNOWN`.
pub fn result(body: impl FnOnce() -> Result<(), CUresult>) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.into(),
        Err(_) => CUresult::UNKNOWN,
    }
}

/// Like [`result`], for bodies with a value.
pub fn value<T>(body: impl FnOnce() -> Result<T, CUresult>) -> Result<T, CUresult> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(CUresult::UNKNOWN))
}
