//! The output ring: text that device code printed, relayed by the server to the client.
//!
//! 64 KiB of bytes without framing. Each side keeps its own position privately and publishes it; the other side's is
//! checked for plausibility before it is used.

use crate::control::{ControlLayout, OUTPUT_HEAD, OUTPUT_TAIL};
use crate::shm::{OutOfRange, View};
use crate::sync::{AtomicU64, Mutex, Ordering, lock};

#[derive(Debug)]
struct Areas {
    bytes: View,
    head: View,
    tail: View,
}

impl Areas {
    fn new(control: &View, layout: &ControlLayout) -> Result<Areas, OutOfRange> {
        Ok(Areas {
            bytes: layout.output.of(control)?,
            head: control.slice(OUTPUT_HEAD, 8)?,
            tail: control.slice(OUTPUT_TAIL, 8)?,
        })
    }

    fn load(view: &View) -> u64 {
        // SYNC POINT (output), pairs with `store`: bytes up to the position, or room behind it, are the reader's.
        view.u64(0).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(view: &View, position: u64) {
        if let Some(word) = view.u64(0) {
            // SYNC POINT (output), pairs with `load`.
            word.store(position, Ordering::Release);
        }
    }

    fn split(&self, position: u64, len: usize) -> (usize, usize) {
        let start = (position % self.bytes.len().max(1) as u64) as usize;
        (start, len.min(self.bytes.len() - start))
    }
}

/// The server's side; threads share it.
#[derive(Debug)]
pub struct OutputSender {
    areas: Areas,
    /// Position written up to, and the last plausible position of the reader.
    state: Mutex<(u64, u64)>,
    dropped: AtomicU64,
}

impl OutputSender {
    /// The server's side of a fresh ring.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when the layout does not fit.
    pub fn new(control: &View, layout: &ControlLayout) -> Result<OutputSender, OutOfRange> {
        Ok(OutputSender {
            areas: Areas::new(control, layout)?,
            state: Mutex::new((0, 0)),
            dropped: AtomicU64::new(0),
        })
    }

    /// Appends as much of `text` as there is room for and gives the number of bytes taken. Wake the dispatcher after it
    /// ([`crate::callback::CallbackSender::must_wake`]).
    pub fn write(&self, text: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let (head, tail) = *state;
        let claimed = Areas::load(&self.areas.tail);
        let tail = if claimed.wrapping_sub(tail) <= head.wrapping_sub(tail) {
            claimed
        } else {
            tail
        };
        let room = (self.areas.bytes.len() as u64).saturating_sub(head.wrapping_sub(tail));
        let taken = text.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let (start, first) = self.areas.split(head, taken);
        let (a, b) = text.split_at(taken).0.split_at(first);
        if self.areas.bytes.write(start, a).is_err() || self.areas.bytes.write(0, b).is_err() {
            return 0;
        }
        *state = (head.wrapping_add(taken as u64), tail);
        Areas::store(&self.areas.head, state.0);
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
pub struct OutputReceiver {
    areas: Areas,
    tail: Mutex<u64>,
}

impl OutputReceiver {
    /// The client's side of a fresh ring.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when the layout does not fit.
    pub fn new(control: &View, layout: &ControlLayout) -> Result<OutputReceiver, OutOfRange> {
        Ok(OutputReceiver {
            areas: Areas::new(control, layout)?,
            tail: Mutex::new(0),
        })
    }

    /// Whether there is text to read.
    #[must_use]
    pub fn ready(&self) -> bool {
        Areas::load(&self.areas.head) != *lock(&self.tail)
    }

    /// Copies waiting text into `into` and gives the number of bytes, 0 when there is none.
    pub fn read(&self, into: &mut [u8]) -> usize {
        let mut tail = lock(&self.tail);
        let waiting = Areas::load(&self.areas.head).wrapping_sub(*tail);
        if waiting > self.areas.bytes.len() as u64 {
            // The server wrote nonsense: start over where it claims to be.
            *tail = tail.wrapping_add(waiting);
            return 0;
        }
        let len = into.len().min(waiting as usize);
        let (start, first) = self.areas.split(*tail, len);
        let Some(into) = into.get_mut(..len) else {
            return 0;
        };
        let (a, b) = into.split_at_mut(first);
        if self.areas.bytes.read(start, a).is_err() || self.areas.bytes.read(0, b).is_err() {
            return 0;
        }
        *tail = tail.wrapping_add(len as u64);
        Areas::store(&self.areas.tail, *tail);
        len
    }
}
