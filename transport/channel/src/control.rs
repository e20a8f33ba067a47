//! The control segment: its header page and where everything in it lies.
//!
//! The server computes the layout once and keeps it in private memory; it never reads back what it wrote. The client
//! copies the header out, checks it ([`Header::layout`]) and keeps its own copy as well.
//!
//! | offset | written by | word |
//! |---|---|---|
//! | 0 | server, once | [`Header`] |
//! | 512 | server | sticky error, features, server state (32 bits each) |
//! | 640 | server | ring: tail (64 bits) |
//! | 768 | both | ring: consumer sleeping (32 bits) |
//! | 896 | both | callbacks and output: dispatcher sleeping; server waits for an acknowledgement (32 bits each) |
//! | 1024 | server | output: head (64 bits) |
//! | 1152 | client | output: tail (64 bits) |
//!
//! Words that different sides write lie on different pairs of cache lines.

use core::mem::{offset_of, size_of};

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ring::{DEFAULT_SLOTS, MAX_RECORD, RingMemory, SLOT_BYTES};
use crate::segment::SEGMENT_ALIGN;
use crate::shm::{OutOfRange, View};
use crate::sync::{AtomicU32, AtomicU64};

/// "vgpuctl" and a zero byte, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vgpuctl\0");

/// Layout version: another major is another layout, a higher minor only adds.
pub const ABI_MAJOR: u16 = 1;
/// See [`ABI_MAJOR`].
pub const ABI_MINOR: u16 = 0;

/// Bytes of the header page.
pub const HEADER_PAGE: u64 = 4096;

/// Offset of the sticky error word.
pub const STICKY_ERROR: usize = 512;
/// Offset of the feature flags.
pub const FEATURES: usize = 516;
/// Offset of the server's state.
pub const SERVER_STATE: usize = 520;
/// Offset of the ring's tail.
pub const RING_TAIL: usize = 640;
/// Offset of the ring consumer's sleeping flag.
pub const RING_SLEEPING: usize = 768;
/// Offset of the flag that the client's dispatcher sleeps.
pub const DISPATCHER_SLEEPING: usize = 896;
/// Offset of the flag that the server waits for an acknowledgement.
pub const ACK_WANTED: usize = 900;
/// Offset of the output's head.
pub const OUTPUT_HEAD: usize = 1024;
/// Offset of the output's tail.
pub const OUTPUT_TAIL: usize = 1152;

/// Entries of the callback ring.
pub const CALLBACK_ENTRIES: u64 = 256;
/// Bytes of one callback entry.
pub const CALLBACK_ENTRY_BYTES: u64 = 64;
/// Bytes of the output ring.
pub const OUTPUT_BYTES: u64 = 64 * 1024;
/// Bytes of the snapshot area.
pub const SNAPSHOT_BYTES: u64 = 256 * 1024;

/// A feature flag: synchronisation needs the driver's own call (device text must be relayed, say).
pub const FEATURE_REAL_SYNC: u32 = 1 << 0;
/// A feature flag: the server runs on other CPUs than those the client can see (a virtual machine's host), so that a client
/// that spins takes nothing from it. Set before the welcome.
pub const FEATURE_APART: u32 = 1 << 1;

/// What the server is doing, as its state word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ServerState {
    /// Not serving yet.
    Starting = 0,
    /// Serving.
    Serving = 1,
    /// No longer serving; what was posted and not executed is lost.
    Ended = 2,
}

impl ServerState {
    /// The state with this number; unknown numbers count as ended.
    #[must_use]
    pub const fn from_word(word: u32) -> ServerState {
        match word {
            0 => ServerState::Starting,
            1 => ServerState::Serving,
            _ => ServerState::Ended,
        }
    }
}

/// A range inside the control segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Area {
    /// Bytes from the start of the segment.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Area {
    fn within(self, size: u64, align: u64) -> bool {
        self.offset >= HEADER_PAGE
            && self.offset.is_multiple_of(align)
            && self
                .offset
                .checked_add(self.len)
                .is_some_and(|end| end <= size)
    }

    fn overlaps(self, other: Area) -> bool {
        self.offset < other.offset.saturating_add(other.len)
            && other.offset < self.offset.saturating_add(self.len)
    }

    /// The view of this area in the segment's view.
    pub(crate) fn of(self, control: &View) -> Result<View, OutOfRange> {
        let outside = OutOfRange {
            at: self.offset,
            len: self.len,
        };
        let offset = usize::try_from(self.offset).map_err(|_| outside)?;
        control.slice(offset, usize::try_from(self.len).map_err(|_| outside)?)
    }
}

