//! Both sides of a channel in one process, for tests and benches.
//!
//! The two sides share one set of maps, since one process cannot map two things at one address. Everything else is as
//! between processes: the socket, the descriptors, the rings.

use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::client::{self, ConnectError, WELCOME_TIMEOUT};
use crate::link::message::HELLO_MAGIC;
use crate::link::{Accepted, Hello, LinkError, Socket};
use crate::maps;
use crate::segment::{Segments, Side};
use crate::server::{self, Config, Parts, SetupError};
use crate::window::{Reservation, WindowError};

/// Why there is no loopback channel.
#[derive(Debug, thiserror::Error)]
pub enum LoopbackError {
    /// No address space.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The server's side failed.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The client's side failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The system refused a socket.
    #[error("The system refused a socket")]
    System(#[from] std::io::Error),
}

/// A connected pair. At most 31 of them may live at once in a process.
#[derive(Debug)]
pub struct Loopback {
    /// The client's side.
    pub client: client::Channel,
    /// The server's side.
    pub server: Arc<server::Channel>,
    /// The reading end of the command ring.
    pub consumer: server::Consumer,
}

/// Connects a client and a server in this process. The server's snapshot is `snapshot`.
///
/// # Errors
///
/// [`LoopbackError`].
pub fn pair(config: &Config, hello: Hello, snapshot: &[u8]) -> Result<Loopback, LoopbackError> {
    pair_limited(config, hello, snapshot, maps::limit())
}

/// As [`pair`], with segments of `max_maps` mappings at most.
///
/// # Errors
///
/// [`LoopbackError`].
pub fn pair_limited(
    config: &Config,
    hello: Hello,
    snapshot: &[u8],
    max_maps: usize,
) -> Result<Loopback, LoopbackError> {
    let (near, far) = Socket::pair()?;
    let segments = Segments::limited(Reservation::for_loopback()?, Side::Both, max_maps);
    near.send(hello.as_bytes(), &[])?;
    let bytes: [u8; size_of::<Hello>()] = far.receive_plain(WELCOME_TIMEOUT)?;
    debug_assert_eq!(bytes.get(..8), Some(HELLO_MAGIC.to_le_bytes().as_slice()));
    let parts = Parts::create(Accepted { socket: far, hello }, config)?;
    let (server, consumer) = server::Channel::open_in(parts, Arc::clone(&segments))?;
    server.write_snapshot(snapshot).map_err(SetupError::from)?;
    server.welcome(0)?;
    let client = client::Channel::open(near, segments, WELCOME_TIMEOUT)?;
    Ok(Loopback {
        client,
        server,
        consumer,
    })
}
