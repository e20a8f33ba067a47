//! The callback ring: the server asks the client's dispatcher thread to run functions of the program.
//!
//! 256 entries of 64 bytes, each with an acknowledgement word beside it. The server publishes an entry by storing its
//! position + 1 in the entry's first word; the dispatcher runs the function and stores the same number in the
//! acknowledgement word. An entry is used again only when the one a lap before it was acknowledged, so neither side needs
//! the other's position.

use core::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, fence, lock};

#[cfg(not(loom))]
pub use mapped::{CallbackReceiver, CallbackSender};

/// The memory that the ring lies in. `None` when it is not there, which for memory that was checked when it was mapped is
/// never.
pub trait CallbackMemory {
    /// Number of entries.
    fn entries(&self) -> u64;
    /// First word of an entry below that number: the position that was published there last, plus 1.
    fn publish(&self, entry: u64) -> Option<&AtomicU64>;
    /// The position that was acknowledged there last, plus 1.
    fn ack(&self, entry: u64) -> Option<&AtomicU64>;
    /// Set by a dispatcher that is about to sleep.
    fn dispatcher_sleeping(&self) -> Option<&AtomicU32>;
    /// Set by a server that is about to sleep for an acknowledgement.
    fn ack_wanted(&self) -> Option<&AtomicU32>;
    /// Copies what follows the first word into an entry.
    fn write(&self, entry: u64, bytes: &[u8]) -> Option<()>;
    /// Copies what follows the first word out of an entry.
    fn read(&self, entry: u64, into: &mut [u8]) -> Option<()>;
}

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

/// What follows the first word of an entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct WireCallback {
    function: u64,
    user: u64,
    kind: u32,
    status: u32,
    id: u64,
    args: [u64; 3],
}

/// The server's side; threads share it.
#[derive(Debug)]
pub struct Sender<M> {
    memory: M,
    head: Mutex<u64>,
}

impl<M: CallbackMemory> Sender<M> {
    /// The server's side of a fresh ring in `memory`.
    pub fn over(memory: M) -> Self {
        Sender {
            memory,
            head: Mutex::new(0),
        }
    }

    fn entry(&self, position: u64) -> u64 {
        position % self.memory.entries()
    }

    /// Publishes a request. Gives its position and whether the client's wake descriptor must be signalled; `None` when
    /// the entry's last use has not been acknowledged.
    pub fn try_push(&self, callback: &Callback) -> Option<(u64, bool)> {
        let mut head = lock(&self.head);
        let position = *head;
        let lap = self.memory.entries();
        if position >= lap && !self.acknowledged(position - lap) {
            return None;
        }
        let wire = WireCallback {
            function: callback.function,
            user: callback.user,
            kind: callback.kind,
            status: callback.status,
            id: callback.id,
            args: callback.args,
        };
        let entry = self.entry(position);
        self.memory.write(entry, wire.as_bytes())?;
        // SYNC POINT (callback), pairs with `Receiver::ready`.
        self.memory
            .publish(entry)?
            .store(position + 1, Ordering::Release);
        *head = position + 1;
        drop(head);
        Some((position, self.must_wake()))
    }