/// Where everything lies in the control segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlLayout {
    /// Bytes of the whole segment.
    pub size: u64,
    /// The command ring's slots.
    pub ring: Area,
    /// The callback entries.
    pub callbacks: Area,
    /// One 64-bit acknowledgement word per callback entry.
    pub acks: Area,
    /// The output ring's bytes.
    pub output: Area,
    /// The snapshot: its length as a 64-bit number, then its bytes.
    pub snapshot: Area,
}

impl ControlLayout {
    /// The layout with `ring_slots` command slots, rounded up to a power of two between 2,048 and 1,048,576.
    #[must_use]
    pub fn new(ring_slots: u64) -> ControlLayout {
        let slots = ring_slots.clamp(MIN_SLOTS, MAX_SLOTS).next_power_of_two();
        let mut offset = HEADER_PAGE;
        let mut area = |len: u64| {
            let placed = Area { offset, len };
            offset += len.next_multiple_of(HEADER_PAGE);
            placed
        };
        let ring = area(slots * SLOT_BYTES as u64);
        let callbacks = area(CALLBACK_ENTRIES * CALLBACK_ENTRY_BYTES);
        let acks = area(CALLBACK_ENTRIES * 8);
        let output = area(OUTPUT_BYTES);
        let snapshot = area(SNAPSHOT_BYTES);
        ControlLayout {
            size: offset.next_multiple_of(SEGMENT_ALIGN),
            ring,
            callbacks,
            acks,
            output,
            snapshot,
        }
    }

    /// The header that announces this layout.
    #[must_use]
    pub fn header(&self) -> Header {
        Header {
            magic: MAGIC,
            major: ABI_MAJOR,
            minor: ABI_MINOR,
            header_bytes: size_of::<Header>() as u32,
            size: self.size,
            ring: self.ring,
            callbacks: self.callbacks,
            acks: self.acks,
            output: self.output,
            snapshot: self.snapshot,
        }
    }
}

impl Default for ControlLayout {
    fn default() -> Self {
        ControlLayout::new(DEFAULT_SLOTS)
    }
}

const MIN_SLOTS: u64 = 2 * (MAX_RECORD / SLOT_BYTES) as u64;
const MAX_SLOTS: u64 = 1 << 20;

/// The header as it lies at the start of the control segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI_MAJOR`] of the server.
    pub major: u16,
    /// [`ABI_MINOR`] of the server.
    pub minor: u16,
    /// Bytes of this header; a later minor may have more.
    pub header_bytes: u32,
    /// Bytes of the control segment.
    pub size: u64,
    /// See [`ControlLayout::ring`].
    pub ring: Area,
    /// See [`ControlLayout::callbacks`].
    pub callbacks: Area,
    /// See [`ControlLayout::acks`].
    pub acks: Area,
    /// See [`ControlLayout::output`].
    pub output: Area,
    /// See [`ControlLayout::snapshot`].
    pub snapshot: Area,
}

const_assert_eq!(size_of::<Header>(), 104);
const_assert_eq!(offset_of!(Header, major), 8);
const_assert_eq!(offset_of!(Header, header_bytes), 12);
const_assert_eq!(offset_of!(Header, size), 16);
const_assert_eq!(offset_of!(Header, ring), 24);
const_assert_eq!(offset_of!(Header, callbacks), 40);
const_assert_eq!(offset_of!(Header, acks), 56);
const_assert_eq!(offset_of!(Header, output), 72);
const_assert_eq!(offset_of!(Header, snapshot), 88);

/// Why a control segment cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// It does not start with the magic number.
    #[error("The control segment has no header")]
    Magic,
    /// It is of another major version.
    #[error("The control segment has layout version {0}")]
    Version(u16),
    /// An area lies outside, is misaligned, overlaps another or has an impossible size.
    #[error("The control segment's layout contradicts itself")]
    Areas,
}

