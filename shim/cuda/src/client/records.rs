//! Records on their way to the worker, and their stamps.

use super::Client;
use crate::stream::State;
use crate::{call, log, stats, stream, thread};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vgpu_channel::client::PostError;
use vgpu_channel::ring::{HEADER_BYTES, RecordHeader};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number;
use vgpu_protocol::wire::{Counters, RECORD_REPLY};
use zerocopy::{FromZeros, IntoBytes};

/// Slots of the ring, as a power of two, after which streams are brought up to date.
const EPOCH_BITS: u32 = 28;

/// Says when streams must be brought up to date: every 2^28 slots, so that no two stamps that are
/// compared are ever half of 2^32 apart.
#[derive(Debug, Default)]
pub struct Epochs {
    /// Ring position by [`EPOCH_BITS`], as of the last time.
    entered: AtomicU64,
}

impl Epochs {
    /// Whether `position` is in an epoch that nobody has entered yet. True for one thread only.
    #[inline]
    pub fn enter(&self, position: u64) -> bool {
        let epoch = position >> EPOCH_BITS;
        epoch != self.entered.load(Ordering::Relaxed)
            && self.entered.fetch_max(epoch, Ordering::Relaxed) < epoch
    }
}

impl Client {
    /// Sends a record and gives its stamp.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` when the worker is gone.
    #[inline]
    pub fn send(&self, header: &RecordHeader, parts: &[&[u8]]) -> Result<u32, CUresult> {
        self.send_noted(header, parts, |_| {})
    }

    /// As [`Client::send`]; `note` gets the stamp before anybody else can act on the record.
    ///
    /// # Errors
    /// As [`Client::send`].
    #[inline]
    pub fn send_noted(
        &self,
        header: &RecordHeader,
        parts: &[&[u8]],
        note: impl FnOnce(u32),
    ) -> Result<u32, CUresult> {
        let len = parts.iter().map(|part| part.len()).sum();
        if HEADER_BYTES + len > call::MAX_COPIED {
            log::line(format_args!(
                "a record of call {} and {len} bytes is too long",
                header.call
            ));
            return Err(CUresult::UNKNOWN);
        }
        let mut record = match self.channel.reserve(len) {
            Ok(record) => record,
            Err(PostError::PeerGone) => return Err(self.gone()),
            Err(PostError::TooLong(_)) => return Err(CUresult::INVALID_VALUE),
        };
        let mut offset = 0;
        for part in parts {
            record.write(offset, part);
            offset += part.len();
        }
        let position = record.position();
        note(position as u32);
        record.publish(header);
        stats::crossed();
        if self.epochs.enter(position) {
            stream::bring_up_to_date(self, position as u32);
        }
        Ok(position as u32)
    }

    /// Sends a record about `stream` that nobody answers, for the calling thread.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn send_from_thread(
        &self,
        number: u16,
        stream: &State,
        payload: &[u8],
    ) -> Result<u32, CUresult> {
        thread::with(|thread| {
            let lane = &*thread.lane(self)?;
            let header = RecordHeader {
                call: number,
                flags: call::foreign(thread, stream),
                thread: lane.index,
                reply_sequence: 0,
                reply_address: lane.slot,
                scope: thread.current.get().0,
            };
            self.send(&header, &[payload])
        })
    }

    /// Sends a record that nobody answers for a thread that is ending.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn notify(
        &self,
        thread: u32,
        slot: u64,
        number: u16,
        payload: &[u8],
    ) -> Result<u32, CUresult> {
        let header = RecordHeader {
            call: number,
            thread,
            reply_address: slot,
            ..RecordHeader::default()
        };
        self.send(&header, &[payload])
    }

    /// What the worker has counted; `None` if it does not say so soon. May be called when the process ends.
    pub fn counters(&self) -> Option<Counters> {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.sticky().ok()?;
        let slot = self.new_reply_slot().ok()?;
        let header = RecordHeader {
            call: number::internal::COUNTERS,
            flags: RECORD_REPLY,
            reply_sequence: 1,
            reply_address: slot,
            ..RecordHeader::default()
        };
        self.channel.try_reserve(0).ok()?.publish(&header);
        let reply = self.channel.reply(slot).ok()?;
        let (status, len) = self.channel.wait_reply(reply, 1, Some(PATIENCE)).ok()?;
        let mut counters = Counters::new_zeroed();
        if status != 0 || len < size_of::<Counters>() {
            return None;
        }
        reply.payload(counters.as_mut_bytes()).ok()?;
        Some(counters)
    }

    /// Stores a timeline word of a stream that is idle.
    pub fn set_word(&self, address: u64, stamp: u32) {
        if let Ok(word) = self.channel.heap_word(address) {
            word.store(stamp, Ordering::Release);
        }
    }

    /// Stamp that the next record would get.
    pub fn stamp_now(&self) -> u32 {
        self.channel.ring_head() as u32
    }
}
