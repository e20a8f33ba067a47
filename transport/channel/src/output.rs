//! The output ring: text that device code printed, relayed by the server to the client.
//!
//! 64 KiB of bytes without framing. Each side keeps its own position privately and publishes it; the other side's is
//! checked for plausibility before it is used.

use crate::sync::{AtomicU64, Mutex, Ordering, lock};

#[cfg(not(loom))]
pub use mapped::{OutputReceiver, OutputSender};

/// The memory that the ring lies in. `None` when it is not there, which for memory that was checked when it was mapped is
/// never.
pub trait OutputMemory {
    /// Bytes of the ring, a power of two.
    fn size(&self) -> usize;
    /// Position that the server has written up to.
    fn head(&self) -> Option<&AtomicU64>;
    /// Position that the client has read up to.
    fn tail(&self) -> Option<&AtomicU64>;
    /// Copies bytes into the ring; they do not reach over its end.
    fn write(&self, offset: usize, bytes: &[u8]) -> Option<()>;
    /// Copies bytes out of the ring.
    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()>;
}

fn load(word: Option<&AtomicU64>) -> u64 {
    // SYNC POINT (output), pairs with `store`: bytes up to the position, or room behind it, are the reader's.
    word.map_or(0, |word| word.load(Ordering::Acquire))
}

fn store(word: Option<&AtomicU64>, position: u64) {
    if let Some(word) = word {
        // SYNC POINT (output), pairs with `load`.
        word.store(position, Ordering::Release);
    }
}

/// Where `len` bytes at `position` start in a ring of `size` bytes, and how many of them come before its end.
fn split(size: usize, position: u64, len: usize) -> (usize, usize) {
    let start = (position % size.max(1) as u64) as usize;
    (start, len.min(size - start))
}

/// The server's side; threads share it.
#[derive(Debug)]
pub struct Sender<M> {
    memory: M,
    /// Position written up to, and the last plausible position of the reader.
    state: Mutex<(u64, u64)>,
    dropped: AtomicU64,
}

impl<M: OutputMemory> Sender<M> {
    /// The server's side of a fresh ring in `memory`.
    pub fn over(memory: M) -> Self {
        Sender {
            memory,
            state: Mutex::new((0, 0)),
            dropped: AtomicU64::new(0),
        }
    }

    /// Appends as much of `text` as there is room for and gives the number of bytes taken. Wake the dispatcher after it
    /// ([`crate::callback::Sender::must_wake`]).
    pub fn write(&self, text: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let (head, tail) = *state;
        let claimed = load(self.memory.tail());
        let tail = if claimed.wrapping_sub(tail) <= head.wrapping_sub(tail) {
            claimed
        } else {
            tail
        };
        let room = (self.memory.size() as u64).saturating_sub(head.wrapping_sub(tail));
        let taken = text.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let (start, first) = split(self.memory.size(), head, taken);
        let (a, b) = text.split_at(taken).0.split_at(first);
        if self.memory.write(start, a).is_none() || self.memory.write(0, b).is_none() {
            return 0;
        }
        *state = (head.wrapping_add(taken as u64), tail);
        store(self.memory.head(), state.0);
        taken
    }

    /// Appends `text`, cutting what there is no room for and counting it.
    pub fn write_or_drop(&self, text: &[u8]) {
        let taken = self.write(text);
        self.dropped
            .fetch_add((text.len() - taken) as u64, Ordering::Relaxed);
    }

    /// Bytes cut so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The client's side; threads share it.
#[derive(Debug)]
pub struct Receiver<M> {
    memory: M,
    tail: Mutex<u64>,
}

impl<M: OutputMemory> Receiver<M> {
    /// The client's side of a fresh ring in `memory`.
    pub fn over(memory: M) -> Self {
        Receiver {
            memory,
            tail: Mutex::new(0),
        }
    }

    /// Whether there is text to read.
    #[must_use]
    pub fn ready(&self) -> bool {
        load(self.memory.head()) != *lock(&self.tail)
    }

    /// Copies waiting text into `into` and gives the number of bytes, 0 when there is none.
    pub fn read(&self, into: &mut [u8]) -> usize {
        let mut tail = lock(&self.tail);
        let waiting = load(self.memory.head()).wrapping_sub(*tail);
        if waiting > self.memory.size() as u64 {
            // The server wrote nonsense: start over where it claims to be.
            *tail = tail.wrapping_add(waiting);
            return 0;
        }
        let len = into.len().min(waiting as usize);
        let (start, first) = split(self.memory.size(), *tail, len);
        let Some(into) = into.get_mut(..len) else {
            return 0;
        };
        let (a, b) = into.split_at_mut(first);
        if self.memory.read(start, a).is_none() || self.memory.read(0, b).is_none() {
            return 0;
        }
        *tail = tail.wrapping_add(len as u64);
        store(self.memory.tail(), *tail);
        len
    }
}

/// Rings in the control segment of a channel.
#[cfg(not(loom))]
mod mapped {
    use super::{OutputMemory, Receiver, Sender};
    use crate::control::{ControlLayout, OUTPUT_HEAD, OUTPUT_TAIL};
    use crate::shm::{OutOfRange, View};
    use crate::sync::AtomicU64;

    /// The server's side of a channel.
    pub type OutputSender = Sender<Mapped>;
    /// The client's side of a channel.
    pub type OutputReceiver = Receiver<Mapped>;

    /// Parts of a control segment.
    #[derive(Debug)]
    pub struct Mapped {
        bytes: View,
        head: View,
        tail: View,
    }

    impl Mapped {
        fn new(control: &View, layout: &ControlLayout) -> Result<Mapped, OutOfRange> {
            Ok(Mapped {
                bytes: layout.output.of(control)?,
                head: control.slice(OUTPUT_HEAD, 8)?,
                tail: control.slice(OUTPUT_TAIL, 8)?,
            })
        }
    }

    impl OutputMemory for Mapped {
        fn size(&self) -> usize {
            self.bytes.len()
        }

        fn head(&self) -> Option<&AtomicU64> {
            self.head.u64(0)
        }

        fn tail(&self) -> Option<&AtomicU64> {
            self.tail.u64(0)
        }

        fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
            self.bytes.write(offset, bytes).ok()
        }

        fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
            self.bytes.read(offset, into).ok()
        }
    }

    impl Sender<Mapped> {
        /// The server's side of a fresh ring.
        ///
        /// # Errors
        ///
        /// [`OutOfRange`] when the layout does not fit.
        pub fn new(control: &View, layout: &ControlLayout) -> Result<OutputSender, OutOfRange> {
            Ok(Sender::over(Mapped::new(control, layout)?))
        }
    }

    impl Receiver<Mapped> {
        /// The client's side of a fresh ring.
        ///
        /// # Errors
        ///
        /// [`OutOfRange`] when the layout does not fit.
        pub fn new(control: &View, layout: &ControlLayout) -> Result<OutputReceiver, OutOfRange> {
            Ok(Receiver::over(Mapped::new(control, layout)?))
        }
    }
}
