//! A question that needs no channel: a client connects, asks one, gets one answer, and is gone.
//!
//! It is asked instead of a hello, so it costs the server neither memory nor a worker. Servers before version 1.1 take it
//! for a malformed hello and refuse it as such. What the questions are about is not this crate's matter: they have a number,
//! and answers a body of fixed size.

use core::mem::size_of;
use std::path::Path;
use std::time::Duration;

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::message::{
    Hello, HelloError, LinkStatus, MAJOR, MINOR, MINOR_DISTANCE, WELCOME_MAGIC, Welcome,
};
use super::socket::{LinkError, Socket};

/// "vgpuask" and a zero byte, little-endian.
pub const QUERY_MAGIC: u64 = u64::from_le_bytes(*b"vgpuask\0");
/// "vgpuans" and a zero byte, little-endian.
pub const ANSWER_MAGIC: u64 = u64::from_le_bytes(*b"vgpuans\0");
/// Bytes of an answer's body.
pub const BODY_BYTES: usize = 496;

/// The client's only message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Query {
    /// [`QUERY_MAGIC`].
    pub magic: u64,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// What is asked.
    pub kind: u32,
    /// Which one of those it is asked about.
    pub index: u32,
    /// Which part of a long answer is wanted.
    pub page: u32,
    /// Process that asks, filled in by a guest's agent for logs and for what concerns this process alone; 0 from others.
    pub process: u32,
    /// User who asks, filled in by a guest's agent; 0 from others.
    pub user: u32,
    /// Zero.
    pub reserved: [u64; 4],
}

const_assert_eq!(size_of::<Query>(), 64);

/// The server's only message, unless it refuses the question with a [`Welcome`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Answer {
    /// [`ANSWER_MAGIC`].
    pub magic: u64,
    /// A [`LinkStatus`].
    pub status: u32,
    /// [`Query::kind`] of the question.
    pub kind: u32,
    /// What the kind says; zero unless the status is `Ok`.
    pub body: [u8; BODY_BYTES],
}

const_assert_eq!(size_of::<Answer>(), 512);

impl Query {
    /// A question of this build.
    #[must_use]
    pub fn new(kind: u32, index: u32, page: u32) -> Query {
        Query {
            magic: QUERY_MAGIC,
            major: MAJOR,
            minor: MINOR,
            kind,
            index,
            page,
            ..Query::new_zeroed()
        }
    }

    /// Reads and checks a question from the bytes of one message.
    ///
    /// # Errors
    ///
    /// [`HelloError::Malformed`], [`HelloError::Version`].
    pub fn parse(bytes: &[u8]) -> Result<Query, HelloError> {
        let query = Query::read_from_bytes(bytes).map_err(|_| HelloError::Malformed)?;
        if query.magic != QUERY_MAGIC {
            return Err(HelloError::Malformed);
        }
        if query.major != MAJOR || query.minor.abs_diff(MINOR) > MINOR_DISTANCE {
            return Err(HelloError::Version {
                major: query.major,
                minor: query.minor,
            });
        }
        Ok(query)
    }
}

impl Answer {
    /// An answer whose body begins with `body` and ends with zeroes. What does not fit is left out.
    #[must_use]
    pub fn new(kind: u32, status: LinkStatus, body: &[u8]) -> Answer {
        let mut answer = Answer {
            magic: ANSWER_MAGIC,
            status: status as u32,
            kind,
            body: [0; BODY_BYTES],
        };
        for (to, from) in answer.body.iter_mut().zip(body) {
            *to = *from;
        }
        answer
    }
}

/// What a client's first message is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for a moment, on the stack"
)]
pub enum First {
    /// It wants a channel.
    Hello(Hello),
    /// It wants an answer.
    Query(Query),
}

impl First {
    /// Reads and checks a first message: its length says which it is.
    ///
    /// # Errors
    ///
    /// [`HelloError`], naming what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<First, HelloError> {
        if bytes.len() == size_of::<Query>() {
            Query::parse(bytes).map(First::Query)
        } else {
            Hello::parse(bytes).map(First::Hello)
        }
    }
}

/// Asks the server at `path`. Connecting and the answer may take `timeout` each.
///
/// # Errors
///
/// [`LinkError::Refused`] when the server refuses, with [`LinkStatus::Malformed`] when it is too old to be asked; else what
/// went wrong.
pub fn ask(path: &Path, query: &Query, timeout: Duration) -> Result<Answer, LinkError> {
    let socket = Socket::connect(path, timeout)?;
    socket.send(query.as_bytes(), &[])?;
    let (bytes, len) = socket.receive_up_to::<{ size_of::<Answer>() }>(timeout)?;
    let bytes = bytes.get(..len).unwrap_or_default();
    if let Ok(answer) = Answer::read_from_bytes(bytes)
        && answer.magic == ANSWER_MAGIC
        && answer.kind == query.kind
    {
        return match LinkStatus::from_word(answer.status) {
            LinkStatus::Ok => Ok(answer),
            status => Err(LinkError::Refused(status)),
        };
    }
    match Welcome::read_from_bytes(bytes) {
        Ok(welcome) if welcome.magic == WELCOME_MAGIC => Err(LinkError::Refused(
            match LinkStatus::from_word(welcome.status) {
                // Nobody welcomes a question.
                LinkStatus::Ok => LinkStatus::Internal,
                status => status,
            },
        )),
        _ => Err(LinkError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_message_is_a_hello_or_a_question() {
        let query = Query::new(2, 1, 0);
        assert_eq!(First::parse(query.as_bytes()), Ok(First::Query(query)));
        let hello = Hello::new(0, 0);
        assert_eq!(First::parse(hello.as_bytes()), Ok(First::Hello(hello)));
        let old = Query {
            major: MAJOR + 1,
            ..query
        };
        assert!(matches!(
            First::parse(old.as_bytes()),
            Err(HelloError::Version { .. })
        ));
        let other = Query { magic: 1, ..query };
        for bytes in [other.as_bytes(), &query.as_bytes()[..63], &[]] {
            assert_eq!(First::parse(bytes), Err(HelloError::Malformed));
        }
    }

    #[test]
    fn a_body_is_filled_up_and_never_overflows() {
        let answer = Answer::new(1, LinkStatus::Ok, &[7; 3]);
        assert_eq!(&answer.body[..4], &[7, 7, 7, 0]);
        let answer = Answer::new(1, LinkStatus::Ok, &[7; 1000]);
        assert_eq!(answer.body, [7; BODY_BYTES]);
    }
}
