//! Staging: a ring of heap bytes for copies in flight.
//!
//! Chunks are cut off the ring in order. Each is given back either at once or when a timeline word passes a position;
//! completion may come in any order, room is regained in order of allocation.

use std::collections::VecDeque;

use crate::sync::{Mutex, lock};
use crate::timeline::reached;

/// Alignment of chunks in bytes.
pub const CHUNK_ALIGN: u64 = 64;

/// Reads timeline words by address.
pub trait Words {
    /// The word at `address`; `None` when there is none.
    fn word_at(&self, address: u64) -> Option<u32>;
}

/// A piece of the staging ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First address.
    pub address: u64,
    /// Bytes, as asked for.
    pub len: u64,
    /// Number to give it back by; ascending.
    pub ticket: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// In the hands of the caller.
    Held,
    /// Free once this word has reached this position.
    Until { word: u64, target: u32 },
    /// Free.
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Ring offset behind the chunk, and so behind any bytes skipped before it.
    end: u64,
    state: Use,
}

#[derive(Debug)]
struct State {
    /// Next offset to cut from, counted without wrapping.
    head: u64,
    /// Offset up to which room was regained, counted without wrapping.
    tail: u64,
    /// Ticket of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
}

/// The staging ring; threads share it.
#[derive(Debug)]
pub struct Staging {
    address: u64,
    len: u64,
    state: Mutex<State>,
}

impl Staging {
    /// A ring in `len` heap bytes at `address`; a length that is no multiple of 64 is cut.
    #[must_use]
    pub fn new(address: u64, len: u64) -> Staging {
        let state = State {
            head: 0,
            tail: 0,
            first: 0,
            entries: VecDeque::new(),
        };
        Staging {
            address,
            len: len - len % CHUNK_ALIGN,
            state: Mutex::new(state),
        }
    }

    /// Bytes of the whole ring.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.len
    }

    /// Cuts a chunk of `len` bytes; `None` when there is no room now (or never: see [`Staging::capacity`]). Chunks do not
    /// wrap, so one longer than half the ring may have to wait until the ring is empty.
    pub fn alloc(&self, len: u64, words: &impl Words) -> Option<Chunk> {
        let rounded = len.max(1).checked_next_multiple_of(CHUNK_ALIGN)?;
        if rounded > self.len {
            return None;
        }
        let mut state = lock(&self.state);
        // Before there is a need: memory that was touched a moment ago is in the caches and has its pages mapped, the rest
        // of the ring has neither.
        reclaim(&mut state, words);
        self.cut(&mut state, len, rounded)
    }

    fn cut(&self, state: &mut State, len: u64, rounded: u64) -> Option<Chunk> {
        if state.entries.is_empty() {
            // Nothing in use: start over, so that the longest chunk fits.
            state.head = 0;
            state.tail = 0;
        }
        let offset = state.head % self.len;
        let skip = if offset + rounded > self.len {
            self.len - offset
        } else {
            0
        };
        let end = state.head + skip + rounded;
        if end - state.tail > self.len {
            return None;
        }
        let ticket = state.first + state.entries.len() as u64;
        state.entries.push_back(Entry {
            end,
            state: Use::Held,
        });
        state.head = end;
        Some(Chunk {
            address: self.address + (end - rounded) % self.len,
            len,
            ticket,
        })
    }

    fn set(&self, ticket: u64, new: Use) {
        let mut state = lock(&self.state);
        let index = ticket
            .checked_sub(state.first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| state.entries.get_mut(index)) {
            entry.state = new;
        }
    }

    /// Gives a chunk back as soon as the timeline word at `word` has reached `target`.
    pub fn release_at(&self, ticket: u64, word: u64, target: u32) {
        self.set(ticket, Use::Until { word, target });
    }

    /// Gives a chunk back now.
    pub fn release(&self, ticket: u64) {
        self.set(ticket, Use::Done);
    }

    /// Gives back every chunk that waits for the timeline word at `word`, because that timeline has ended.
    pub fn release_word(&self, word: u64) {
        for entry in &mut lock(&self.state).entries {
            if matches!(entry.state, Use::Until { word: waits, .. } if waits == word) {
                entry.state = Use::Done;
            }
        }
    }

    /// What the oldest chunk waits for: a word's address and position. `None` when it waits for nothing or none is out.
    pub fn oldest(&self) -> Option<(u64, u32)> {
        match lock(&self.state).entries.front()?.state {
            Use::Until { word, target } => Some((word, target)),
            _ => None,
        }
    }
}

