//! Holding off whoever stores into a range of this process's memory while its pages are exchanged
//! (`semantics.md` 17).
//!
//! A thread alone in its process needs only its signals blocked. Otherwise the range is write-protected by `userfaultfd`:
//! a thread or a system call that stores into it sleeps in its page fault until the hold is dropped, and then stores into
//! the pages that are there by then. Only the full kind will do, which an unprivileged process gets if
//! `vm.unprivileged_userfaultfd` is 1 or it may open `/dev/userfaultfd`: with the user-mode-only kind a system call of
//! another thread would fail with `EFAULT` instead of sleeping.
//!
//! What holds pages by their physical address is not held off: direct I/O that is already under way.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::LazyLock;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// `UFFD_API`.
const API: u64 = 0xAA;
/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP` and, for memory of files (Linux 5.19), `UFFD_FEATURE_WP_HUGETLBFS_SHMEM`.
const FEATURES: u64 = 1 | 1 << 12;
/// `UFFDIO_REGISTER_MODE_WP`.
const REGISTER_MODE_WP: u64 = 1 << 1;
/// `UFFDIO_WRITEPROTECT_MODE_WP`.
const WRITEPROTECT_MODE_WP: u64 = 1;

/// Number of an ioctl of `linux/userfaultfd.h` that reads and writes `bytes`.
const fn read_write(number: u64, bytes: usize) -> u64 {
    3 << 30 | (bytes as u64) << 16 | 0xAA << 8 | number
}

/// `UFFDIO_API`, with `struct uffdio_api`: api, features, ioctls.
const UFFDIO_API: u64 = read_write(0x3F, 24);
/// `UFFDIO_REGISTER`, with `struct uffdio_register`: start, length, mode, ioctls.
const UFFDIO_REGISTER: u64 = read_write(0x00, 32);
/// `UFFDIO_WRITEPROTECT`, with `struct uffdio_writeprotect`: start, length, mode.
const UFFDIO_WRITEPROTECT: u64 = read_write(0x06, 24);
/// `USERFAULTFD_IOC_NEW` of `/dev/userfaultfd`.
const USERFAULTFD_IOC_NEW: u64 = 0xAA << 8;

/// Nobody stores into a range while this lives; made by [`Hold::writers`].
#[derive(Debug)]
pub(crate) struct Hold {
    /// Signals that the thread had blocked before.
    signals: libc::sigset_t,
    /// Closing it lets everybody go on.
    _faults: Option<OwnedFd>,
}

/// Whether writers can be held off while other threads live.
#[must_use]
pub fn holds_threads() -> bool {
    static HOLDS: LazyLock<bool> = LazyLock::new(|| open().is_ok());
    *HOLDS
}

impl Hold {
    /// Holds off all writers of the `len` bytes at `at`, whole pages of one kind of memory. Until the hold is dropped the
    /// calling thread must neither store there itself, memory that it allocates or frees included, nor wait for a lock.
    ///
    /// # Errors
    ///
    /// The system's error: `userfaultfd` is not to be had, or not for this memory.
    pub(crate) fn writers(at: u64, len: u64) -> io::Result<Hold> {
        let faults = if is_alone() {
            None
        } else {
            let faults = open()?;
            register(&faults, at, len)?;
            Some(faults)
        };
        // From here on a signal handler could store into the range and wait for itself, or be lost.
        let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both sets have room; `sigfillset` fills the first before it is used.
        let signals = unsafe {
            let mut all = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigfillset(all.as_mut_ptr());
            let set = libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), signals.as_mut_ptr());
            if set != 0 {
                return Err(io::Error::from_raw_os_error(set));
            }
            signals.assume_init()
        };
        let hold = Hold {
            signals,
            _faults: faults,
        };
        if let Some(faults) = &hold._faults {
            // The kernel can protect only what is there.
            touch(at, len);
            let mut range = [at, len, WRITEPROTECT_MODE_WP];
            ask(faults, UFFDIO_WRITEPROTECT, range.as_mut_ptr())?;
        }
        Ok(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // First: a signal handler that ran before this and stored into the range would wait for this thread, itself.
        self._faults = None;
        // SAFETY: the set is the one that this thread had.
        unsafe {
            libc::pthread_sigmask(
                libc::SIG_SETMASK,
                &raw const self.signals,
                core::ptr::null_mut(),
            )
        };
    }
}

/// Whether the calling thread is the only one of its process.
fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.take(2).count() == 1)
}

/// A `userfaultfd` that also catches stores by system calls, with what is needed of it.
fn open() -> io::Result<OwnedFd> {
    // SAFETY: takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let faults = match i32::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => open_device()?,
    };
    let mut request = [API, FEATURES, 0];
    ask(&faults, UFFDIO_API, request.as_mut_ptr())?;
    Ok(faults)
}

/// The same from the device that an administrator may have given access to (Linux 6.1).
fn open_device() -> io::Result<OwnedFd> {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")?;
    // SAFETY: takes flags only.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn register(faults: &OwnedFd, at: u64, len: u64) -> io::Result<()> {
    let mut request = [at, len, REGISTER_MODE_WP, 0];
    ask(faults, UFFDIO_REGISTER, request.as_mut_ptr())
}

/// One request; `words` has as many as the request's struct.
fn ask(faults: &OwnedFd, request: u64, words: *mut u64) -> io::Result<()> {
    // SAFETY: every caller passes an array of the struct's size, made of 64-bit words as all of these structs are.
    let done = unsafe { libc::ioctl(faults.as_raw_fd(), request, words) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has every page of a readable range be there.
fn touch(at: u64, len: u64) {
    for page in (at..at + len).step_by(PAGE as usize) {
        // SAFETY: the caller of `writers` names memory of this process that can be read; the byte is not used.
        let _ = unsafe { (page as *const u8).read_volatile() };
    }
}
