//! The pages that the keeper keeps: what the mapper has it keep, drop and hand over.

use super::Keeper;
use crate::mapper::error_text;
use crate::messages::{DROP, INHERIT, KEEP, KEPT, NOT_PINNED, REFUSED, SETTLED, Word};
use crate::pin::Pin;
use crate::store::Stored;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use vgpu_channel::link::LinkError;
use vgpu_channel::segment::SegmentFd;
use zerocopy::{IntoBytes, transmute};

/// A memory file that the host may map.
#[derive(Debug)]
pub(super) struct Kept {
    segment: SegmentFd,
    _pin: Option<Pin>,
    /// What the service manager knows it by.
    pub(super) name: String,
    /// The mapper, by its turn, that took it.
    mapper: u64,
    /// Whether it is the mapper's first, which holds the device's queues.
    queues: bool,
}

impl Keeper {
    /// The mapper wants something kept or dropped.
    pub(super) fn pages_wanted(&mut self) {
        let Some(pages) = &self.pages else {
            return;
        };
        let received = pages.receive_with_fds::<{ size_of::<Word>() }>(Duration::ZERO);
        let (bytes, fds) = match received {
            Ok(received) => received,
            Err(LinkError::TimedOut) => return,
            Err(_) => {
                self.pages = None;
                return;
            }
        };
        let word: Word = transmute!(bytes);
        match word.kind {
            KEEP => {
                let answer = self.keep(word, fds);
                self.answer(answer, false);
            }
            INHERIT => {
                let answer = self.inherit(word);
                self.answer(answer, true);
            }
            DROP => {
                let dropped = self.kept.remove(&word.id);
                if let Some(kept) = &dropped {
                    self.store.remove(&kept.name);
                }
                tracing::debug!(
                    "segment {:x} dropped: {}; {} are kept",
                    word.id,
                    dropped.is_some(),
                    self.kept.len()
                );
            }
            SETTLED => {
                let turn = self.turn;
                let before = self.kept.len() + self.stored.len();
                self.kept.retain(|_, kept| {
                    let current = kept.mapper == turn;
                    if !current {
                        self.store.remove(&kept.name);
                    }
                    current
                });
                for stored in self.stored.drain(..) {
                    self.store.remove(&stored.name);
                }
                let dropped = before - self.kept.len();
                if dropped > 0 {
                    tracing::info!("{dropped} segments of an earlier mapper are free again");
                }
            }
            _ => {}
        }
    }

    /// Answers the mapper, with the memory file that the answer is about if it wants one.
    fn answer(&mut self, answer: Word, with_file: bool) {
        let kept = self.kept.get(&answer.id).filter(|_| with_file);
        let fds: Vec<_> = kept.iter().map(|kept| kept.segment.as_fd()).collect();
        if let Some(pages) = &self.pages
            && pages.send(answer.as_bytes(), &fds).is_err()
        {
            self.pages = None;
        }
    }

    /// Keeps what the mapper took from the pool.
    fn keep(&mut self, word: Word, mut fds: Vec<OwnedFd>) -> Word {
        let segment = fds
            .pop()
            .and_then(|fd| received(fd, word.len, "the mapper"));
        let Some(segment) = segment else {
            return Word::about(REFUSED, word.id, 0);
        };
        let queues = !self.kept.values().any(|kept| kept.mapper == self.turn);
        let name = self.store.keep(word.id, queues, &segment);
        self.pin(word.id, segment, name, queues)
    }

    /// Gives the mapper the page of an earlier one's queues, which it asks for once the device is reset: the pool may have
    /// no other until the pages of dead channels are back, and these are only after the queues have worked.
    fn inherit(&mut self, word: Word) -> Word {
        let old = self
            .kept
            .iter()
            .find(|(_, kept)| kept.queues && kept.mapper != self.turn)
            .map(|(id, _)| *id);
        let found = match old.and_then(|id| self.kept.remove(&id)) {
            Some(kept) => Some((kept.segment, kept.name)),
            None => self
                .stored
                .iter()
                .position(Stored::is_queues)
                .and_then(|place| {
                    let stored = self.stored.swap_remove(place);
                    let segment = received(stored.file, word.len, "the service manager");
                    if segment.is_none() {
                        self.store.remove(&stored.name);
                    }
                    Some((segment?, stored.name))
                }),
        };
        match found {
            Some((segment, name)) => self.pin(word.id, segment, name, true),
            None => Word::about(REFUSED, word.id, 0),
        }
    }

    /// Pins a segment if that can be done here, and keeps it for the mapper of today.
    fn pin(&mut self, id: u64, segment: SegmentFd, name: String, queues: bool) -> Word {
        let (pin, answer) = match Pin::new(&segment) {
            Ok(pin) => (Some(pin), Word::about(KEPT, id, 0)),
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(0);
                let number = u64::try_from(number).unwrap_or(0);
                (None, Word::about(NOT_PINNED, id, number))
            }
        };
        let kept = Kept {
            segment,
            _pin: pin,
            name,
            mapper: self.turn,
            queues,
        };
        self.kept.insert(id, kept);
        answer
    }
}

/// A memory file that `sender` says is a segment of `len` bytes.
fn received(fd: OwnedFd, len: u64, sender: &str) -> Option<SegmentFd> {
    SegmentFd::receive(fd, len)
        .map_err(|error| {
            tracing::error!("{sender} sent what is no segment: {}", error_text(&error))
        })
        .ok()
}
