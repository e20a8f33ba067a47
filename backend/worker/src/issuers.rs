//! Issuers of further contexts (`semantics.md` 1).
//!
//! The ring's reader executes the records of one context, its *home*, and those of none. Records of any other context go,
//! copied, to that context's own issuer thread, in ring order. So a context whose driver calls take long holds up its own
//! records only, and a process that uses one context pays nothing but one comparison.
//!
//! Order between contexts is kept by *settling*: before a command that concerns more than one context is executed, every
//! record with a smaller ring position must have been. The reader settles for records that the client marked
//! [`RECORD_FOREIGN`](vgpu_protocol::wire::RECORD_FOREIGN) and executes them itself, so nothing behind them overtakes
//! them. Lanes settle for each of their calls. Any issuer settles when a record of its context names a stream or an event
//! of another one.
//!
//! Nobody waits in a circle: settling at a position waits only for records with smaller ones, the reader waits for a queue
//! with room in which the oldest record has a smaller position than the one it holds, and no issuer waits for the reader.

use crate::call::{Executor, Request, execute};
use crate::issuer::look_for_faults;
use crate::live::{Kind, lock};
use crate::state::Worker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Records that may wait for one issuer. Beyond that the reader waits.
const MAX_WAITING: usize = 8192;
/// Contexts with an issuer of their own, at most. The reader serves the others.
const MAX_ISSUERS: usize = 64;
/// How often a waiting thread looks whether the worker stops.
const LOOK: Duration = Duration::from_millis(100);
/// Payload buffers kept for the next records, and the longest that is worth it.
const SPARE: usize = 256;
const SPARE_BYTES: usize = 4096;

#[derive(Debug, Default)]
struct Records {
    waiting: VecDeque<(Request, Vec<u8>)>,
    /// Position of the record being executed.
    executing: Option<u64>,
    /// Buffers for payloads to come.
    spare: Vec<Vec<u8>>,
    /// Threads that wait for records to be executed.
    watched: u32,
    /// The issuer sleeps: only then is it worth a system call to say that a record arrived.
    asleep: bool,
    ended: bool,
}

impl Records {
    /// Position of the oldest record that was not executed yet.
    fn oldest(&self) -> Option<u64> {
        let first = || self.waiting.front().map(|(request, _)| request.position);
        self.executing.or_else(first)
    }
}

#[derive(Debug)]
struct Queue {
    ctx: u64,
    records: Mutex<Records>,
    arrived: Condvar,
    executed: Condvar,
    /// Records in `waiting`, for spinning without the lock.
    count: AtomicU32,
}

/// The issuers of all contexts but the reader's home.
#[derive(Debug, Default)]
pub struct Issuers {
    queues: Mutex<Vec<Arc<Queue>>>,
    any: AtomicBool,
}

