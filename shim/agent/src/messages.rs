//! What the agent's three processes tell each other, over sockets that keep message boundaries. All messages have a
//! fixed size and no padding.
//!
//! | socket | messages | descriptors |
//! |---|---|---|
//! | parser → mapper | [`ToMapper`] | none: one that comes is closed, and ends the parser |
//! | mapper → parser | [`ToParser`] | four with [`OPENED`], one with [`GROWN`], if the status is `Ok` |
//! | keeper ↔ mapper | [`Word`] | the pages socket with [`START`], the parser's socket with [`PARSER`] |
//! | mapper ↔ keeper, pages | [`Word`] | the memory file with [`KEEP`] and with the answer to [`INHERIT`] |
//! | keeper → parser | [`Word`] | listener and mapper's socket with [`START`] |

use core::mem::size_of;
use static_assertions::const_assert_eq;
use vgpu_channel::link::{Answer, Hello, Query};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`ToMapper::kind`]: open a channel.
pub const OPEN: u32 = 1;
/// [`ToMapper::kind`]: add heap to a channel.
pub const GROW: u32 = 2;
/// [`ToMapper::kind`]: the program is gone.
pub const CLOSE: u32 = 3;
/// [`ToMapper::kind`]: a program's question; the hello is not used.
pub const ASK: u32 = 4;

/// Parser to mapper.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ToMapper {
    /// [`OPEN`], [`GROW`], [`CLOSE`] or [`ASK`].
    pub kind: u32,
    /// The program's number for a growth.
    pub id: u32,
    /// The channel, by the parser's number.
    pub channel: u64,
    /// User of the program.
    pub user: u32,
    /// Process of the program.
    pub process: u32,
    /// Bytes wanted.
    pub bytes: u64,
    /// The program's question; of an [`ASK`] only.
    pub query: Query,
    /// The program's hello; of an [`OPEN`] only.
    pub hello: Hello,
}

const_assert_eq!(
    size_of::<ToMapper>(),
    32 + size_of::<Query>() + size_of::<Hello>()
);

/// [`ToParser::kind`]: the mapper is there and answers from now on.
pub const HERE: u32 = 1;
/// [`ToParser::kind`]: answer to [`OPEN`]; the body is a `Welcome`.
pub const OPENED: u32 = 2;
/// [`ToParser::kind`]: answer to [`GROW`]; the body begins with a `GrowResponse`.
pub const GROWN: u32 = 3;
/// [`ToParser::kind`]: the channel is over.
pub const ENDED: u32 = 4;
/// [`ToParser::kind`]: answer to [`ASK`]; the body is an `Answer`.
pub const ANSWERED: u32 = 5;
/// Bytes of [`ToParser::body`].
pub const BODY_BYTES: usize = size_of::<Answer>();

/// Mapper to parser.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ToParser {
    /// [`HERE`], [`OPENED`], [`GROWN`], [`ENDED`] or [`ANSWERED`].
    pub kind: u32,
    /// A `LinkStatus`.
    pub status: u32,
    /// The channel, by the parser's number.
    pub channel: u64,
    /// What the kind says.
    pub body: [u8; BODY_BYTES],
}

const_assert_eq!(size_of::<ToParser>(), 16 + BODY_BYTES);

/// [`Word::kind`], from the keeper: the first message, with the descriptors that the process works with.
pub const START: u32 = 1;
/// [`Word::kind`], keeper to mapper: a new parser, with its socket.
pub const PARSER: u32 = 2;
/// [`Word::kind`], keeper to mapper: reset the device and end.
pub const STOP: u32 = 3;
/// [`Word::kind`], mapper to keeper: the first session has begun.
pub const READY: u32 = 4;
/// [`Word::kind`], mapper to keeper, pages: keep and pin this memory file; `id` and `len` are told along.
pub const KEEP: u32 = 5;
/// [`Word::kind`], mapper to keeper, pages: the host has let go of segment `id`.
pub const DROP: u32 = 6;
/// [`Word::kind`], mapper to keeper, pages: the host has let go of everything of earlier mappers.
pub const SETTLED: u32 = 7;
/// [`Word::kind`], keeper to mapper, pages: segment `id` is kept and pinned.
pub const KEPT: u32 = 8;
/// [`Word::kind`], keeper to mapper, pages: segment `id` is kept but could not be pinned; `len` is the error number.
pub const NOT_PINNED: u32 = 9;
/// [`Word::kind`], keeper to mapper, pages: segment `id` is not kept.
pub const REFUSED: u32 = 10;
/// [`Word::kind`], mapper to keeper, pages: the device is reset, so the queues' page of an earlier mapper is free; it is
/// wanted as segment `id`. Answered by [`KEPT`] or [`NOT_PINNED`] with the memory file, or by [`REFUSED`] if there is none.
pub const INHERIT: u32 = 11;

/// Between keeper and the others.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Word {
    /// What it means.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// See the kind.
    pub id: u64,
    /// See the kind.
    pub len: u64,
}

const_assert_eq!(size_of::<Word>(), 24);

impl Word {
    /// A word without numbers.
    #[must_use]
    pub fn new(kind: u32) -> Word {
        Word {
            kind,
            ..Word::default()
        }
    }

    /// A word about a segment.
    #[must_use]
    pub fn about(kind: u32, id: u64, len: u64) -> Word {
        Word {
            kind,
            reserved: 0,
            id,
            len,
        }
    }
}
