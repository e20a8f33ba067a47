//! The connection of a link: whole messages, descriptors from the server only, deadlines.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::shm::replace_descriptor;

use super::event::poll;
use super::message::{HelloError, LinkStatus, MESSAGE_FDS};

/// What went wrong on a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody serves at this path.
    #[error("No server answers at {path}")]
    NoServer {
        /// The path tried.
        path: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The peer closed the connection.
    #[error("The peer closed the connection")]
    Closed,
    /// The peer took too long.
    #[error("The peer did not answer in time")]
    TimedOut,
    /// A message has the wrong size, number or magic.
    #[error("The peer sent a malformed message")]
    Malformed,
    /// The client sent a descriptor, or the server not exactly those it should.
    #[error("The peer sent descriptors that it must not send")]
    Descriptors,
    /// The hello is not acceptable.
    #[error("The hello is not acceptable")]
    Hello(#[from] HelloError),
    /// The server refused.
    #[error("Refused: {0}")]
    Refused(LinkStatus),
    /// The system refused.
    #[error("The socket failed")]
    System(#[source] io::Error),
}

impl From<Errno> for LinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => LinkError::Closed,
            Errno::AGAIN => LinkError::TimedOut,
            other => LinkError::System(other.into()),
        }
    }
}

/// A connection that keeps message boundaries.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    ///
    /// [`LinkError::NoServer`] when nobody listens there, [`LinkError::TimedOut`] when its queue stays full.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Socket, LinkError> {
        let no_server = |errno: Errno| LinkError::NoServer {
            path: path.display().to_string(),
            source: io::Error::from(errno),
        };
        let address = SocketAddrUnix::new(path).map_err(no_server)?;
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // A unix connect waits for room in the listener's queue as long as a send may wait.
        rustix::net::sockopt::set_socket_timeout(
            &fd,
            rustix::net::sockopt::Timeout::Send,
            Some(timeout),
        )?;
        loop {
            match rustix::net::connect(&fd, &address) {
                Ok(()) => return Ok(Socket(fd)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(LinkError::TimedOut),
                Err(errno) => return Err(no_server(errno)),
            }
        }
    }

    /// Takes over an accepted or inherited connection.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Socket {
        Socket(fd)
    }

    /// A connected pair.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn pair() -> io::Result<(Socket, Socket)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Socket(a), Socket(b)))
    }

    /// Gives the descriptor up.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message with descriptors.
    ///
    /// # Errors
    ///
    /// [`LinkError::Closed`], [`LinkError::TimedOut`] or the system's refusal.
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(LinkError::Descriptors);
        }
        loop {
            match rustix::net::sendmsg(
                &self.0,
                &[IoSlice::new(message)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits until a message can be received or the peer is gone.
    fn wait_readable(&self, deadline: Instant) -> Result<(), LinkError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            if poll(&mut fds, Some(left)).map_err(LinkError::System)? > 0 {
                return Ok(());
            }
            if left.is_zero() {
                return Err(LinkError::TimedOut);
            }
        }
    }

    /// Receives one message of at most `N` bytes before the deadline, and at most `MESSAGE_FDS` descriptors.
    fn receive_any<const N: usize>(
        &self,
        deadline: Instant,
    ) -> Result<([u8; N], usize, Vec<OwnedFd>), LinkError> {
        self.wait_readable(deadline)?;
        let mut bytes = [0; N];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags,
            ) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        // Descriptors are taken out, and so closed unless returned, whatever else is wrong with the message.
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(LinkError::Descriptors);
        }
        if got.bytes == 0 {
            return Err(LinkError::Closed);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(LinkError::Malformed);
        }
        Ok((bytes, got.bytes, fds))
    }

    /// Receives one message of exactly `N` bytes before the deadline, and at most `MESSAGE_FDS` descriptors.
    fn receive<const N: usize>(
        &self,
        deadline: Instant,
    ) -> Result<([u8; N], Vec<OwnedFd>), LinkError> {
        match self.receive_any(deadline)? {
            (bytes, len, fds) if len == N => Ok((bytes, fds)),
            _ => Err(LinkError::Malformed),
        }
    }

    /// Receives one message of at most `N` bytes, and its length. Descriptors sent along are closed and are an error.
    ///
    /// # Errors
    ///
    /// As for [`Socket::receive_plain`]; a longer message is [`LinkError::Malformed`].
    pub fn receive_up_to<const N: usize>(
        &self,
        timeout: Duration,
    ) -> Result<([u8; N], usize), LinkError> {
        match self.receive_any(deadline_after(timeout))? {
            (bytes, len, fds) if fds.is_empty() => Ok((bytes, len)),
            _ => Err(LinkError::Descriptors),
        }
    }

    /// Server: receives one message of exactly `N` bytes. Descriptors sent along are closed and are an error.
    ///
    /// # Errors
    ///
    /// [`LinkError::Descriptors`], [`LinkError::Malformed`], [`LinkError::Closed`], [`LinkError::TimedOut`].
    pub fn receive_plain<const N: usize>(&self, timeout: Duration) -> Result<[u8; N], LinkError> {
        let (bytes, fds) = self.receive(deadline_after(timeout))?;
        if fds.is_empty() {
            Ok(bytes)
        } else {
            Err(LinkError::Descriptors)
        }
    }

    /// Client: receives one message of exactly `N` bytes with the descriptors sent along.
    ///
    /// # Errors
    ///
    /// As for [`Socket::receive_plain`].
    pub fn receive_with_fds<const N: usize>(
        &self,
        timeout: Duration,
    ) -> Result<([u8; N], Vec<OwnedFd>), LinkError> {
        self.receive(deadline_after(timeout))
    }

    /// Whether the peer is gone, without waiting.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::RDHUP)];
        poll(&mut fds, Some(Duration::ZERO)).is_ok_and(|ready| ready > 0)
    }

    /// Makes this descriptor number refer to `other`, closing what it referred to in this process.
    pub(crate) fn replace_by(&self, other: &impl AsFd) -> io::Result<()> {
        replace_descriptor(self.0.as_fd(), other.as_fd())
    }
}

fn deadline_after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or(now)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
