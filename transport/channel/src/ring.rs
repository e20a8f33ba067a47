//! The command ring: many producers (threads of the client), one consumer (the server).
//!
//! # Shape
//!
//! The ring is a power-of-two number of 64-byte slots. Positions are 64-bit slot counters that never wrap in practice;
//! slot `p % slots` holds position `p`. A record takes as many consecutive slots as it needs; header and payload lie one
//! after the other and continue at slot 0 after the last slot.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | publish word: position + 1 once the record is complete, anything else before |
//! | 8 | 2 | call number, 0 = no operation |
//! | 10 | 2 | flags, meaning is the caller's |
//! | 12 | 4 | payload length in bytes, at most [`MAX_PAYLOAD`] |
//! | 16 | 4 | thread index of the sender |
//! | 20 | 4 | reply sequence, 0 = no reply wanted |
//! | 24 | 8 | address of the reply slot |
//! | 32 | 8 | scope, meaning is the caller's |
//! | 40 | … | payload |
//!
//! # Order
//!
//! A producer reserves by advancing `head` with one compare-and-swap; the order of reservation is the order of
//! consumption. `head` is private to the client, the consumer's position is private to the server; the only shared
//! position is `tail`, which the consumer stores and producers check for plausibility before they use it.
//!
//! ```text
//!  producer                                   consumer
//!  tail.load(Acquire)  .................(B).. tail.store(Release)
//!  head.compare_exchange(Relaxed)             publish.load(Acquire)  (A)
//!  write header and payload                   copy the record out, once
//!  publish.store(Release)  .............(A).. clear continuation publish words
//! ```
//!
//! * (A) the publish word orders the record's bytes before the consumer's copy.
//! * (B) `tail` orders the consumer's copy and its clearing of continuation slots before the next lap's writes.
//!
//! # Stale bytes never look published
//!
//! The word at offset 0 of a slot is a publish word when a record starts there, and payload when one continues there.
//! Payload could equal a later lap's publish value, so the consumer zeroes that word of each continuation slot before it
//! releases them; an old publish word differs from a later one because positions do not repeat.
//!
//! # Waking the consumer
//!
//! ```text
//!  consumer: sleeping = 1;  fence(SeqCst);  is a record published?  no -> sleep on the doorbell
//!  producer: publish;       fence(SeqCst);  is sleeping set?       yes -> ring the doorbell
//! ```
//!
//! Both sides write one word and then read the other's. Sequentially consistent fences are totally ordered: if the
//! producer's comes first, the consumer's check sees the record; if the consumer's comes first, the producer sees the
//! flag. So not both can miss, whichever way their plain stores are delayed. Without the fences both could: a store may
//! wait in the store buffer while the load that follows it completes.

use core::fmt;

use crossbeam_utils::CachePadded;
use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Bytes of one slot: a cache line.
pub const SLOT_BYTES: usize = 64;

/// Bytes of a record, header included, at most.
pub const MAX_RECORD: usize = 64 * 1024;

/// Bytes of the record header.
pub const HEADER_BYTES: usize = core::mem::size_of::<WireHeader>();

/// Bytes of payload in one record, at most.
pub const MAX_PAYLOAD: usize = MAX_RECORD - HEADER_BYTES;

/// Slots of a ring unless configured otherwise.
pub const DEFAULT_SLOTS: u64 = 8192;

/// The call number of a record that asks for nothing: what an abandoned reservation turns into.
pub const CALL_NOP: u16 = 0;

/// No-operation records that one [`Consumer::pop`] skips before it returns to its caller.
const NOP_BURST: u32 = 64;

/// What a record says about itself beside its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader {
    /// Number of the call; [`CALL_NOP`] is skipped by the consumer.
    pub call: u16,
    /// Flags; their meaning is the caller's.
    pub flags: u16,
    /// Index of the sending thread, chosen by the client.
    pub thread: u32,
    /// Sequence that the reply must carry; 0 when no reply is wanted.
    pub reply_sequence: u32,
    /// Address of the reply slot; 0 when no reply is wanted.
    pub reply_address: u64,
    /// A tag for the caller's use (the current context, say).
    pub scope: u64,
}

/// The header as it lies in the ring, publish word included.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct WireHeader {
    publish: u64,
    call: u16,
    flags: u16,
    payload_len: u32,
    thread: u32,
    reply_sequence: u32,
    reply_address: u64,
    scope: u64,
}

