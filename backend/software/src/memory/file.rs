//! Memory files: pages that more than one process can map.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// A memory file that cannot become shorter: who maps it never meets a missing page.
#[derive(Debug)]
pub(crate) struct File(OwnedFd);

/// Seals of every file.
const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

impl File {
    /// A file of `length` zeros, which take no memory until they are written.
    pub(crate) fn create(length: u64) -> Option<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a C string; nothing else is read.
        let fd = unsafe { libc::memfd_create(c"vgpu-device".as_ptr(), flags) };
        if fd < 0 {
            return None;
        }
        // SAFETY: just made, and nobody else's.
        let file = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let length = i64::try_from(length).ok()?;
        // SAFETY: plain system calls on a descriptor of our own.
        let made = unsafe {
            libc::ftruncate(fd, length) == 0 && libc::fcntl(fd, libc::F_ADD_SEALS, SEALS) == 0
        };
        made.then_some(file)
    }

    /// A file of another process, if it is a memory file of at least `length` bytes that cannot become shorter.
    pub(crate) fn receive(fd: OwnedFd, length: u64) -> Option<Self> {
        // SAFETY: an all-zero `stat` is valid, and has room for the answer; the descriptor is open.
        let (seals, stat, asked) = unsafe {
            let mut stat = std::mem::zeroed::<libc::stat>();
            let asked = libc::fstat(fd.as_raw_fd(), &raw mut stat);
            (libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS), stat, asked)
        };
        let whole = asked == 0 && u64::try_from(stat.st_size).is_ok_and(|size| size >= length);
        let kept = seals >= 0 && seals & libc::F_SEAL_SHRINK != 0;
        (whole && kept).then_some(Self(fd))
    }

    /// A further descriptor of the file.
    pub(crate) fn share(&self) -> Option<OwnedFd> {
        self.0.try_clone().ok()
    }

    /// Maps `length` bytes from `offset` on, a page's, at an address of the kernel's choice.
    pub(crate) fn map(&self, offset: u64, length: u64) -> Option<u64> {
        let length = usize::try_from(length).ok()?;
        let offset = i64::try_from(offset).ok()?;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                self.0.as_raw_fd(),
                offset,
            )
        };
        (address != libc::MAP_FAILED).then_some(address as u64)
    }
}

/// Ends a mapping of [`File::map`], or part of one, that nobody touches any more.
pub(crate) fn unmap(start: u64, length: u64) {
    // SAFETY: the caller's word that the range is a mapping of `File::map`, given up by its owner. Failure would only leave
    // address space in use.
    unsafe { libc::munmap(start as *mut libc::c_void, length as usize) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_become_shorter_is_refused() {
        let file = File::create(8192).expect("a memory file");
        let fd = || file.share().expect("a descriptor");
        assert!(File::receive(fd(), 8192).is_some());
        assert!(File::receive(fd(), 8193).is_none());
        // SAFETY: plain system calls; the descriptor is nobody else's.
        let open = unsafe {
            let fd = libc::memfd_create(c"open".as_ptr(), libc::MFD_CLOEXEC);
            libc::ftruncate(fd, 8192);
            OwnedFd::from_raw_fd(fd)
        };
        assert!(File::receive(open, 8192).is_none());
        let device = std::fs::File::open("/dev/zero").expect("/dev/zero");
        assert!(File::receive(device.into(), 0).is_none());
        // SAFETY: a plain system call, which the seals refuse.
        let cut = unsafe { libc::ftruncate(fd().as_raw_fd(), 0) };
        assert_ne!(cut, 0);
    }
}
