//! The client's own pages exchanged for pages of a segment, at the same address, and back (`semantics.md` 17).
//!
//! After [`adopt`] a range of private memory is shared memory with the same content: the server maps it at the same address
//! too ([`alias`](crate::alias)). To every other thread the exchange is one step: whoever stores into the range meanwhile
//! is held off and then stores into the pages that are there by then.
//!
//! Only private, anonymous, readable and writable memory will do, that is no stack and not locked or pinned.

use core::ffi::c_void;
use std::io;
use std::ops::Range;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use crate::alias::double;
use crate::hold::{Hold, PAGE};
use crate::segment::Segments;
use crate::shm::copy_bytes;

pub use crate::hold::holds_threads;

/// Why pages were not exchanged. They are as they were then, except for [`AdoptError::Moved`].
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// No whole pages, or part of the range is not mapped.
    #[error("not all of {len:#x} bytes at {at:#x} is memory")]
    Unmapped {
        /// First address.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// The memory is of a kind that cannot be exchanged.
    #[error("{0}")]
    Kind(&'static str),
    /// The pages to exchange them for lie in no segment of ordinary pages.
    #[error("the channel's memory consists of huge pages")]
    Huge,
    /// Other threads live, and cannot be held off.
    #[error(
        "other threads cannot be held off (vm.unprivileged_userfaultfd, /dev/userfaultfd): {0}"
    )]
    Threads(#[source] io::Error),
    /// The program has unmapped or moved adopted pages by itself: they are its own business now, but may still be mapped
    /// somewhere, so the block must not be used again.
    #[error("the memory was unmapped or moved meanwhile")]
    Moved,
    /// The system refused.
    #[error("the system refused: {0}")]
    System(#[source] io::Error),
}

/// Whether the `len` bytes at `at`, whole pages, are memory that can be exchanged.
///
/// # Errors
///
/// [`AdoptError`].
pub fn check(at: u64, len: u64) -> Result<(), AdoptError> {
    let unmapped = AdoptError::Unmapped { at, len };
    let end = at.checked_add(len);
    let (Some(end), true) = (end, at.is_multiple_of(PAGE) && len.is_multiple_of(PAGE)) else {
        return Err(unmapped);
    };
    if len == 0 {
        return Err(unmapped);
    }
    let text = std::fs::read_to_string("/proc/self/maps").map_err(AdoptError::System)?;
    let here = &raw const text as u64;
    // SAFETY: gives the address of this thread's own variable.
    let errno = unsafe { libc::__errno_location() } as u64;
    let mut reached = at;
    for map in overlapping(&text, at..end) {
        if map.range.start > reached {
            return Err(unmapped);
        }
        reached = map.range.end;
        if map.range.contains(&here) || map.name.contains("stack") {
            return Err(AdoptError::Kind("it is a stack"));
        }
        let anonymous = map.inode == "0"
            && (map.name.is_empty() || map.name == "[heap]" || map.name.starts_with("[anon:"));
        if map.access != "rw-p" || !anonymous {
            return Err(AdoptError::Kind(
                "it is not private anonymous memory that can be read and written",
            ));
        }
    }
    if reached < end {
        return Err(unmapped);
    }
    if (at..end).contains(&errno) {
        return Err(AdoptError::Kind("it holds this thread's own variables"));
    }
    let status = std::fs::read_to_string("/proc/self/status").map_err(AdoptError::System)?;
    if amount(&status, "VmPin:") {
        return Err(AdoptError::Kind(
            "this process has memory pinned for devices, which may be this",
        ));
    }
    if amount(&status, "VmLck:") && is_locked(at..end)? {
        return Err(AdoptError::Kind("it is locked"));
    }
    Ok(())
}

/// Exchanges the `len` bytes at `at`, for which [`check`] holds, for the segment's pages at `block`, with their content.
///
/// # Errors
///
/// [`AdoptError`].
pub fn adopt(segments: &Segments, at: u64, len: u64, block: u64) -> Result<(), AdoptError> {
    check(at, len)?;
    if !segments.is_plain(block, len) {
        return Err(AdoptError::Huge);
    }
    let hold = Hold::writers(at, len).map_err(AdoptError::Threads)?;
    // SAFETY: `check` saw memory at `at`, which nobody changes while it is held; the block is mapped and the caller's.
    unsafe { copy_bytes(block as *mut u8, at as *const u8, len as usize) };
    // SAFETY: `is_plain` says that the pages belong to one mapped file. References of the program into the range stay
    // good: the same bytes are there as before.
    let exchanged = unsafe { double(block, len, at) }.and_then(|()| share_with_children(at, len));
    if exchanged.is_err() {
        mend(at, len, block);
    }
    drop(hold);
    exchanged.map_err(AdoptError::System)
}

/// Exchanges adopted pages for private ones again, with their content. The server's alias must be gone.
///
/// # Errors
///
/// [`AdoptError`]. After [`AdoptError::Moved`] the pages are not adopted any more; else they still are.
pub fn give_back(segments: &Segments, at: u64, len: u64, block: u64) -> Result<(), AdoptError> {
    if !segments.is_plain(block, len) {
        return Err(AdoptError::Huge);
    }
    if !is_intact(at, len, block)? {
        return Err(AdoptError::Moved);
    }
    let fresh = Private::anywhere(len).map_err(AdoptError::System)?;
    let hold = Hold::writers(at, len).map_err(AdoptError::Threads)?;
    // SAFETY: the block is mapped, and nobody changes it while its second mapping is held; the pages are fresh.
    unsafe { copy_bytes(fresh.at as *mut u8, block as *const u8, len as usize) };
    let exchanged = fresh.move_to(at);
    if exchanged.is_err() && is_hole(at, len) {
        // SAFETY: as in `adopt`; nothing is mapped there.
        let _ = unsafe { double(block, len, at) }.and_then(|()| share_with_children(at, len));
    }
    drop(hold);
    exchanged.map_err(AdoptError::System)
}

/// The content of adopted pages for a child that is about to be forked, which would have the pages in common with its
/// parent.
#[derive(Debug)]
pub struct ForChild {
    at: u64,
    pages: Private,
}

impl ForChild {
    /// Copies the `len` bytes of `block`, which are adopted at `at`.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn copy(segments: &Segments, at: u64, len: u64, block: u64) -> io::Result<ForChild> {
        let adopted = segments.is_plain(block, len)
            && is_intact(at, len, block).map_err(|error| io::Error::other(error.to_string()))?;
        if !adopted {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let pages = Private::anywhere(len)?;
        // SAFETY: the block is mapped and the pages are fresh. Threads that store there meanwhile are as unordered with this
        // as they are with the fork itself.
        unsafe { copy_bytes(pages.at as *mut u8, block as *const u8, len as usize) };
        Ok(ForChild { at, pages })
    }

    /// In the child: puts the copy in the place of the pages. Allocates nothing and takes no lock.
    pub fn put(self) {
        let _ = self.pages.move_to(self.at);
    }
}

/// Fresh private pages; unmapped on drop.
#[derive(Debug)]
struct Private {
    at: u64,
    len: u64,
}

impl Private {
    fn anywhere(len: u64) -> io::Result<Private> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh map at a place of the kernel's choice.
        let at = unsafe {
            rustix::mm::mmap_anonymous(
                core::ptr::null_mut(),
                len as usize,
                prot,
                MapFlags::PRIVATE,
            )?
        };
        Ok(Private { at: at as u64, len })
    }

    /// Moves the pages to `to`, in place of what is mapped there. To other threads this is one step.
    fn move_to(self, to: u64) -> io::Result<()> {
        let len = self.len as usize;
        // SAFETY: the pages are this object's own. What they replace holds the same bytes, or nothing.
        unsafe {
            rustix::mm::mremap_fixed(
                self.at as *mut c_void,
                len,
                len,
                MremapFlags::MAYMOVE,
                to as *mut c_void,
            )?
        };
        core::mem::forget(self);
        Ok(())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: the pages are this object's own.
        let _ = unsafe { rustix::mm::munmap(self.at as *mut c_void, self.len as usize) };
    }
}

