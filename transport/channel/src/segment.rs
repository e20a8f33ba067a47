//! Segments: sealed memory files, and the contiguous set of them that a channel maps.
//!
//! A segment is created, sized, preallocated and sealed by the privileged side and only then handed out. Seals against
//! shrinking and growing make its size final, so no access within it can fault because the file got shorter. The peer
//! may still punch holes; pages then read as zero.
//!
//! In a virtual machine a segment is instead a list of [pieces](Pieces) of the files behind the machine's RAM, which its
//! agent chose and the daemon checked. They are mapped one behind the other, so no difference is seen afterwards. Those
//! files are not sealed: they belong to the virtual machine monitor, which is trusted with its own guest.
//!
//! The shared part of the window is filled from its start without holes: first the control segment, then the heap
//! segments in the order in which they were granted. So "is this range mapped?" is two comparisons.

use core::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::maps;
use crate::shm::{self, OutOfRange, View};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, lock};
use crate::window::{Reservation, SHARED_BYTES, Window};

/// Sizes and addresses of segments are multiples of this: 2 MiB, one huge page.
pub const SEGMENT_ALIGN: u64 = 2 << 20;

/// The largest single segment: 64 GiB.
pub const SEGMENT_MAX: u64 = 64 << 30;

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// Why a segment could not be made, believed or mapped.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// Not a positive multiple of 2 MiB, or beyond 64 GiB.
    #[error("A segment cannot have {0} bytes")]
    Size(u64),
    /// The host has not enough memory (or memory files are limited).
    #[error("Not enough memory for a segment of {0} bytes")]
    NoMemory(u64),
    /// A received file is not sealed against shrinking and growing.
    #[error("A received memory file is not sealed")]
    NotSealed,
    /// A received file has another size than announced.
    #[error("A received memory file has {actual} bytes instead of {announced}")]
    WrongSize {
        /// What the message said.
        announced: u64,
        /// What the file says.
        actual: u64,
    },
    /// The address does not continue the segments mapped so far, or leaves the shared part of the window.
    #[error("A segment cannot be placed at {0:#x}")]
    Address(u64),
    /// With it the channel would have more mappings than half of what the kernel grants this process.
    #[error("A segment of {0} mappings is more than vm.max_map_count leaves room for")]
    TooManyMaps(usize),
    /// The system refused.
    #[error("The system refused a memory file")]
    System(#[source] io::Error),
}

fn classify(errno: Errno, len: u64) -> SegmentError {
    match errno {
        Errno::NOSPC | Errno::NOMEM | Errno::DQUOT | Errno::FBIG => SegmentError::NoMemory(len),
        other => SegmentError::System(other.into()),
    }
}

/// Whether to back a segment by huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Try the host's pool of 2 MiB pages, and take ordinary pages when it is empty.
    Try,
    /// Pages of the host's pool of 2 MiB pages or none: what a device is told the physical addresses of.
    Require,
    /// Ordinary pages (which the kernel may still merge).
    Never,
}

/// A sealed memory file.
#[derive(Debug)]
pub struct SegmentFd {
    fd: OwnedFd,
    len: u64,
    huge: bool,
}

impl SegmentFd {
    /// Makes, sizes, preallocates and seals a memory file of `len` bytes. For the privileged side.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Size`], [`SegmentError::NoMemory`] or the system's refusal.
    pub fn create(len: u64, pages: HugePages) -> Result<SegmentFd, SegmentError> {
        check_size(len)?;
        let huge = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        match pages {
            HugePages::Require => return Self::create_with(len, huge, true),
            HugePages::Try => {
                if let Ok(segment) = Self::create_with(len, huge, true) {
                    return Ok(segment);
                }
            }
            HugePages::Never => {}
        }
        Self::create_with(len, MemfdFlags::empty(), false)
    }

