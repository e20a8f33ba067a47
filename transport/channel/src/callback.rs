//! The callback ring: the server asks the client's dispatcher thread to run functions of the program.
//!
//! 256 entries of 64 bytes, each with an acknowledgement word beside it. The server publishes an entry by storing its
//! position + 1 in the entry's first word; the dispatcher runs the function and stores the same number in the
//! acknowledgement word. An entry is used again only when the one a lap before it was acknowledged, so neither side needs
//! the other's position.

use core::mem::size_of;

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::control::{
    ACK_WANTED, CALLBACK_ENTRIES, CALLBACK_ENTRY_BYTES, ControlLayout, DISPATCHER_SLEEPING,
};
use crate::shm::{OutOfRange, View};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, fence, lock};

/// One request, as both sides see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callback {
    /// Address of the function in the program.
    pub function: u64,
    /// The program's argument for it.
    pub user: u64,
    /// What kind of function it is; the meaning is the caller's.
    pub kind: u32,
    /// A status to hand over.
    pub status: u32,
    /// Number that the server knows it by.
    pub id: u64,
    /// Further arguments.
    pub args: [u64; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct WireEntry {
    publish: u64,
    function: u64,
    user: u64,
    kind: u32,
    status: u32,
    id: u64,
    args: [u64; 3],
}

const_assert_eq!(size_of::<WireEntry>(), CALLBACK_ENTRY_BYTES as usize);

#[derive(Debug)]
struct Areas {
    entries: View,
    acks: View,
    flags: View,
}

impl Areas {
    fn new(control: &View, layout: &ControlLayout) -> Result<Areas, OutOfRange> {
        Ok(Areas {
            entries: layout.callbacks.of(control)?,
            acks: layout.acks.of(control)?,
            flags: control.slice(DISPATCHER_SLEEPING, 8)?,
        })
    }

    fn entry(position: u64) -> usize {
        ((position % CALLBACK_ENTRIES) * CALLBACK_ENTRY_BYTES) as usize
    }

    fn publish(&self, position: u64) -> Option<&AtomicU64> {
        self.entries.u64(Self::entry(position))
    }

    fn ack(&self, position: u64) -> Option<&AtomicU64> {
        self.acks.u64(((position % CALLBACK_ENTRIES) * 8) as usize)
    }

    fn dispatcher_sleeping(&self) -> Option<&AtomicU32> {
        self.flags.u32(0)
    }

    fn ack_wanted(&self) -> Option<&AtomicU32> {
        self.flags.u32(ACK_WANTED - DISPATCHER_SLEEPING)
    }
}

/// The server's side; threads share it.
#[derive(Debug)]
pub struct CallbackSender {
    areas: Areas,
    head: Mutex<u64>,
}

impl CallbackSender {
    /// The server's side of a fresh ring.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when the layout does not fit.
    pub fn new(control: &View, layout: &ControlLayout) -> Result<CallbackSender, OutOfRange> {
        Ok(CallbackSender {
            areas: Areas::new(control, layout)?,
            head: Mutex::new(0),
        })
    }

    /// Publishes a request. Gives its position and whether the client's wake descriptor must be signalled; `None` when
    /// the entry's last use has not been acknowledged.
    pub fn try_push(&self, callback: &Callback) -> Option<(u64, bool)> {
        let mut head = lock(&self.head);
        let position = *head;
        if position >= CALLBACK_ENTRIES && !self.acknowledged(position - CALLBACK_ENTRIES) {
            return None;
        }
        let wire = WireEntry {
            publish: 0,
            function: callback.function,
            user: callback.user,
            kind: callback.kind,
            status: callback.status,
            id: callback.id,
            args: callback.args,
        };
        self.areas
            .entries
            .write(Areas::entry(position) + 8, wire.as_bytes().get(8..)?)
            .ok()?;
        // SYNC POINT (callback), pairs with `CallbackReceiver::pop`.
        self.areas
            .publish(position)?
            .store(position + 1, Ordering::Release);
        *head = position + 1;
        drop(head);
        Some((position, self.must_wake()))
    }

    /// After something was published for the dispatcher: whether the client's wake descriptor must be signalled.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        // Pairs with `CallbackReceiver::arm`: either we see the flag or the dispatcher sees the entry.
        fence(Ordering::SeqCst);
        self.areas.dispatcher_sleeping().is_some_and(|flag| {
            flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Relaxed) != 0
        })
    }

    /// Whether the client has run the request at `position`. Only meaningful until the entry's next use, which waits for
    /// this.
    #[must_use]
    pub fn acknowledged(&self, position: u64) -> bool {
        // SYNC POINT (ack), pairs with `CallbackReceiver::ack`.
        self.areas
            .ack(position)
            .is_some_and(|ack| ack.load(Ordering::Acquire) == position.wrapping_add(1))
    }

    /// Asks for the doorbell at the next acknowledgement. Check [`CallbackSender::acknowledged`] again before sleeping.
    pub fn want_ack(&self) {
        if let Some(flag) = self.areas.ack_wanted() {
            flag.store(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }
}

/// The client's side, for its one dispatcher thread.
#[derive(Debug)]
pub struct CallbackReceiver {
    areas: Areas,
    head: AtomicU64,
}

impl CallbackReceiver {
    /// The client's side of a fresh ring.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when the layout does not fit.
    pub fn new(control: &View, layout: &ControlLayout) -> Result<CallbackReceiver, OutOfRange> {
        Ok(CallbackReceiver {
            areas: Areas::new(control, layout)?,
            head: AtomicU64::new(0),
        })
    }

    /// Whether a request is waiting.
    #[must_use]
    pub fn ready(&self) -> bool {
        let position = self.head.load(Ordering::Relaxed);
        // SYNC POINT (callback), pairs with `CallbackSender::try_push`.
        self.areas
            .publish(position)
            .is_some_and(|word| word.load(Ordering::Acquire) == position.wrapping_add(1))
    }

    /// The next request and its position. To be called by one thread only; two would take the same entry.
    pub fn pop(&self) -> Option<(u64, Callback)> {
        if !self.ready() {
            return None;
        }
        let position = self.head.load(Ordering::Relaxed);
        let mut bytes = [0; CALLBACK_ENTRY_BYTES as usize];
        self.areas
            .entries
            .read(Areas::entry(position), &mut bytes)
            .ok()?;
        let wire = WireEntry::read_from_bytes(&bytes).ok()?;
        self.head.store(position.wrapping_add(1), Ordering::Relaxed);
        let WireEntry {
            function,
            user,
            kind,
            status,
            id,
            args,
            ..
        } = wire;
        Some((
            position,
            Callback {
                function,
                user,
                kind,
                status,
                id,
                args,
            },
        ))
    }

    /// Says that the request at `position` was run. `true` means that the server's doorbell must be rung.
    #[must_use = "a server that waits must be woken"]
    pub fn ack(&self, position: u64) -> bool {
        if let Some(ack) = self.areas.ack(position) {
            // SYNC POINT (ack), pairs with `CallbackSender::acknowledged`.
            ack.store(position.wrapping_add(1), Ordering::Release);
        }
        // Pairs with `CallbackSender::want_ack`.
        fence(Ordering::SeqCst);
        self.areas.ack_wanted().is_some_and(|flag| {
            flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Relaxed) != 0
        })
    }

    /// Announces that the dispatcher is about to sleep; check [`CallbackReceiver::ready`] (and the output) again after it.
    pub fn arm(&self) {
        if let Some(flag) = self.areas.dispatcher_sleeping() {
            flag.store(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub fn disarm(&self) {
        if let Some(flag) = self.areas.dispatcher_sleeping() {
            flag.store(0, Ordering::Relaxed);
        }
    }
}
