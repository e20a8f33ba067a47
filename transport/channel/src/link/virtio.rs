//! The link through a virtual machine's virtio device: configuration space, control queue, doorbell queue.
//!
//! The driver is the guest's agent, the device is the host's daemon. Everything is little-endian, of fixed size but for
//! the lists of pieces, and laid out as below. Numbers never change their meaning.
//!
//! **Control queue** (index 0): each request is one descriptor chain, its readable part a [`Request`] and what belongs to
//! its kind, its writable part at least as long as the answer. The device answers in any order.
//!
//! | kind | readable, behind the [`Request`] | writable |
//! |---|---|---|
//! | [`KIND_HELLO`] | [`SessionHello`] | [`SessionWelcome`] |
//! | [`KIND_OPEN`] | [`Open`], its pieces | [`Welcome`](super::Welcome) |
//! | [`KIND_GROW`] | [`Grow`], its pieces | [`GrowResponse`](super::GrowResponse) |
//! | [`KIND_CLOSE`] | nothing | [`Closed`] |
//! | [`KIND_QUERY`] | [`Query`] | [`Answer`](super::Answer) |
//!
//! A request that breaks the format is answered, where it has room for it, by [`Closed`] with a status; so the length
//! given back tells which answer it is. [`parse`] says what the format is.
//!
//! **Doorbell queue** (index 1): a readable chain of one [`Ring`] rings the doorbell of a channel and is given back at
//! once. A writable chain with room for one [`Notice`] is kept until the device has something to say. One that comes back
//! with length 0 says nothing (the machine was paused, or the chain has no room): the driver offers it again.
//!
//! **Whose a page is.** From the request that names it, a piece is the channel's, and it may be used for something else
//! again only after: the answer to [`KIND_CLOSE`]; an answer other than [`LinkStatus::Ok`](super::LinkStatus::Ok) to
//! [`KIND_OPEN`]; such an answer to [`KIND_GROW`] unless it is [`LinkStatus::Internal`](super::LinkStatus::Internal), after
//! which the piece stays the channel's; the answer to a [`KIND_HELLO`] of a new session. [`NOTICE_ENDED`] gives nothing back.
//!
//! **Reset.** A driver that resets the device keeps all pages until its hello was answered. A queue that starts again where
//! it stopped goes on, channels included; one that starts anywhere else belongs to a new driver, and closes them all.

use core::mem::{offset_of, size_of};

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::message::{Fingerprint, Hello, HelloError};
use super::query::Query;
use crate::segment::{SEGMENT_ALIGN, SEGMENT_MAX};

/// The virtio device id used unless told otherwise: in the range for experiments, which no kernel driver claims.
pub const DEVICE_ID: u16 = 176;
/// PCI vendor of virtio devices.
pub const PCI_VENDOR: u16 = 0x1af4;
/// Index of the control queue.
pub const CONTROL_QUEUE: usize = 0;
/// Index of the doorbell queue.
pub const DOORBELL_QUEUE: usize = 1;
/// Queues of the device.
pub const QUEUES: usize = 2;
/// Entries of each queue, at most and as a rule.
pub const QUEUE_SIZE: u16 = 256;

/// "vgpudev" and a zero byte, little-endian: how a driver knows the device, whatever its id.
pub const CONFIG_MAGIC: u64 = u64::from_le_bytes(*b"vgpudev\0");

/// The device's configuration space, read-only.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DeviceConfig {
    /// [`CONFIG_MAGIC`].
    pub magic: u64,
    /// Major version of the link; see [`MAJOR`](super::message::MAJOR).
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Flags; unknown ones are ignored.
    pub flags: u32,
    /// Channels that may be open at once.
    pub max_channels: u32,
    /// Slots of a channel's command ring.
    pub ring_slots: u32,
    /// Bytes of shared memory that one channel may have, control segment included.
    pub max_channel_bytes: u64,
    /// Diagnostic: the daemon's set of calls.
    pub fingerprint: Fingerprint,
    /// Zero.
    pub reserved: [u64; 3],
}

const_assert_eq!(size_of::<DeviceConfig>(), 64);
const_assert_eq!(offset_of!(DeviceConfig, max_channels), 16);
const_assert_eq!(offset_of!(DeviceConfig, max_channel_bytes), 24);

/// Begins a session: every channel of another session is closed first.
pub const KIND_HELLO: u32 = 1;
/// Opens a channel.
pub const KIND_OPEN: u32 = 2;
/// Adds a heap segment to a channel.
pub const KIND_GROW: u32 = 3;
/// Closes a channel; answered once nothing on the host maps its pieces any more.
pub const KIND_CLOSE: u32 = 4;
/// Asks a question about the devices; since minor version 1.
pub const KIND_QUERY: u32 = 5;

