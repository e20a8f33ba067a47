//! How a C call enters.
//!
//! `entries!` declares entry points. It wraps the caller's pointers, applies the gate of the
//! function, and turns a panic, which would be a defect of this crate, into `UNKNOWN` instead of
//! letting it cross the C boundary.
//!
//! | gate | refuses |
//! |---|---|
//! | `anytime` | nothing |
//! | `ready` | calls before `cuInit` (3) and calls from host functions (800) |
//! | `uncaptured` | the same, and calls prohibited by an active stream capture (900), which they invalidate |

use crate::current;
use crate::foreign::Outcome;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use vgpu_protocol::cuda::CUresult;

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Remembers that `cuInit` was called.
pub(crate) fn initialise() {
    INITIALISED.store(true, Ordering::Release);
}

/// Gate of functions that work in any state.
pub(crate) fn anytime(body: impl FnOnce() -> Outcome) -> CUresult {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(outcome) => outcome.into(),
        Err(_) => CUresult::UNKNOWN,
    }
}

/// Gate of functions that need `cuInit` and may not be called from host functions.
pub(crate) fn ready(body: impl FnOnce() -> Outcome) -> CUresult {
    anytime(|| {
        if current::in_host_function() {
            return Err(CUresult::NOT_PERMITTED);
        }
        if !INITIALISED.load(Ordering::Acquire) {
            return Err(CUresult::NOT_INITIALIZED);
        }
        body()
    })
}

/// Gate of functions that CUDA calls potentially unsafe during a stream capture.
pub(crate) fn uncaptured(body: impl FnOnce() -> Outcome) -> CUresult {
    ready(|| {
        crate::capture::prohibit()?;
        body()
    })
}

/// C type of a parameter.
macro_rules! c_type {
    (out $ty:ty) => { *mut $ty };
    (src $ty:ty) => { *const $ty };
    (list $ty:ty) => { *mut $ty };
    (text $ty:ty) => { *const $ty };
    (val $ty:ty) => { $ty };
}

/// Wraps a parameter for the body.
macro_rules! wrapped {
    (out $arg:ident) => {
        // SAFETY: the C contract of the function: null or valid for what it documents.
        unsafe { $crate::foreign::Out::new($arg) }
    };
    (src $arg:ident) => {
        // SAFETY: the C contract of the function: null or valid for what it documents.
        unsafe { $crate::foreign::In::new($arg) }
    };
    (list $arg:ident) => {
        // SAFETY: the C contract of the function: null or valid for what it documents.
        unsafe { $crate::foreign::In::new($arg.cast_const()) }
    };
    (text $arg:ident) => {
        // SAFETY: the C contract of the function: null or a NUL-terminated text.
        unsafe { $crate::foreign::Text::new($arg) }
    };
    (val $arg:ident) => {
        $arg
    };
}

/// Declares entry points; see the [module documentation](self). Directions: `val T` is `T`, `out T`
/// is `*mut T` seen as [`Out`](crate::foreign::Out), `src T` is `*const T` seen as
/// [`In`](crate::foreign::In), `list T` is `*mut T` that is only read, `text c_char` is `*const c_char` seen as
/// [`Text`](crate::foreign::Text).
macro_rules! entries {
    ($($gate:ident fn $name:ident($($dir:ident $arg:ident : $ty:ty),* $(,)?) $body:block)*) => { $(
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub(crate) unsafe extern "C" fn $name(
            $($arg: $crate::entry::c_type!($dir $ty)),*
        ) -> vgpu_protocol::cuda::CUresult {
            $( let $arg = $crate::entry::wrapped!($dir $arg); )*
            $crate::entry::$gate(move || $body)
        }
    )* };
}

pub(crate) use {c_type, entries, wrapped};