impl Header {
    /// The layout, if it is one that can be used in a segment of `size` bytes.
    ///
    /// # Errors
    ///
    /// [`LayoutError`], naming what is wrong.
    pub fn layout(&self, size: u64) -> Result<ControlLayout, LayoutError> {
        if self.magic != MAGIC {
            return Err(LayoutError::Magic);
        }
        if self.major != ABI_MAJOR {
            return Err(LayoutError::Version(self.major));
        }
        let areas = [
            self.ring,
            self.callbacks,
            self.acks,
            self.output,
            self.snapshot,
        ];
        let slots = self.ring.len / SLOT_BYTES as u64;
        let sizes_fit = self.size == size
            && self.ring.len.is_multiple_of(SLOT_BYTES as u64)
            && slots.is_power_of_two()
            && (MIN_SLOTS..=MAX_SLOTS).contains(&slots)
            && self.callbacks.len == CALLBACK_ENTRIES * CALLBACK_ENTRY_BYTES
            && self.acks.len == CALLBACK_ENTRIES * 8
            && self.output.len == OUTPUT_BYTES
            && self.snapshot.len == SNAPSHOT_BYTES;
        let disjoint = areas
            .iter()
            .enumerate()
            .all(|(i, a)| areas.iter().skip(i + 1).all(|b| !a.overlaps(*b)));
        if !sizes_fit || !disjoint || !areas.iter().all(|area| area.within(size, 64)) {
            return Err(LayoutError::Areas);
        }
        Ok(ControlLayout {
            size,
            ring: self.ring,
            callbacks: self.callbacks,
            acks: self.acks,
            output: self.output,
            snapshot: self.snapshot,
        })
    }
}

/// Something that can be told to wake the peer: an event descriptor as a rule.
pub trait Bell: Send + Sync {
    /// Wakes whoever sleeps on it. Never blocks.
    fn ring(&self);
}

/// The command ring's memory inside a control segment.
pub struct ControlRing {
    slots: View,
    count: u64,
    tail: View,
    sleeping: View,
    bell: Option<std::sync::Arc<dyn Bell>>,
    /// What a word that does not exist reads as; never reached with a checked layout.
    nowhere: (AtomicU64, AtomicU32),
}

impl core::fmt::Debug for ControlRing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ControlRing")
            .field("slots", &self.count)
            .finish_non_exhaustive()
    }
}

impl ControlRing {
    /// The ring in `control` as `layout` says. The producer's side gives the consumer's `bell`.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when the layout does not fit the view.
    pub fn new(
        control: &View,
        layout: &ControlLayout,
        bell: Option<std::sync::Arc<dyn Bell>>,
    ) -> Result<ControlRing, OutOfRange> {
        let slots = layout.ring.of(control)?;
        let count = (slots.len() / SLOT_BYTES) as u64;
        if !count.is_power_of_two() {
            return Err(OutOfRange {
                at: layout.ring.offset,
                len: layout.ring.len,
            });
        }
        Ok(ControlRing {
            slots,
            count,
            tail: control.slice(RING_TAIL, 8)?,
            sleeping: control.slice(RING_SLEEPING, 4)?,
            bell,
            nowhere: (AtomicU64::new(0), AtomicU32::new(0)),
        })
    }
}

impl RingMemory for ControlRing {
    #[inline]
    fn slots(&self) -> u64 {
        self.count
    }

    #[inline]
    fn tail(&self) -> &AtomicU64 {
        self.tail.u64(0).unwrap_or(&self.nowhere.0)
    }

    #[inline]
    fn sleeping(&self) -> &AtomicU32 {
        self.sleeping.u32(0).unwrap_or(&self.nowhere.1)
    }

    #[inline]
    fn publish_word(&self, slot: u64) -> &AtomicU64 {
        self.slots
            .u64((slot as usize).wrapping_mul(SLOT_BYTES))
            .unwrap_or(&self.nowhere.0)
    }

    #[inline]
    fn write(&self, offset: usize, bytes: &[u8]) {
        let written = self.slots.write(offset, bytes);
        debug_assert!(written.is_ok(), "the ring stays within its slots");
    }

    #[inline]
    fn read(&self, offset: usize, into: &mut [u8]) {
        let read = self.slots.read(offset, into);
        debug_assert!(read.is_ok(), "the ring stays within its slots");
    }

    fn wake(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}