/// The head of every request.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// One of the `KIND_` numbers.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// The channel, by the number that the driver chose for it: not 0, and in [`KIND_OPEN`] higher than every one before in
    /// this session. 0 in a hello; in a query the driver's own number for it.
    pub channel: u64,
}

const_assert_eq!(size_of::<Request>(), 16);

/// What a session begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionHello {
    /// A random number, another one each time an agent starts.
    pub session: u64,
    /// Major version of the agent's link.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Flags; unknown ones are ignored.
    pub flags: u32,
}

const_assert_eq!(size_of::<SessionHello>(), 16);

/// The answer to a [`SessionHello`]; nothing maps a piece of an older session any more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SessionWelcome {
    /// A [`LinkStatus`](super::LinkStatus).
    pub status: u32,
    /// Channels that may be open at once.
    pub max_channels: u32,
    /// Major version of the daemon's link.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Flags; unknown ones are ignored.
    pub flags: u32,
}

const_assert_eq!(size_of::<SessionWelcome>(), 16);

/// Part of a segment: guest-physical addresses, in whole pages of 2 MiB.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Piece {
    /// First guest-physical address, a multiple of 2 MiB.
    pub address: u64,
    /// Bytes, a positive multiple of 2 MiB.
    pub len: u64,
}

const_assert_eq!(size_of::<Piece>(), 16);

/// Opens a channel. Behind it come `control_pieces` and then `heap_pieces` [`Piece`]s, each list in the order in which the
/// segment consists of them. The pages are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Open {
    /// User of the process in the guest, for limits and logs.
    pub user: u32,
    /// Process in the guest, for logs.
    pub process: u32,
    /// Pieces of the control segment.
    pub control_pieces: u32,
    /// Pieces of the first heap segment.
    pub heap_pieces: u32,
    /// The process's hello as it came, with [`Hello::session`] set to the agent's.
    pub hello: Hello,
}

const_assert_eq!(size_of::<Open>(), 16 + size_of::<Hello>());

/// Adds a heap segment. Behind it come `pieces` [`Piece`]s. One request for each channel at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Grow {
    /// Number that the answer repeats.
    pub id: u32,
    /// Pieces of the segment.
    pub pieces: u32,
    /// Zero.
    pub reserved: u64,
}

const_assert_eq!(size_of::<Grow>(), 16);

/// The answer to [`KIND_CLOSE`], and to requests that are none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Closed {
    /// A [`LinkStatus`](super::LinkStatus). A channel that is not there is closed: `Ok`.
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

const_assert_eq!(size_of::<Closed>(), 8);

/// Driver to device: rings a channel's doorbell.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ring {
    /// The channel.
    pub channel: u64,
}

const_assert_eq!(size_of::<Ring>(), 8);

/// [`Notice::kind`]: signal the channel's wake descriptor.
pub const NOTICE_WAKE: u32 = 1;
/// [`Notice::kind`]: the channel's worker is gone. The driver closes the channel.
pub const NOTICE_ENDED: u32 = 2;

/// Device to driver.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Notice {
    /// [`NOTICE_WAKE`] or [`NOTICE_ENDED`]; unknown ones are ignored.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// The channel.
    pub channel: u64,
}

const_assert_eq!(size_of::<Notice>(), 16);

/// Pieces that one request can list.
pub const MAX_PIECES: usize = 4096;

/// Bytes of the longest request.
pub const MAX_REQUEST: usize =
    size_of::<Request>() + size_of::<Open>() + MAX_PIECES * size_of::<Piece>();