    /// After something was published for the dispatcher: whether the client's wake descriptor must be signalled.
    #[must_use]
    pub fn must_wake(&self) -> bool {
        // Pairs with `Receiver::arm`: either we see the flag or the dispatcher sees the entry.
        fence(Ordering::SeqCst);
        // SYNC POINT (dispatcher), pairs with `Receiver::arm`: a flag that is set after it was taken here is known to be the
        // later one, also where taking it found that the dispatcher had taken it back.
        self.memory.dispatcher_sleeping().is_some_and(|flag| {
            flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Release) != 0
        })
    }

    /// Whether the client has run the request at `position`. Only meaningful until the entry's next use, which waits for
    /// this.
    #[must_use]
    pub fn acknowledged(&self, position: u64) -> bool {
        // SYNC POINT (ack), pairs with `Receiver::ack`.
        self.memory
            .ack(self.entry(position))
            .is_some_and(|ack| ack.load(Ordering::Acquire) == position.wrapping_add(1))
    }

    /// Asks for the doorbell at the next acknowledgement. Check [`Sender::acknowledged`] again before sleeping.
    pub fn want_ack(&self) {
        if let Some(flag) = self.memory.ack_wanted() {
            flag.store(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }
}

/// The client's side, for its one dispatcher thread.
#[derive(Debug)]
pub struct Receiver<M> {
    memory: M,
    head: AtomicU64,
}

impl<M: CallbackMemory> Receiver<M> {
    /// The client's side of a fresh ring in `memory`.
    pub fn over(memory: M) -> Self {
        Receiver {
            memory,
            head: AtomicU64::new(0),
        }
    }

    fn entry(&self, position: u64) -> u64 {
        position % self.memory.entries()
    }

    /// Whether a request is waiting.
    #[must_use]
    pub fn ready(&self) -> bool {
        let position = self.head.load(Ordering::Relaxed);
        // SYNC POINT (callback), pairs with `Sender::try_push`.
        self.memory
            .publish(self.entry(position))
            .is_some_and(|word| word.load(Ordering::Acquire) == position.wrapping_add(1))
    }

    /// The next request and its position. To be called by one thread only; two would take the same entry.
    pub fn pop(&self) -> Option<(u64, Callback)> {
        if !self.ready() {
            return None;
        }
        let position = self.head.load(Ordering::Relaxed);
        let mut bytes = [0; size_of::<WireCallback>()];
        self.memory.read(self.entry(position), &mut bytes)?;
        let wire = WireCallback::read_from_bytes(&bytes).ok()?;
        self.head.store(position.wrapping_add(1), Ordering::Relaxed);
        let WireCallback {
            function,
            user,
            kind,
            status,
            id,
            args,
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
        if let Some(ack) = self.memory.ack(self.entry(position)) {
            // SYNC POINT (ack), pairs with `Sender::acknowledged`.
            ack.store(position.wrapping_add(1), Ordering::Release);
        }
        // Pairs with `Sender::want_ack`.
        fence(Ordering::SeqCst);
        self.memory.ack_wanted().is_some_and(|flag| {
            flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Relaxed) != 0
        })
    }

    /// Announces that the dispatcher is about to sleep; check [`Receiver::ready`] (and the output) again after it.
    pub fn arm(&self) {
        if let Some(flag) = self.memory.dispatcher_sleeping() {
            // SYNC POINT (dispatcher), pairs with `Sender::must_wake`.
            flag.swap(1, Ordering::Acquire);
        }
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub fn disarm(&self) {
        if let Some(flag) = self.memory.dispatcher_sleeping() {
            flag.store(0, Ordering::Relaxed);
        }
    }
}

/// Rings in the control segment of a channel.
#[cfg(not(loom))]
mod mapped {
    use core::mem::size_of;

    use static_assertions::const_assert_eq;

    use super::{CallbackMemory, Receiver, Sender, WireCallback};
    use crate::control::{
        ACK_WANTED, CALLBACK_ENTRIES, CALLBACK_ENTRY_BYTES, ControlLayout, DISPATCHER_SLEEPING,
    };
    use crate::shm::{OutOfRange, View};
    use crate::sync::{AtomicU32, AtomicU64};

    const_assert_eq!(8 + size_of::<WireCallback>(), CALLBACK_ENTRY_BYTES as usize);

    /// The server's side of a channel.
    pub type CallbackSender = Sender<Mapped>;
    /// The client's side of a channel.
    pub type CallbackReceiver = Receiver<Mapped>;

    /// Parts of a control segment.
    #[derive(Debug)]
    pub struct Mapped {
        entries: View,
        acks: View,
        flags: View,
    }

    impl Mapped {
        fn new(control: &View, layout: &ControlLayout) -> Result<Mapped, OutOfRange> {
            Ok(Mapped {
                entries: layout.callbacks.of(control)?,
                acks: layout.acks.of(control)?,
                flags: control.slice(DISPATCHER_SLEEPING, 8)?,
            })
        }

        fn at(entry: u64) -> usize {
            (entry * CALLBACK_ENTRY_BYTES) as usize
        }
    }

    impl CallbackMemory for Mapped {
        fn entries(&self) -> u64 {
            CALLBACK_ENTRIES
        }

        fn publish(&self, entry: u64) -> Option<&AtomicU64> {
            self.entries.u64(Self::at(entry))
        }

        fn ack(&self, entry: u64) -> Option<&AtomicU64> {
            self.acks.u64((entry * 8) as usize)
        }

        fn dispatcher_sleeping(&self) -> Option<&AtomicU32> {
            self.flags.u32(0)
        }

        fn ack_wanted(&self) -> Option<&AtomicU32> {
            self.flags.u32(ACK_WANTED - DISPATCHER_SLEEPING)
        }

        fn write(&self, entry: u64, bytes: &[u8]) -> Option<()> {
            self.entries.write(Self::at(entry) + 8, bytes).ok()
        }

        fn read(&self, entry: u64, into: &mut [u8]) -> Option<()> {
            self.entries.read(Self::at(entry) + 8, into).ok()
        }
    }

    impl Sender<Mapped> {
        /// The server's side of a fresh ring.
        ///
        /// # Errors
        ///
        /// [`OutOfRange`] when the layout does not fit.
        pub fn new(control: &View, layout: &ControlLayout) -> Result<CallbackSender, OutOfRange> {
            Ok(Sender::over(Mapped::new(control, layout)?))
        }
    }

    impl Receiver<Mapped> {
        /// The client's side of a fresh ring.
        ///
        /// # Errors
        ///
        /// [`OutOfRange`] when the layout does not fit.
        pub fn new(control: &View, layout: &ControlLayout) -> Result<CallbackReceiver, OutOfRange> {
            Ok(Receiver::over(Mapped::new(control, layout)?))
        }
    }
}
