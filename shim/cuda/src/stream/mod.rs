//! Streams and their timelines.
//!
//! Every stream has a *timeline word* in the shared heap. A command's *stamp* is the low half of
//! its ring position; when the device has finished everything up to a flushed command, it writes
//! that command's stamp to the word. So an idle stream is seen by one load, and waiting costs no
//! host thread (`semantics.md` 4). The driver's own synchronisation is used where a word must not
//! be: during captures, on the legacy stream while other blocking streams live, once device text
//! has to be relayed or memory was freed in stream order, and for waits that last (`semantics.md` 3, 6,
//! 8).

mod calls;
mod staging;

pub use calls::*;
pub use staging::*;

use crate::call;
use crate::client::{self, Client};
use crate::context;
use crate::thread::{self, Lane, Thread};
use core::mem::ManuallyDrop;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use vgpu_channel::staging::Chunk;
use vgpu_channel::timeline::{later, reached};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::{call as number, internal};
use vgpu_protocol::wire::{self, Word};
use zerocopy::{FromZeros, IntoBytes};

/// Commands between two unasked writes of the timeline word.
const FLUSH_EVERY: u32 = 128;

/// Spans of [`FLUSH_EVERY`] commands that may be in flight. A driver's stream takes about a
/// thousand commands before it blocks the issuing thread, which must not happen; programs that hold
/// a stream up and post behind it count on several hundred (900 fit on an H100).
const SPANS_IN_FLIGHT: u32 = 7;

/// Rounds of spinning, a millisecond each, before a wait sleeps in the driver.
const SPIN_ROUNDS: u32 = 8;

/// Which stream handle 0 means: plain exports say legacy, `_ptsz`/`_ptds` exports per-thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullStream {
    /// The legacy default stream.
    Legacy,
    /// The calling thread's default stream.
    PerThread,
}

/// A stream as the shim knows it.
#[derive(Debug)]
pub struct State {
    /// The worker's handle; the legacy stream's special value for that one.
    pub handle: CUstream,
    /// The context it belongs to.
    pub ctx: CUcontext,
    /// Creation flags.
    pub flags: u32,
    /// Address of the timeline word, or 0 if the driver cannot write such words.
    word: u64,
    /// Stamp of the last command.
    last: AtomicU32,
    /// Stamp of the last command behind which the word is written.
    flushed: AtomicU32,
    /// A stamp known to be reached without the word saying so.
    done: AtomicU32,
    /// A stamp up to which the driver itself has synchronised, text of device code included.
    synchronised: AtomicU32,
    /// Commands so far.
    count: AtomicU32,
    /// Stamps of the last unasked writes, by span.
    spans: [AtomicU32; 8],
    /// Memory was freed in stream order since the driver last synchronised the stream itself.
    freed: AtomicBool,
    /// Gone: destroyed or its context is.
    dead: AtomicBool,
    id: AtomicU64,
}

/// Streams by handle; legacy streams also by context, since they share one handle.
type Streams = HashMap<(CUcontext, CUstream), Arc<State>>;

static STREAMS: LazyLock<RwLock<Streams>> = LazyLock::new(RwLock::default);

/// Moves whenever a stream goes away, so that threads drop what they remember.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Contexts in which streams were destroyed before they were seen idle: their work goes on, and only the driver can say
/// when it is over.
static LEFT_BUSY: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

fn left_busy() -> MutexGuard<'static, BTreeSet<u64>> {
    LEFT_BUSY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One remembered look-up: stream, current context, generation, state.
type Remembered = (CUstream, CUcontext, u64, Arc<State>);

thread_local! {
    /// The last look-ups of this thread, by a few bits of the handle.
    static RECENT: ManuallyDrop<RefCell<[Option<Remembered>; 8]>> =
        const { ManuallyDrop::new(RefCell::new([const { None }; 8])) };
}

