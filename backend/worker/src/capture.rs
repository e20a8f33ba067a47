//! Stream captures, per guest thread (`semantics.md` 2, 3).
//!
//! CUDA keeps a capture mode per thread; the threads that make the driver calls here are not the
//! guest's, so all of them run in relaxed mode and this module decides what CUDA would have
//! prohibited. The decision only selects how the call is made: a prohibited one is made with the
//! driver's own mode set to global, so that the driver itself refuses it and invalidates what it
//! invalidates natively.

use crate::live::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use vgpu_protocol::cuda::{CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_RELAXED};

/// An active capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The stream it began in.
    pub stream: u64,
    /// The guest thread that began it.
    pub thread: u32,
    /// Its mode.
    pub mode: u32,
    /// The context for which the thread issues that made the driver's call.
    pub issuer: u64,
}

/// All active captures of a worker.
#[derive(Debug, Default)]
pub struct Captures {
    list: Mutex<Vec<Capture>>,
    active: AtomicU32,
}

impl Captures {
    /// Whether any capture is active. One load.
    #[inline]
    pub fn any(&self) -> bool {
        self.active.load(Ordering::Acquire) != 0
    }

    fn update(&self, change: impl FnOnce(&mut Vec<Capture>)) {
        let mut list = lock(&self.list);
        change(&mut list);
        let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
        self.active.store(count, Ordering::Release);
    }

    /// A capture began.
    pub fn begin(&self, capture: Capture) {
        self.update(|list| list.push(capture));
    }

    /// The capture that began in `stream`, if any.
    pub fn of(&self, stream: u64) -> Option<Capture> {
        if !self.any() {
            return None;
        }
        lock(&self.list)
            .iter()
            .find(|capture| capture.stream == stream)
            .copied()
    }

    /// The capture that began in `stream` is over.
    pub fn end(&self, stream: u64) {
        self.update(|list| list.retain(|capture| capture.stream != stream));
    }

    /// Whether CUDA prohibits a potentially unsafe call of guest thread `thread`, whose mode is
    /// `mode`: then the issuer of the capture that is the reason.
    pub fn prohibit(&self, thread: u32, mode: u32) -> Option<u64> {
        if !self.any() || mode == CU_STREAM_CAPTURE_MODE_RELAXED {
            return None;
        }
        let list = lock(&self.list);
        let own = list.iter().find(|capture| {
            capture.thread == thread && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED
        });
        let global = list.iter().find(|capture| {
            mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL
        });
        own.or(global).map(|capture| capture.issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const GLOBAL: u32 = CU_STREAM_CAPTURE_MODE_GLOBAL;
    const LOCAL: u32 = vgpu_protocol::cuda::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    const RELAXED: u32 = CU_STREAM_CAPTURE_MODE_RELAXED;

    fn with(mode: u32) -> Captures {
        let captures = Captures::default();
        captures.begin(Capture {
            stream: 5,
            thread: 1,
            mode,
            issuer: 9,
        });
        captures
    }

    #[test]
    fn prohibition_follows_the_rules_of_the_modes() {
        // (mode of the capture, calling thread, its mode) -> prohibited
        for (capture, thread, mode, expected) in [
            (GLOBAL, 1, GLOBAL, true),
            (GLOBAL, 2, GLOBAL, true),
            (GLOBAL, 1, LOCAL, true),
            (GLOBAL, 2, LOCAL, false),
            (GLOBAL, 1, RELAXED, false),
            (LOCAL, 1, GLOBAL, true),
            (LOCAL, 2, GLOBAL, false),
            (LOCAL, 1, LOCAL, true),
            (RELAXED, 1, GLOBAL, false),
            (RELAXED, 1, LOCAL, false),
            (RELAXED, 2, GLOBAL, false),
        ] {
            assert_eq!(
                with(capture).prohibit(thread, mode),
                expected.then_some(9),
                "capture mode {capture}, thread {thread} in mode {mode}"
            );
        }
    }

    #[test]
    fn nothing_is_prohibited_after_the_end() {
        let captures = with(GLOBAL);
        assert_eq!(captures.of(5).map(|capture| capture.thread), Some(1));
        captures.end(5);
        assert!(!captures.any());
        assert_eq!(captures.prohibit(1, GLOBAL), None);
    }
}
