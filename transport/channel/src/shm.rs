//! Shared memory: raw maps, the copy routine and control words. Unsafe code of this crate is here, and in the accessors
//! of [`crate::segment`], which follow the same rules.
//!
//! # Rules
//!
//! 1. No Rust reference and no slice ever covers payload bytes of shared memory: the peer may change them at any time.
//!    They are reached through raw pointers only, by [`View::read`] and [`View::write`].
//! 2. Those two copy through inline assembly or an opaque call (volatile accesses on other targets), which the compiler
//!    can neither split, merge nor repeat: what was read is read once, into private memory, and only the copy is parsed.
//! 3. Control words are reached as atomics made from raw pointers ([`View::u32`], [`View::u64`]), each aligned.
//! 4. A [`View`] keeps its memory mapped; every offset is checked against its length.
//! 5. Maps with a fixed address replace only pages of one's own reservation.
//!
//! Background: the Rust reference leaves memory shared with untrusted parties open (unsafe-code-guidelines 152 and 607);
//! raw, uncached-by-the-compiler accesses without references are what its authors advise meanwhile.

use core::ffi::c_void;
use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64 as StdAtomicU64, Ordering::Relaxed};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::sync::{AtomicU32, AtomicU64};

/// An access that would leave the memory it was meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {at:#x} lie outside the shared memory")]
pub struct OutOfRange {
    /// The address or offset asked for.
    pub at: u64,
    /// The number of bytes asked for.
    pub len: u64,
}

/// A checked range of shared memory that stays mapped as long as the view lives.
#[derive(Clone)]
pub struct View {
    base: *mut u8,
    len: usize,
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a view is an address and a keep-alive. All access goes through atomics or through the copy routine, which
// tolerates concurrent changes by design (rule 2), so threads may share and move it.
unsafe impl Send for View {}
// SAFETY: as above; no method hands out a reference to payload bytes.
unsafe impl Sync for View {}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("base", &self.base)
            .field("len", &self.len)
            .finish()
    }
}

impl View {
    /// A view of `len` bytes at `base`.
    ///
    /// # Safety
    ///
    /// The range must be mapped readable and writable until `keep` is dropped, and nothing in this process may hold a
    /// Rust reference to its bytes.
    pub(crate) unsafe fn new(base: *mut u8, len: usize, keep: Arc<dyn Any + Send + Sync>) -> View {
        View {
            base,
            len,
            _keep: keep,
        }
    }

    /// Private zeroed memory of at least `len` bytes, aligned to 4 KiB: stands in for a segment in tests and models.
    #[must_use]
    pub fn private(len: usize) -> View {
        let pages = Arc::new(PrivatePages::new(len));
        let base = pages.base();
        // SAFETY: `pages` owns `len` zeroed bytes at `base`, hands out no reference to them, and lives in the view.
        unsafe { View::new(base, len, pages) }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the view covers no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte in this process.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base as u64
    }

    fn check(&self, offset: usize, len: usize) -> Result<*mut u8, OutOfRange> {
        let outside = OutOfRange {
            at: offset as u64,
            len: len as u64,
        };
        let end = offset.checked_add(len).ok_or(outside)?;
        if end > self.len {
            return Err(outside);
        }
        Ok(self.base.wrapping_add(offset))
    }

