//! What the tests share: the driver, called as the worker calls it.

#![allow(dead_code, reason = "not every test file uses everything")]

use std::sync::LazyLock;
use vgpu_driver::Driver;
use vgpu_protocol::cuda::*;

/// The driver, initialised.
pub static CUDA: LazyLock<Driver> = LazyLock::new(|| {
    vgpu_software::configure(vgpu_software::Options {
        memory_bytes: 256 << 20,
        threads: 2,
        instruction_budget: None,
        devices: 2,
    });
    let driver = vgpu_software::driver();
    let init = driver.cuInit.expect("a function of the driver");
    // SAFETY: takes no pointers.
    assert_eq!(unsafe { init(0) }, CUresult::SUCCESS);
    driver
});

/// Calls a function and gives its result code.
macro_rules! cu {
    ($name:ident($($argument:expr),* $(,)?)) => {{
        let function = $crate::support::CUDA.$name.expect("a function of the driver");
        // SAFETY: the test passes pointers that are valid for the call.
        unsafe { function($($argument),*) }
    }};
}

/// Calls a function that must succeed.
macro_rules! ok {
    ($name:ident($($argument:expr),* $(,)?)) => {
        assert_eq!(cu!($name($($argument),*)), vgpu_protocol::cuda::CUresult::SUCCESS)
    };
}

/// A context of the test's own, current to the thread, destroyed at the end.
pub struct Context(pub CUcontext);

impl Context {
    pub fn new() -> Self {
        let mut ctx = CUcontext::NULL;
        ok!(cuCtxCreate_v2(&mut ctx, 0, CUdevice(0)));
        Self(ctx)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let _ = cu!(cuCtxDestroy_v2(self.0));
    }
}

/// Device memory.
pub fn alloc(bytes: usize) -> CUdeviceptr {
    let mut dptr = CUdeviceptr::NULL;
    ok!(cuMemAlloc_v2(&mut dptr, bytes));
    dptr
}

/// Device memory holding these words.
pub fn upload(words: &[u32]) -> CUdeviceptr {
    let dptr = alloc(size_of_val(words));
    ok!(cuMemcpyHtoD_v2(
        dptr,
        words.as_ptr().cast(),
        size_of_val(words)
    ));
    dptr
}

/// The words at an address, after all work of the legacy default stream.
pub fn download(src: CUdeviceptr, count: usize) -> Vec<u32> {
    let mut words = vec![0u32; count];
    ok!(cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), src, count * 4));
    words
}

/// A stream with these flags.
pub fn stream(flags: u32) -> CUstream {
    let mut stream = CUstream::NULL;
    ok!(cuStreamCreate(&mut stream, flags));
    stream
}

/// An event with timing.
pub fn event() -> CUevent {
    let mut event = CUevent::NULL;
    ok!(cuEventCreate(&mut event, 0));
    event
}

/// A word that holds back a stream until it is set.
pub struct Gate(CUdeviceptr);

impl Gate {
    /// Holds back `stream`.
    pub fn close(stream: CUstream) -> Self {
        let mut host = std::ptr::null_mut();
        ok!(cuMemHostAlloc(&mut host, 4, 0));
        let word = CUdeviceptr(host as u64);
        ok!(cuStreamWaitValue32_v2(stream, word, 1, 1));
        Self(word)
    }

    /// Lets the stream go on.
    pub fn open(&self) {
        // SAFETY: the word is 4 bytes of host memory that lives until its context ends.
        let word = unsafe { std::sync::atomic::AtomicU32::from_ptr(self.0.0 as *mut u32) };
        word.store(1, std::sync::atomic::Ordering::Release);
    }
}
