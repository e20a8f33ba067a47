//! Reply slots: one 4 KiB block of the heap per guest thread, in which the server answers.
//!
//! | offset | written by | field |
//! |---|---|---|
//! | 0 | server | sequence (32 bits), stored last |
//! | 4 | server | status (32 bits, signed) |
//! | 8 | server | payload length (32 bits) |
//! | 12 | both | waiting: the client sets it before it sleeps, the server clears it and wakes |
//! | 16 | both | latched error: set by the server when a posted call of this thread failed |
//! | 20 | client | 44 bytes for the client's use |
//! | 64 | server | payload, up to 4,032 bytes |
//!
//! The server stores payload, status and length, then the sequence with release order; a client that sees its sequence
//! with acquire order sees the rest. Sleeping follows the ring's proof: the client sets `waiting`, fences and checks the
//! sequence again; the server stores the sequence, fences and checks `waiting`.

use crate::sync::{AtomicU32, Ordering, fence};

#[cfg(not(loom))]
pub use mapped::{Mapped, ReplySlot};

/// Bytes of a reply slot.
pub const SLOT_BYTES: u64 = 4096;
/// Alignment of a reply slot.
pub const SLOT_ALIGN: u64 = 64;
/// Bytes of payload that a reply holds at most; longer answers go through the heap.
pub const PAYLOAD_BYTES: usize = 4032;

const STATUS: u64 = 4;
const LEN: u64 = 8;
const WAITING: u64 = 12;
const LATCHED: u64 = 16;
const PAYLOAD: u64 = 64;

/// Why the server could not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The address is no reply slot.
    #[error("There is no reply slot at {0:#x}")]
    Address(u64),
    /// The answer is longer than a slot holds.
    #[error("An answer of {0} bytes does not fit a reply slot")]
    TooLong(usize),
}

/// The memory that a slot lies in: offsets are below [`SLOT_BYTES`].
pub trait SlotMemory {
    /// The control word at `offset`, a multiple of 4 below the payload.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Address`] when the memory is not there.
    fn word(&self, offset: u64) -> Result<&AtomicU32, ReplyError>;
    /// Copies bytes into the slot.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Address`] when the memory is not there.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ReplyError>;
    /// Copies bytes out of the slot.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Address`] when the memory is not there.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), ReplyError>;
}

/// A checked reply slot of either side.
#[derive(Clone, Copy, Debug)]
pub struct Slot<M> {
    memory: M,
}

impl<M: SlotMemory> Slot<M> {
    /// The slot in `memory`.
    pub fn new(memory: M) -> Self {
        Slot { memory }
    }

    #[inline]
    fn word(&self, offset: u64) -> Result<&AtomicU32, ReplyError> {
        self.memory.word(offset)
    }