    /// Copies `into.len()` bytes out of shared memory, once.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when the range leaves the view; nothing is copied then.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.check(offset, into.len())?;
        // SAFETY: `check` proved that the source lies in the view, `into` is private to the caller.
        unsafe { copy_bytes(into.as_mut_ptr(), from, into.len()) };
        Ok(())
    }

    /// Copies `from` into shared memory.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when the range leaves the view; nothing is copied then.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfRange> {
        let to = self.check(offset, from.len())?;
        // SAFETY: `check` proved that the destination lies in the view, `from` is private to the caller.
        unsafe { copy_bytes(to, from.as_ptr(), from.len()) };
        Ok(())
    }

    /// The 32-bit control word at `offset`; `None` when it is misaligned or outside.
    #[must_use]
    pub fn u32(&self, offset: usize) -> Option<&AtomicU32> {
        let at = self.check(offset, 4).ok()?;
        if !(at as usize).is_multiple_of(4) {
            return None;
        }
        // SAFETY: in range, aligned, mapped as long as `self`, and only accessed atomically or by the copy routine.
        Some(unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// The 64-bit control word at `offset`; `None` when it is misaligned or outside.
    #[must_use]
    pub fn u64(&self, offset: usize) -> Option<&AtomicU64> {
        let at = self.check(offset, 8).ok()?;
        if !(at as usize).is_multiple_of(8) {
            return None;
        }
        // SAFETY: in range, aligned, mapped as long as `self`, and only accessed atomically or by the copy routine.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// The part of this view that starts at `offset` and has `len` bytes.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when it would leave the view.
    pub fn slice(&self, offset: usize, len: usize) -> Result<View, OutOfRange> {
        let base = self.check(offset, len)?;
        Ok(View {
            base,
            len,
            _keep: Arc::clone(&self._keep),
        })
    }
}

/// Zeroed, page-aligned memory of this process alone.
struct PrivatePages {
    base: *mut u8,
    layout: std::alloc::Layout,
}

// SAFETY: the pages are reached through `View` alone, which is itself `Send` and `Sync`.
unsafe impl Send for PrivatePages {}
// SAFETY: as above.
unsafe impl Sync for PrivatePages {}

impl PrivatePages {
    fn new(len: usize) -> PrivatePages {
        let layout = std::alloc::Layout::from_size_align(len.max(1), 4096)
            .unwrap_or_else(|_| std::alloc::Layout::new::<u64>());
        assert!(
            layout.size() >= len,
            "a private view of {len} bytes is not addressable"
        );
        // SAFETY: the layout has a non-zero size.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        if base.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        PrivatePages { base, layout }
    }

    fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for PrivatePages {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed once; views that pointed here kept `self` alive.
        unsafe { std::alloc::dealloc(self.base, self.layout) };
    }
}

/// The C library's copy, as a function the compiler knows nothing about: called through a pointer that went through
/// [`core::hint::black_box`], it is as opaque as inline assembly, and it is tuned for the CPU it runs on.
#[cfg(all(target_arch = "x86_64", not(any(miri, plain_copy))))]
type Copy = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void;

#[cfg(all(target_arch = "x86_64", not(any(miri, plain_copy))))]
unsafe extern "C" {
    fn memcpy(dst: *mut c_void, src: *const c_void, len: usize) -> *mut c_void;
}

/// Whether [`note_copied`] counts.
static COUNTING: AtomicBool = AtomicBool::new(false);
/// Bytes counted.
static COPIED: StdAtomicU64 = StdAtomicU64::new(0);

/// From now on counts the bytes that this process copies between private and shared memory.
pub fn count_copies() {
    COUNTING.store(true, Relaxed);
}

/// Bytes copied since [`count_copies`], in both directions.
#[must_use]
pub fn copied_bytes() -> u64 {
    COPIED.load(Relaxed)
}

#[inline]
fn note_copied(len: usize) {
    if COUNTING.load(Relaxed) {
        COPIED.fetch_add(len as u64, Relaxed);
    }
}

/// Up to this many bytes the copy is inline.
#[cfg(all(target_arch = "x86_64", not(any(miri, plain_copy))))]
const INLINE_COPY: usize = 1024;

/// Copies `len` bytes between private and shared memory, reading each source byte for keeps at most once.
///
/// Up to 1 KiB the copy is unrolled 16-byte moves; longer ones use the C library's copy. Odd lengths are finished by
/// one move that overlaps the one before, so a source byte may be fetched twice, but the private copy holds one value
/// and nothing else is ever looked at.
///
/// # Safety
///
/// `src` must be readable and `dst` writable for `len` bytes; the two must not overlap.
#[cfg(all(target_arch = "x86_64", not(any(miri, plain_copy))))]
pub(crate) unsafe fn copy_bytes(dst: *mut u8, src: *const u8, len: usize) {
    note_copied(len);
    use core::arch::asm;
    if len > INLINE_COPY {
        let copy = core::hint::black_box(memcpy as Copy);
        // SAFETY: the caller vouches for `len` bytes on both sides, apart from each other.
        unsafe { copy(dst.cast(), src.cast(), len) };
        return;
    }
    let mut at = 0usize;
    while len - at >= 64 {
        // SAFETY: `at + 64 <= len`.
        unsafe {
            asm!(
                "movdqu {a}, [{s}]", "movdqu {b}, [{s} + 16]", "movdqu {c}, [{s} + 32]", "movdqu {e}, [{s} + 48]",
                "movdqu [{d}], {a}", "movdqu [{d} + 16], {b}", "movdqu [{d} + 32], {c}", "movdqu [{d} + 48], {e}",
                s = in(reg) src.wrapping_add(at), d = in(reg) dst.wrapping_add(at),
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, e = out(xmm_reg) _,
                options(nostack, preserves_flags));
        }
        at += 64;
    }
    while len - at >= 16 {
        // SAFETY: `at + 16 <= len`.
        unsafe { move16(dst.wrapping_add(at), src.wrapping_add(at)) };
        at += 16;
    }
    let rest = len - at;
    if rest == 0 {
        return;
    }
    if len >= 16 {
        let last = len - 16;
        // SAFETY: `last + 16 == len`.
        unsafe { move16(dst.wrapping_add(last), src.wrapping_add(last)) };
        return;
    }
    // Fewer than 16 bytes in all: one or two moves of the widest fitting size.
    if len >= 8 {
        // SAFETY: both eight-byte moves lie in `0..len`.
        unsafe {
            asm!("mov {a}, [{s}]", "mov {b}, [{s} + {l} - 8]", "mov [{d}], {a}", "mov [{d} + {l} - 8], {b}",
                s = in(reg) src, d = in(reg) dst, l = in(reg) len, a = out(reg) _, b = out(reg) _,
                options(nostack, preserves_flags));
        }
    } else if len >= 4 {
        // SAFETY: both four-byte moves lie in `0..len`.
        unsafe {
            asm!("mov {a:e}, [{s}]", "mov {b:e}, [{s} + {l} - 4]", "mov [{d}], {a:e}", "mov [{d} + {l} - 4], {b:e}",
                s = in(reg) src, d = in(reg) dst, l = in(reg) len, a = out(reg) _, b = out(reg) _,
                options(nostack, preserves_flags));
        }
    } else {
        for i in 0..len {
            // SAFETY: `i < len`; a byte is always aligned.
            unsafe {
                dst.wrapping_add(i)
                    .write_volatile(src.wrapping_add(i).read_volatile())
            };
        }
    }
}

/// One unaligned 16-byte move.
///
/// # Safety
///
/// Sixteen bytes must be readable at `src` and writable at `dst`.
#[cfg(all(target_arch = "x86_64", not(any(miri, plain_copy))))]
#[inline(always)]
unsafe fn move16(dst: *mut u8, src: *const u8) {
    // SAFETY: the caller vouches for sixteen bytes on both sides.
    unsafe {
        core::arch::asm!("movdqu {a}, [{s}]", "movdqu [{d}], {a}", s = in(reg) src, d = in(reg) dst,
            a = out(xmm_reg) _, options(nostack, preserves_flags));
    }
}

/// Copies `len` bytes between private and shared memory by volatile accesses.
///
/// # Safety
///
/// `src` must be readable and `dst` writable for `len` bytes; the two must not overlap.
#[cfg(not(all(target_arch = "x86_64", not(any(miri, plain_copy)))))]
pub(crate) unsafe fn copy_bytes(dst: *mut u8, src: *const u8, len: usize) {
    note_copied(len);
    let mut at = 0usize;
    if dst as usize % 8 == src as usize % 8 {
        while at < len && (src as usize + at) % 8 != 0 {
            // SAFETY: `at < len`.
            unsafe {
                dst.wrapping_add(at)
                    .write_volatile(src.wrapping_add(at).read_volatile())
            };
            at += 1;
        }
        while len - at >= 8 {
            // SAFETY: `at + 8 <= len`, and both sides are aligned to eight here.
            unsafe {
                let word = src.wrapping_add(at).cast::<u64>().read_volatile();
                dst.wrapping_add(at).cast::<u64>().write_volatile(word);
            }
            at += 8;
        }
    }
    while at < len {
        // SAFETY: `at < len`.
        unsafe {
            dst.wrapping_add(at)
                .write_volatile(src.wrapping_add(at).read_volatile())
        };
        at += 1;
    }
}

/// Address space held without memory behind it (`PROT_NONE`, no reserve); given back on drop.
#[derive(Debug)]
pub struct Reserved {
    start: u64,
    len: u64,
}

impl Reserved {
    /// Takes exactly `start .. start + len`, and only if nothing is mapped there.
    ///
    /// # Errors
    ///
    /// The system's error; `EEXIST` when something is mapped there.
    pub fn exactly(start: u64, len: u64) -> io::Result<Reserved> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: FIXED_NOREPLACE never touches an existing map, and nothing can refer to what was not mapped.
        let got = unsafe {
            rustix::mm::mmap_anonymous(
                start as *mut c_void,
                len as usize,
                ProtFlags::empty(),
                flags,
            )?
        };
        let reserved = Reserved {
            start: got as u64,
            len,
        };
        if reserved.start != start {
            // Kernels before 4.17 take the flag for a mere hint; `reserved` gives the stray map back.
            return Err(io::Error::from(rustix::io::Errno::EXIST));
        }
        Ok(reserved)
    }

    /// Replaces what is mapped at `start .. start + len` by address space without memory, for good.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub(crate) fn again(start: u64, len: u64) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the one caller is an alias that ends, which alone held the range.
        unsafe {
            rustix::mm::mmap_anonymous(
                start as *mut c_void,
                len as usize,
                ProtFlags::empty(),
                flags,
            )?
        };
        Ok(())
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `address .. address + len` lies inside.
    #[must_use]
    pub fn contains(&self, address: u64, len: u64) -> bool {
        address >= self.start
            && address
                .checked_add(len)
                .is_some_and(|end| end <= self.start.saturating_add(self.len))
    }

    /// Maps `len` bytes of `fd` from `offset` on, shared, readable and writable, at `address` inside this reservation.
    ///
    /// With `dont_fork` a child made by `fork` does not inherit the map.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the range leaves the reservation, else the system's error.
    pub(crate) fn map_shared(
        &self,
        address: u64,
        len: u64,
        fd: BorrowedFd<'_>,
        offset: u64,
        dont_fork: bool,
    ) -> io::Result<()> {
        if !self.contains(address, len) {
            return Err(io::Error::from(rustix::io::Errno::INVAL));
        }
        let at = address as *mut c_void;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: only pages of this reservation are replaced, and callers map each address once (`Segments::append`).
        unsafe {
            rustix::mm::mmap(
                at,
                len as usize,
                prot,
                MapFlags::SHARED | MapFlags::FIXED,
                fd,
                offset,
            )?
        };
        if dont_fork {
            // SAFETY: the range was mapped just above; the advice changes only what a forked child inherits.
            unsafe { rustix::mm::madvise(at, len as usize, Advice::LinuxDontFork)? };
        }
        // SAFETY: as above; a hint that may fail where the kernel has no huge pages for shared memory.
        let _ = unsafe { rustix::mm::madvise(at, len as usize, Advice::LinuxHugepage) };
        Ok(())
    }

    /// Takes memory out of this reservation again: what `map_shared` mapped at `address` is held without memory.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the range leaves the reservation, else the system's error.
    pub(crate) fn unmap_shared(&self, address: u64, len: u64) -> io::Result<()> {
        if !self.contains(address, len) {
            return Err(io::Error::from(rustix::io::Errno::INVAL));
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: only pages of this reservation are replaced, and the caller never announced them (`Segments::place`), so
        // nothing refers to them.
        unsafe {
            rustix::mm::mmap_anonymous(
                address as *mut c_void,
                len as usize,
                ProtFlags::empty(),
                flags,
            )?
        };
        Ok(())
    }

    /// Keeps the address space taken for the rest of the process's life.
    pub(crate) fn leak(self) {
        core::mem::forget(self);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the range belongs to this reservation; views into it kept it alive.
        let _ = unsafe { rustix::mm::munmap(self.start as *mut c_void, self.len as usize) };
    }
}

/// Maps `len` bytes of `fd` from its beginning, shared and faulted in, at a place of the kernel's choice. The map lives as
/// long as the view and its parts.
///
/// # Errors
///
/// The system's error.
pub(crate) fn map_anywhere(fd: BorrowedFd<'_>, len: u64) -> io::Result<View> {
    let size = usize::try_from(len).map_err(|_| io::Error::from(rustix::io::Errno::OVERFLOW))?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    // SAFETY: a fresh map at a place of the kernel's choice, which nothing refers to.
    let at = unsafe { rustix::mm::mmap(core::ptr::null_mut(), size, prot, flags, fd, 0)? };
    let keep = Arc::new(Reserved {
        start: at as u64,
        len,
    });
    // SAFETY: mapped just above, readable and writable, until `keep` is dropped; no reference to it exists.
    Ok(unsafe { View::new(at.cast(), size, keep) })
}

/// Maps the first `len` bytes of a memory file, for words that processes share apart from a channel's segments. The file must
/// be sealed against shrinking, as [`crate::segment`] demands of its own.
///
/// # Errors
///
/// `InvalidInput` for a file that is too short or not sealed; the system's error.
pub fn map_sealed(file: BorrowedFd<'_>, len: usize) -> io::Result<View> {
    let seals = rustix::fs::fcntl_get_seals(file)?;
    let size = rustix::fs::fstat(file)?.st_size;
    let fits = usize::try_from(size).is_ok_and(|size| size >= len);
    if !fits || !seals.contains(rustix::fs::SealFlags::SHRINK) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    map_anywhere(file, len as u64)
}

/// Where the kernel would place the next map of `len` bytes that names no address.
///
/// # Errors
///
/// The system's error.
pub(crate) fn probe_placement(len: u64) -> io::Result<u64> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh map at a place of the kernel's choice, which nothing refers to.
    let at = unsafe {
        rustix::mm::mmap_anonymous(
            core::ptr::null_mut(),
            len as usize,
            ProtFlags::empty(),
            flags,
        )?
    };
    drop(Reserved {
        start: at as u64,
        len,
    });
    Ok(at as u64)
}

/// Tells a process from its forked children: a page that reads one here and zero in a child.
#[derive(Debug)]
pub struct ForkWitness {
    page: *mut u8,
}

// SAFETY: the page is only ever read after construction.
unsafe impl Send for ForkWitness {}
// SAFETY: as above.
unsafe impl Sync for ForkWitness {}

impl ForkWitness {
    /// Marks this process.
    ///
    /// # Errors
    ///
    /// The system's error; kernels before 4.14 have no such memory.
    pub fn new() -> io::Result<ForkWitness> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private page at a place of the kernel's choice.
        let page = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), 4096, prot, MapFlags::PRIVATE)?
        };
        let witness = ForkWitness { page: page.cast() };
        // SAFETY: the page was mapped above; the advice changes only what a forked child sees.
        unsafe { rustix::mm::madvise(page, 4096, Advice::LinuxWipeOnFork)? };
        // SAFETY: the page is mapped writable and this is its only user so far.
        unsafe { witness.page.write_volatile(1) };
        Ok(witness)
    }

    /// Whether the caller runs in a forked child of the process that made this witness.
    #[must_use]
    #[inline]
    pub fn in_child(&self) -> bool {
        // SAFETY: the page stays mapped as long as `self`, in children too (wiped).
        unsafe { self.page.read_volatile() == 0 }
    }
}

