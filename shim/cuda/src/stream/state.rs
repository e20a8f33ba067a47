//! One stream: its stamps and its timeline word, and what waits for them.

use super::contexts::{all_synchronised, blocking_streams};
use super::{STREAMS, left_busy};
use crate::call;
use crate::client::{self, Client};
use crate::context;
use crate::thread::{self, Lane, Thread};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use vgpu_channel::timeline::{later, reached};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::{call as number, internal};
use vgpu_protocol::wire::{self, Word};
use zerocopy::IntoBytes;

/// Commands between two unasked writes of the timeline word.
const FLUSH_EVERY: u32 = 128;

/// Spans of [`FLUSH_EVERY`] commands that may be in flight. A driver's stream takes about a
/// thousand commands before it blocks the issuing thread, which must not happen; programs that hold
/// a stream up and post behind it count on several hundred (900 fit on an H100).
const SPANS_IN_FLIGHT: u32 = 7;

/// Rounds of spinning, a millisecond each, before a wait sleeps in the driver.
const SPIN_ROUNDS: u32 = 8;

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
    pub(super) word: u64,
    /// Stamp of the last command.
    pub(super) last: AtomicU32,
    /// Stamp of the last command behind which the word is written.
    pub(super) flushed: AtomicU32,
    /// A stamp known to be reached without the word saying so.
    pub(super) done: AtomicU32,
    /// A stamp up to which the driver itself has synchronised, text of device code included.
    pub(super) synchronised: AtomicU32,
    /// Commands so far.
    pub(super) count: AtomicU32,
    /// Stamps of the last unasked writes, by span.
    pub(super) spans: [AtomicU32; 8],
    /// Memory was freed in stream order since the driver last synchronised the stream itself.
    pub(super) freed: AtomicBool,
    /// Gone: destroyed or its context is.
    pub(super) dead: AtomicBool,
    pub(super) id: AtomicU64,
}

impl State {
    pub(super) fn new(
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
    pub(super) fn at(handle: CUstream, ctx: CUcontext, flags: u32, word: u64, start: u32) -> Self {
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
        if left_busy::of(self.ctx).is_some() {
            return false;
        }
        let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
        streams
            .values()
            .filter(|other| other.ctx == self.ctx && other.flags & CU_STREAM_NON_BLOCKING == 0)
            .all(|other| other.is_idle(client))
    }

    /// Notes that the stream is being destroyed.
    pub(super) fn ends(&self, client: &Client) {
        // A trim that is due is the context's to see to, too.
        if !self.is_idle(client) || self.trim_is_due() {
            left_busy::mark(self.ctx);
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
    pub(super) fn synchronised(&self, stamp: u32) {
        self.completed(stamp);
        advance(&self.synchronised, stamp);
    }

    /// Whether the driver has synchronised everything sent so far.
    pub(super) fn is_synchronised(&self) -> bool {
        reached(self.synchronised.load(Ordering::Acquire), self.last())
    }

    /// Moves the stamps of an idle stream up to `base`.
    pub(super) fn move_up(&self, base: u32) {
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
    pub(super) fn wait_long(&self, client: &Client, stamp: u32) -> Result<(), CUresult> {
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

#[cfg(test)]
mod tests {
    use super::super::contexts::NOTE_LAG;
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