/// The state of a stream as the program names it.
///
/// # Errors
/// `INVALID_CONTEXT` for a default stream without a current context, `INVALID_HANDLE` for what is
/// no stream.
pub fn find(
    client: &Client,
    stream: CUstream,
    default: NullStream,
) -> Result<Arc<State>, CUresult> {
    let ctx = thread::with(|thread| Ok(thread.current.get()))?;
    let stream = match (stream, default) {
        (CUstream::NULL, NullStream::Legacy) => CUstream::LEGACY,
        (CUstream::NULL, NullStream::PerThread) => CUstream::PER_THREAD,
        (other, _) => other,
    };
    let stream = if stream == CUstream::PER_THREAD {
        own(client, ctx)?
    } else {
        stream
    };
    let generation = GENERATION.load(Ordering::Acquire);
    RECENT.with(|recent| {
        let mut recent = recent.borrow_mut();
        let place = &mut recent[(stream.0 >> 4 ^ stream.0 >> 12) as usize % 8];
        if let Some((known, under, at, state)) = place
            && (*known, *under, *at) == (stream, ctx, generation)
        {
            return Ok(state.clone());
        }
        let state = find_slow(client, stream, ctx)?;
        *place = Some((stream, ctx, generation, state.clone()));
        Ok(state)
    })
}

fn find_slow(client: &Client, stream: CUstream, ctx: CUcontext) -> Result<Arc<State>, CUresult> {
    let key = if stream == CUstream::LEGACY {
        if ctx.is_null() {
            return Err(CUresult::INVALID_CONTEXT);
        }
        (ctx, stream)
    } else {
        (CUcontext::NULL, stream)
    };
    if let Some(state) = STREAMS
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
    {
        return Ok(state.clone());
    }
    if stream != CUstream::LEGACY {
        return Err(CUresult::INVALID_HANDLE);
    }
    let state = Arc::new(State::new(client, CUstream::LEGACY, ctx, 0)?);
    let mut streams = STREAMS.write().unwrap_or_else(PoisonError::into_inner);
    Ok(streams.entry(key).or_insert(state).clone())
}

/// The handle to send for a stream the program names.
///
/// # Errors
/// As [`find`].
pub fn handle(
    client: &Client,
    stream: CUstream,
    default: NullStream,
) -> Result<CUstream, CUresult> {
    find(client, stream, default).map(|state| state.handle)
}

/// The calling thread's default stream in `ctx`: a real blocking stream, made on first use
/// (`semantics.md` 8).
fn own(client: &Client, ctx: CUcontext) -> Result<CUstream, CUresult> {
    if ctx.is_null() {
        return Err(CUresult::INVALID_CONTEXT);
    }
    let known = thread::with(|thread| {
        let own = thread.own_streams.borrow();
        Ok(own
            .iter()
            .find(|(of, _)| *of == ctx)
            .map(|(_, stream)| *stream))
    })?;
    if let Some(stream) = known {
        let key = (CUcontext::NULL, stream);
        if STREAMS
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&key)
        {
            return Ok(stream);
        }
    }
    let stream = create(client, 0, None)?;
    thread::with(|thread| {
        let mut own = thread.own_streams.borrow_mut();
        own.retain(|(of, _)| *of != ctx);
        own.push((ctx, stream));
        Ok(stream)
    })
}

/// Destroys the default streams of a thread that is ending.
///
/// # Errors
/// `DEVICE_UNAVAILABLE` when the worker is gone.
pub fn end_own(
    client: &Client,
    lane: &Lane,
    own: &[(CUcontext, CUstream)],
) -> Result<(), CUresult> {
    for (_, stream) in own {
        let key = (CUcontext::NULL, *stream);
        let gone = STREAMS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        if let Some(state) = gone {
            state.ends(client);
            GENERATION.fetch_add(1, Ordering::Release);
            let args = wire::cuStreamDestroy_v2::Args {
                stream: Word::of(*stream),
            };
            client.notify(
                lane.index,
                lane.slot,
                number::cuStreamDestroy_v2,
                args.as_bytes(),
            )?;
        }
    }
    Ok(())
}

/// Forgets what the calling thread remembers, when it ends.
pub fn forget_recent() {
    RECENT.with(|recent| recent.borrow_mut().fill(None));
}

/// Never-reused id of a stream.
///
/// # Errors
/// As [`find`].
pub fn id(stream: CUstream) -> Result<u64, CUresult> {
    id_of(stream, NullStream::Legacy)
}