impl Issuers {
    /// Whether there is any. One load.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn all(&self) -> Vec<Arc<Queue>> {
        lock(&self.queues).clone()
    }

    /// Waits until every record with a smaller position than `position` was executed, but for those of context `own`,
    /// whose issuer asks.
    pub fn settle(&self, worker: &Worker, position: u64, own: u64) {
        if !self.any() {
            return;
        }
        for queue in self.all().iter().filter(|queue| queue.ctx != own) {
            drop(queue.wait_while(worker, |records| {
                records.oldest().is_some_and(|oldest| oldest < position)
            }));
        }
    }

    /// Hands a record to the issuer of context `ctx`, which is made if need be. Gives the record back when there can be
    /// none: then everything was settled, and the reader executes it.
    ///
    /// # Errors
    /// The request.
    pub fn send(
        &self,
        worker: &Arc<Worker>,
        ctx: u64,
        request: Request,
        payload: &[u8],
    ) -> Result<(), Request> {
        let Some(queue) = self.of(worker, ctx) else {
            self.settle(worker, request.position, 0);
            return Err(request);
        };
        let mut records = queue.wait_while(worker, |records| records.waiting.len() >= MAX_WAITING);
        let mut buffer = records.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(payload);
        records.waiting.push_back((request, buffer));
        queue
            .count
            .store(records.waiting.len() as u32, Ordering::Release);
        let asleep = records.asleep;
        drop(records);
        if asleep {
            queue.arrived.notify_one();
        }
        Ok(())
    }

    fn of(&self, worker: &Arc<Worker>, ctx: u64) -> Option<Arc<Queue>> {
        let mut queues = lock(&self.queues);
        if let Some(queue) = queues.iter().find(|queue| queue.ctx == ctx) {
            return Some(Arc::clone(queue));
        }
        queues.retain(|queue| !queue.end_if_idle_and_dead(worker));
        let queue = if queues.len() < MAX_ISSUERS {
            start(worker, ctx)
        } else {
            None
        };
        queues.extend(queue.clone());
        self.any.store(!queues.is_empty(), Ordering::Release);
        queue
    }

    /// Ends all issuers, each after the record it is at.
    pub fn stop(&self) {
        for queue in self.all() {
            let mut records = lock(&queue.records);
            records.waiting.clear();
            records.ended = true;
            drop(records);
            queue.arrived.notify_one();
            queue.executed.notify_all();
        }
    }
}

impl Queue {
    /// Waits until `busy` is false of the records, or the worker stops.
    fn wait_while(
        &self,
        worker: &Worker,
        busy: impl Fn(&Records) -> bool,
    ) -> MutexGuard<'_, Records> {
        let mut records = lock(&self.records);
        while busy(&records) && !worker.stopping() && !records.ended {
            records.watched += 1;
            let waited = self.executed.wait_timeout(records, LOOK);
            records = waited.unwrap_or_else(PoisonError::into_inner).0;
            records.watched -= 1;
        }
        records
    }

    /// Ends the issuer of a context that is gone. Its records came before whatever the reader is at, so if some are left,
    /// the issuer stays until they are refused.
    fn end_if_idle_and_dead(&self, worker: &Worker) -> bool {
        let mut records = lock(&self.records);
        let over = records.oldest().is_none() && !worker.live.contains(Kind::Context, self.ctx);
        if over {
            records.ended = true;
            drop(records);
            self.arrived.notify_one();
        }
        over
    }

    /// Marks the last record as executed, and gives the next one, or `None` at the end. `spin` may wait for the number of
    /// waiting records to become positive, and says whether it did; `idle` runs before a sleep.
    fn next(
        &self,
        done: Option<Vec<u8>>,
        spin: impl Fn(&AtomicU32) -> bool,
        mut idle: impl FnMut(),
    ) -> Option<(Request, Vec<u8>)> {
        let mut records = lock(&self.records);
        records.executing = None;
        if let Some(mut buffer) = done
            && records.spare.len() < SPARE
            && buffer.capacity() <= SPARE_BYTES
        {
            buffer.clear();
            records.spare.push(buffer);
        }
        if records.watched > 0 {
            self.executed.notify_all();
        }
        let mut looked = false;
        loop {
            if let Some(record) = records.waiting.pop_front() {
                self.count
                    .store(records.waiting.len() as u32, Ordering::Relaxed);
                records.executing = Some(record.0.position);
                return Some(record);
            }
            if records.ended {
                return None;
            }
            if looked {
                records.asleep = true;
                let waited = self.arrived.wait(records);
                records = waited.unwrap_or_else(PoisonError::into_inner);
                records.asleep = false;
                looked = false;
            } else {
                drop(records);
                looked = !spin(&self.count);
                if looked {
                    idle();
                }
                records = lock(&self.records);
            }
        }
    }
}