    fn create_with(len: u64, extra: MemfdFlags, huge: bool) -> Result<SegmentFd, SegmentError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | extra;
        let fd = rustix::fs::memfd_create("vgpu-segment", flags).map_err(|e| classify(e, len))?;
        rustix::fs::ftruncate(&fd, len).map_err(|e| classify(e, len))?;
        // Without this a full host would show as a fault in the middle of a copy instead of an error here.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len)
            .map_err(|e| classify(e, len))?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(|e| classify(e, len))?;
        Ok(SegmentFd { fd, len, huge })
    }

    /// Takes over a memory file from the peer, after checking its size and seals.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Size`], [`SegmentError::NotSealed`], [`SegmentError::WrongSize`] or the system's refusal.
    pub fn receive(fd: OwnedFd, len: u64) -> Result<SegmentFd, SegmentError> {
        check_size(len)?;
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| SegmentError::NotSealed)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(SegmentError::NotSealed);
        }
        let stat = rustix::fs::fstat(&fd).map_err(|e| classify(e, len))?;
        let actual = u64::try_from(stat.st_size).unwrap_or(0);
        if actual != len {
            return Err(SegmentError::WrongSize {
                announced: len,
                actual,
            });
        }
        let huge = u64::try_from(stat.st_blksize).is_ok_and(|block| block >= SEGMENT_ALIGN);
        Ok(SegmentFd { fd, len, huge })
    }

    /// Size in bytes, final.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len
    }

    /// Whether it is backed by the pool of huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Maps the whole file, shared, at a place of the kernel's choice and with its pages faulted in: for whoever looks
    /// after segments without having a window.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn map(&self) -> io::Result<View> {
        shm::map_anywhere(self.fd.as_fd(), self.len)
    }

    /// Another descriptor of the same file.
    ///
    /// # Errors
    ///
    /// The system's error, out of descriptors as a rule.
    pub fn try_clone(&self) -> io::Result<SegmentFd> {
        Ok(SegmentFd {
            fd: self.fd.try_clone()?,
            len: self.len,
            huge: self.huge,
        })
    }
}

impl AsFd for SegmentFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check_size(len: u64) -> Result<(), SegmentError> {
    if len == 0 || !len.is_multiple_of(SEGMENT_ALIGN) || len > SEGMENT_MAX {
        Err(SegmentError::Size(len))
    } else {
        Ok(())
    }
}

/// Bytes of one of several files.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FilePiece {
    /// Index of the file.
    pub file: u32,
    /// Zero.
    pub reserved: u32,
    /// First byte in the file, a multiple of 2 MiB.
    pub offset: u64,
    /// Bytes, a positive multiple of 2 MiB.
    pub len: u64,
}

/// A segment made of parts of files that this process does not own. The files are closed with the last list that names
/// them.
#[derive(Debug)]
pub struct Pieces {
    files: Arc<[OwnedFd]>,
    list: Vec<FilePiece>,
    len: u64,
    maps: usize,
}

impl Pieces {
    /// Checks a list: whole pages of 2 MiB, of files that are there.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Size`].
    pub fn new(files: &Arc<[OwnedFd]>, list: Vec<FilePiece>) -> Result<Pieces, SegmentError> {
        let mut len = 0_u64;
        let mut maps = 0;
        let mut before = None;
        for piece in &list {
            let end = piece.offset.checked_add(piece.len);
            let fits = piece.len > 0
                && piece.len.is_multiple_of(SEGMENT_ALIGN)
                && piece.offset.is_multiple_of(SEGMENT_ALIGN)
                && end.is_some_and(|end| i64::try_from(end).is_ok())
                && (piece.file as usize) < files.len();
            if !fits {
                return Err(SegmentError::Size(piece.len));
            }
            len = len.saturating_add(piece.len);
            // The kernel makes one mapping of neighbours in a file.
            maps += usize::from(before != Some((piece.file, piece.offset)));
            before = end.map(|end| (piece.file, end));
        }
        check_size(len)?;
        Ok(Pieces {
            files: Arc::clone(files),
            list,
            len,
            maps,
        })
    }

    /// Size in bytes of all pieces together.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len
    }
}

/// What a segment consists of.
#[derive(Debug)]
pub enum Memory {
    /// A sealed memory file.
    File(SegmentFd),
    /// Parts of a virtual machine's RAM.
    Pieces(Pieces),
}

impl From<SegmentFd> for Memory {
    fn from(file: SegmentFd) -> Self {
        Memory::File(file)
    }
}

/// One mapped segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address, the same in both processes.
    pub address: u64,
    /// Size in bytes.
    pub len: u64,
}

