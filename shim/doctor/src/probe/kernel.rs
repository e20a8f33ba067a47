//! The proof of the pudding: a kernel in PTX, copied to and fro, its results compared.

use super::call::must;
use super::library::open;
use libloading::os::unix::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// Threads of the kernel, and 32-bit numbers copied: 1 MiB.
const COUNT: u32 = 1 << 18;

/// `x[i] = 3 * x[i] + i`.
const PTX: &std::ffi::CStr = c"
.version 7.0
.target sm_52
.address_size 64
.visible .entry check(.param .u64 at, .param .u32 count)
{
    .reg .pred %past;
    .reg .b32 %r<6>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [at];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %past, %r5, %r1;
    @%past ret;
    cvta.to.global.u64 %d2, %d1;
    mul.wide.u32 %d3, %r5, 4;
    add.s64 %d2, %d2, %d3;
    ld.global.u32 %r2, [%d2];
    mad.lo.s32 %r2, %r2, 3, %r5;
    st.global.u32 [%d2], %r2;
    ret;
}
";

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The call that failed with its code, or what else went wrong.
    pub failed: Option<String>,
    /// Numbers that are not what they should be.
    pub wrong: u32,
}

/// Runs it.
pub fn ask(name: &str) -> Answer {
    let mut answer = Answer::default();
    match open(name) {
        Ok(library) => {
            match compute(&library) {
                Ok(wrong) => answer.wrong = wrong,
                Err(failed) => answer.failed = Some(failed),
            }
            std::mem::forget(library);
        }
        Err(error) => answer.failed = Some(error),
    }
    answer
}

fn compute(library: &Library) -> Result<u32, String> {
    let mut device = 0;
    let mut context: *mut c_void = std::ptr::null_mut();
    let mut module: *mut c_void = std::ptr::null_mut();
    let mut function: *mut c_void = std::ptr::null_mut();
    let mut address = 0u64;
    let mut numbers: Vec<u32> = (0..COUNT).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let bytes = numbers.len() * 4;
    must!(library, "cuInit", (c_uint), (0))?;
    must!(
        library,
        "cuDeviceGet",
        (*mut c_int, c_int),
        (&raw mut device, 0)
    )?;
    must!(
        library,
        "cuDevicePrimaryCtxRetain",
        (*mut *mut c_void, c_int),
        (&raw mut context, device)
    )?;
    must!(library, "cuCtxSetCurrent", (*mut c_void), (context))?;
    must!(
        library,
        "cuModuleLoadData",
        (*mut *mut c_void, *const c_char),
        (&raw mut module, PTX.as_ptr())
    )?;
    must!(
        library,
        "cuModuleGetFunction",
        (*mut *mut c_void, *mut c_void, *const c_char),
        (&raw mut function, module, c"check".as_ptr())
    )?;
    must!(
        library,
        "cuMemAlloc_v2",
        (*mut u64, usize),
        (&raw mut address, bytes)
    )?;
    must!(
        library,
        "cuMemcpyHtoD_v2",
        (u64, *const u32, usize),
        (address, numbers.as_ptr(), bytes)
    )?;
    let mut count = COUNT;
    let mut parameters = [(&raw mut address).cast::<c_void>(), (&raw mut count).cast()];
    must!(
        library,
        "cuLaunchKernel",
        (
            *mut c_void,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            *mut c_void,
            *mut *mut c_void,
            *mut *mut c_void
        ),
        (
            function,
            COUNT / 256,
            1,
            1,
            256,
            1,
            1,
            0,
            std::ptr::null_mut(),
            parameters.as_mut_ptr(),
            std::ptr::null_mut()
        )
    )?;
    must!(library, "cuCtxSynchronize", (), ())?;
    must!(
        library,
        "cuMemcpyDtoH_v2",
        (*mut u32, u64, usize),
        (numbers.as_mut_ptr(), address, bytes)
    )?;
    must!(library, "cuMemFree_v2", (u64), (address))?;
    let wrong = (0..COUNT)
        .zip(&numbers)
        .filter(|(i, number)| {
            let start = i.wrapping_mul(2_654_435_761);
            start.wrapping_mul(3).wrapping_add(*i) != **number
        })
        .count();
    Ok(u32::try_from(wrong).unwrap_or(u32::MAX))
}
