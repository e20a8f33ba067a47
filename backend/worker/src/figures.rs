//! Figures about a client, for the host's operator: what its worker executed, copied and holds.
//!
//! They stand in a page of memory that the daemon made for this worker. The worker counts what *it* does, in the course of
//! doing it, and no word that a guest can write is taken over; the daemon reads the page whenever it is asked and believes
//! nothing of it but that these are numbers: a taken-over worker can write what it likes, into its own row.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use vgpu_channel::shm::{View, map_sealed};
use vgpu_protocol::cuda::{CUDA_MEMCPY3D, CUresult};
use vgpu_protocol::number::{call, internal};
use vgpu_protocol::wire::{self, CopyIn, CopyOut};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes of the page.
const PAGE_BYTES: usize = 4096;

/// The page's words, in this order; all but the last three only grow.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Figures {
    /// Records executed.
    pub calls: u64,
    /// Of these, the ones that ended with an error.
    pub failed: u64,
    /// Kernels and graphs launched.
    pub launches: u64,
    /// Copies issued.
    pub copies: u64,
    /// Bytes of these copies.
    pub copied_bytes: u64,
    /// Waits that the program did not see answered in shared memory: synchronisations of streams, events and contexts.
    pub waits: u64,
    /// Records and values that were refused because they break the format or name what is not the client's.
    pub refused: u64,
    /// Device memory charged, in bytes.
    pub memory_used: u64,
    /// Device memory that it may hold, in bytes; 0 for no limit but the device's.
    pub memory_limit: u64,
    /// The sticky CUDA error, 0 for none.
    pub sticky: u64,
}

/// A word of [`Figures`].
#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// [`Figures::calls`].
    Calls,
    /// [`Figures::failed`].
    Failed,
    /// [`Figures::launches`].
    Launches,
    /// [`Figures::copies`].
    Copies,
    /// [`Figures::copied_bytes`].
    CopiedBytes,
    /// [`Figures::waits`].
    Waits,
    /// [`Figures::refused`].
    Refused,
    /// [`Figures::memory_used`].
    MemoryUsed,
    /// [`Figures::memory_limit`].
    MemoryLimit,
    /// [`Figures::sticky`].
    Sticky,
}

const _: () = assert!(size_of::<Figures>() == 8 * (Word::Sticky as usize + 1));

/// The worker's side of the page.
#[derive(Clone, Debug)]
pub struct Counts(View);

impl Counts {
    /// The page that the daemon made.
    ///
    /// # Errors
    /// When it is no such page.
    pub fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        map_sealed(file, PAGE_BYTES).map(Self)
    }

    /// A page that nobody else sees.
    pub fn private() -> Self {
        Self(View::private(PAGE_BYTES))
    }

    /// Adds to a word.
    #[inline]
    pub fn add(&self, word: Word, count: u64) {
        if let Some(cell) = self.0.u64(8 * word as usize) {
            cell.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Sets a word.
    #[inline]
    pub fn set(&self, word: Word, value: u64) {
        if let Some(cell) = self.0.u64(8 * word as usize) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    /// Counts a record that was executed.
    #[inline]
    pub fn executed(&self, number: u16, payload: &[u8], outcome: Result<(), CUresult>) {
        self.add(Word::Calls, 1);
        if outcome.is_err() {
            self.add(Word::Failed, 1);
            return;
        }
        match number {
            call::cuLaunchKernel
            | call::cuLaunchKernelEx
            | call::cuLaunchCooperativeKernel
            | call::cuGraphLaunch => self.add(Word::Launches, 1),
            call::cuStreamSynchronize
            | call::cuEventSynchronize
            | call::cuCtxSynchronize
            | internal::FLUSH => self.add(Word::Waits, 1),
            _ => {
                if let Some(bytes) = copied(number, payload) {
                    self.add(Word::Copies, 1);
                    self.add(Word::CopiedBytes, bytes);
                }
            }
        }
    }
}

/// The bytes of a copy that the driver has accepted; `None` for other calls.
fn copied(number: u16, payload: &[u8]) -> Option<u64> {
    fn args<T: FromBytes>(payload: &[u8]) -> Option<T> {
        Some(T::read_from_prefix(payload).ok()?.0)
    }
    match number {
        call::cuMemcpyHtoDAsync_v2 => Some(args::<CopyIn>(payload)?.len),
        call::cuMemcpyDtoHAsync_v2 => Some(args::<CopyOut>(payload)?.len),
        call::cuMemcpyDtoDAsync_v2 => {
            Some(args::<wire::cuMemcpyDtoDAsync_v2::Args>(payload)?.bytes.0)
        }
        call::cuMemcpyPeerAsync => Some(args::<wire::cuMemcpyPeerAsync::Args>(payload)?.bytes.0),
        call::cuMemcpy3DAsync_v2 => {
            let copy = args::<CUDA_MEMCPY3D>(payload)?;
            let rows = copy.height.saturating_mul(copy.depth);
            Some(copy.width.saturating_mul(rows))
        }
        _ => None,
    }
}

/// The daemon's side of the page: it reads and never maps it.
#[derive(Debug)]
pub struct FigurePage(OwnedFd);

impl FigurePage {
    /// Makes a page of zeros.
    ///
    /// # Errors
    /// The system's error.
    pub fn create() -> io::Result<Self> {
        use rustix::fs::{MemfdFlags, SealFlags};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("vgpu-figures", flags)?;
        rustix::fs::ftruncate(&file, PAGE_BYTES as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Self(file))
    }

    /// The figures as they are.
    #[must_use]
    pub fn read(&self) -> Figures {
        let mut figures = Figures::new_zeroed();
        // A sealed file of a page is never too short; whatever is not read stays zero.
        let _ = rustix::io::pread(&self.0, figures.as_mut_bytes(), 0);
        figures
    }
}

impl AsFd for FigurePage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_reads_what_the_worker_counts() {
        let page = FigurePage::create().unwrap();
        let counts = Counts::map(page.as_fd()).unwrap();
        assert_eq!(page.read(), Figures::default());
        counts.executed(call::cuLaunchKernel, &[], Ok(()));
        counts.executed(call::cuLaunchKernel, &[], Err(CUresult::INVALID_VALUE));
        counts.executed(internal::FLUSH, &[], Ok(()));
        // A payload that says nothing is counted as a call and as nothing else.
        counts.executed(call::cuMemcpyHtoDAsync_v2, &[1], Ok(()));
        counts.executed(u16::MAX, &[], Ok(()));
        counts.set(Word::MemoryUsed, 7);
        counts.set(Word::Sticky, 700);
        let expected = Figures {
            calls: 5,
            failed: 1,
            launches: 1,
            waits: 1,
            memory_used: 7,
            sticky: 700,
            ..Figures::default()
        };
        assert_eq!(page.read(), expected);
    }

    #[test]
    fn only_a_sealed_page_is_mapped() {
        let file = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, PAGE_BYTES as u64).unwrap();
        assert!(Counts::map(file.as_fd()).is_err());
    }
}