/// Lets children inherit adopted pages, unlike the rest of the channel: the C library and handlers of forks may need what
/// else lies on them before [`ForChild::put`] makes them the child's own.
fn share_with_children(at: u64, len: u64) -> io::Result<()> {
    // SAFETY: the pages are mapped; what children inherit is a property of theirs and changes no byte.
    unsafe {
        rustix::mm::madvise(
            at as *mut c_void,
            len as usize,
            rustix::mm::Advice::LinuxDoFork,
        )
    }
    .map_err(io::Error::from)
}

/// Makes a failed exchange good, should the system have unmapped the private pages before it failed.
fn mend(at: u64, len: u64, block: u64) {
    if let Ok(fresh) = Private::anywhere(len)
        && is_hole(at, len)
    {
        // SAFETY: the block holds the content of the private pages.
        unsafe { copy_bytes(fresh.at as *mut u8, block as *const u8, len as usize) };
        let _ = fresh.move_to(at);
    }
}

/// Whether nothing is mapped at `at .. at + len`; by asking the kernel only.
fn is_hole(at: u64, len: u64) -> bool {
    crate::shm::Reserved::exactly(at, len).is_ok()
}

/// Whether all of `at .. at + len` still is a second mapping of the segment's pages at `block`.
fn is_intact(at: u64, len: u64, block: u64) -> Result<bool, AdoptError> {
    let text = std::fs::read_to_string("/proc/self/maps").map_err(AdoptError::System)?;
    let Some(segment) = overlapping(&text, block..block + 1).next() else {
        return Ok(false);
    };
    let Some(first) = segment.offset_of(block) else {
        return Ok(false);
    };
    let mut reached = at;
    for map in overlapping(&text, at..at + len) {
        let same = (map.device, map.inode) == (segment.device, segment.inode)
            && map.range.start <= reached
            && map.offset_of(reached) == first.checked_add(reached - at);
        if !same {
            return Ok(false);
        }
        reached = map.range.end;
    }
    Ok(reached >= at + len)
}