fn start(worker: &Arc<Worker>, ctx: u64) -> Option<Arc<Queue>> {
    let queue = Arc::new(Queue {
        ctx,
        records: Mutex::default(),
        arrived: Condvar::new(),
        executed: Condvar::new(),
        count: AtomicU32::new(0),
    });
    let (own, worker) = (Arc::clone(&queue), Arc::clone(worker));
    let spawned = std::thread::Builder::new()
        .name(format!("issuer-{ctx:x}"))
        .spawn(move || {
            let mut thread = Executor::new(&worker.driver, ctx);
            let spin = |count: &AtomicU32| {
                worker.spin(&worker.budget, || count.load(Ordering::Acquire) != 0)
            };
            let mut done = None;
            while let Some((request, payload)) =
                own.next(done.take(), spin, || look_for_faults(&worker, &mut thread))
            {
                execute(&worker, &mut thread, request, &payload);
                done = Some(payload);
            }
        });
    match spawned {
        Ok(_) => Some(queue),
        Err(error) => {
            tracing::error!("no thread for another context's issuer: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Parts;
    use vgpu_channel::link::Hello;
    use vgpu_channel::loopback::{self, Loopback};
    use vgpu_channel::ring::RecordHeader;
    use vgpu_channel::server::Config;
    use vgpu_driver::Driver;
    use vgpu_protocol::number::internal::PING;
    use vgpu_protocol::wire::RECORD_REPLY;

    fn worker(contexts: &[u64]) -> (Arc<Worker>, Loopback) {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel");
        let worker = Worker::new(Parts {
            primaries: contexts.to_vec(),
            ..Parts::bare(Driver::default(), Arc::clone(&pair.server))
        });
        (worker, pair)
    }

    fn ping(position: u64, slot: u64) -> Request {
        Request {
            header: RecordHeader {
                call: PING,
                flags: RECORD_REPLY,
                thread: 0,
                reply_sequence: position as u32,
                reply_address: slot,
                scope: 0,
            },
            position,
            prohibited: false,
        }
    }

    #[test]
    fn settling_waits_for_all_earlier_records_and_for_no_later_one() {
        let (worker, pair) = worker(&[0x1000, 0x2000]);
        let slot = pair.client.alloc_reply().expect("a slot");
        let other = pair.client.alloc_reply().expect("a slot");
        assert!(!worker.issuers.any());
        for position in 1..=2000 {
            let ctx = if position % 2 == 0 { 0x1000 } else { 0x2000 };
            let slot = if position % 2 == 0 { slot } else { other };
            let sent = worker.issuers.send(&worker, ctx, ping(position, slot), &[]);
            assert!(sent.is_ok());
        }
        worker.issuers.settle(&worker, 2001, 0);
        for (slot, last) in [(slot, 2000), (other, 1999)] {
            assert!(pair.client.reply(slot).expect("a slot").is_complete(last));
        }
        // Held by nobody: there is nothing before position 1.
        worker.issuers.settle(&worker, 1, 0);
        worker.stop();
        worker.issuers.stop();
    }

    #[test]
    fn there_are_only_so_many_issuers_and_dead_contexts_give_theirs_back() {
        let contexts: Vec<u64> = (1..=MAX_ISSUERS as u64 + 1).map(|n| n * 0x1000).collect();
        let (worker, pair) = worker(&contexts);
        let slot = pair.client.alloc_reply().expect("a slot");
        let (last, others) = contexts.split_last().expect("some");
        for (position, ctx) in (1..).zip(others) {
            let sent = worker
                .issuers
                .send(&worker, *ctx, ping(position, slot), &[]);
            assert!(sent.is_ok());
        }
        let position = contexts.len() as u64;
        let refused = worker
            .issuers
            .send(&worker, *last, ping(position, slot), &[]);
        assert_eq!(refused.map_err(|request| request.position), Err(position));
        worker.live.remove(Kind::Context, 0x1000);
        let sent = worker
            .issuers
            .send(&worker, *last, ping(position, slot), &[]);
        assert!(sent.is_ok());
        worker.stop();
        worker.issuers.stop();
    }
}