fn id_of(stream: CUstream, default: NullStream) -> Result<u64, CUresult> {
    let client = client::entered()?;
    let state = find(client, stream, default)?;
    let known = state.id.load(Ordering::Relaxed);
    if known != 0 {
        return Ok(known);
    }
    let args = wire::cuStreamGetId::Args {
        stream: Word::of(state.handle),
        id: [],
    };
    let mut reply = wire::cuStreamGetId::Reply::new_zeroed();
    call::call(
        client,
        number::cuStreamGetId,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let id = reply.id.get();
    state.id.store(id, Ordering::Relaxed);
    Ok(id)
}

impl State {
    fn new(
        client: &Client,
        handle: CUstream,
        ctx: CUcontext,
        flags: u32,
    ) -> Result<Self, CUresult> {
        // Everything up to now counts as reached: nothing of this stream has been sent yet.
        let start = client.stamp_now().wrapping_sub(1);
        let word = client.new_word(start)?;
        Ok(Self::at(handle, ctx, flags, word, start))
    }

    /// A stream on which everything up to `start` is done.
    fn at(handle: CUstream, ctx: CUcontext, flags: u32, word: u64, start: u32) -> Self {
        Self {
            handle,
            ctx,
            flags,
            word,
            last: AtomicU32::new(start),
            flushed: AtomicU32::new(start),
            done: AtomicU32::new(start),
            synchronised: AtomicU32::new(start),
            count: AtomicU32::new(0),
            spans: [const { AtomicU32::new(0) }; 8].map(|_| AtomicU32::new(start)),
            freed: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            id: AtomicU64::new(0),
        }
    }

    /// Address of the timeline word, if there is one.
    pub fn word_address(&self) -> Option<u64> {
        (self.word != 0).then_some(self.word)
    }

    /// Whether it is the legacy default stream.
    pub fn is_legacy(&self) -> bool {
        self.handle == CUstream::LEGACY
    }

    /// Whether the device has passed `stamp` on this stream.
    pub fn reached(&self, client: &Client, stamp: u32) -> bool {
        reached(self.done.load(Ordering::Acquire), stamp)
            || (self.word != 0 && reached(client.word(self.word), stamp))
    }

    /// Whether everything sent so far is done.
    pub fn is_idle(&self, client: &Client) -> bool {
        self.reached(client, self.last.load(Ordering::Acquire))
    }

    /// Whether a command sent now would run at once: this stream is idle, and so is every stream that it is ordered behind.
    pub fn has_nothing_to_wait_for(&self, client: &Client) -> bool {
        if !self.is_idle(client) {
            return false;
        }
        if self.flags & CU_STREAM_NON_BLOCKING != 0 {
            return true;
        }
        if left_busy().contains(&self.ctx.0) {
            return false;
        }
        let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
        streams
            .values()
            .filter(|other| other.ctx == self.ctx && other.flags & CU_STREAM_NON_BLOCKING == 0)
            .all(|other| other.is_idle(client))
    }

    /// Notes that the stream is being destroyed.
    fn ends(&self, client: &Client) {
        if !self.is_idle(client) {
            left_busy().insert(self.ctx.0);
        }
    }

    /// Stamp of the last command.
    pub fn last(&self) -> u32 {
        self.last.load(Ordering::Acquire)
    }

    /// Notes a command that was sent.
    pub fn posted(&self, stamp: u32, flushed: bool) {
        advance(&self.last, stamp);
        if flushed {
            advance(&self.flushed, stamp);
        }
    }

    /// Notes that everything up to `stamp` is done, learnt from the driver itself.
    pub fn completed(&self, stamp: u32) {
        advance(&self.done, stamp);
    }

    /// Notes that memory was freed in stream order: the driver gives it back from its pools when it
    /// synchronises, so the next wait must not pass it by (`semantics.md` 6).
    pub fn memory_freed(&self) {
        self.freed.store(true, Ordering::Relaxed);
    }

    /// Whether the driver has pools to trim at the next synchronisation.
    pub fn trim_is_due(&self) -> bool {
        self.freed.load(Ordering::Relaxed)
    }

    /// Notes that the driver is about to synchronise the stream, or an event behind its last command.
    pub fn trimming(&self) {
        self.freed.store(false, Ordering::Relaxed);
    }

    /// Notes that the driver synchronised everything up to `stamp`.
    fn synchronised(&self, stamp: u32) {
        self.completed(stamp);
        advance(&self.synchronised, stamp);
    }

    /// Whether the driver has synchronised everything sent so far.
    fn is_synchronised(&self) -> bool {
        reached(self.synchronised.load(Ordering::Acquire), self.last())
    }

    /// Moves the stamps of an idle stream up to `base`.
    fn move_up(&self, base: u32) {
        let synchronised = if self.is_synchronised() {
            base
        } else {
            base.wrapping_sub(1)
        };
        advance(&self.synchronised, synchronised);
        for stamp in [&self.last, &self.flushed, &self.done] {
            advance(stamp, base);
        }
    }

    /// Counts a command and waits while too many are in flight. True if this command should have
    /// the timeline word written behind it.
    pub fn make_room(&self, client: &Client) -> Result<bool, CUresult> {
        if self.word == 0 {
            return Ok(false);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let span = count / FLUSH_EVERY;
        if count.is_multiple_of(FLUSH_EVERY) && span >= SPANS_IN_FLIGHT {
            let wanted =
                self.spans[((span - SPANS_IN_FLIGHT) % 8) as usize].load(Ordering::Acquire);
            self.wait_long(client, wanted)?;
        }
        let last_of_span = count % FLUSH_EVERY == FLUSH_EVERY - 1;
        if last_of_span {
            // The stamp is not known before the record is reserved; one that is a little too early
            // only makes the bound a little looser.
            self.spans[(span % 8) as usize].store(client.stamp_now(), Ordering::Release);
        }
        Ok(last_of_span)
    }

    /// Waits for `stamp`, however long it takes. A word is never written once the device has failed,
    /// so the driver is asked from time to time (`semantics.md` 6).
    fn wait_long(&self, client: &Client, stamp: u32) -> Result<(), CUresult> {
        const FIRST: Duration = Duration::from_millis(1);
        const LAST: Duration = Duration::from_millis(16);
        if self.reached(client, stamp) {
            return Ok(());
        }
        let mut limit = FIRST;
        while !client.wait_word(|| self.reached(client, stamp), limit)? {
            limit = (limit * 2).min(LAST);
            let last = self.last();
            match self.query(client) {
                Ok(()) => self.completed(last),
                Err(CUresult::NOT_READY) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// `cuStreamQuery` by the driver itself.
    ///
    /// # Errors
    /// `NOT_READY` while busy; the failure that ended it.
    pub fn query(&self, client: &Client) -> Result<(), CUresult> {
        let args = wire::cuStreamQuery::Args {
            stream: Word::of(self.handle),
        };
        call::call(client, number::cuStreamQuery, &[args.as_bytes()], &mut [])
    }

    /// Waits until everything sent so far is done.
    ///
    /// # Errors
    /// The failure that ended it.
    pub fn synchronize(&self, client: &Client, default_wait: Wait) -> Result<(), CUresult> {
        call::deliver(client)?;
        if self.may_use_word(client) && !self.trim_is_due() {
            if self.is_idle(client) {
                return client.sticky();
            }
            if default_wait == Wait::Spin {
                let stamp = self.flush(client)?;
                if self.spin(client, stamp)? {
                    return call::deliver(client);
                }
            }
        }
        let last = self.last();
        if client.real_sync_only()
            && !client.capturing()
            && !self.trim_is_due()
            && all_synchronised(self.ctx)
        {
            return client.sticky();
        }
        thread::with(|thread| {
            let lane = &*thread.lane(client)?;
            self.real_sync(client, thread, lane)?;
            self.synchronised(last);
            Ok(())
        })?;
        call::deliver(client)
    }

    /// Waits until `stamp`, behind which the word is written, is reached.
    ///
    /// # Errors
    /// The failure that ended it.
    pub fn wait(&self, client: &Client, stamp: u32) -> Result<(), CUresult> {
        if self.word == 0 || client.real_sync_only() || client.capturing() {
            return self.synchronize(client, Wait::Sleep);
        }
        if self.spin(client, stamp)? {
            return call::deliver(client);
        }
        self.synchronize(client, Wait::Sleep)
    }

    /// Spins on the word, as drivers do by default, with a look at the device's health every
    /// millisecond (`semantics.md` 6). False when that has taken long enough for a sleep to be the
    /// better way, at once where there is no CPU to spare.
    fn spin(&self, client: &Client, stamp: u32) -> Result<bool, CUresult> {
        for _ in 0..SPIN_ROUNDS {
            if client.spin_word(|| self.reached(client, stamp))? {
                return Ok(true);
            }
            if !client.may_spin() {
                return Ok(false);
            }
            match self.query(client) {
                Ok(()) | Err(CUresult::NOT_READY) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether completion may be learnt from the word rather than from the driver.
    pub fn may_use_word(&self, client: &Client) -> bool {
        let drivers_own = client.real_sync_only() || client.capturing();
        let would_add_barrier = self.is_legacy() && blocking_streams(self.ctx);
        self.word != 0 && !drivers_own && !would_add_barrier
    }

    /// Makes sure that the word will be written behind the last command; gives the stamp to wait for.
    pub fn flush(&self, client: &Client) -> Result<u32, CUresult> {
        let last = self.last();
        if reached(self.flushed.load(Ordering::Acquire), last) {
            return Ok(last);
        }
        let args = wire::Flush {
            stream: self.handle.0,
            word: self.word,
        };
        let stamp = client.send_from_thread(internal::FLUSH, self, args.as_bytes())?;
        self.posted(stamp, true);
        Ok(stamp)
    }

    /// `cuStreamSynchronize` by the driver itself.
    pub fn real_sync(&self, client: &Client, thread: &Thread, lane: &Lane) -> Result<(), CUresult> {
        self.trimming();
        let args = wire::cuStreamSynchronize::Args {
            stream: Word::of(self.handle),
        };
        let result = call::real_call(
            client,
            thread,
            lane,
            number::cuStreamSynchronize,
            args.as_bytes(),
            Wait::of(self.ctx),
        );
        client.drain_output();
        result
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The device may still write the word of a stream that was destroyed while busy: it is given
        // back only if it was seen idle.
        if let Ok(client) = client::entered()
            && self.word != 0
            && self.is_idle(client)
            && reached(client.word(self.word), self.flushed.load(Ordering::Acquire))
        {
            client.free_word(self.word);
        }
    }
}

/// Whether a wait may spin first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Spin on the word, then sleep.
    Spin,
    /// Sleep at once.
    Sleep,
}

impl Wait {
    /// How waits in the current context go.
    pub fn of(ctx: CUcontext) -> Self {
        if context::blocking_sync(ctx) {
            Wait::Sleep
        } else {
            Wait::Spin
        }
    }
}

/// Stores `stamp` if it is later than what is there.
fn advance(word: &AtomicU32, stamp: u32) {
    let mut now = word.load(Ordering::Relaxed);
    while later(now, stamp) != now {
        match word.compare_exchange_weak(now, stamp, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => now = other,
        }
    }
}

/// All live streams of a context.
fn of_context(ctx: CUcontext) -> Vec<Arc<State>> {
    let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
    streams
        .values()
        .filter(|state| state.ctx == ctx)
        .cloned()
        .collect()
}

/// Whether a context has streams, other than the legacy one, that synchronise with it.
fn blocking_streams(ctx: CUcontext) -> bool {
    let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
    streams.values().any(|state| {
        state.ctx == ctx && !state.is_legacy() && state.flags & CU_STREAM_NON_BLOCKING == 0
    })
}

/// Whether the driver itself has synchronised every stream of a context since its last command: then there is nothing
/// to wait for, and no text of device code to come.
fn all_synchronised(ctx: CUcontext) -> bool {
    let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
    streams
        .values()
        .filter(|state| state.ctx == ctx)
        .all(|state| state.is_synchronised())
}

/// Slots by which a stamp may lag behind the ring's head before it is noted on its stream: more than
/// the ring has, since an unpublished record stops the ring.
const NOTE_LAG: u32 = 1 << 20;

/// Brings the stamps of all streams close to `now`, the ring's head: idle streams jump there, busy
/// ones get their word written. See [`Client::send_noted`].
pub fn bring_up_to_date(client: &Client, now: u32) {
    let base = now.wrapping_sub(NOTE_LAG);
    let streams: Vec<_> = {
        let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
        streams.values().cloned().collect()
    };
    for state in streams {
        let written = state.word == 0
            || reached(
                client.word(state.word),
                state.flushed.load(Ordering::Acquire),
            );
        if state.is_idle(client) && written {
            state.move_up(base);
            if state.word != 0 && !reached(client.word(state.word), base) {
                client.set_word(state.word, base);
            }
        } else if state.may_use_word(client) {
            // A failure shows at the next wait.
            let _ = state.flush(client);
        }
    }
}

/// Waits until every stream of every context has done all that was sent. A context that has failed
/// does nothing any more and counts as done.
pub fn settle_all(client: &Client) {
    let streams: Vec<_> = {
        let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
        streams.values().cloned().collect()
    };
    for state in streams.iter().filter(|state| !state.is_idle(client)) {
        let last = state.last();
        let done = context::with_current(state.ctx, || {
            thread::with(|thread| state.real_sync(client, thread, &*thread.lane(client)?))
        });
        if done.is_ok() {
            state.completed(last);
        }
    }
}

/// `cuCtxSynchronize` of the current context.
///
/// # Errors
/// The failure that ended it.
pub fn synchronize_context(client: &Client) -> Result<(), CUresult> {
    let ctx = context::required()?;
    call::deliver(client)?;
    let streams = of_context(ctx);
    let trim_is_due = streams.iter().any(|state| state.trim_is_due());
    // Taken before the driver is asked, so that a stream which is destroyed meanwhile counts for the next time.
    let left = left_busy().remove(&ctx.0);
    if !client.real_sync_only() && !client.capturing() && !trim_is_due && !left {
        let dirty: Vec<_> = streams
            .iter()
            .filter(|state| !state.is_idle(client))
            .collect();
        if dirty.is_empty() && streams.iter().all(|state| state.word != 0) {
            return client.sticky();
        }
        if let [only] = dirty.as_slice()
            && only.may_use_word(client)
            && Wait::of(ctx) == Wait::Spin
        {
            return only.synchronize(client, Wait::Spin);
        }
    }
    let stamps: Vec<_> = streams.iter().map(|state| (state, state.last())).collect();
    for state in &streams {
        state.trimming();
    }
    thread::with(|thread| {
        let lane = &*thread.lane(client)?;
        let result = call::real_call(
            client,
            thread,
            lane,
            number::cuCtxSynchronize,
            &[],
            Wait::of(ctx),
        );
        client.drain_output();
        result
    })
    .inspect_err(|_| {
        if left {
            left_busy().insert(ctx.0);
        }
    })?;
    for (state, stamp) in stamps {
        state.synchronised(stamp);
    }
    call::deliver(client)
}

/// Forgets the streams of a context that is gone.
pub fn context_died(ctx: CUcontext) {
    let mut streams = STREAMS.write().unwrap_or_else(PoisonError::into_inner);
    streams.retain(|_, state| {
        let dies = state.ctx == ctx;
        if dies {
            state.dead.store(true, Ordering::Relaxed);
        }
        !dies
    });
    drop(streams);
    left_busy().remove(&ctx.0);
    GENERATION.fetch_add(1, Ordering::Release);
}

/// Asks the worker for a new stream and enters it.
fn create(client: &Client, flags: u32, priority: Option<i32>) -> Result<CUstream, CUresult> {
    let ctx = context::required()?;
    let handle: CUstream = match priority {
        None => {
            let args = wire::cuStreamCreate::Args {
                stream: [],
                flags: Word::of(flags),
            };
            let mut reply = wire::cuStreamCreate::Reply::new_zeroed();
            call::call(
                client,
                number::cuStreamCreate,
                &[args.as_bytes()],
                reply.as_mut_bytes(),
            )?;
            reply.stream.get()
        }
        Some(priority) => {
            let args = wire::cuStreamCreateWithPriority::Args {
                stream: [],
                flags: Word::of(flags),
                priority: Word::of(priority),
            };
            let mut reply = wire::cuStreamCreateWithPriority::Reply::new_zeroed();
            call::call(
                client,
                number::cuStreamCreateWithPriority,
                &[args.as_bytes()],
                reply.as_mut_bytes(),
            )?;
            reply.stream.get()
        }
    };
    let state = Arc::new(State::new(client, handle, ctx, flags)?);
    STREAMS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert((CUcontext::NULL, handle), state);
    GENERATION.fetch_add(1, Ordering::Release);
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Epochs;

    #[test]
    fn stamps_stay_comparable_however_long_a_stream_idles() {
        let idle = State::at(CUstream(0x1000), CUcontext(0x2000), 0, 0, 0);
        idle.posted(7, true);
        idle.completed(7);
        let epochs = Epochs::default();
        // Other streams' records fill three times the range of a stamp.
        for position in (8..3 << 32).step_by(1 << 20) {
            if epochs.enter(position) {
                idle.move_up((position as u32).wrapping_sub(NOTE_LAG));
            }
            let now = position as u32;
            for old in [&idle.last, &idle.flushed, &idle.done] {
                let old = old.load(Ordering::Relaxed);
                assert!(
                    reached(now, old) && !reached(old, now),
                    "at {position:#x} an old stamp {old:#x} looks later than a new one"
                );
            }
        }
    }

    #[test]
    fn an_epoch_is_entered_once() {
        let epochs = Epochs::default();
        assert!(!epochs.enter(0) && !epochs.enter((1 << 28) - 1));
        assert!(epochs.enter(1 << 28) && !epochs.enter((1 << 28) + 1));
        // A thread that was slow to say so does not go back.
        assert!(epochs.enter(3 << 28) && !epochs.enter(2 << 28));
    }
}
