//! The control queue: what the driver asks for, and the answers.

use super::channel::{Answer, Channel, Segments, refuse_growth, refuse_open};
use super::ring::Chain;
use super::table::{Files, Unusable};
use super::{BURST, MAX_MAPS, Machine, Session, overlaps, room};
use crate::client::Terms;
use crate::facts::Held;
use anyhow::Result;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use vgpu_channel::link::message::{MAJOR, MINOR};
use vgpu_channel::link::virtio::{
    CONTROL_QUEUE, Closed, MAX_REQUEST, Open, Order, Piece, SessionHello, SessionWelcome, parse,
};
use vgpu_channel::link::{Answer as QueryAnswer, LinkStatus};
use vgpu_channel::maps;
use zerocopy::IntoBytes;

impl Machine {
    pub(super) fn give(&mut self, index: usize, chain: &Chain, bytes: &[u8]) {
        if let Some(Some(ring)) = self.rings.get_mut(index) {
            ring.give(self.table.memory(), chain, bytes);
        }
    }

    pub(super) fn answer_all(&mut self, answers: impl IntoIterator<Item = Answer>) {
        for answer in answers {
            match answer {
                Answer::Welcome(chain, welcome) => {
                    self.give(CONTROL_QUEUE, &chain, welcome.as_bytes());
                }
                Answer::Grown(chain, response) => {
                    self.give(CONTROL_QUEUE, &chain, response.as_bytes());
                }
                Answer::Closed(chain) => self.give_closed(&chain, LinkStatus::Ok),
            }
        }
    }

    pub(super) fn give_closed(&mut self, chain: &Chain, status: LinkStatus) {
        let closed = Closed {
            status: status as u32,
            reserved: 0,
        };
        self.give(CONTROL_QUEUE, chain, closed.as_bytes());
    }

    pub(super) fn serve_control(&mut self, terms: &Terms) {
        for _ in 0..BURST {
            if !self.is_served(CONTROL_QUEUE) {
                return;
            }
            let Some(Some(ring)) = self.rings.get_mut(CONTROL_QUEUE) else {
                return;
            };
            let Some((chain, bytes)) = ring.take(self.table.memory(), MAX_REQUEST) else {
                return;
            };
            self.request(chain, &bytes.unwrap_or_default(), terms);
        }
        self.more = true;
    }

    pub(super) fn request(&mut self, chain: Chain, bytes: &[u8], terms: &Terms) {
        let order = match parse(bytes) {
            Ok(order) if chain.len >= room(bytes) => order,
            Ok(_) => {
                self.complaints.warn(format_args!(
                    "a request from the guest has no room for its answer"
                ));
                return self.give_closed(&chain, LinkStatus::Malformed);
            }
            Err(error) => {
                self.complaints
                    .warn(format_args!("a request from the guest is refused: {error}"));
                return self.give_closed(&chain, LinkStatus::Malformed);
            }
        };
        let answer = match order {
            Order::Hello(hello) => {
                self.hello(chain, &hello);
                None
            }
            Order::Open {
                channel,
                open,
                control,
                heap,
            } => match self.admit(channel, &open, &control) {
                Ok(()) => self.open(chain, channel, &open, &control, &heap, terms),
                Err(status) => {
                    self.complaints
                        .warn(format_args!("channel {channel} is not opened: {status}"));
                    Some(refuse_open(chain, status))
                }
            },
            Order::Grow {
                channel,
                id,
                pieces,
            } => self.grow(chain, channel, id, &pieces, terms.pinned),
            Order::Close { channel } => self.close(chain, channel),
            Order::Query(query) => {
                self.questions.push((chain, query));
                None
            }
        };
        self.answer_all(answer);
    }

