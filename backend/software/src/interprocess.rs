//! The part of an event that other processes see: a page with what was recorded and what of it is done.
//!
//! | word | meaning |
//! |---|---|
//! | `recorded` | recordings so far, of all processes |
//! | `completed` | the latest of them that was reached |
//! | `recorder` | the process that recorded last |
//!
//! A process that dies completes nothing any more: what it recorded counts as over then, so that nobody waits for ever.

use crate::context::Core;
use crate::foreign::Outcome;
use crate::memory::{File, unmap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vgpu_protocol::cuda::CUresult;

/// Bytes of the page.
const PAGE: u64 = 4096;
/// A waiter sleeps this long between looks, doubling up to the second.
const SLEEPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(1));

#[repr(C)]
struct Words {
    recorded: AtomicU64,
    completed: AtomicU64,
    recorder: AtomicU64,
}

/// The shared part of an event.
pub(crate) struct Shared {
    file: File,
    page: u64,
}

/// One recording of a shared event.
#[derive(Clone)]
pub(crate) struct Point {
    shared: Arc<Shared>,
    count: u64,
}

impl Shared {
    /// That of a new event.
    pub(crate) fn create() -> Outcome<Arc<Self>> {
        Self::of(File::create(PAGE).ok_or(CUresult::OPERATING_SYSTEM)?)
    }

    /// That of another process's event.
    ///
    /// # Errors
    /// `INVALID_VALUE` if the descriptor is nothing of the kind.
    pub(crate) fn open(descriptor: OwnedFd) -> Outcome<Arc<Self>> {
        Self::of(File::receive(descriptor, PAGE).ok_or(CUresult::INVALID_VALUE)?)
    }

    fn of(file: File) -> Outcome<Arc<Self>> {
        let page = file.map(0, PAGE).ok_or(CUresult::OUT_OF_MEMORY)?;
        Ok(Arc::new(Self { file, page }))
    }

    /// A descriptor for another process.
    pub(crate) fn share(&self) -> Outcome<OwnedFd> {
        self.file.share().ok_or(CUresult::OPERATING_SYSTEM)
    }

    fn words(&self) -> &Words {
        // SAFETY: the page is mapped as long as this lives, its file cannot become shorter, and atomics may be written by
        // others.
        unsafe { &*(self.page as *const Words) }
    }

    /// Begins a recording: who asks from now on asks for this one.
    pub(crate) fn record(self: &Arc<Self>) -> Point {
        let words = self.words();
        words
            .recorder
            .store(u64::from(std::process::id()), Ordering::Relaxed);
        Point {
            shared: Arc::clone(self),
            count: words
                .recorded
                .fetch_add(1, Ordering::AcqRel)
                .wrapping_add(1),
        }
    }

    /// What was recorded last.
    pub(crate) fn last(self: &Arc<Self>) -> Point {
        Point {
            shared: Arc::clone(self),
            count: self.words().recorded.load(Ordering::Acquire),
        }
    }

    /// Whether the process that recorded last still lives.
    fn recorder_lives(&self) -> bool {
        let recorder = self.words().recorder.load(Ordering::Relaxed);
        match i32::try_from(recorder) {
            // Nobody has; the word is anybody's to overwrite.
            Err(_) | Ok(0) => false,
            Ok(process) => {
                // SAFETY: signal 0 only asks whether the process is there.
                let asked = unsafe { libc::kill(process, 0) };
                asked == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        unmap(self.page, PAGE);
    }
}

impl Point {
    /// The recording was reached.
    pub(crate) fn complete(&self) {
        // Release: what the stream did before is there for who sees this.
        let completed = &self.shared.words().completed;
        completed.fetch_max(self.count, Ordering::Release);
    }

    /// Whether the recording was reached, or never will be.
    pub(crate) fn is_reached(&self) -> bool {
        self.shared.words().completed.load(Ordering::Acquire) >= self.count
            || !self.shared.recorder_lives()
    }

    /// Waits until the recording is reached, or `core` is over.
    pub(crate) fn wait(&self, core: &Core) {
        let mut pause = SLEEPS.0;
        while !core.is_over() && !self.is_reached() {
            std::thread::sleep(pause);
            pause = (pause * 2).min(SLEEPS.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_recording_counts_in_both_processes() {
        let here = Shared::create().expect("a page");
        let there = Shared::open(here.share().expect("a descriptor")).expect("a page");
        assert!(there.last().is_reached(), "nothing was recorded");
        let (first, second) = (here.record(), here.record());
        first.complete();
        assert!(first.is_reached() && !there.last().is_reached());
        second.complete();
        assert!(there.last().is_reached());
        let third = there.record();
        assert!(!here.last().is_reached());
        third.complete();
        assert!(here.last().is_reached());
    }

    #[test]
    fn what_a_dead_process_recorded_is_over() {
        let shared = Shared::create().expect("a page");
        let point = shared.record();
        assert!(!point.is_reached());
        let mut child = std::process::Command::new("true").spawn().expect("true");
        child.wait().expect("its end");
        let dead = u64::from(child.id());
        shared.words().recorder.store(dead, Ordering::Relaxed);
        assert!(point.is_reached());
    }
}
