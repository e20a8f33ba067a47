//! The listening end of the local link.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::message::{Hello, LinkStatus, MAJOR, MINOR, WELCOME_MAGIC, Welcome};
use super::query::First;
use super::socket::{LinkError, Socket};
use zerocopy::IntoBytes;

/// How long a client may take for its hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening socket at a path. The path is removed on drop if it is still this listener's.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

/// A client that said hello.
#[derive(Debug)]
pub struct Accepted {
    /// Its connection.
    pub socket: Socket,
    /// Its hello, checked.
    pub hello: Hello,
}

impl Listener {
    /// Listens at `path`, open to everyone like the device nodes of graphics cards.
    ///
    /// A socket already there is replaced only when nobody answers on it.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when somebody answers or the path is no socket, else the system's error.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        Listener::bind_with_mode(path, 0o666)
    }

    /// As [`Listener::bind`], with other permission bits.
    ///
    /// # Errors
    ///
    /// As for [`Listener::bind`].
    pub fn bind_with_mode(path: &Path, mode: u32) -> io::Result<Listener> {
        let address = SocketAddrUnix::new(path)?;
        let fd = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        match rustix::net::bind(&fd, &address) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                rustix::net::bind(&fd, &address)?;
            }
            Err(errno) => return Err(errno.into()),
        }
        let mut listener = Listener {
            fd,
            path: path.to_owned(),
            identity: None,
        };
        listener.identity = identity(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&listener.fd, BACKLOG)?;
        Ok(listener)
    }

    /// Takes over a socket that already listens (from a service manager). Its path is never removed.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Listener {
        Listener {
            fd,
            path: PathBuf::new(),
            identity: None,
        }
    }

    /// Waits for the next connection. Nothing was read from it yet: see [`Listener::greet`].
    ///
    /// # Errors
    ///
    /// The system's error; out of descriptors as a rule, which passes.
    pub fn accept(&self) -> io::Result<Socket> {
        loop {
            match rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC) {
                Ok(fd) => return Ok(Socket::from_fd(fd)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Reads the hello of a connection, within two seconds. An unacceptable one is answered before the error is given; a
    /// question is none.
    ///
    /// This blocks on the client, so a daemon does it on a thread of its own, not in its accept loop.
    ///
    /// # Errors
    ///
    /// [`LinkError`], naming what is wrong; the connection is closed then.
    pub fn greet(socket: Socket) -> Result<Accepted, LinkError> {
        match hear(&socket, HELLO_TIMEOUT)? {
            First::Hello(hello) => Ok(Accepted { socket, hello }),
            First::Query(_) => {
                refuse(&socket, LinkStatus::Malformed);
                Err(LinkError::Malformed)
            }
        }
    }
}

/// Reads a client's first message. An unacceptable one is answered before the error is given.
///
/// # Errors
///
/// [`LinkError`], naming what is wrong; [`LinkError::TimedOut`] if there is none within `timeout`.
pub fn hear(socket: &Socket, timeout: Duration) -> Result<First, LinkError> {
    let received = socket.receive_up_to::<{ size_of::<Hello>() }>(timeout);
    let parsed =
        received.and_then(|(bytes, len)| Ok(First::parse(bytes.get(..len).unwrap_or_default())?));
    match &parsed {
        Err(LinkError::Malformed) => refuse(socket, LinkStatus::Malformed),
        Err(LinkError::Hello(error)) => refuse(socket, (*error).into()),
        _ => {}
    }
    parsed
}

/// Answers a hello with a refusal. The client may be gone; that is no error.
pub fn refuse(socket: &Socket, status: LinkStatus) {
    let welcome = Welcome {
        magic: WELCOME_MAGIC,
        status: status as u32,
        window: 0,
        major: MAJOR,
        minor: MINOR,
        flags: 0,
        fingerprint: 0,
        control_address: 0,
        control_len: 0,
        heap_address: 0,
        heap_len: 0,
    };
    let _ = socket.send(welcome.as_bytes(), &[]);
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Removes the socket at `path` if nobody listens on it.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    let in_use = || io::Error::from(Errno::ADDRINUSE);
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(in_use());
    }
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        _ => Err(in_use()),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}