    pub(super) fn hello(&mut self, chain: Chain, hello: &SessionHello) {
        if hello.major != MAJOR {
            self.complaints.warn(format_args!(
                "the agent in the guest has version {}.{}, which is not served",
                hello.major, hello.minor
            ));
            return self.welcome_session(&chain, LinkStatus::Version);
        }
        if self
            .session
            .is_none_or(|session| session.number != hello.session)
        {
            self.session = Some(Session {
                number: hello.session,
                last: 0,
            });
            self.end_where(true, |_, _| true);
        }
        self.hellos.push((chain, self.next));
    }

    pub(super) fn welcome_session(&mut self, chain: &Chain, status: LinkStatus) {
        let welcome = SessionWelcome {
            status: status as u32,
            max_channels: u32::try_from(self.max_channels).unwrap_or(u32::MAX),
            major: MAJOR,
            minor: MINOR,
            flags: 0,
        };
        self.give(CONTROL_QUEUE, chain, welcome.as_bytes());
    }

    pub(super) fn answer_hellos(&mut self) {
        // Channels of this session that were opened before the same hello came again are no hindrance.
        let oldest = self
            .channels
            .iter()
            .find(|(_, channel)| channel.forget)
            .map_or(u64::MAX, |(id, _)| *id);
        let waiting = std::mem::take(&mut self.hellos);
        for (chain, next) in waiting {
            if oldest <= next {
                self.hellos.push((chain, next));
            } else {
                self.welcome_session(&chain, LinkStatus::Ok);
            }
        }
    }

    /// Answers questions, but those that wait for a look at the host. In the guest everybody sees everybody.
    pub(super) fn answer_questions(&mut self, terms: &Terms) {
        for (chain, query) in std::mem::take(&mut self.questions) {
            // A front-end that waits for every request to be over does not wait for that.
            if self.wait.is_none() && terms.facts.needs_look(&query, &terms.board).is_some() {
                self.questions.push((chain, query));
                continue;
            }
            let answer = match self.session {
                None => QueryAnswer::new(query.kind, LinkStatus::Denied, &[]),
                Some(_) => {
                    let held: Vec<Held> = self
                        .channels
                        .values()
                        .filter_map(|channel| channel.held(query.process))
                        .collect();
                    terms.facts.answer(&query, &terms.board, &held)
                }
            };
            self.give(CONTROL_QUEUE, &chain, answer.as_bytes());
        }
    }

    /// Whether a channel may be opened, but for its pieces.
    pub(super) fn admit(
        &mut self,
        number: u64,
        open: &Open,
        control: &[Piece],
    ) -> Result<(), LinkStatus> {
        let session = self.session.as_mut().ok_or(LinkStatus::Denied)?;
        if open.hello.session != session.number {
            return Err(LinkStatus::Denied);
        }
        if number <= session.last {
            return Err(LinkStatus::Malformed);
        }
        session.last = number;
        if control.iter().map(|piece| piece.len).sum::<u64>() != self.control_bytes {
            return Err(LinkStatus::Malformed);
        }
        // Those that are being closed still hold memory, so they count.
        if self.channels.len() >= self.max_channels {
            return Err(LinkStatus::Busy);
        }
        Ok(())
    }

    pub(super) fn open(
        &mut self,
        chain: Chain,
        number: u64,
        open: &Open,
        control: &[Piece],
        heap: &[Piece],
        terms: &Terms,
    ) -> Option<Answer> {
        let id = self.next + 1;
        let all = [control, heap].concat();
        let segments = match self.resolve_all(id, [control, heap], (0, 0), terms.pinned) {
            Ok((files, [control, heap])) => Segments {
                control,
                heap,
                files,
            },
            Err(status) => {
                self.complaints
                    .warn(format_args!("channel {number} is not opened: {status}"));
                return Some(refuse_open(chain, status));
            }
        };
        tracing::info!("{}", Channel::introduce(number, open));
        let cache = self.cache.as_deref();
        let lock = self.lock.as_fd();
        match Channel::start(number, open, &segments, terms, cache, lock, chain) {
            Ok(channel) => {
                self.next = id;
                self.claim(id, &all);
                self.channels.insert(id, channel);
                None
            }
            Err((chain, error)) => {
                tracing::error!("a worker could not be started: {error}");
                Some(refuse_open(chain, LinkStatus::Internal))
            }
        }
    }

