//! The gate that stands closed while the client's machine is paused (`isolation.md` 18): nothing is taken from the ring, no
//! work is left on the device, and nothing is written to shared memory.
//!
//! The reader of the ring looks at it before each record, which costs one load, and waits there. Whatever it took from the
//! ring before is carried to its end: queues of issuers run empty, lanes finish their calls, contexts are synchronised.

use crate::call::Executor;
use crate::live::{Kind, lock};
use crate::state::Worker;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_protocol::cuda::{CUresult, CUstream};

/// How often a waiting thread looks around.
const LOOK: Duration = Duration::from_millis(20);

/// The gate of one worker. It is open at first.
#[derive(Debug, Default)]
pub struct Gate {
    closed: AtomicBool,
    /// Calls handed to lanes, and texts being delivered.
    inside: AtomicUsize,
    /// Whether the reader waits.
    reader: Mutex<bool>,
    moved: Condvar,
}

/// Something that must be over before the gate counts as shut.
#[derive(Debug)]
pub struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Gate {
    /// Whether the reader has to wait. One load.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// For the reader: waits until the gate is open or `over` says that there is no point any more.
    #[cold]
    pub fn wait(&self, over: impl Fn() -> bool) {
        let mut waits = lock(&self.reader);
        *waits = true;
        self.moved.notify_all();
        while self.closed.load(Ordering::SeqCst) && !over() {
            let waited = self.moved.wait_timeout(waits, LOOK);
            waits = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *waits = false;
    }

    /// For the reader: it hands a call to a lane. The lane says when it is done: [`Gate::leave`].
    pub fn enter(&self) {
        self.inside.fetch_add(1, Ordering::SeqCst);
    }

    /// See [`Gate::enter`].
    pub fn leave(&self) {
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    /// For other threads that write to shared memory: waits until the gate is open and keeps it from being shut meanwhile.
    pub fn pass(&self) -> Inside<'_> {
        loop {
            self.enter();
            let inside = Inside(self);
            if !self.closed.load(Ordering::SeqCst) {
                return inside;
            }
            drop(inside);
            let waits = lock(&self.reader);
            drop(self.moved.wait_timeout(waits, LOOK));
        }
    }

    /// Opens it again.
    pub fn open(&self) {
        let waits = lock(&self.reader);
        self.closed.store(false, Ordering::SeqCst);
        drop(waits);
        self.moved.notify_all();
    }

    /// Closes it, and waits until everything behind it is done. Whether that was so before `deadline`.
    pub fn shut(&self, worker: &Worker, thread: &mut Executor, deadline: Instant) -> bool {
        self.closed.store(true, Ordering::SeqCst);
        worker.channel.wake_consumer();
        let late = || Instant::now() >= deadline || worker.stopping();
        let mut waits = lock(&self.reader);
        while !*waits {
            if late() {
                return false;
            }
            let waited = self.moved.wait_timeout(waits, LOOK);
            waits = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(waits);
        worker.issuers.settle(worker, u64::MAX, 0);
        while self.inside.load(Ordering::SeqCst) > 0 {
            if late() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        synchronise(worker, thread);
        !late()
    }
}

/// Waits for the device to finish. What fails has nothing running any more; a sticky error is shown to the client.
fn synchronise(worker: &Worker, thread: &mut Executor) {
    for ctx in worker.registrar.alive() {
        if thread.switch(worker, ctx).is_err() {
            continue;
        }
        if !worker.captures.any() {
            if let Some(synchronize) = worker.driver.cuCtxSynchronize {
                // SAFETY: no arguments; the context is current.
                note(worker, unsafe { synchronize() });
            }
            continue;
        }
        // A capture forbids to wait for the whole context, so each stream that is not captured is waited for. The legacy
        // stream cannot be asked without spoiling the capture.
        let Some(synchronize) = worker.driver.cuStreamSynchronize else {
            continue;
        };
        for stream in worker.live.all(Kind::Stream, |entry| entry.ctx == ctx) {
            if worker.captures.of(stream).is_none() {
                // SAFETY: the stream is live: nothing destroys one while the gate is closed.
                note(worker, unsafe { synchronize(CUstream(stream)) });
            }
        }
    }
}

fn note(worker: &Worker, result: CUresult) {
    if result != CUresult::SUCCESS {
        worker.note(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn whoever_passes_waits_for_an_open_gate() {
        let gate = Arc::new(Gate::default());
        drop(gate.pass());
        gate.closed.store(true, Ordering::SeqCst);
        let own = Arc::clone(&gate);
        let passing = std::thread::spawn(move || {
            drop(own.pass());
            own.is_closed()
        });
        gate.wait(|| true);
        gate.open();
        assert!(!passing.join().expect("the thread"));
        assert_eq!(gate.inside.load(Ordering::SeqCst), 0);
    }
}
