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
//!
//! A request that breaks the format is answered, where it has room for it, by [`Closed`] with a status.
//!
//! **Doorbell queue** (index 1): a readable chain of one [`Ring`] rings the doorbell of a channel and is given back at
//! once. A writable chain with room for one [`Notice`] is kept until the device has something to say.

use core::mem::{offset_of, size_of};

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::message::{Fingerprint, Hello};

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

/// The head of every request.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Request {
    /// One of the `KIND_` numbers.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// The channel, by the number that the driver chose for it: not 0, and never used before in this session. 0 in a hello.
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
