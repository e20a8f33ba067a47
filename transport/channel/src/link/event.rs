//! Event descriptors: the doorbell and the wake-up of a channel.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use std::time::Duration;

use crate::control::Bell;
use crate::shm::replace_descriptor;

/// A non-blocking event descriptor.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// Makes one. For the privileged side.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new() -> io::Result<Event> {
        Ok(Event(rustix::event::eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Takes over a received one.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Event {
        Event(fd)
    }

    /// Another descriptor of the same event.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn try_clone(&self) -> io::Result<Event> {
        Ok(Event(self.0.try_clone()?))
    }

    /// Signals it. A counter that is full is signalled already, so failure means nothing.
    pub fn signal(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the signal; whether there was one.
    pub fn drain(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.0, &mut count).is_ok()
    }

    /// Makes this descriptor number refer to `other`, closing what it referred to in this process.
    pub(crate) fn replace_by(&self, other: &impl AsFd) -> io::Result<()> {
        replace_descriptor(self.0.as_fd(), other.as_fd())
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Bell for Event {
    fn ring(&self) {
        self.signal();
    }
}

/// The time as `ppoll` takes it.
pub(crate) fn timespec(timeout: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    }
}

/// `ppoll` that starts over when a signal handler interrupts it only by returning "nothing yet".
pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let timeout = timeout.map(timespec);
    match rustix::event::poll(fds, timeout.as_ref()) {
        Err(rustix::io::Errno::INTR) => {
            for fd in fds.iter_mut() {
                fd.clear_revents();
            }
            Ok(0)
        }
        other => Ok(other?),
    }
}

/// Waits until a descriptor is ready, a signal handler ran or `timeout` is over, and gives what is ready, each with the
/// token beside its descriptor. For the event loops of daemon and agent.
///
/// # Errors
///
/// The system's error, out of memory as a rule. The caller must not try again at once.
pub fn ready<T>(
    tokens: Vec<T>,
    fds: &mut [PollFd<'_>],
    timeout: Option<Duration>,
) -> io::Result<Vec<(T, PollFlags)>> {
    poll(fds, timeout)?;
    Ok(tokens
        .into_iter()
        .zip(fds.iter())
        .map(|(token, fd)| (token, fd.revents()))
        .filter(|(_, flags)| !flags.is_empty())
        .collect())
}

/// What a poll entry shows when the other end of a connection is gone.
pub(crate) const GONE: PollFlags = PollFlags::HUP
    .union(PollFlags::ERR)
    .union(PollFlags::NVAL)
    .union(PollFlags::RDHUP);
