//! What the driver keeps per thread of the operating system: the stack of current contexts, the
//! capture mode, and whether the thread is one that runs host functions.

use crate::context::{self, Context};
use crate::foreign::Outcome;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use vgpu_protocol::cuda::{CU_STREAM_CAPTURE_MODE_GLOBAL, CUcontext, CUresult};

thread_local! {
    static STACK: RefCell<Vec<CUcontext>> = const { RefCell::new(Vec::new()) };
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(CU_STREAM_CAPTURE_MODE_GLOBAL) };
    static HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
    static IDENTITY: u64 = crate::table::unique();
}

/// A number that tells this thread from every other one of the process's life.
pub(crate) fn thread() -> u64 {
    IDENTITY.with(|identity| *identity)
}

/// The current context's handle, null if there is none.
pub(crate) fn handle() -> CUcontext {
    STACK.with_borrow(|stack| stack.last().copied().unwrap_or(CUcontext::NULL))
}

/// Replaces the top of the stack; null takes it off.
pub(crate) fn set(ctx: CUcontext) {
    STACK.with_borrow_mut(|stack| {
        stack.pop();
        if !ctx.is_null() {
            stack.push(ctx);
        }
    });
}

/// Pushes a context.
pub(crate) fn push(ctx: CUcontext) {
    STACK.with_borrow_mut(|stack| stack.push(ctx));
}

/// Takes the top off; `INVALID_CONTEXT` if there is none.
pub(crate) fn pop() -> Outcome<CUcontext> {
    STACK
        .with_borrow_mut(Vec::pop)
        .ok_or(CUresult::INVALID_CONTEXT)
}

/// The live current context, whatever its state.
///
/// # Errors
/// `INVALID_CONTEXT` without one, `CONTEXT_IS_DESTROYED` if it is not alive (also a primary context
/// that nobody has retained).
pub(crate) fn live() -> Outcome<Arc<Context>> {
    let handle = handle();
    if handle.is_null() {
        return Err(CUresult::INVALID_CONTEXT);
    }
    context::find(handle).ok_or(CUresult::CONTEXT_IS_DESTROYED)
}

/// The current context, ready for work.
///
/// # Errors
/// As [`live`], and the context's own fault once it has one.
pub(crate) fn context() -> Outcome<Arc<Context>> {
    let context = live()?;
    context.core.check()?;
    Ok(context)
}

/// The thread's capture mode (`CU_STREAM_CAPTURE_MODE_*`).
pub(crate) fn capture_mode() -> u32 {
    CAPTURE_MODE.get()
}

/// Sets the thread's capture mode and returns the one before.
pub(crate) fn exchange_capture_mode(mode: u32) -> u32 {
    CAPTURE_MODE.replace(mode)
}

/// Whether this thread runs host functions: they may not call CUDA.
pub(crate) fn in_host_function() -> bool {
    HOST_FUNCTION.get()
}

/// Marks this thread as one that runs host functions.
pub(crate) fn mark_host_function_thread() {
    HOST_FUNCTION.set(true);
}
