//! Waiting: for answers in reply slots, and on timeline words; and the text of device code that comes meanwhile.

use super::Client;
use crate::stats;
use crate::stream::Wait;
use core::ffi::c_void;
use std::sync::atomic::Ordering;
use std::time::Duration;
use vgpu_channel::staging::Words;
use vgpu_channel::timeline;
use vgpu_channel::wait::WaitError;
use vgpu_protocol::cuda::*;
use vgpu_protocol::wire::SNAPSHOT_STREAM_MEMOPS;

impl Client {
    /// A new reply slot.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn new_reply_slot(&self) -> Result<u64, CUresult> {
        self.channel
            .alloc_reply()
            .map_err(|_| CUresult::OUT_OF_MEMORY)
    }

    /// Clears a reply slot for its next thread.
    pub fn reset_reply_slot(&self, slot: u64) {
        if let Ok(reply) = self.channel.reply(slot) {
            let _ = reply.reset();
        }
    }

    /// Waits for an answer, asleep or spinning first; gives the status and the payload's length, and fills the front of
    /// `into`.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` when the worker is gone.
    pub fn wait_reply(
        &self,
        slot: u64,
        sequence: u32,
        into: &mut [u8],
        wait: Wait,
    ) -> Result<(u32, usize), CUresult> {
        stats::waits();
        let reply = self.channel.reply(slot).map_err(|_| CUresult::UNKNOWN)?;
        let relay = self.real_sync_only();
        loop {
            let ready = || reply.is_complete(sequence) || (relay && self.channel.output().ready());
            let arm = || {
                reply.arm();
                if relay {
                    self.channel.callbacks().arm();
                }
            };
            match wait {
                Wait::Spin => self.channel.wait_until(ready, arm, None),
                Wait::Sleep => self.channel.sleep_until(ready, arm, None),
            }
            .map_err(|_| self.gone())?;
            if relay {
                self.drain_output();
            }
            if reply.is_complete(sequence) {
                break;
            }
        }
        let (status, len) = reply.outcome();
        let len = len.min(into.len());
        reply
            .payload(&mut into[..len])
            .map_err(|_| CUresult::UNKNOWN)?;
        Ok((status.cast_unsigned(), len))
    }

    /// A timeline word that reads `start`, or 0 where the driver cannot write such words.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn new_word(&self, start: u32) -> Result<u64, CUresult> {
        if self.snapshot.flags & SNAPSHOT_STREAM_MEMOPS == 0 {
            return Ok(0);
        }
        let address = self
            .channel
            .alloc(timeline::WORD_BYTES, timeline::WORD_BYTES)
            .map_err(|_| CUresult::OUT_OF_MEMORY)?;
        let word = self
            .channel
            .heap_word(address)
            .map_err(|_| CUresult::UNKNOWN)?;
        word.store(start, Ordering::Release);
        Ok(address)
    }

    /// Gives a timeline word back.
    pub fn free_word(&self, address: u64) {
        self.staging.release_word(address);
        let _ = self.channel.free(address);
    }

    /// What a timeline word says.
    #[inline]
    pub fn word(&self, address: u64) -> u32 {
        self.channel.word_at(address).unwrap_or(0)
    }

    /// Spins until `reached`; false if that takes too long.
    ///
    /// # Errors
    /// The sticky error, if it strikes meanwhile.
    pub fn spin_word(&self, reached: impl Fn() -> bool) -> Result<bool, CUresult> {
        stats::waits();
        let done = self
            .word_spin
            .spin(|| reached() || self.channel.sticky_error() != 0);
        if done && reached() {
            return Ok(true);
        }
        self.sticky()?;
        Ok(false)
    }

    /// Threads that may share a large copy, the caller included. Settled when the process connected:
    /// a thread that is bound to a CPU later says nothing about the process.
    pub fn copy_width(&self) -> usize {
        self.copy_width
    }

    /// Whether there are CPUs to spin on.
    pub fn may_spin(&self) -> bool {
        self.spare_cpus
    }

    /// Waits until `reached`, but no longer than `limit`; whether it came true.
    ///
    /// # Errors
    /// The sticky error, or `DEVICE_UNAVAILABLE`.
    pub fn wait_word(&self, reached: impl Fn() -> bool, limit: Duration) -> Result<bool, CUresult> {
        stats::waits();
        let waited = self.channel.poll_until(
            || reached() || self.channel.sticky_error() != 0,
            Some(limit),
        );
        match waited {
            Ok(()) => self.sticky().map(|()| true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::PeerGone) => Err(self.gone()),
        }
    }

    /// Writes what device code printed to the program's own standard output.
    pub fn drain_output(&self) {
        let output = self.channel.output();
        if !output.ready() {
            return;
        }
        let mut text = [0_u8; 4096];
        loop {
            let len = output.read(&mut text);
            if len == 0 {
                break;
            }
            // SAFETY: through the C library's own stream, as the driver does, so that the order with
            // the program's own output is kept.
            unsafe {
                libc::fwrite(text.as_ptr().cast::<c_void>(), 1, len, stdout);
            }
        }
    }
}

unsafe extern "C" {
    /// The C library's standard output.
    static stdout: *mut libc::FILE;
}
