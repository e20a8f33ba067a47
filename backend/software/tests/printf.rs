//! What kernels print. Alone in its process, because it replaces the process's standard output.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "the arguments of a test's call are part of the unsafe call"
)]

#[macro_use]
mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::null_mut;
use support::*;
use vgpu_protocol::cuda::*;

const SAY: &std::ffi::CStr = c"
.version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 func_retval0) vprintf(.param .b64 vprintf_0, .param .b64 vprintf_1);
.global .align 1 .b8 format[10] = {98, 108, 111, 99, 107, 32, 37, 117, 10, 0};
.visible .entry say()
{
    .local .align 8 .b8 depot[8];
    .reg .b64 %d<4>;
    .reg .b32 %r<3>;
    mov.u64 %d1, depot;
    cvta.local.u64 %d2, %d1;
    mov.u32 %r1, %ctaid.x;
    st.local.u32 [%d1], %r1;
    mov.u64 %d3, format;
    cvta.global.u64 %d3, %d3;
    {
    .param .b64 param0;
    st.param.b64 [param0+0], %d3;
    .param .b64 param1;
    st.param.b64 [param1+0], %d2;
    .param .b32 retval0;
    call.uni (retval0), vprintf, (param0, param1);
    ld.param.b32 %r2, [retval0+0];
    }
    ret;
}
";

#[test]
fn text_goes_to_the_c_librarys_standard_output() {
    let _context = Context::new();
    let mut module = CUmodule::NULL;
    ok!(cuModuleLoadData(&mut module, SAY.as_ptr().cast()));
    let mut function = CUfunction::NULL;
    ok!(cuModuleGetFunction(&mut function, module, c"say".as_ptr()));
    let mut ends = [0; 2];
    // SAFETY: a pipe of the test's own takes the place of standard output while the kernel runs.
    let saved = unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        libc::fflush(null_mut());
        let saved = libc::dup(1);
        assert_eq!(libc::dup2(ends[1], 1), 1);
        libc::close(ends[1]);
        saved
    };
    ok!(cuLaunchKernel(
        function,
        3,
        1,
        1,
        1,
        1,
        1,
        0,
        CUstream::NULL,
        null_mut(),
        null_mut()
    ));
    let synchronised = cu!(cuCtxSynchronize());
    // SAFETY: flushes the C library's streams and puts the saved descriptor back.
    let mut pipe = unsafe {
        libc::fflush(null_mut());
        assert_eq!(libc::dup2(saved, 1), 1);
        libc::close(saved);
        File::from_raw_fd(ends[0])
    };
    assert_eq!(synchronised, CUresult::SUCCESS);
    assert!(pipe.as_raw_fd() > 2);
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("text");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["block 0", "block 1", "block 2"]);
}
