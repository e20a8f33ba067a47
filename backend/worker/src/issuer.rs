//! The reader of the command ring, which is also the issuer of the first context: it executes, in
//! ring order, what cannot block. What may block goes to the lane of the guest thread that asked,
//! records of further contexts go to their own [issuers](crate::issuers). It never waits for a lane.

use crate::call::{Executor, Request, execute};
use crate::lanes::Lanes;
use crate::live::Kind;
use crate::state::Worker;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu_channel::ring::{Record, RecordBuf};
use vgpu_channel::server::Consumer;
use vgpu_channel::wait::AdaptiveSpin;
use vgpu_protocol::cuda::{CUresult, CUstream};
use vgpu_protocol::number::{CALLS, Place, call, internal};
use vgpu_protocol::wire::{self, Blob, RECORD_BLOB, RECORD_FOREIGN, read_prefix};
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
    spin: AdaptiveSpin,
    /// The context whose records are executed here: the first that was current in a record.
    home: u64,
}

impl Issuer {
    /// An issuer on the calling thread.
    pub fn new(worker: Arc<Worker>, consumer: Consumer) -> Self {
        let spin = AdaptiveSpin::new(worker.budget);
        Self {
            thread: Executor::new(&worker.driver, 0),
            lanes: Lanes::new(Arc::clone(&worker)),
            worker,
            consumer,
            spin,
            home: 0,
        }
    }

    /// Runs until the client is gone, the ring is corrupt or the worker stops.
    pub fn run(&mut self) -> Ended {
        let mut buf = RecordBuf::new();
        loop {
            if self.worker.gate.is_closed() {
                let worker = &self.worker;
                let over = || worker.stopping() || worker.channel.is_gone();
                worker.gate.wait(over);
            }
            match self.consumer.pop(&mut buf) {
                Ok(Some(record)) => {
                    let mut reader = Reader {
                        worker: &self.worker,
                        thread: &mut self.thread,
                        lanes: &mut self.lanes,
                        home: &mut self.home,
                    };
                    reader.handle(&record);
                }
                Ok(None) => {
                    if let Some(ended) = self.idle() {
                        self.stop();
                        return ended;
                    }
                }
                Err(corrupt) => {
                    tracing::error!("the command ring is corrupt, the channel ends: {corrupt}");
                    self.stop();
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
        let ready = || self.consumer.ready();
        if ready() || self.worker.spin(&self.spin.budget(), ready) {
            return None;
        }
        look_for_faults(&self.worker, &mut self.thread);
        let asleep = Instant::now();
        // The limit only serves `Worker::stop`; a client's record or end wakes at once.
        let woken = self.consumer.sleep(None, Some(Duration::from_secs(1)));
        self.spin.outlived(asleep.elapsed());
        match woken {
            Ok(woken) if woken.gone && !self.consumer.ready() => Some(Ended::Gone),
            Ok(_) => None,
            Err(error) => {
                tracing::error!("the issuer cannot sleep: {error}");
                Some(Ended::Gone)
            }
        }
    }

    fn stop(&mut self) {
        self.lanes.stop();
        self.worker.issuers.stop();
    }
}

/// Asks once for the streams whose timeline was written: a fault otherwise shows only when somebody
/// makes a real call (`semantics.md` 6).
pub fn look_for_faults(worker: &Worker, thread: &mut Executor) {
    if worker.captures.any() {
        return;
    }
    let Some(query) = worker.driver.cuStreamQuery else {
        return;
    };
    for (ctx, stream) in std::mem::take(&mut thread.flushed) {
        let live = stream <= CUstream::LEGACY.0 || worker.live.contains(Kind::Stream, stream);
        if !live || thread.switch(worker, ctx).is_err() {
            continue;
        }
        // SAFETY: the stream is live, or the legacy stream of the current context.
        let result = unsafe { query(CUstream(stream)) };
        if result != CUresult::SUCCESS {
            worker.note(result);
        }
    }
}

/// What the reader needs for one record.
struct Reader<'a> {
    worker: &'a Arc<Worker>,
    thread: &'a mut Executor,
    lanes: &'a mut Lanes,
    home: &'a mut u64,
}

impl Reader<'_> {
    #[inline]
    fn handle(&mut self, record: &Record<'_>) {
        let worker = self.worker;
        let header = record.header;
        let mut request = Request {
            header,
            position: record.position,
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
                self.lanes.end(header.thread);
            } else {
                self.issue(request, &payload);
            }
            return;
        };
        if worker.captures.any()
            && let Some(issuer) = self.captured(&mut request, unsafe_in_capture, &payload)
        {
            self.issue_at(issuer, request, &payload);
        } else if lane {
            if let Err(request) = self.lanes.send(request, &payload) {
                crate::call::refuse(worker, self.thread, request, CUresult::OUT_OF_MEMORY);
            }
        } else {
            self.issue(request, &payload);
        }
    }

