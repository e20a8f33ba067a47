//! Lanes: one thread per guest thread, for calls that may block (`semantics.md` 1).
//!
//! A lane is made at the guest thread's first such call and ended by its exit. It spins briefly for
//! the next call and then sleeps.

use crate::call::{Executor, Request, execute};
use crate::live::lock;
use crate::state::Worker;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use vgpu_channel::wait::SpinBudget;

/// Guest threads that may have a lane at once.
const MAX_LANES: usize = 1024;
/// Calls that may wait for one lane. An honest guest thread waits for each.
const MAX_WAITING: usize = 64;
/// How long a lane spins for the next call: calls of this kind tend to come in groups.
const SPIN: Duration = Duration::from_micros(20);

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<(Request, Vec<u8>)>,
    /// The lane sleeps: only then is it worth a system call to say that a job arrived.
    asleep: bool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    arrived: Condvar,
    /// Jobs that wait, for spinning without the lock.
    waiting: AtomicU32,
    ended: AtomicBool,
}

/// The lanes of a worker; owned by the issuer.
#[derive(Debug)]
pub struct Lanes {
    worker: Arc<Worker>,
    lanes: HashMap<u32, Arc<Queue>>,
}

impl Lanes {
    /// No lanes yet.
    pub fn new(worker: Arc<Worker>) -> Self {
        Self {
            worker,
            lanes: HashMap::new(),
        }
    }

    /// Hands a call to the lane of its guest thread. Gives it back when there can be no such lane
    /// or too many calls wait for it.
    ///
    /// # Errors
    /// The request.
    pub fn send(&mut self, request: Request, payload: &[u8]) -> Result<(), Request> {
        let index = request.header.thread;
        if !self.lanes.contains_key(&index) {
            if self.lanes.len() >= MAX_LANES {
                return Err(request);
            }
            let lane = start(Arc::clone(&self.worker), index).ok_or(request)?;
            self.lanes.insert(index, lane);
        }
        let Some(lane) = self.lanes.get(&index) else {
            return Err(request);
        };
        let mut jobs = lock(&lane.jobs);
        if jobs.waiting.len() >= MAX_WAITING {
            return Err(request);
        }
        self.worker.gate.enter();
        jobs.waiting.push_back((request, payload.to_vec()));
        lane.waiting
            .store(jobs.waiting.len() as u32, Ordering::Release);
        let asleep = jobs.asleep;
        drop(jobs);
        if asleep {
            lane.arrived.notify_one();
        }
        Ok(())
    }

    /// Ends the lane of a guest thread, after the calls it has.
    pub fn end(&mut self, index: u32) {
        if let Some(lane) = self.lanes.remove(&index) {
            lane.end();
        }
    }

    /// Ends all lanes, each after the call it is in.
    pub fn stop(&mut self) {
        for (_, lane) in self.lanes.drain() {
            lock(&lane.jobs).waiting.clear();
            lane.end();
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Queue {
    fn end(&self) {
        // Under the lock, so that a lane about to sleep does not miss it.
        let jobs = lock(&self.jobs);
        self.ended.store(true, Ordering::Release);
        drop(jobs);
        self.arrived.notify_one();
    }

    /// The next call, or `None` at the end.
    fn next(&self, worker: &Worker, budget: &SpinBudget) -> Option<(Request, Vec<u8>)> {
        worker.spin(budget, || {
            self.waiting.load(Ordering::Acquire) != 0 || self.ended.load(Ordering::Relaxed)
        });
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                self.waiting
                    .store(jobs.waiting.len() as u32, Ordering::Relaxed);
                return Some(job);
            }
            if self.ended.load(Ordering::Acquire) {
                return None;
            }
            jobs.asleep = true;
            jobs = self
                .arrived
                .wait(jobs)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            jobs.asleep = false;
        }
    }
}

fn start(worker: Arc<Worker>, index: u32) -> Option<Arc<Queue>> {
    let queue = Arc::new(Queue::default());
    let own = Arc::clone(&queue);
    let spawned = std::thread::Builder::new()
        .name(format!("lane-{index}"))
        .spawn(move || {
            let mut thread = Executor::new(&worker.driver, 0);
            let budget = SpinBudget::new(SPIN);
            while let Some((request, payload)) = own.next(&worker, &budget) {
                worker.issuers.settle(&worker, request.position, 0);
                execute(&worker, &mut thread, request, &payload);
                worker.gate.leave();
            }
        });
    match spawned {
        Ok(_) => Some(queue),
        Err(error) => {
            tracing::error!("no thread for another lane: {error}");
            None
        }
    }
}
