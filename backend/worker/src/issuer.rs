//! The issuer: reads the command ring and executes, in ring order, what cannot block. What may
//! block goes to the lane of the guest thread that asked. The issuer never waits for a lane.
//!
//! There is one issuer, which switches contexts. Everything it keeps is in [`Executor`], so that
//! one per context can follow.

use crate::call::{Executor, Request, execute};
use crate::lanes::Lanes;
use crate::live::Kind;
use crate::state::Worker;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use vgpu_channel::ring::{Record, RecordBuf};
use vgpu_channel::server::Consumer;
use vgpu_channel::wait::SpinBudget;
use vgpu_protocol::cuda::{CUresult, CUstream};
use vgpu_protocol::number::{CALLS, Place, internal};
use vgpu_protocol::wire::{Blob, RECORD_BLOB};
use zerocopy::FromBytes;

/// Why an issuer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client, or the daemon between, is gone.
    Gone,
    /// The ring cannot be read on.
    Corrupt,
    /// [`Worker::stop`] was called.
    Stopped,
}

/// Longest payload that may come as a blob. Lists of graph nodes are the longest there are.
const MAX_BLOB: u64 = 16 << 20;

const ROUTES: usize = 512;

/// What the table says about a number, for one load.
#[derive(Clone, Copy)]
struct Route {
    lane: bool,
    unsafe_in_capture: bool,
}

const fn routes() -> [Route; ROUTES] {
    let mut routes = [Route {
        lane: false,
        unsafe_in_capture: false,
    }; ROUTES];
    let mut at = 0;
    while at < CALLS.len() {
        let call = &CALLS[at];
        routes[call.number as usize] = Route {
            lane: matches!(call.place, Place::Lane),
            unsafe_in_capture: call.unsafe_in_capture,
        };
        at += 1;
    }
    routes
}

static ROUTE: [Route; ROUTES] = routes();

/// Reads and executes records until the client is gone.
#[derive(Debug)]
pub struct Issuer {
    worker: Arc<Worker>,
    consumer: Consumer,
    thread: Executor,
    lanes: Lanes,
    spin: SpinBudget,
}

impl Issuer {
    /// An issuer on the calling thread.
    pub fn new(worker: Arc<Worker>, consumer: Consumer) -> Self {
        Self {
            thread: Executor::new(&worker.driver),
            lanes: Lanes::new(Arc::clone(&worker)),
            worker,
            consumer,
            spin: SpinBudget::default(),
        }
    }

    /// Sets how long to spin for a record before sleeping.
    pub fn set_spin(&mut self, spin: SpinBudget) {
        self.spin = spin;
    }

    /// Runs until the client is gone, the ring is corrupt or the worker stops.
    pub fn run(&mut self) -> Ended {
        let mut buf = RecordBuf::new();
        loop {
            match self.consumer.pop(&mut buf) {
                Ok(Some(record)) => {
                    Self::handle(&self.worker, &mut self.thread, &mut self.lanes, &record);
                }
                Ok(None) => {
                    if let Some(ended) = self.idle() {
                        self.lanes.stop();
                        return ended;
                    }
                }
                Err(corrupt) => {
                    tracing::error!("the command ring is corrupt, the channel ends: {corrupt}");
                    self.lanes.stop();
                    return Ended::Corrupt;
                }
            }
        }
    }

    /// Waits for the next record.
    fn idle(&mut self) -> Option<Ended> {
        if self.worker.stopping() {
            return Some(Ended::Stopped);
        }
        if self.consumer.ready() || self.consumer.spin(&self.spin) {
            return None;
        }
        self.look_for_faults();
        // The limit only serves `Worker::stop`; a client's record or end wakes at once.
        match self.consumer.sleep(None, Some(Duration::from_secs(1))) {
            Ok(woken) if woken.gone && !self.consumer.ready() => Some(Ended::Gone),
            Ok(_) => None,
            Err(error) => {
                tracing::error!("the issuer cannot sleep: {error}");
                Some(Ended::Gone)
            }
        }
    }

    /// Asks once for the streams whose timeline was written: a fault otherwise shows only when
    /// somebody makes a real call (`semantics.md` 6).
    fn look_for_faults(&mut self) {
        if self.worker.captures.any() {
            return;
        }
        let Some(query) = self.worker.driver.cuStreamQuery else {
            return;
        };
        for (ctx, stream) in std::mem::take(&mut self.thread.flushed) {
            let live =
                stream <= CUstream::LEGACY.0 || self.worker.live.contains(Kind::Stream, stream);
            if !live || self.thread.switch(&self.worker, ctx).is_err() {
                continue;
            }
            // SAFETY: the stream is live, or the legacy stream of the current context.
            let result = unsafe { query(CUstream(stream)) };
            if result != CUresult::SUCCESS {
                self.worker.note(result);
            }
        }
    }

    #[inline]
    fn handle(worker: &Arc<Worker>, thread: &mut Executor, lanes: &mut Lanes, record: &Record<'_>) {
        let header = record.header;
        let mut request = Request {
            header,
            stamp: record.position as u32,
            prohibited: false,
        };
        let payload = if header.flags & RECORD_BLOB == 0 {
            Cow::Borrowed(record.payload)
        } else {
            // An unreadable blob leaves an empty payload, which no call takes.
            Cow::Owned(fetch(worker, record.payload).unwrap_or_default())
        };
        let route = ROUTE.get(usize::from(header.call)).copied();
        let Some(Route {
            lane,
            unsafe_in_capture,
        }) = route
        else {
            if header.call == internal::THREAD_EXIT {
                lanes.end(header.thread);
            } else {
                execute(worker, thread, request, &payload);
            }
            return;
        };
        if unsafe_in_capture && worker.captures.any() {
            request.prohibited = worker
                .captures
                .prohibit(header.thread, request.capture_mode());
        }
        // A prohibited call is refused by the driver at once, and only on the thread that began the
        // capture: this one.
        if lane && !request.prohibited {
            if let Err(request) = lanes.send(request, &payload) {
                crate::call::refuse(worker, thread, request, CUresult::OUT_OF_MEMORY);
            }
        } else {
            execute(worker, thread, request, &payload);
        }
    }
}

/// Copies a payload that lies in shared memory, once.
#[cold]
fn fetch(worker: &Worker, payload: &[u8]) -> Option<Vec<u8>> {
    let blob = Blob::read_from_bytes(payload).ok()?;
    if blob.len > MAX_BLOB {
        return None;
    }
    worker.shared_range(blob.addr, blob.len).ok()?;
    let mut bytes = vec![0; usize::try_from(blob.len).ok()?];
    worker.channel.copy_out(blob.addr, &mut bytes).ok()?;
    Some(bytes)
}