/// A request, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// [`KIND_HELLO`].
    Hello(SessionHello),
    /// [`KIND_OPEN`].
    Open {
        /// The channel's number.
        channel: u64,
        /// What is opened.
        open: Box<Open>,
        /// Pieces of the control segment, at least one.
        control: Vec<Piece>,
        /// Pieces of the heap segment, at least one.
        heap: Vec<Piece>,
    },
    /// [`KIND_GROW`].
    Grow {
        /// The channel's number.
        channel: u64,
        /// Number that the answer repeats.
        id: u32,
        /// Pieces of the segment, at least one.
        pieces: Vec<Piece>,
    },
    /// [`KIND_CLOSE`].
    Close {
        /// The channel's number.
        channel: u64,
    },
    /// [`KIND_QUERY`].
    Query(Query),
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Shorter or longer than what its kind and its counts say.
    #[error("A request of {0} bytes does not have the length of its kind")]
    Length(usize),
    /// Not one of the kinds.
    #[error("There is no request of kind {0}")]
    Kind(u32),
    /// A field that must be zero is not.
    #[error("A reserved field of a request is set")]
    Reserved,
    /// Channel 0 outside of a hello, or another one in it.
    #[error("A request of kind {kind} cannot concern channel {channel}")]
    Channel {
        /// The kind.
        kind: u32,
        /// The number.
        channel: u64,
    },
    /// A list with too many pieces, or without one.
    #[error("A segment cannot have {0} pieces")]
    Count(usize),
    /// A piece that is not made of whole pages, or a segment that is too long.
    #[error("{len:#x} bytes at {address:#x} cannot be part of a segment")]
    Piece {
        /// First guest-physical address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// The process's hello is not acceptable.
    #[error(transparent)]
    Hello(#[from] HelloError),
}

/// Reads a request from the private copy of its bytes. It looks at nothing else, so whatever a driver sends, the outcome
/// depends on these bytes alone.
///
/// # Errors
///
/// [`OrderError`], naming what is wrong.
pub fn parse(bytes: &[u8]) -> Result<Order, OrderError> {
    let length = OrderError::Length(bytes.len());
    let (request, rest) = Request::read_from_prefix(bytes).map_err(|_| length)?;
    let Request {
        kind,
        reserved,
        channel,
    } = request;
    if reserved != 0 {
        return Err(OrderError::Reserved);
    }
    if !(KIND_HELLO..=KIND_QUERY).contains(&kind) {
        return Err(OrderError::Kind(kind));
    }
    if (kind == KIND_HELLO) != (channel == 0) {
        return Err(OrderError::Channel { kind, channel });
    }
    match kind {
        KIND_HELLO => SessionHello::read_from_bytes(rest)
            .map(Order::Hello)
            .map_err(|_| length),
        KIND_OPEN => {
            let (open, rest) = Open::read_from_prefix(rest).map_err(|_| length)?;
            let counts = [open.control_pieces as usize, open.heap_pieces as usize];
            let [control, heap] = pieces(rest, counts, length)?;
            Hello::parse(open.hello.as_bytes())?;
            Ok(Order::Open {
                channel,
                open: Box::new(open),
                control,
                heap,
            })
        }
        KIND_GROW => {
            let (grow, rest) = Grow::read_from_prefix(rest).map_err(|_| length)?;
            if grow.reserved != 0 {
                return Err(OrderError::Reserved);
            }
            let [pieces] = pieces(rest, [grow.pieces as usize], length)?;
            Ok(Order::Grow {
                channel,
                id: grow.id,
                pieces,
            })
        }
        KIND_QUERY if rest.len() != size_of::<Query>() => Err(length),
        KIND_QUERY => Ok(Order::Query(Query::parse(rest)?)),
        _ if rest.is_empty() => Ok(Order::Close { channel }),
        _ => Err(length),
    }
}

/// Reads lists of so many pieces, which must be all of `bytes`.
fn pieces<const N: usize>(
    bytes: &[u8],
    counts: [usize; N],
    length: OrderError,
) -> Result<[Vec<Piece>; N], OrderError> {
    let total = counts
        .iter()
        .fold(0, |sum: usize, n| sum.saturating_add(*n));
    if let Some(count) = counts.iter().find(|count| **count == 0) {
        return Err(OrderError::Count(*count));
    }
    if total > MAX_PIECES {
        return Err(OrderError::Count(total));
    }
    if bytes.len() != total * size_of::<Piece>() {
        return Err(length);
    }
    let mut rest = bytes;
    let mut lists = counts.map(Vec::with_capacity);
    for (list, count) in lists.iter_mut().zip(counts) {
        let mut segment = 0_u64;
        for _ in 0..count {
            let (piece, behind) = Piece::read_from_prefix(rest).map_err(|_| length)?;
            rest = behind;
            let Piece { address, len } = piece;
            segment = segment.saturating_add(len);
            let fits = len > 0
                && len.is_multiple_of(SEGMENT_ALIGN)
                && address.is_multiple_of(SEGMENT_ALIGN)
                && address.checked_add(len).is_some()
                && segment <= SEGMENT_MAX;
            if !fits {
                return Err(OrderError::Piece { address, len });
            }
            list.push(piece);
        }
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = SEGMENT_ALIGN;

    fn head(kind: u32, channel: u64) -> Vec<u8> {
        let request = Request {
            kind,
            reserved: 0,
            channel,
        };
        request.as_bytes().to_vec()
    }

    fn piece(address: u64, len: u64) -> Piece {
        Piece { address, len }
    }

    fn open(control: &[Piece], heap: &[Piece]) -> Vec<u8> {
        let open = Open {
            user: 1000,
            process: 7,
            control_pieces: control.len() as u32,
            heap_pieces: heap.len() as u32,
            hello: Hello::new(0, 0),
        };
        let mut bytes = head(KIND_OPEN, 1);
        bytes.extend(open.as_bytes());
        bytes.extend(control.as_bytes());
        bytes.extend(heap.as_bytes());
        bytes
    }

    fn grow(pieces: u32, list: &[Piece]) -> Vec<u8> {
        let mut bytes = head(KIND_GROW, 3);
        let grow = Grow {
            id: 5,
            pieces,
            reserved: 0,
        };
        bytes.extend(grow.as_bytes());
        bytes.extend(list.as_bytes());
        bytes
    }

    #[test]
    fn well_formed_requests_are_read() {
        let hello = SessionHello {
            session: 9,
            major: 1,
            minor: 0,
            flags: 0,
        };
        let bytes = [head(KIND_HELLO, 0), hello.as_bytes().to_vec()].concat();
        assert_eq!(parse(&bytes), Ok(Order::Hello(hello)));
        let (control, heap) = ([piece(PAGE, PAGE)], [piece(0, PAGE), piece(8 * PAGE, PAGE)]);
        match parse(&open(&control, &heap)).unwrap() {
            Order::Open {
                channel: 1,
                control: c,
                heap: h,
                open,
            } => {
                assert_eq!((&c[..], &h[..]), (&control[..], &heap[..]));
                assert_eq!((open.user, open.process), (1000, 7));
            }
            other => panic!("{other:?}"),
        }
        let expected = Order::Grow {
            channel: 3,
            id: 5,
            pieces: heap.to_vec(),
        };
        assert_eq!(parse(&grow(2, &heap)), Ok(expected));
        assert_eq!(parse(&head(KIND_CLOSE, 4)), Ok(Order::Close { channel: 4 }));
        let query = Query::new(2, 0, 0);
        let bytes = [head(KIND_QUERY, 9), query.as_bytes().to_vec()].concat();
        assert_eq!(parse(&bytes), Ok(Order::Query(query)));
        assert_eq!(parse(&bytes[..70]), Err(OrderError::Length(70)));
        let many = vec![piece(0, PAGE); MAX_PIECES];
        assert!(parse(&grow(MAX_PIECES as u32, &many)).is_ok());
    }

    #[test]
    fn every_other_length_is_refused() {
        let whole = open(&[piece(0, PAGE)], &[piece(PAGE, PAGE)]);
        for len in 0..whole.len() {
            assert!(parse(&whole[..len]).is_err(), "{len} bytes");
        }
        for bytes in [whole, grow(1, &[piece(0, PAGE)]), head(KIND_CLOSE, 1)] {
            assert!(parse(&bytes).is_ok());
            let longer = [bytes, vec![0]].concat();
            assert_eq!(parse(&longer), Err(OrderError::Length(longer.len())));
        }
    }

    #[test]
    fn malformed_fields_are_named() {
        for kind in [0, KIND_QUERY + 1, u32::MAX] {
            assert_eq!(parse(&head(kind, 1)), Err(OrderError::Kind(kind)));
        }
        for (kind, channel) in [(KIND_HELLO, 1), (KIND_OPEN, 0), (KIND_CLOSE, 0)] {
            let error = OrderError::Channel { kind, channel };
            assert_eq!(parse(&head(kind, channel)), Err(error));
        }
        let mut reserved = head(KIND_CLOSE, 1);
        reserved[5] = 1;
        assert_eq!(parse(&reserved), Err(OrderError::Reserved));
        for count in [0, MAX_PIECES as u32 + 1, u32::MAX] {
            let error = OrderError::Count(count as usize);
            assert_eq!(parse(&grow(count, &[])), Err(error));
        }
        for (address, len) in [
            (1, PAGE),
            (PAGE / 2, PAGE),
            (0, 0),
            (0, PAGE + 1),
            (0_u64.wrapping_sub(PAGE), PAGE),
            (0, SEGMENT_MAX + PAGE),
        ] {
            let error = OrderError::Piece { address, len };
            assert_eq!(parse(&grow(1, &[piece(address, len)])), Err(error));
        }
        let mut bytes = open(&[piece(0, PAGE)], &[piece(PAGE, PAGE)]);
        bytes[size_of::<Request>() + 16] = 0;
        assert_eq!(parse(&bytes), Err(OrderError::Hello(HelloError::Malformed)));
    }
}