/// Whether a figure of `/proc/self/status` is there and not zero.
fn amount(status: &str, name: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next())
        .is_some_and(|number| number != "0")
}

/// Whether any of the range is locked.
fn is_locked(range: Range<u64>) -> Result<bool, AdoptError> {
    let text = std::fs::read_to_string("/proc/self/smaps").map_err(AdoptError::System)?;
    let mut inside = false;
    for line in text.lines() {
        if let Some(map) = Map::parse(line) {
            inside = map.range.start < range.end && range.start < map.range.end;
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && inside
            && flags.split_whitespace().any(|flag| flag == "lo")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A line of `/proc/self/maps`.
#[derive(Debug)]
struct Map<'a> {
    range: Range<u64>,
    access: &'a str,
    offset: u64,
    device: &'a str,
    inode: &'a str,
    name: &'a str,
}

impl Map<'_> {
    fn parse(line: &str) -> Option<Map<'_>> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        Some(Map {
            range: u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?,
            access: fields.next()?,
            offset: u64::from_str_radix(fields.next()?, 16).ok()?,
            device: fields.next()?,
            inode: fields.next()?,
            name: fields.next().unwrap_or_default().trim(),
        })
    }

    /// Where in the file an address at or behind the start is.
    fn offset_of(&self, address: u64) -> Option<u64> {
        self.offset
            .checked_add(address.checked_sub(self.range.start)?)
    }
}

/// The mappings that reach into `range`, ascending.
fn overlapping(text: &str, range: Range<u64>) -> impl Iterator<Item = Map<'_>> {
    text.lines()
        .filter_map(Map::parse)
        .filter(move |map| map.range.start < range.end && range.start < map.range.end)
}

#[cfg(test)]
mod tests;
