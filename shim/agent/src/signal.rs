//! Signalling and draining events that a program holds too.
//!
//! Whether an event descriptor blocks is a flag of the *shared* file: a program can clear `O_NONBLOCK` on its doorbell and
//! its wake-up, empty the one at the wrong moment or fill the other, and a plain read or write would then hold up the
//! mapper, and with it everybody. So neither is ever done:
//!
//! * the doorbell is read with `RWF_NOWAIT`, which the kernel obeys whatever the file's flags say;
//! * the wake-up is signalled by the kernel, as what an asynchronous request (of nothing, from `/dev/null`) notifies. Such
//!   a signal saturates and never blocks.
//!
//! Unsafe: three system calls of the kernel's asynchronous I/O, with blocks of its layout that are alive for the call.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::ReadWriteFlags;
use static_assertions::const_assert_eq;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};
use vgpu_channel::link::Event;

/// `IOCB_CMD_PREAD`.
const READ: u16 = 0;
/// `IOCB_FLAG_RESFD`.
const NOTIFY: u32 = 1;
/// Requests that may be under way; each is done when it is submitted.
const REQUESTS: libc::c_uint = 16;

/// `struct iocb`, little-endian.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    notify: u32,
}

const_assert_eq!(size_of::<Request>(), 64);

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Done {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

const_assert_eq!(size_of::<Done>(), 32);

/// What signals events.
#[derive(Debug)]
pub struct Signaller {
    context: Option<libc::c_ulong>,
    nothing: File,
}

impl Signaller {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new() -> io::Result<Signaller> {
        let nothing = File::open("/dev/null")?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number, which must be zero before.
        let done = unsafe { libc::syscall(libc::SYS_io_setup, REQUESTS, &raw mut context) };
        let context = if done == 0 {
            Some(context)
        } else {
            let error = io::Error::last_os_error();
            tracing::warn!(
                "no asynchronous I/O ({error}): a hostile program may hold up others' wake-ups"
            );
            None
        };
        Ok(Signaller { context, nothing })
    }

    /// Signals an event. Never blocks.
    pub fn signal(&mut self, event: &Event) {
        if let Some(context) = self.context
            && self.submit(context, event).is_ok()
        {
            return;
        }
        // An event that cannot be written to is signalled already.
        let mut fds = [PollFd::new(event, PollFlags::OUT)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
            event.signal();
        }
    }

    fn submit(&mut self, context: libc::c_ulong, event: &Event) -> io::Result<()> {
        let mut byte = 0_u8;
        let mut request = Request {
            opcode: READ,
            fd: self.nothing.as_raw_fd().cast_unsigned(),
            buffer: std::ptr::from_mut(&mut byte) as u64,
            len: 1,
            flags: NOTIFY,
            notify: event.as_fd().as_raw_fd().cast_unsigned(),
            ..Request::default()
        };
        let list = [&raw mut request];
        // SAFETY: one request, alive for the call. Reading nothing from `/dev/null` is done within it, so the kernel
        // keeps no address of this frame.
        let submitted =
            unsafe { libc::syscall(libc::SYS_io_submit, context, 1_i64, list.as_ptr()) };
        if submitted != 1 {
            return Err(io::Error::last_os_error());
        }
        let mut done = [Done::default(); REQUESTS as usize];
        // SAFETY: room for as many as are asked for; without a time limit, since none is waited for.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                context,
                0_i64,
                i64::from(REQUESTS),
                done.as_mut_ptr(),
                std::ptr::null::<libc::timespec>(),
            )
        };
        Ok(())
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        if let Some(context) = self.context {
            // SAFETY: made in `new`, destroyed once.
            unsafe { libc::syscall(libc::SYS_io_destroy, context) };
        }
    }
}

/// Takes an event's signal; whether there was one. Never blocks.
pub fn drain(event: &Event) -> bool {
    let mut count = [0; 8];
    let mut parts = [IoSliceMut::new(&mut count)];
    // An offset of all ones is "where the file stands"; an event stands nowhere.
    match rustix::io::preadv2(event, &mut parts, u64::MAX, ReadWriteFlags::NOWAIT) {
        Ok(_) => true,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
        // Kernels before 5.8.
        Err(_) => event.drain(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// What a hostile program makes of its event.
    fn blocking(count: u64) -> Event {
        let event = Event::new().unwrap();
        rustix::fs::fcntl_setfl(&event, rustix::fs::OFlags::empty()).unwrap();
        if count > 0 {
            rustix::io::write(&event, &count.to_ne_bytes()).unwrap();
        }
        event
    }

    /// Fails instead of hanging.
    fn within_a_second<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = channel();
        std::thread::spawn(move || sender.send(work()));
        receiver
            .recv_timeout(Duration::from_secs(1))
            .expect("does not block")
    }

    #[test]
    fn an_event_is_signalled_and_drained() {
        let event = Event::new().unwrap();
        let mut signaller = Signaller::new().unwrap();
        assert!(signaller.context.is_some(), "asynchronous I/O");
        for _ in 0..1000 {
            assert!(!drain(&event));
            signaller.signal(&event);
            signaller.signal(&event);
            assert!(drain(&event));
        }
    }

    #[test]
    fn a_program_cannot_make_it_block() {
        let full = blocking(u64::MAX - 1);
        let other = full.try_clone().unwrap();
        within_a_second(move || {
            let mut signaller = Signaller::new().unwrap();
            for _ in 0..100 {
                signaller.signal(&other);
            }
        });
        let empty = blocking(0);
        assert!(!within_a_second(move || drain(&empty)));
        assert!(within_a_second(move || drain(&blocking(7))));
    }
}