fn reclaim(state: &mut State, words: &impl Words) {
    while let Some(front) = state.entries.front() {
        let done = match front.state {
            Use::Held => false,
            Use::Done => true,
            Use::Until { word, target } => {
                words.word_at(word).is_none_or(|now| reached(now, target))
            }
        };
        if !done {
            return;
        }
        state.tail = front.end;
        state.first += 1;
        state.entries.pop_front();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct OneWord(Cell<u32>);

    impl Words for OneWord {
        fn word_at(&self, address: u64) -> Option<u32> {
            (address == 64).then(|| self.0.get())
        }
    }

    #[test]
    fn room_comes_back_when_the_word_passes() {
        let words = OneWord(Cell::new(u32::MAX - 1));
        let staging = Staging::new(0x1000, 1024);
        let a = staging.alloc(512, &words).unwrap();
        let b = staging.alloc(500, &words).unwrap();
        assert_eq!((a.address, b.address), (0x1000, 0x1200));
        assert!(staging.alloc(1, &words).is_none());
        staging.release_at(a.ticket, 64, 1);
        staging.release(b.ticket);
        assert_eq!(staging.oldest(), Some((64, 1)));
        assert!(
            staging.alloc(1, &words).is_none(),
            "the older chunk is still in use"
        );
        words.0.set(1);
        assert_eq!(staging.alloc(1024, &words).unwrap().address, 0x1000);
        assert!(staging.alloc(1025, &words).is_none());
    }

    #[test]
    fn a_ring_that_empties_starts_over_before_it_is_full() {
        let words = OneWord(Cell::new(0));
        let staging = Staging::new(0, 64 << 20);
        let half = 16 << 10;
        for word in 1..100 {
            let first = staging.alloc(half, &words).unwrap();
            let second = staging.alloc(half, &words).unwrap();
            assert_eq!((first.address, second.address), (0, half));
            for chunk in [first, second] {
                staging.release_at(chunk.ticket, 64, word);
            }
            words.0.set(word);
        }
    }

    #[test]
    fn an_ended_timeline_frees_its_chunks() {
        let words = OneWord(Cell::new(0));
        let staging = Staging::new(0, 128);
        let chunk = staging.alloc(128, &words).unwrap();
        staging.release_at(chunk.ticket, 64, 9);
        assert!(staging.alloc(64, &words).is_none());
        staging.release_word(64);
        assert!(staging.alloc(64, &words).is_some());
    }

    proptest::proptest! {
        #[test]
        fn live_chunks_never_overlap(steps in proptest::collection::vec((1u64..700, 0usize..4), 1..200)) {
            let words = OneWord(Cell::new(0));
            let staging = Staging::new(0x4000, 2048);
            let mut live: Vec<Chunk> = Vec::new();
            for (len, release) in steps {
                if let Some(chunk) = staging.alloc(len, &words) {
                    proptest::prop_assert!(chunk.address >= 0x4000 && chunk.address + len <= 0x4000 + 2048);
                    proptest::prop_assert_eq!(chunk.address % CHUNK_ALIGN, 0);
                    for other in &live {
                        let apart = chunk.address + chunk.len <= other.address || other.address + other.len <= chunk.address;
                        proptest::prop_assert!(apart);
                    }
                    live.push(chunk);
                }
                for _ in 0..release {
                    if !live.is_empty() {
                        let index = (len as usize) % live.len();
                        staging.release(live.swap_remove(index).ticket);
                    }
                }
            }
            for chunk in live {
                staging.release(chunk.ticket);
            }
            proptest::prop_assert!(staging.alloc(2048, &words).is_some());
        }
    }
}