    /// Client: zeroes the control words, before first use.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Address`] never for a slot that was checked when it was made.
    pub fn reset(&self) -> Result<(), ReplyError> {
        for offset in [0, STATUS, LEN, WAITING, LATCHED] {
            self.word(offset)?.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Server: answers. `true` means that the client sleeps and its wake descriptor must be signalled.
    ///
    /// # Errors
    ///
    /// [`ReplyError::TooLong`]; nothing is written then.
    #[must_use = "a sleeping client must be woken"]
    pub fn complete(&self, sequence: u32, status: i32, payload: &[u8]) -> Result<bool, ReplyError> {
        if payload.len() > PAYLOAD_BYTES {
            return Err(ReplyError::TooLong(payload.len()));
        }
        self.memory.write(PAYLOAD, payload)?;
        self.word(STATUS)?
            .store(status.cast_unsigned(), Ordering::Relaxed);
        self.word(LEN)?
            .store(payload.len() as u32, Ordering::Relaxed);
        // SYNC POINT (reply), pairs with `is_complete`.
        self.word(0)?.store(sequence, Ordering::Release);
        // Pairs with the fence in `arm`: either we see the flag or the client sees the sequence.
        fence(Ordering::SeqCst);
        let waiting = self.word(WAITING)?;
        Ok(waiting.load(Ordering::Relaxed) != 0 && waiting.swap(0, Ordering::Relaxed) != 0)
    }

    /// Client: whether the answer with this sequence is there.
    #[must_use]
    #[inline]
    pub fn is_complete(&self, sequence: u32) -> bool {
        // SYNC POINT (reply), pairs with `complete`.
        self.word(0)
            .is_ok_and(|word| word.load(Ordering::Acquire) == sequence)
    }

    /// Client: announces that it is about to sleep. The caller must check [`Slot::is_complete`] once more after a
    /// sequentially consistent fence, which this includes.
    pub fn arm(&self) {
        if let Ok(waiting) = self.word(WAITING) {
            waiting.store(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Client: takes the announcement back.
    pub fn disarm(&self) {
        if let Ok(waiting) = self.word(WAITING) {
            waiting.store(0, Ordering::Relaxed);
        }
    }

    /// Client: status and payload length of a complete answer; the length is capped to what a slot holds.
    #[must_use]
    pub fn outcome(&self) -> (i32, usize) {
        let status = self
            .word(STATUS)
            .map_or(0, |word| word.load(Ordering::Relaxed));
        let len = self
            .word(LEN)
            .map_or(0, |word| word.load(Ordering::Relaxed));
        (status.cast_signed(), (len as usize).min(PAYLOAD_BYTES))
    }

    /// Client: copies the payload's first `into.len()` bytes out.
    ///
    /// # Errors
    ///
    /// [`ReplyError::TooLong`] when that is more than a slot holds.
    pub fn payload(&self, into: &mut [u8]) -> Result<(), ReplyError> {
        if into.len() > PAYLOAD_BYTES {
            return Err(ReplyError::TooLong(into.len()));
        }
        self.memory.read(PAYLOAD, into)
    }

    /// Server: latches the failure of a posted call for the thread that owns the slot. The first one stays.
    pub fn latch(&self, error: u32) {
        if let Ok(latched) = self.word(LATCHED) {
            // SYNC POINT (latch), pairs with `latched`.
            let _ = latched.compare_exchange(0, error, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Client: the latched error, 0 if none. It stays.
    #[must_use]
    #[inline]
    pub fn latched(&self) -> u32 {
        // SYNC POINT (latch), pairs with `latch`.
        self.word(LATCHED)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Client: takes the latched error, 0 if none.
    #[must_use]
    #[inline]
    pub fn take_latched(&self) -> u32 {
        if self.latched() == 0 {
            return 0;
        }
        self.word(LATCHED)
            .map_or(0, |word| word.swap(0, Ordering::AcqRel))
    }
}

/// Slots in the heap of a channel.
#[cfg(not(loom))]
mod mapped {
    use super::{ReplyError, SLOT_ALIGN, SLOT_BYTES, Slot, SlotMemory};
    use crate::segment::Segments;
    use crate::sync::AtomicU32;

    /// A checked range of the segments.
    #[derive(Clone, Copy, Debug)]
    pub struct Mapped<'a> {
        segments: &'a Segments,
        address: u64,
    }

    /// A slot in the segments of a channel.
    pub type ReplySlot<'a> = Slot<Mapped<'a>>;

    impl<'a> Slot<Mapped<'a>> {
        /// The slot at `address`.
        ///
        /// # Errors
        ///
        /// [`ReplyError::Address`] when it is not aligned to 64 bytes or not all of it is mapped.
        pub fn at(segments: &'a Segments, address: u64) -> Result<ReplySlot<'a>, ReplyError> {
            if !address.is_multiple_of(SLOT_ALIGN) || !segments.contains(address, SLOT_BYTES) {
                return Err(ReplyError::Address(address));
            }
            Ok(Slot::new(Mapped { segments, address }))
        }

        /// Its address.
        #[must_use]
        pub fn address(&self) -> u64 {
            self.memory.address
        }
    }

    impl SlotMemory for Mapped<'_> {
        #[inline]
        fn word(&self, offset: u64) -> Result<&AtomicU32, ReplyError> {
            self.segments
                .word(self.address + offset)
                .map_err(|_| ReplyError::Address(self.address))
        }

        #[inline]
        fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ReplyError> {
            self.segments
                .copy_in(self.address + offset, bytes)
                .map_err(|_| ReplyError::Address(self.address))
        }

        #[inline]
        fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), ReplyError> {
            self.segments
                .copy_out(self.address + offset, into)
                .map_err(|_| ReplyError::Address(self.address))
        }
    }
}
