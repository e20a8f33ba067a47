//! The channels: what belongs to each, and how far each has come.

use crate::messages::ToMapper;
use crate::pages::Taken;
use std::collections::BTreeMap;
use vgpu_channel::link::Event;

/// A growth on its way.
#[derive(Debug)]
pub struct Growth {
    /// The program's number.
    pub id: u32,
    /// Bytes.
    pub bytes: u64,
    /// The segment, once it is made.
    pub segment: Option<Taken>,
}

/// How far a channel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its pages are being made; the host knows nothing.
    Making,
    /// The host was asked to open it.
    Opening,
    /// The program has it.
    Serving,
}

/// A channel.
#[derive(Debug)]
pub struct Channel {
    /// What the parser asked for, hello included.
    pub open: ToMapper,
    /// Progress.
    pub stage: Stage,
    /// The program is gone, or the host's worker is: nothing is answered any more, and the host is asked to close it.
    pub dead: bool,
    /// All pages that the host was told of, those of a growth on its way excepted.
    pub segments: Vec<Taken>,
    /// Bytes of shared memory, growth on its way included.
    pub bytes: u64,
    /// The program rings it.
    pub doorbell: Event,
    /// The program waits for it.
    pub wake: Event,
    /// A growth on its way.
    pub growth: Option<Growth>,
    /// Requests to the host that are not answered.
    pub outstanding: u32,
    /// The host was asked to close it and has not answered.
    pub closing: bool,
    /// The host could not close it.
    pub stuck: bool,
    /// The last answer was that the channel is closed: the host maps nothing of it, unless another answer comes after.
    pub closed: bool,
}

impl Channel {
    /// A channel without pages.
    ///
    /// # Errors
    ///
    /// The system's error, out of descriptors as a rule.
    pub fn new(open: ToMapper) -> std::io::Result<Channel> {
        Ok(Channel {
            open,
            stage: Stage::Making,
            dead: false,
            segments: Vec::new(),
            bytes: 0,
            doorbell: Event::new()?,
            wake: Event::new()?,
            growth: None,
            outstanding: 0,
            closing: false,
            stuck: false,
            closed: false,
        })
    }

    /// All pages that the host may know of.
    pub fn into_pages(mut self) -> Vec<Taken> {
        if let Some(segment) = self.growth.take().and_then(|growth| growth.segment) {
            self.segments.push(segment);
        }
        self.segments
    }
}

/// The channels by the number that the host knows them by, and by the parser's.
#[derive(Debug, Default)]
pub struct Channels {
    by_number: BTreeMap<u64, Channel>,
    by_token: BTreeMap<u64, u64>,
    last: u64,
}

impl Channels {
    /// Adds one; returns its number, which was never used before.
    pub fn add(&mut self, channel: Channel) -> u64 {
        self.last += 1;
        self.by_token.insert(channel.open.channel, self.last);
        self.by_number.insert(self.last, channel);
        self.last
    }

    /// The number of a channel of the parser's that is not dead.
    #[must_use]
    pub fn number(&self, token: u64) -> Option<u64> {
        self.by_token.get(&token).copied()
    }

    /// A channel by its number.
    pub fn get(&mut self, number: u64) -> Option<&mut Channel> {
        self.by_number.get_mut(&number)
    }

    /// Marks it dead, so that the parser's number means nothing any more. Returns it the first time.
    pub fn bury(&mut self, number: u64) -> Option<&mut Channel> {
        let channel = self
            .by_number
            .get_mut(&number)
            .filter(|channel| !channel.dead)?;
        channel.dead = true;
        self.by_token.remove(&channel.open.channel);
        Some(channel)
    }

    /// Takes it out.
    pub fn remove(&mut self, number: u64) -> Option<Channel> {
        let channel = self.by_number.remove(&number)?;
        if !channel.dead {
            self.by_token.remove(&channel.open.channel);
        }
        Some(channel)
    }

    /// All numbers.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        self.by_number.keys().copied().collect()
    }

    /// Channels, dead ones included: their pages are taken still.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Channels of a user, dead ones included.
    #[must_use]
    pub fn of_user(&self, user: u32) -> usize {
        self.by_number
            .values()
            .filter(|channel| channel.open.user == user)
            .count()
    }
}