const_assert_eq!(core::mem::size_of::<WireHeader>(), 40);
const_assert_eq!(core::mem::offset_of!(WireHeader, call), 8);
const_assert_eq!(core::mem::offset_of!(WireHeader, payload_len), 12);
const_assert_eq!(core::mem::offset_of!(WireHeader, thread), 16);
const_assert_eq!(core::mem::offset_of!(WireHeader, reply_address), 24);
const_assert_eq!(core::mem::offset_of!(WireHeader, scope), 32);
#[cfg(target_endian = "big")]
compile_error!("the wire format is little-endian and read without conversion");

/// The memory that a ring lies in.
///
/// Slot indices are below [`slots`](RingMemory::slots); byte ranges lie within the slots and do not wrap. An
/// implementation ignores what lies outside.
pub trait RingMemory {
    /// Number of slots, a power of two, at least `2 * MAX_RECORD / SLOT_BYTES` outside of tests.
    fn slots(&self) -> u64;
    /// Position up to which the consumer has released slots.
    fn tail(&self) -> &AtomicU64;
    /// Non-zero while the consumer sleeps or is about to.
    fn sleeping(&self) -> &AtomicU32;
    /// The publish word of a slot.
    fn publish_word(&self, slot: u64) -> &AtomicU64;
    /// Copies bytes into the slots.
    fn write(&self, offset: usize, bytes: &[u8]);
    /// Rings the consumer's doorbell; called after a publication that found it sleeping.
    fn wake(&self);
    /// Copies bytes out of the slots.
    fn read(&self, offset: usize, into: &mut [u8]);
}

/// Slots that a record with `payload_len` bytes takes.
const fn slots_for(payload_len: usize) -> u64 {
    (HEADER_BYTES + payload_len).div_ceil(SLOT_BYTES) as u64
}

/// Why a reservation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The consumer has not released enough slots yet; try again later.
    #[error("The command ring is full")]
    Full,
    /// The payload can never fit.
    #[error("A record of {0} payload bytes is longer than the ring takes")]
    TooLong(usize),
}

/// The sending side, shared by all threads of the client.
pub struct Producer<M> {
    memory: M,
    /// Next position to reserve.
    head: CachePadded<AtomicU64>,
    /// A plausible earlier value of the shared tail, so that `tail` is only read when the ring looks full.
    cached_tail: CachePadded<AtomicU64>,
}

impl<M> fmt::Debug for Producer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl<M: RingMemory> Producer<M> {
    /// The sending side of a fresh ring, whose memory is zero.
    pub fn new(memory: M) -> Self {
        Producer {
            memory,
            head: CachePadded::new(AtomicU64::new(0)),
            cached_tail: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// Reserves room for a record with `payload_len` bytes of payload.
    ///
    /// # Errors
    ///
    /// [`ReserveError::Full`] when the consumer lags behind, [`ReserveError::TooLong`] when it can never fit.
    #[inline]
    pub fn try_reserve(&self, payload_len: usize) -> Result<Reservation<'_, M>, ReserveError> {
        let slots = self.memory.slots();
        if payload_len > MAX_PAYLOAD || slots_for(payload_len) > slots {
            return Err(ReserveError::TooLong(payload_len));
        }
        let need = slots_for(payload_len);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SYNC POINT (B'), pairs with the store below: what the thread that refreshed the cache acquired, we acquire.
            let cached = self.cached_tail.load(Ordering::Acquire);
            let used = head.wrapping_sub(cached);
            if used > u64::MAX / 2 {
                // The cached tail is ahead of our head, which is therefore outdated.
                head = self.head.load(Ordering::Relaxed);
                continue;
            }
            // More than `slots` in use only means that the cached tail is an old one.
            if used.saturating_add(need) > slots {
                if !self.refresh_tail(cached) {
                    return Err(ReserveError::Full);
                }
                head = self.head.load(Ordering::Relaxed);
                continue;
            }
            match self.head.compare_exchange_weak(
                head,
                head.wrapping_add(need),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    return Ok(Reservation {
                        producer: self,
                        position: head,
                        payload_len,
                        published: false,
                    });
                }
                Err(now) => head = now,
            }
        }
    }

    /// Takes over the shared tail if it moved and is plausible; says whether it did.
    fn refresh_tail(&self, cached: u64) -> bool {
        // SYNC POINT (B), pairs with `Consumer::release`.
        let tail = self.memory.tail().load(Ordering::Acquire);
        let head = self.head.load(Ordering::Relaxed);
        let advance = tail.wrapping_sub(cached);
        // The peer may write anything there. A tail beyond what was ever reserved, or behind what was already
        // released, is not believed: the ring then just stays full until the link reports the peer's end.
        if advance == 0 || advance > head.wrapping_sub(cached) {
            return self.cached_tail.load(Ordering::Relaxed) != cached;
        }
        // Never backwards, though another thread may have read a newer tail meanwhile. Not `fetch_max`: ThreadSanitizer
        // does not see it.
        let mut now = cached;
        while now < tail {
            // SYNC POINT (B').
            match self.cached_tail.compare_exchange_weak(
                now,
                tail,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(newer) => now = newer,
            }
        }
        true
    }