/// Which side maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The guest process: maps are not inherited by forked children.
    Client,
    /// The worker.
    Server,
    /// Both sides in one process, which share one set: a segment that the other side already mapped is taken as it is.
    Both,
}

/// The segments of one channel, mapped one behind the other from the start of the window's shared part.
pub struct Segments {
    reservation: Reservation,
    side: Side,
    /// First address behind the last mapped segment; grows only.
    end: AtomicU64,
    mapped: Mutex<Mapped>,
    /// Mappings that all of them together may be.
    max_maps: usize,
}

/// What is mapped.
#[derive(Debug, Default)]
struct Mapped {
    list: Vec<Segment>,
    /// Those that are files of ordinary pages.
    plain: Vec<Segment>,
    /// Mappings that they are, as far as is known: the kernel may have merged some across segments.
    maps: usize,
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segments")
            .field("side", &self.side)
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

impl Segments {
    /// An empty set in the window held by `reservation`, which grows up to [`maps::limit`].
    #[must_use]
    pub fn new(reservation: Reservation, side: Side) -> Arc<Segments> {
        Segments::limited(reservation, side, maps::limit())
    }

    /// As [`Segments::new`], up to `max_maps` mappings.
    #[must_use]
    pub fn limited(reservation: Reservation, side: Side, max_maps: usize) -> Arc<Segments> {
        let end = AtomicU64::new(reservation.window().high);
        Arc::new(Segments {
            reservation,
            side,
            end,
            mapped: Mutex::default(),
            max_maps,
        })
    }

    /// The window they lie in.
    #[must_use]
    pub fn window(&self) -> &Window {
        self.reservation.window()
    }

    /// The reservation they are mapped in.
    #[must_use]
    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// First address behind the last segment: where the next one goes.
    #[must_use]
    pub fn end(&self) -> u64 {
        // SYNC POINT (segments), pairs with `append`: what is seen as mapped is mapped.
        self.end.load(Ordering::Acquire)
    }

    /// The segments mapped so far, ascending.
    #[must_use]
    pub fn list(&self) -> Vec<Segment> {
        lock(&self.mapped).list.clone()
    }

    /// Whether one more mapping is allowed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        lock(&self.mapped).maps < self.max_maps
    }

    /// Maps `segment` at `address`, which must be [`Segments::end`].
    ///
    /// # Errors
    ///
    /// [`SegmentError::Address`], [`SegmentError::TooManyMaps`], or the system's refusal.
    pub fn append(&self, address: u64, segment: &SegmentFd) -> Result<Segment, SegmentError> {
        let mapped = self.place(address, segment.len, 1, |reserved, dont_fork| {
            reserved.map_shared(address, segment.len, segment.as_fd(), 0, dont_fork)
        })?;
        let mut all = lock(&self.mapped);
        if !segment.huge && !all.plain.contains(&mapped) {
            all.plain.push(mapped);
        }
        Ok(mapped)
    }

    /// Whether `address .. address + len` lies in one segment that is a file of ordinary pages, so that its pages can be
    /// mapped anywhere. Never in a virtual machine, whose segments are huge pages.
    #[must_use]
    pub fn is_plain(&self, address: u64, len: u64) -> bool {
        let end = address.checked_add(len);
        lock(&self.mapped).plain.iter().any(|segment| {
            segment.address <= address
                && end.is_some_and(|end| end <= segment.address + segment.len)
        })
    }

    /// Maps `pieces` one behind the other at `address`, which must be [`Segments::end`].
    ///
    /// # Errors
    ///
    /// As for [`Segments::append`]; nothing stays mapped then.
    pub fn append_pieces(&self, address: u64, pieces: &Pieces) -> Result<Segment, SegmentError> {
        self.place(address, pieces.len, pieces.maps, |reserved, dont_fork| {
            let mut at = address;
            for piece in &pieces.list {
                let file = pieces.files.get(piece.file as usize).ok_or(Errno::BADF)?;
                let mapped =
                    reserved.map_shared(at, piece.len, file.as_fd(), piece.offset, dont_fork);
                if let Err(error) = mapped {
                    reserved.unmap_shared(address, at - address + piece.len)?;
                    return Err(error);
                }
                at += piece.len;
            }
            Ok(())
        })
    }

