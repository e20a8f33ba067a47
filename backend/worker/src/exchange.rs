//! The exchange: where workers of one user, or of one machine, find what others share.
//!
//! A program shows others a token. What it stands for (the driver's own handle, and a descriptor where the driver shares by
//! one) never leaves the backend: a worker leaves it with the daemon and gets a token, another worker shows the token and
//! gets it (`isolation.md` 15). Each worker has a socket for this alone, so that the messages of the link stay what they are.
//!
//! | operation | request | answer |
//! |---|---|---|
//! | [`LEAVE`] | kind, handle, perhaps a descriptor | the token |
//! | [`FETCH`] | kind, token | the handle, perhaps a descriptor |
//! | [`WITHDRAW`] | token | none |

use crate::live::lock;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::time::Duration;
use vgpu_channel::link::{LinkError, Socket};
use vgpu_protocol::cuda::CUresult;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Magic of requests and answers: "exch", little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"exch");
/// Leave a handle and get a token.
pub const LEAVE: u32 = 1;
/// Get the handle of a token.
pub const FETCH: u32 = 2;
/// The object of a token is gone. Not answered.
pub const WITHDRAW: u32 = 3;

/// Kind of a token: memory, by [`CUipcMemHandle`](vgpu_protocol::cuda::CUipcMemHandle).
pub const MEMORY: u32 = 1;
/// Kind of a token: an event, by [`CUipcEventHandle`](vgpu_protocol::cuda::CUipcEventHandle).
pub const EVENT: u32 = 2;

/// Status of an answer: done.
pub const DONE: u32 = 0;
/// Status of an answer: no such token, or none that this worker may know.
pub const UNKNOWN: u32 = 1;
/// Status of an answer: the worker has left as much as it may.
pub const FULL: u32 = 2;

/// Bytes of a driver's handle.
pub const HANDLE_BYTES: usize = 64;
/// Bytes of a token.
pub const TOKEN_BYTES: usize = 32;

/// A token.
pub type Token = [u8; TOKEN_BYTES];

/// A driver's handle, and the descriptor that goes with it, if any.
pub type Carried = ([u8; HANDLE_BYTES], Option<OwnedFd>);

/// How long the daemon may take. It waits for nothing itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// A worker's message.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`LEAVE`], [`FETCH`] or [`WITHDRAW`].
    pub operation: u32,
    /// [`MEMORY`] or [`EVENT`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// The token, except of [`LEAVE`].
    pub token: Token,
    /// The driver's handle, of [`LEAVE`].
    pub handle: [u8; HANDLE_BYTES],
}
const _: () = assert!(size_of::<Request>() == 112);

/// The daemon's answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Answer {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`DONE`], [`UNKNOWN`] or [`FULL`].
    pub status: u32,
    /// The token, of [`LEAVE`].
    pub token: Token,
    /// The driver's handle, of [`FETCH`].
    pub handle: [u8; HANDLE_BYTES],
}
const _: () = assert!(size_of::<Answer>() == 104);

/// This worker's way to the exchange.
#[derive(Debug)]
pub struct Exchange {
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    socket: Option<Socket>,
    /// An answer did not come: later ones could be taken for answers to other questions. The socket stays open, for its end
    /// would be the worker's.
    lost: bool,
}

impl Exchange {
    /// Over the socket that the daemon gave.
    #[must_use]
    pub fn new(socket: Socket) -> Exchange {
        // The issuer withdraws: should the daemon take nothing any more, it goes on without.
        let timeout = rustix::net::sockopt::Timeout::Send;
        if let Err(error) =
            rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE))
        {
            tracing::debug!("the exchange's socket waits without limit: {error}");
        }
        Exchange::with(Some(socket))
    }

    /// No exchange: nothing can be shared.
    #[must_use]
    pub fn none() -> Exchange {
        Exchange::with(None)
    }

    fn with(socket: Option<Socket>) -> Exchange {
        Exchange {
            line: Mutex::new(Line {
                socket,
                lost: false,
            }),
        }
    }

    /// Leaves a driver's handle, and the descriptor it shares by, if any.
    ///
    /// # Errors
    /// `NOT_SUPPORTED` without an exchange, `OUT_OF_MEMORY` when this client shares as much as it may.
    pub fn leave(&self, kind: u32, (handle, descriptor): Carried) -> Result<Token, CUresult> {
        let request = Request {
            handle,
            ..Request::of(LEAVE, kind)
        };
        let (answer, _) = self.ask(&request, descriptor)?;
        match answer.status {
            DONE => Ok(answer.token),
            FULL => Err(CUresult::OUT_OF_MEMORY),
            _ => Err(CUresult::UNKNOWN),
        }
    }

    /// What a token stands for; `None` if it stands for nothing of this kind that this client may open.
    ///
    /// # Errors
    /// `NOT_SUPPORTED` without an exchange.
    pub fn fetch(&self, kind: u32, token: Token) -> Result<Option<Carried>, CUresult> {
        let request = Request {
            token,
            ..Request::of(FETCH, kind)
        };
        let (answer, descriptor) = self.ask(&request, None)?;
        Ok((answer.status == DONE).then_some((answer.handle, descriptor)))
    }

    /// Ends a token.
    pub fn withdraw(&self, token: Token) {
        let request = Request {
            token,
            ..Request::of(WITHDRAW, 0)
        };
        let mut line = lock(&self.line);
        let sent = line
            .usable()
            .map(|socket| socket.send(request.as_bytes(), &[]));
        if let Ok(Err(error)) = sent {
            line.lose(&error);
        }
    }

    fn ask(
        &self,
        request: &Request,
        descriptor: Option<OwnedFd>,
    ) -> Result<(Answer, Option<OwnedFd>), CUresult> {
        let mut line = lock(&self.line);
        let socket = line.usable()?;
        let fds: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        let answered = socket
            .send(request.as_bytes(), &fds)
            .and_then(|()| socket.receive_with_fds::<{ size_of::<Answer>() }>(PATIENCE))
            .and_then(|(bytes, fds)| match Answer::read_from_bytes(&bytes) {
                Ok(answer) if answer.magic == MAGIC => Ok((answer, fds.into_iter().next())),
                _ => Err(LinkError::Malformed),
            });
        answered.map_err(|error| {
            line.lose(&error);
            CUresult::OPERATING_SYSTEM
        })
    }
}

impl Line {
    fn usable(&self) -> Result<&Socket, CUresult> {
        let socket = self.socket.as_ref().filter(|_| !self.lost);
        socket.ok_or(CUresult::NOT_SUPPORTED)
    }

    fn lose(&mut self, error: &LinkError) {
        tracing::warn!("nothing can be shared with other processes any more: {error}");
        self.lost = true;
    }
}

impl Request {
    fn of(operation: u32, kind: u32) -> Request {
        let mut request = Request::new_zeroed();
        (request.magic, request.operation, request.kind) = (MAGIC, operation, kind);
        request
    }
}
