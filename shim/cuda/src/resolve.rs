//! `cuGetProcAddress`: from a base name, a version and flags to an export of this very library.
//!
//! The rule (`cuda-driver-facts.md` §5): the exports of a base name (`cuMemAlloc`, `cuMemAlloc_v2`)
//! each have the version in which their ABI appeared; the newest one not newer than the version
//! asked for is the answer. With the per-thread flag the `_ptsz`/`_ptds` exports are searched, or
//! the plain ones where there are none. An unknown name is no error: the pointer is null and the
//! status says why (measured on the real driver, §14).

use crate::exports::{self, Export};
use core::ffi::{CStr, c_char, c_void};
use std::collections::HashMap;
use std::sync::LazyLock;
use vgpu_protocol::cuda::CUresult;

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;
const VERSION_TOO_LOW: u32 = 2;

#[derive(Default)]
struct Versions {
    plain: Vec<(u32, *const c_void)>,
    per_thread: Vec<(u32, *const c_void)>,
}

// SAFETY: the pointers are addresses of functions of this library.
unsafe impl Send for Versions {}
// SAFETY: as above; they are only copied out.
unsafe impl Sync for Versions {}

static INDEX: LazyLock<HashMap<&'static str, Versions>> = LazyLock::new(|| {
    let mut index: HashMap<&'static str, Versions> = HashMap::new();
    for export in exports::all().filter(|export| export.since > 0) {
        let (base, per_thread) = base_name(export);
        let versions = index.entry(base).or_default();
        let list = if per_thread {
            &mut versions.per_thread
        } else {
            &mut versions.plain
        };
        list.push((export.since, export.address));
    }
    for versions in index.values_mut() {
        versions.plain.sort_by_key(|entry| entry.0);
        versions.per_thread.sort_by_key(|entry| entry.0);
    }
    index
});

/// The name programs ask for, and whether the export is the per-thread one.
fn base_name(export: &Export) -> (&'static str, bool) {
    let name = export.name;
    let plain = name
        .strip_suffix("_ptsz")
        .or_else(|| name.strip_suffix("_ptds"));
    let stem = plain.unwrap_or(name);
    let base = ["_v2", "_v3", "_v4"]
        .iter()
        .find_map(|suffix| stem.strip_suffix(suffix))
        .unwrap_or(stem);
    (base, plain.is_some())
}

/// Address and query status for a look-up.
fn look_up(name: &str, version: u32, flags: u64) -> (*const c_void, u32) {
    let Some(versions) = INDEX.get(name) else {
        return (core::ptr::null(), NOT_FOUND);
    };
    let list = if flags & PER_THREAD != 0 && !versions.per_thread.is_empty() {
        &versions.per_thread
    } else {
        &versions.plain
    };
    match list.iter().rev().find(|(since, _)| *since <= version) {
        Some((_, address)) => (*address, FOUND),
        None => (core::ptr::null(), VERSION_TOO_LOW),
    }
}

/// `cuGetProcAddress_v2`.
///
/// # Safety
/// `symbol` is null or a C string; `pfn` and `status` are null or valid.
pub unsafe fn cuGetProcAddress_v2(
    symbol: *const c_char,
    pfn: *mut *const c_void,
    version: i32,
    flags: u64,
    status: *mut u32,
) -> Result<(), CUresult> {
    if symbol.is_null() || pfn.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let name = unsafe { CStr::from_ptr(symbol) };
    let (address, found) = match name.to_str() {
        Ok(name) => look_up(name, u32::try_from(version).unwrap_or(0), flags),
        Err(_) => (core::ptr::null(), NOT_FOUND),
    };
    // SAFETY: checked for null, the rest is the caller's contract.
    unsafe {
        *pfn = address;
        if !status.is_null() {
            *status = found;
        }
    }
    Ok(())
}

/// `cuGetProcAddress`, before it reported a status.
///
/// # Safety
/// As [`cuGetProcAddress_v2`].
pub unsafe fn cuGetProcAddress(
    symbol: *const c_char,
    pfn: *mut *const c_void,
    version: i32,
    flags: u64,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { cuGetProcAddress_v2(symbol, pfn, version, flags, core::ptr::null_mut()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(address: *const c_void) -> Option<&'static str> {
        exports::all()
            .find(|export| export.address == address)
            .map(|export| export.name)
    }

    #[track_caller]
    fn resolves(name: &str, version: u32, flags: u64, expected: Result<&str, u32>) {
        let (address, status) = look_up(name, version, flags);
        match expected {
            Ok(export) => {
                assert_eq!((name_of(address), status), (Some(export), FOUND));
            }
            Err(code) => assert_eq!((address.is_null(), status), (true, code), "{name}"),
        }
    }

    #[test]
    fn the_newest_abi_not_newer_than_asked_is_given() {
        resolves("cuMemAlloc", 3020, 0, Ok("cuMemAlloc_v2"));
        resolves("cuMemAlloc", 13000, 0, Ok("cuMemAlloc_v2"));
        resolves("cuCtxGetDevice", 12090, 0, Ok("cuCtxGetDevice"));
        resolves("cuCtxGetDevice", 13000, 0, Ok("cuCtxGetDevice_v2"));
        resolves(
            "cuStreamGetCaptureInfo",
            12030,
            0,
            Ok("cuStreamGetCaptureInfo_v3"),
        );
    }

    #[test]
    fn the_per_thread_flag_finds_twins_or_the_plain_export() {
        resolves("cuLaunchKernel", 7000, 2, Ok("cuLaunchKernel_ptsz"));
        resolves("cuMemcpyHtoD", 7000, 2, Ok("cuMemcpyHtoD_v2_ptds"));
        resolves("cuMemAlloc", 3020, 2, Ok("cuMemAlloc_v2"));
        resolves("cuLaunchKernel", 6000, 2, Err(VERSION_TOO_LOW));
    }

    #[test]
    fn unknown_and_suffixed_names_are_not_found() {
        resolves("", 0, 0, Err(NOT_FOUND));
        resolves("cuNope", 13000, 0, Err(NOT_FOUND));
        resolves("cuMemAlloc_v2", 13000, 0, Err(NOT_FOUND));
        resolves("cuMemAllocAsync", 11010, 0, Err(VERSION_TOO_LOW));
    }
}