    /// Executes a record here or has the issuer of its context do it.
    #[inline]
    fn issue(&mut self, request: Request, payload: &[u8]) {
        let scope = request.header.scope;
        if scope != *self.home && scope != 0 {
            return self.issue_elsewhere(request, payload);
        }
        if request.header.flags & RECORD_FOREIGN != 0 {
            self.worker.issuers.settle(self.worker, request.position, 0);
        }
        execute(self.worker, self.thread, request, payload);
    }

    #[cold]
    fn issue_elsewhere(&mut self, request: Request, payload: &[u8]) {
        let worker = self.worker;
        let scope = request.header.scope;
        if !worker.live.contains(Kind::Context, scope) {
            // The driver refuses what needs a context.
            return execute(worker, self.thread, request, payload);
        }
        if !worker.live.contains(Kind::Context, *self.home) && !worker.issuers.any() {
            *self.home = scope;
            self.thread.set_own(scope);
            return execute(worker, self.thread, request, payload);
        }
        if request.header.flags & RECORD_FOREIGN != 0 {
            worker.issuers.settle(worker, request.position, 0);
            return execute(worker, self.thread, request, payload);
        }
        self.issue_at(scope, request, payload);
    }

    /// Has a record executed by the issuer of context `ctx`.
    fn issue_at(&mut self, ctx: u64, request: Request, payload: &[u8]) {
        let sent = if ctx == *self.home {
            Err(request)
        } else {
            self.worker.issuers.send(self.worker, ctx, request, payload)
        };
        if let Err(request) = sent {
            execute(self.worker, self.thread, request, payload);
        }
    }

    /// What captures mean for a record: whether it is prohibited, and which context's issuer has to execute it for the
    /// driver to see the thread that began the capture.
    #[cold]
    fn captured(
        &self,
        request: &mut Request,
        unsafe_in_capture: bool,
        payload: &[u8],
    ) -> Option<u64> {
        let captures = &self.worker.captures;
        if unsafe_in_capture {
            let issuer = captures.prohibit(request.header.thread, request.capture_mode());
            request.prohibited = issuer.is_some();
            return issuer;
        }
        if request.header.call != call::cuStreamEndCapture {
            return None;
        }
        let (args, _) = read_prefix::<wire::cuStreamEndCapture::Args>(payload)?;
        let capture = captures.of(args.stream.0)?;
        Some(capture.issuer)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Parts;
    use std::sync::atomic::{AtomicBool, Ordering};
    use vgpu_channel::link::Hello;
    use vgpu_channel::loopback;
    use vgpu_channel::ring::RecordHeader;
    use vgpu_channel::server::Config;
    use vgpu_driver::Driver;
    use vgpu_protocol::cuda::CUcontext;
    use vgpu_protocol::wire::RECORD_REPLY;

    const QUICK: u64 = 0x1000;
    const SLOW: u64 = 0x2000;

    /// Whether a driver's call in the context [`SLOW`] is over.
    static OVER: AtomicBool = AtomicBool::new(false);

    unsafe extern "C" fn set_current(ctx: CUcontext) -> CUresult {
        while ctx.0 == SLOW && !OVER.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        CUresult::SUCCESS
    }

    #[test]
    fn a_context_whose_calls_take_long_holds_up_no_other() {
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel");
        let worker = Worker::new(Parts {
            primaries: vec![QUICK, SLOW],
            ..Parts::bare(
                Driver {
                    cuCtxSetCurrent: Some(set_current),
                    ..Driver::default()
                },
                Arc::clone(&pair.server),
            )
        });
        let mut issuer = Issuer::new(Arc::clone(&worker), pair.consumer);
        let reader = std::thread::spawn(move || issuer.run());
        let client = pair.client;
        let ping = |scope, reply_address, reply_sequence| {
            let header = RecordHeader {
                call: internal::PING,
                flags: RECORD_REPLY,
                thread: 0,
                reply_sequence,
                reply_address,
                scope,
            };
            client.post(&header, &[]).expect("a record");
        };
        let answered = |slot, sequence, limit| {
            let slot = client.reply(slot).expect("a slot");
            client.wait_reply(slot, sequence, Some(limit)).is_ok()
        };
        let (quick, slow) = (client.alloc_reply(), client.alloc_reply());
        let (quick, slow) = (quick.expect("a slot"), slow.expect("a slot"));
        let limit = Duration::from_secs(10);
        ping(QUICK, quick, 1);
        assert!(answered(quick, 1, limit));
        ping(SLOW, slow, 1);
        ping(QUICK, quick, 2);
        let went_on = answered(quick, 2, limit);
        let held = !answered(slow, 1, Duration::from_millis(1));
        OVER.store(true, Ordering::Release);
        assert!(held && went_on, "held {held}, the other went on {went_on}");
        assert!(answered(slow, 1, limit));
        worker.stop();
        assert_eq!(reader.join().expect("no panic"), Ended::Stopped);
    }
}