    /// Position that the next reservation would get if none came in between.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// The ring's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    fn write_wrapping(&self, position: u64, offset: usize, bytes: &[u8]) {
        let ring = self.memory.slots() as usize * SLOT_BYTES;
        let start =
            (slot(position, self.memory.slots()) as usize * SLOT_BYTES + offset) & (ring - 1);
        let first = bytes.len().min(ring - start);
        let (a, b) = bytes.split_at(first);
        self.memory.write(start, a);
        if !b.is_empty() {
            self.memory.write(0, b);
        }
    }

    /// Writes the header, publishes, and wakes the consumer if it sleeps.
    fn publish(&self, position: u64, payload_len: usize, header: &RecordHeader) {
        let wire = WireHeader {
            publish: 0,
            call: header.call,
            flags: header.flags,
            payload_len: payload_len as u32,
            thread: header.thread,
            reply_sequence: header.reply_sequence,
            reply_address: header.reply_address,
            scope: header.scope,
        };
        if let Some(rest) = wire.as_bytes().get(8..) {
            self.write_wrapping(position, 8, rest);
        }
        let word = self
            .memory
            .publish_word(slot(position, self.memory.slots()));
        // SYNC POINT (A), pairs with `Consumer::ready`.
        word.store(position.wrapping_add(1), Ordering::Release);
        // The proof is in the module's "Waking the consumer"; pairs with `Consumer::prepare_sleep`.
        fence(Ordering::SeqCst);
        let sleeping = self.memory.sleeping();
        if sleeping.load(Ordering::Relaxed) != 0 && sleeping.swap(0, Ordering::Relaxed) != 0 {
            self.memory.wake();
        }
    }
}

const fn slot(position: u64, slots: u64) -> u64 {
    position & (slots - 1)
}

/// Room for one record. Dropping it unpublished publishes a no-operation, so the ring never stalls behind it.
#[must_use = "an unpublished reservation turns into a no-operation"]
pub struct Reservation<'a, M: RingMemory> {
    producer: &'a Producer<M>,
    position: u64,
    payload_len: usize,
    published: bool,
}

impl<M: RingMemory> fmt::Debug for Reservation<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("position", &self.position)
            .field("payload_len", &self.payload_len)
            .finish()
    }
}

impl<M: RingMemory> Reservation<'_, M> {
    /// Ring position: unique, and in the order in which records are consumed.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of payload that were reserved.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Copies `bytes` to `offset` of the payload. What would lie past the payload is not written and counts as an error
    /// of the caller: `false` is returned. Bytes never written have unspecified values.
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        match offset.checked_add(bytes.len()) {
            Some(end) if end <= self.payload_len => {
                self.producer
                    .write_wrapping(self.position, HEADER_BYTES + offset, bytes);
                true
            }
            _ => false,
        }
    }

    /// Hands the record to the consumer, and rings its doorbell if it sleeps.
    #[inline]
    pub fn publish(mut self, header: &RecordHeader) {
        self.published = true;
        self.producer
            .publish(self.position, self.payload_len, header);
    }
}

impl<M: RingMemory> Drop for Reservation<'_, M> {
    fn drop(&mut self) {
        if !self.published {
            self.producer
                .publish(self.position, self.payload_len, &RecordHeader::default());
        }
    }
}

/// A record that cannot be one: the client is broken or hostile and its channel must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// The length field exceeds what a record may have.
    #[error("The record at position {position} claims {payload_len} bytes of payload")]
    Length {
        /// Ring position of the record.
        position: u64,
        /// The length it claims.
        payload_len: u32,
    },
}

/// Private memory that one record is copied into; reused from record to record.
pub struct RecordBuf {
    bytes: Box<[u8]>,
}

impl fmt::Debug for RecordBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBuf").finish_non_exhaustive()
    }
}

impl Default for RecordBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl RecordBuf {
    /// Room for the longest record.
    #[must_use]
    pub fn new() -> Self {
        RecordBuf {
            bytes: vec![0; MAX_RECORD].into_boxed_slice(),
        }
    }
}

/// A record, private to the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Ring position: unique and ascending.
    pub position: u64,
    /// What the record says about itself; every field is as the client wrote it and unchecked.
    pub header: RecordHeader,
    /// The payload, unchecked.
    pub payload: &'a [u8],
}