    /// Maps what `memory` consists of, as [`Segments::append`] and [`Segments::append_pieces`] do. Gives a memory file back;
    /// the files behind pieces are closed.
    ///
    /// # Errors
    ///
    /// As for these two.
    pub fn append_memory(
        &self,
        address: u64,
        memory: Memory,
    ) -> Result<(Segment, Option<SegmentFd>), SegmentError> {
        match memory {
            Memory::File(file) => Ok((self.append(address, &file)?, Some(file))),
            Memory::Pieces(pieces) => Ok((self.append_pieces(address, &pieces)?, None)),
        }
    }

    fn place(
        &self,
        address: u64,
        len: u64,
        maps: usize,
        map: impl FnOnce(&shm::Reserved, bool) -> io::Result<()>,
    ) -> Result<Segment, SegmentError> {
        let mut mapped = lock(&self.mapped);
        let asked = Segment { address, len };
        if self.side == Side::Both && mapped.list.contains(&asked) {
            return Ok(asked);
        }
        let limit = self.window().high + SHARED_BYTES;
        if address != self.end.load(Ordering::Relaxed) || limit - address < len {
            return Err(SegmentError::Address(address));
        }
        if mapped.maps.saturating_add(maps) > self.max_maps {
            return Err(SegmentError::TooManyMaps(maps));
        }
        map(self.reservation.high(), self.side == Side::Client).map_err(SegmentError::System)?;
        mapped.list.push(asked);
        mapped.maps += maps;
        // SYNC POINT (segments).
        self.end.store(address + len, Ordering::Release);
        Ok(asked)
    }

    /// Whether all of `address .. address + len` is mapped (`len` 0 asks for the address alone to lie inside or at the
    /// end).
    #[must_use]
    #[inline]
    pub fn contains(&self, address: u64, len: u64) -> bool {
        address >= self.window().high
            && address
                .checked_add(len)
                .is_some_and(|end| end <= self.end())
    }

    /// A checked view of a mapped range.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when part of it is not mapped.
    pub fn view(self: &Arc<Self>, address: u64, len: u64) -> Result<View, OutOfRange> {
        let outside = OutOfRange { at: address, len };
        let size = usize::try_from(len).map_err(|_| outside)?;
        if !self.contains(address, len) {
            return Err(outside);
        }
        let keep: Arc<Segments> = Arc::clone(self);
        // SAFETY: the range is mapped, stays so until this set is dropped (segments are only ever added), and no
        // reference to it exists: all access goes through views.
        Ok(unsafe { View::new(address as *mut u8, size, keep) })
    }

    fn check(&self, address: u64, len: usize) -> Result<(), OutOfRange> {
        if self.contains(address, len as u64) {
            Ok(())
        } else {
            Err(OutOfRange {
                at: address,
                len: len as u64,
            })
        }
    }

    /// Copies bytes out of the segments, once.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when part of the range is not mapped; nothing is copied then.
    #[inline]
    pub fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        self.check(address, into.len())?;
        // SAFETY: `check` proved that the source is mapped; `into` is private memory, which never lies in segments.
        unsafe { shm::copy_bytes(into.as_mut_ptr(), address as *const u8, into.len()) };
        Ok(())
    }

    /// Copies bytes into the segments.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when part of the range is not mapped; nothing is copied then.
    #[inline]
    pub fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), OutOfRange> {
        self.check(address, from.len())?;
        // SAFETY: `check` proved that the destination is mapped; `from` is private memory.
        unsafe { shm::copy_bytes(address as *mut u8, from.as_ptr(), from.len()) };
        Ok(())
    }

    /// The 32-bit control word at `address`, which must be a multiple of 4.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when it is misaligned or not mapped.
    #[inline]
    pub fn word(&self, address: u64) -> Result<&AtomicU32, OutOfRange> {
        self.check(address, 4)?;
        if !address.is_multiple_of(4) {
            return Err(OutOfRange {
                at: address,
                len: 4,
            });
        }
        // SAFETY: mapped as long as `self`, aligned, and only accessed atomically or by the copy routine.
        Ok(unsafe { AtomicU32::from_ptr(address as *mut u32) })
    }
}
