//! Slots of the private tables other than CLS and INTEG. Signatures and behaviour follow
//! `cuda-driver-facts.md` §2 and §14.

use crate::{client, context, guard, module, stream};
use core::ffi::c_void;
use std::sync::atomic::AtomicU32;
use vgpu_protocol::cuda::{CUcontext, CUdevice, CUfunction, CUmodule, CUresult, CUstream};

/// Any slot that nobody was ever seen to need.
pub extern "C" fn refuse() -> CUresult {
    CUresult::NOT_SUPPORTED
}

/// Tracing hooks; never called while the flags are zero.
pub extern "C" fn nothing() -> CUresult {
    CUresult::SUCCESS
}

/// CTXCHECK\[3\].
pub extern "C" fn zero() -> u32 {
    0
}

/// CUDART\[1\]: a module from a fatbin wrapper.
///
/// # Safety
/// As `cuModuleLoadData`.
pub unsafe extern "C" fn load_fatbin(module: *mut CUmodule, image: *const c_void) -> CUresult {
    // SAFETY: the caller's contract.
    guard::result(|| unsafe { module::cuModuleLoadData(module, image) })
}

/// CUDART\[6\]: how libcudart 11 loads every module; the options were always empty.
///
/// # Safety
/// As `cuModuleLoadData`.
pub unsafe extern "C" fn load_fatbin_options(
    module: *mut CUmodule,
    image: *const c_void,
    a: *const c_void,
    b: *const c_void,
    c: u32,
) -> CUresult {
    if !a.is_null() || !b.is_null() || c != 0 {
        return CUresult::NOT_SUPPORTED;
    }
    // SAFETY: the caller's contract.
    unsafe { load_fatbin(module, image) }
}

/// CUDART\[8\]: as slot 6, with the inner header first.
///
/// # Safety
/// As `cuModuleLoadData`.
pub unsafe extern "C" fn load_fatbin_header(
    image: *const c_void,
    module: *mut CUmodule,
    a: *const c_void,
    b: *const c_void,
    c: u32,
) -> CUresult {
    // SAFETY: the caller's contract.
    unsafe { load_fatbin_options(module, image, a, b, c) }
}

/// CUDART\[7\]: a notice after `cuModuleUnload`.
pub extern "C" fn module_destroyed(_image: *const c_void) {}

/// CUDART\[12\]: load the compilers; they are on the backend's side and load when needed.
pub extern "C" fn load_compilers() -> CUresult {
    CUresult::SUCCESS
}

/// CUDART\[2\]: the primary context's handle, neither activated nor retained.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe extern "C" fn primary_context(ctx: *mut CUcontext, dev: CUdevice) -> CUresult {
    guard::result(|| {
        if ctx.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let client = client::entered()?;
        let handle = client.device(dev)?.primary_ctx();
        // SAFETY: checked for null.
        unsafe { *ctx = handle };
        Ok(())
    })
}

/// One flag per runtime API, all zero: nobody traces. More than any libcudart has ids (567 in 13.5).
static CALLBACK_FLAGS: [AtomicU32; 4096] = [const { AtomicU32::new(0) }; 4096];
static EVENT_FLAGS: [AtomicU32; 1024] = [const { AtomicU32::new(0) }; 1024];

/// HOOKS\[2\]: the flags and their number, in elements.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe extern "C" fn runtime_callback_flags(flags: *mut *const AtomicU32, count: *mut usize) {
    if !flags.is_null() && !count.is_null() {
        // SAFETY: checked for null.
        unsafe {
            *flags = CALLBACK_FLAGS.as_ptr();
            *count = CALLBACK_FLAGS.len();
        }
    }
}

/// HOOKS\[6\]: the second array of flags.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe extern "C" fn runtime_event_flags(flags: *mut *const AtomicU32, count: *mut usize) {
    if !flags.is_null() && !count.is_null() {
        // SAFETY: checked for null.
        unsafe {
            *flags = EVENT_FLAGS.as_ptr();
            *count = EVENT_FLAGS.len();
        }
    }
}

/// TLS\[2\]: the calling thread's current context.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe extern "C" fn current_context(ctx: *mut CUcontext) -> CUresult {
    if ctx.is_null() {
        return CUresult::INVALID_VALUE;
    }
    // SAFETY: checked for null.
    unsafe { *ctx = context::current() };
    CUresult::SUCCESS
}

/// CTXCHECK\[2\]: whether a context is derived from another; ours never are.
///
/// # Safety
/// `derived` is null or valid.
pub unsafe extern "C" fn check_context(
    _ctx: CUcontext,
    derived: *mut u32,
    _parent: *mut *mut c_void,
) -> CUresult {
    if !derived.is_null() {
        // SAFETY: checked for null.
        unsafe { *derived = 0 };
    }
    CUresult::SUCCESS
}

/// TOOLSCTX\[4\]: `cuCtxGetId`, 0 for null.
///
/// # Safety
/// `id` is null or valid.
pub unsafe extern "C" fn context_id(ctx: CUcontext, id: *mut u64) -> CUresult {
    guard::result(|| {
        if id.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let value = if ctx.is_null() { 0 } else { context::id(ctx)? };
        // SAFETY: checked for null.
        unsafe { *id = value };
        Ok(())
    })
}

/// TOOLSCTX\[51\]: a token for a stream; ours is the stream's id plus one, so never null.
///
/// # Safety
/// `token` is null or valid.
pub unsafe extern "C" fn stream_token(
    _ctx: CUcontext,
    stream: CUstream,
    token: *mut u64,
) -> CUresult {
    guard::result(|| {
        if token.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let id = stream::id(stream)?;
        // SAFETY: checked for null.
        unsafe { *token = id.wrapping_add(1) };
        Ok(())
    })
}

/// TOOLSCTX\[39\]: the never-reused id behind a token.
///
/// # Safety
/// `id` is null or valid.
pub unsafe extern "C" fn stream_id(_ctx: CUcontext, token: u64, id: *mut u64) -> CUresult {
    if id.is_null() || token == 0 {
        return CUresult::INVALID_VALUE;
    }
    // SAFETY: checked for null.
    unsafe { *id = token.wrapping_sub(1) };
    CUresult::SUCCESS
}

/// What TOOLSMOD\[7\] calls for every function of a module.
type EnumerateCallback =
    unsafe extern "C" fn(opaque: *mut c_void, function: CUfunction, third: u64);

/// TOOLSMOD\[7\]: enumerates a module's functions; returns how many, 0 for failure.
///
/// # Safety
/// `callback` is a function of this signature.
pub unsafe extern "C" fn enumerate_functions(
    _ctx: CUcontext,
    module: CUmodule,
    callback: Option<EnumerateCallback>,
    opaque: *mut c_void,
) -> u32 {
    let Some(callback) = callback else { return 0 };
    let functions = match guard::value(|| module::functions(module)) {
        Ok(functions) => functions,
        Err(_) => return 0,
    };
    for function in &functions {
        // SAFETY: the caller's function and its own argument.
        unsafe { callback(opaque, *function, 0) };
    }
    functions.len() as u32
}