impl Drop for ForkWitness {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, unmapped once.
        let _ = unsafe { rustix::mm::munmap(self.page.cast(), 4096) };
    }
}

/// Makes the descriptor number of `target` refer to what `source` refers to; its old meaning is closed.
///
/// # Errors
///
/// The system's error.
pub(crate) fn replace_descriptor(target: BorrowedFd<'_>, source: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the number stays open and owned by the same owner, who will close it once; `ManuallyDrop` keeps this
    // temporary owner from closing it too.
    let mut owned =
        std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(target.as_raw_fd()) });
    rustix::io::dup3(source, &mut owned, rustix::io::DupFlags::CLOEXEC)?;
    Ok(())
}

/// Another descriptor of what the parent process left open under a number, close-on-exec. The number stays as it is.
///
/// # Errors
///
/// `EBADF` when nothing is open there.
pub fn inherited_descriptor(number: std::os::fd::RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from(rustix::io::Errno::BADF));
    }
    // SAFETY: the borrow lasts for one `fcntl`, which fails for a number that is not open and otherwise changes nothing
    // for whoever owns it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_every_length_exactly() {
        let view = View::private(8192);
        let pattern: Vec<u8> = (0..4200u32).map(|i| (i % 251 + 1) as u8).collect();
        for len in (0..=300).chain([1000, 1023, 1024, 1025, 4096, 4099]) {
            for offset in [0usize, 1, 7, 8, 33] {
                view.write(0, &[0; 8192]).unwrap();
                view.write(offset, &pattern[..len]).unwrap();
                let mut all = [0u8; 8192];
                view.read(0, &mut all).unwrap();
                assert!(all[..offset].iter().all(|&b| b == 0), "length {len}");
                assert_eq!(&all[offset..offset + len], &pattern[..len], "length {len}");
                assert!(all[offset + len..].iter().all(|&b| b == 0), "length {len}");
                let mut back = vec![0xEE; len + 2];
                view.read(offset, &mut back[1..=len]).unwrap();
                assert_eq!((back[0], back[len + 1]), (0xEE, 0xEE));
                assert_eq!(&back[1..=len], &pattern[..len]);
            }
            if cfg!(miri) && len > 40 {
                break;
            }
        }
    }

    #[test]
    fn refuses_what_lies_outside() {
        let view = View::private(128);
        assert!(view.read(120, &mut [0; 9]).is_err());
        assert!(view.write(usize::MAX, &[0]).is_err());
        assert!(view.u32(126).is_none());
        assert!(view.u32(2).is_none());
        assert!(view.u64(124).is_none());
        assert!(view.slice(64, 65).is_err());
        assert_eq!(view.slice(64, 64).unwrap().len(), 64);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn a_reservation_is_exclusive_and_given_back() {
        let start = 0x1234_0000_0000;
        let held = Reserved::exactly(start, 1 << 30).unwrap();
        assert!(Reserved::exactly(start + 4096, 4096).is_err());
        drop(held);
        assert!(Reserved::exactly(start, 1 << 30).is_ok());
    }
}
