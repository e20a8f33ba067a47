//! Pinning the pages of a memory file for as long as they may be written to by a device: io_uring's registered buffers,
//! by raw system calls. Nothing is ever submitted to the ring.
//!
//! Unsafe: three system calls, whose arguments are all private to this module.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use vgpu_channel::segment::SegmentFd;

/// Largest buffer that io_uring registers.
const BUFFER: u64 = 1 << 30;
/// `IORING_REGISTER_BUFFERS`.
const REGISTER_BUFFERS: libc::c_uint = 0;
/// Bytes of `struct io_uring_params`, all of which the kernel accepts as zero.
const PARAMS: usize = 120;

/// Pins pages until it is dropped.
#[derive(Debug)]
pub struct Pin {
    _ring: OwnedFd,
}

impl Pin {
    /// Pins all pages of `segment`, which are faulted in if need be.
    ///
    /// # Errors
    ///
    /// The system's error: `ENOSYS` or `EPERM` where io_uring is off, `ENOMEM` beyond the limit on locked memory.
    pub fn new(segment: &SegmentFd) -> io::Result<Pin> {
        let view = segment.map()?;
        let mut params = [0_u64; PARAMS / 8];
        // SAFETY: one entry, and a parameter block of the size that the kernel reads and writes, alive for the call.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
        let ring = i32::try_from(ring).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        if ring < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
        let ring = unsafe { OwnedFd::from_raw_fd(ring) };
        let len = view.len() as u64;
        let buffers: Vec<libc::iovec> = (0..len.div_ceil(BUFFER))
            .map(|index| {
                let start = index * BUFFER;
                libc::iovec {
                    iov_base: (view.address() + start) as *mut libc::c_void,
                    iov_len: BUFFER.min(len - start) as usize,
                }
            })
            .collect();
        // SAFETY: the list is alive for the call and names mapped memory. The pages are pinned, not the map: it may go.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                REGISTER_BUFFERS,
                buffers.as_ptr(),
                buffers.len(),
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Pin { _ring: ring })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_channel::segment::HugePages;

    #[test]
    fn pages_are_pinned_and_let_go() {
        let segment = SegmentFd::create(4 << 20, HugePages::Never).unwrap();
        match Pin::new(&segment) {
            Ok(pin) => drop(pin),
            // Containers often forbid io_uring; then the error must say so.
            Err(error) => assert!(
                matches!(
                    error.raw_os_error(),
                    Some(libc::ENOSYS | libc::EPERM | libc::ENOMEM)
                ),
                "{error}"
            ),
        }
    }
}