    pub(super) fn claim(&mut self, id: u64, pieces: &[Piece]) {
        for piece in pieces {
            let end = piece.address.saturating_add(piece.len);
            self.claims.insert(piece.address, (end, id));
        }
    }

    /// Finds the pieces of segments in the guest's RAM: nobody else's, and with what the channel has, not too much.
    pub(super) fn resolve_all<const N: usize>(
        &self,
        id: u64,
        lists: [&[Piece]; N],
        (bytes, mapped): (u64, usize),
        pinned: u64,
    ) -> Result<(Files<'_>, [Vec<vgpu_channel::segment::FilePiece>; N]), LinkStatus> {
        let mut own: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut total = bytes;
        for piece in lists.iter().copied().flatten() {
            let (start, end) = (piece.address, piece.address.saturating_add(piece.len));
            if overlaps(&self.claims, start, end) || overlaps(&own, start, end) {
                self.complaints.warn(format_args!(
                    "a piece at {start:#x} belongs to a channel already"
                ));
                return Err(LinkStatus::Denied);
            }
            own.insert(start, (end, id));
            total = total.saturating_add(piece.len);
        }
        if total > pinned {
            return Err(LinkStatus::NoMemory);
        }
        let mut files = Files::default();
        let mut resolved = lists.map(|_| Vec::new());
        let mut maps = mapped;
        for (list, pieces) in resolved.iter_mut().zip(lists) {
            *list = self.table.resolve(pieces, &mut files).map_err(|error| {
                self.complaints.warn(format_args!("{error}"));
                match error {
                    Unusable::Files => LinkStatus::NoMemory,
                    _ => LinkStatus::Denied,
                }
            })?;
            maps = maps.saturating_add(list.len());
        }
        if maps > MAX_MAPS.min(maps::limit()) {
            return Err(LinkStatus::NoMemory);
        }
        Ok((files, resolved))
    }

    pub(super) fn find(&self, number: u64) -> Option<u64> {
        self.channels
            .iter()
            .find(|(_, channel)| channel.number == number && channel.is_open())
            .map(|(id, _)| *id)
    }

    pub(super) fn grow(
        &mut self,
        chain: Chain,
        number: u64,
        id: u32,
        pieces: &[Piece],
        pinned: u64,
    ) -> Option<Answer> {
        let refuse = |chain, status| {
            self.complaints
                .warn(format_args!("channel {number} does not grow: {status}"));
            Some(refuse_growth(chain, id, status))
        };
        let Some(own) = self.find(number) else {
            return refuse(chain, LinkStatus::Denied);
        };
        let has = match self.channels.get(&own) {
            Some(channel) if channel.can_grow() => (channel.bytes, channel.maps),
            _ => return refuse(chain, LinkStatus::Busy),
        };
        // The channel is taken out meanwhile, as the files borrow the table.
        let Some(mut channel) = self.channels.remove(&own) else {
            return refuse(chain, LinkStatus::Denied);
        };
        let answer = match self.resolve_all(own, [pieces], has, pinned) {
            Ok((files, [list])) => {
                channel.grow(chain, id, &list, &files);
                None
            }
            Err(status) => refuse(chain, status),
        };
        if answer.is_none() {
            self.claim(own, pieces);
        }
        self.channels.insert(own, channel);
        answer
    }

    pub(super) fn close(&mut self, chain: Chain, number: u64) -> Option<Answer> {
        let Some(id) = self.find(number) else {
            return Some(Answer::Closed(chain));
        };
        let answer = self.channels.get_mut(&id)?.close(chain);
        if answer.is_some() {
            self.remove(id);
        }
        answer
    }
}