/// The receiving side.
pub struct Consumer<M> {
    memory: M,
    /// Next position to read; never taken from shared memory.
    head: u64,
}

impl<M> fmt::Debug for Consumer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl<M: RingMemory> Consumer<M> {
    /// The receiving side of a fresh ring, whose memory is zero.
    pub fn new(memory: M) -> Self {
        Consumer { memory, head: 0 }
    }

    /// Position of the next record.
    pub fn position(&self) -> u64 {
        self.head
    }

    /// Whether a record is published at the current position.
    #[inline]
    pub fn ready(&self) -> bool {
        let word = self
            .memory
            .publish_word(slot(self.head, self.memory.slots()));
        // SYNC POINT (A), pairs with `Producer::publish`.
        word.load(Ordering::Acquire) == self.head.wrapping_add(1)
    }

    /// Copies the next record into `buf` and releases its slots; `None` when nothing is published.
    ///
    /// No-operations are skipped, a bounded number per call.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] when the record breaks the format. The ring cannot be read on after that.
    #[inline]
    pub fn pop<'b>(&mut self, buf: &'b mut RecordBuf) -> Result<Option<Record<'b>>, Corrupt> {
        for _ in 0..NOP_BURST {
            if !self.ready() {
                return Ok(None);
            }
            let (position, header, payload_len) = self.take(buf)?;
            if header.call != CALL_NOP {
                let payload = buf
                    .bytes
                    .get(HEADER_BYTES..HEADER_BYTES + payload_len)
                    .unwrap_or(&[]);
                return Ok(Some(Record {
                    position,
                    header,
                    payload,
                }));
            }
        }
        Ok(None)
    }

    fn take(&mut self, buf: &mut RecordBuf) -> Result<(u64, RecordHeader, usize), Corrupt> {
        let slots = self.memory.slots();
        let position = self.head;
        let first = slot(position, slots);
        let start = first as usize * SLOT_BYTES;
        let (first_slot, rest) = buf.bytes.split_at_mut(SLOT_BYTES);
        self.memory.read(start, first_slot);
        let Ok((wire, _)) = WireHeader::read_from_prefix(first_slot) else {
            return Err(Corrupt::Length {
                position,
                payload_len: 0,
            });
        };
        let payload_len = wire.payload_len as usize;
        if payload_len > MAX_PAYLOAD || slots_for(payload_len) > slots {
            return Err(Corrupt::Length {
                position,
                payload_len: wire.payload_len,
            });
        }
        let need = slots_for(payload_len);
        let remaining = (HEADER_BYTES + payload_len).saturating_sub(SLOT_BYTES);
        if remaining > 0 {
            let ring = slots as usize * SLOT_BYTES;
            let begin = (start + SLOT_BYTES) & (ring - 1);
            let unwrapped = remaining.min(ring - begin);
            if let Some(rest) = rest.get_mut(..remaining) {
                let (a, b) = rest.split_at_mut(unwrapped);
                self.memory.read(begin, a);
                if !b.is_empty() {
                    self.memory.read(0, b);
                }
            }
        }
        for i in 1..need {
            self.memory
                .publish_word(slot(position.wrapping_add(i), slots))
                .store(0, Ordering::Relaxed);
        }
        self.head = position.wrapping_add(need);
        // SYNC POINT (B), pairs with `Producer::refresh_tail`.
        self.memory.tail().store(self.head, Ordering::Release);
        let header = RecordHeader {
            call: wire.call,
            flags: wire.flags,
            thread: wire.thread,
            reply_sequence: wire.reply_sequence,
            reply_address: wire.reply_address,
            scope: wire.scope,
        };
        Ok((position, header, payload_len))
    }

    /// Announces that the consumer is about to sleep. `false` means that a record came in and it must not.
    ///
    /// After waking, call [`Consumer::finish_sleep`].
    #[must_use = "sleep only if true"]
    pub fn prepare_sleep(&self) -> bool {
        // A swap, not a store: a producer that saw an earlier announcement may be about to swap it away, and a model
        // checker follows the order of two swaps where it loses that of a swap and a store.
        self.memory.sleeping().swap(1, Ordering::Relaxed);
        // The proof is in the module's "Waking the consumer"; pairs with `Producer::publish`.
        fence(Ordering::SeqCst);
        if self.ready() {
            self.finish_sleep();
            return false;
        }
        true
    }

    /// Takes the announcement of [`Consumer::prepare_sleep`] back.
    pub fn finish_sleep(&self) {
        self.memory.sleeping().swap(0, Ordering::Relaxed);
    }

    /// The ring's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
