//! A channel from the program's wish to the last page given back.

use super::channels::{Channel, Growth, Stage};
use super::memory::Made;
use super::rings::Tag;
use super::{
    FIRST_CHANNEL, MAX_QUESTIONS, MAX_SEGMENTS, Mapper, MapperError, RETRY_FIRST, Session,
    error_text, status_of, watch,
};
use crate::device::Device;
use crate::messages::{ANSWERED, ASK, BODY_BYTES, CLOSE, GROW, GROWN, OPEN, OPENED, ToMapper};
use crate::pages::Taken;
use rustix::event::epoll;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use vgpu_channel::control::ControlLayout;
use vgpu_channel::link::message::{GROW_MAGIC, GrowResponse, Hello, WELCOME_MAGIC, Welcome};
use vgpu_channel::link::virtio::{
    Closed, Grow, KIND_CLOSE, KIND_GROW, KIND_OPEN, KIND_QUERY, Open,
};
use vgpu_channel::link::{Answer, LinkStatus};
use vgpu_channel::segment::{SEGMENT_ALIGN, SEGMENT_MAX};
use zerocopy::{FromBytes, IntoBytes};

impl<D: Device> Mapper<D> {
    /// The parser's request.
    pub(super) fn asked(&mut self, message: ToMapper) -> Result<(), MapperError> {
        match message.kind {
            OPEN | ASK => {
                if matches!(self.session, Session::Ready) {
                    // A device that failed while nobody looked is mended first.
                    match self.examine() {
                        Ok(()) => return self.begin(message),
                        Err(error) => self.lose(error)?,
                    }
                }
                if self.waiting.len() >= self.limits.channels {
                    self.refuse(&message, LinkStatus::Busy);
                    return Ok(());
                }
                // It is refused if the next attempt fails, which is made soon for its sake.
                self.waiting.push(message);
                if let Session::Down { retry } = &mut self.session {
                    *retry = (*retry).min(self.attempt + RETRY_FIRST);
                }
                Ok(())
            }
            GROW => {
                self.grow(&message);
                Ok(())
            }
            CLOSE => {
                self.waiting.retain(|open| open.channel != message.channel);
                match self.channels.number(message.channel) {
                    Some(number) => self.close(number),
                    None => Ok(()),
                }
            }
            _ => {
                self.drop_parser("it sent nonsense");
                Ok(())
            }
        }
    }

    /// Does what was asked for, in a session.
    pub(super) fn begin(&mut self, message: ToMapper) -> Result<(), MapperError> {
        match message.kind {
            ASK => self.ask(&message),
            _ => self.open(message),
        }
    }

    /// Refuses what waited for a session, or cannot be.
    pub(super) fn refuse(&mut self, message: &ToMapper, status: LinkStatus) {
        match message.kind {
            ASK => self.say(ANSWERED, status, message.channel, &[], vec![]),
            _ => self.refuse_open(message.channel, status),
        }
    }

    /// Passes a question on to the host.
    fn ask(&mut self, message: &ToMapper) -> Result<(), MapperError> {
        let token = message.channel;
        let Some(rings) = &mut self.rings else {
            self.refuse(message, LinkStatus::NoDevice);
            return Ok(());
        };
        if self.questions.len() >= MAX_QUESTIONS {
            self.refuse(message, LinkStatus::Busy);
            return Ok(());
        }
        self.last_question += 1;
        let tag = Tag {
            kind: KIND_QUERY,
            channel: self.last_question,
        };
        rings.request(tag, &[message.query.as_bytes()], size_of::<Answer>())?;
        self.questions.insert(self.last_question, token);
        self.nap.reset();
        Ok(())
    }

    /// The host has answered a question, or does not know what one is.
    pub(super) fn told(&mut self, question: u64, bytes: &[u8]) {
        let Some(token) = self.questions.remove(&question) else {
            return;
        };
        match bytes.len() {
            BODY_BYTES => self.say(ANSWERED, LinkStatus::Ok, token, bytes, vec![]),
            _ => self.say(ANSWERED, status_of(bytes), token, &[], vec![]),
        }
    }

    pub(super) fn refuse_open(&mut self, token: u64, status: LinkStatus) {
        self.say(OPENED, status, token, &[], vec![]);
    }

    pub(super) fn open(&mut self, mut open: ToMapper) -> Result<(), MapperError> {
        let token = open.channel;
        let most = self.limits.channels.min(self.config.max_channels as usize);
        let Ok(hello) = Hello::parse(open.hello.as_bytes()) else {
            self.refuse_open(token, LinkStatus::Malformed);
            return Ok(());
        };
        if self.channels.number(token).is_some() {
            self.drop_parser("it used a channel's number twice");
            return Ok(());
        }
        if self.channels.len() >= most || self.channels.of_user(open.user) >= self.limits.per_user {
            self.refuse_open(token, LinkStatus::Busy);
            return Ok(());
        }
        let control = ControlLayout::new(u64::from(self.config.ring_slots)).size;
        let room = self.config.max_channel_bytes.saturating_sub(control);
        let heap = self.limits.heap.min(room / SEGMENT_ALIGN * SEGMENT_ALIGN);
        if heap == 0 {
            self.refuse_open(token, LinkStatus::NoMemory);
            return Ok(());
        }
        open.hello = Hello {
            session: self.session_id,
            ..hello
        };
        let mut channel = Channel::new(open)?;
        channel.bytes = control + heap;
        let number = self.channels.add(channel);
        self.memory.take(number, vec![control, heap]);
        Ok(())
    }

    /// Pages are there, or are not.
    pub(super) fn made(&mut self, made: Made) -> Result<(), MapperError> {
        let number = made.channel;
        let segments = match made.segments {
            Ok(segments) => segments,
            Err(error) => {
                tracing::warn!("channel {number}: {}", error_text(&error));
                self.not_made(number);
                return self.settle(number);
            }
        };
        let Some(channel) = self.channels.get(number) else {
            // The session ended meanwhile; the host was never told.
            self.give_back(segments);
            return Ok(());
        };
        let (dead, making) = (channel.dead, channel.stage == Stage::Making);
        if dead {
            if making {
                self.channels.remove(number);
            } else {
                channel.growth = None;
            }
            self.give_back(segments);
            return self.settle(number);
        }
        if making {
            self.announce(number, segments)
        } else {
            self.announce_growth(number, segments)
        }
    }

    pub(super) fn give_back(&self, segments: Vec<Taken>) {
        for taken in segments {
            self.memory.give_back(taken);
        }
    }

    /// There are no pages for a channel or its growth.
    pub(super) fn not_made(&mut self, number: u64) {
        let Some(channel) = self.channels.get(number) else {
            return;
        };
        let token = channel.open.channel;
        if channel.stage == Stage::Making {
            let told = !channel.dead;
            self.channels.remove(number);
            if told {
                self.refuse_open(token, LinkStatus::NoMemory);
            }
        } else if let Some(growth) = channel.growth.take() {
            channel.bytes -= growth.bytes;
            if !channel.dead {
                self.answer_growth(token, growth.id, LinkStatus::NoMemory, 0, None);
            }
        }
    }

    /// Asks the host to open a channel.
    pub(super) fn announce(
        &mut self,
        number: u64,
        segments: Vec<Taken>,
    ) -> Result<(), MapperError> {
        let (Some(channel), Some(rings)) = (self.channels.get(number), &mut self.rings) else {
            self.give_back(segments);
            return Ok(());
        };
        let [control, heap] = segments.as_slice() else {
            return Ok(());
        };
        let open = Open {
            user: channel.open.user,
            process: channel.open.process,
            control_pieces: control.pieces.len() as u32,
            heap_pieces: heap.pieces.len() as u32,
            hello: channel.open.hello,
        };
        let parts = [
            open.as_bytes(),
            control.pieces.as_bytes(),
            heap.pieces.as_bytes(),
        ];
        let tag = Tag {
            kind: KIND_OPEN,
            channel: number,
        };
        rings.request(tag, &parts, size_of::<Welcome>())?;
        channel.outstanding += 1;
        channel.stage = Stage::Opening;
        channel.segments = segments;
        Ok(())
    }

    /// The host answered an open.
    pub(super) fn opened(&mut self, number: u64, bytes: &[u8]) {
        let Some(channel) = self.channels.get(number).filter(|channel| !channel.dead) else {
            return;
        };
        let token = channel.open.channel;
        let status = match Welcome::read_from_bytes(bytes) {
            Ok(welcome) if welcome.magic == WELCOME_MAGIC => {
                let status = LinkStatus::from_word(welcome.status);
                let sizes: Vec<u64> = channel
                    .segments
                    .iter()
                    .map(|taken| taken.segment.size())
                    .collect();
                if status != LinkStatus::Ok {
                    status
                } else if sizes != [welcome.control_len, welcome.heap_len] {
                    tracing::error!("channel {number}: the host speaks of other sizes");
                    LinkStatus::Internal
                } else {
                    match self.hand_out(number, bytes) {
                        Ok(()) => return,
                        Err(error) => {
                            tracing::error!("channel {number}: {error}");
                            LinkStatus::Internal
                        }
                    }
                }
            }
            _ => status_of(bytes),
        };
        tracing::warn!("channel {number}: the host refuses it: {status}");
        self.refuse_open(token, status);
        // Closing it makes sure that the host maps nothing of it.
        self.channels.bury(number);
    }

    pub(super) fn hand_out(&mut self, number: u64, welcome: &[u8]) -> io::Result<()> {
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        let mut fds = Vec::new();
        for taken in &channel.segments {
            fds.push(taken.segment.as_fd().try_clone_to_owned()?);
        }
        fds.push(channel.doorbell.as_fd().try_clone_to_owned()?);
        fds.push(channel.wake.as_fd().try_clone_to_owned()?);
        channel.stage = Stage::Serving;
        let (token, user, process) = (
            channel.open.channel,
            channel.open.user,
            channel.open.process,
        );
        watch(
            &self.epoll,
            channel.doorbell.as_fd(),
            FIRST_CHANNEL + number,
        )?;
        tracing::info!("channel {number}: open for user {user}, process {process}");
        self.say(OPENED, LinkStatus::Ok, token, welcome, fds);
        Ok(())
    }

    pub(super) fn grow(&mut self, message: &ToMapper) {
        let token = message.channel;
        let max_bytes = self.config.max_channel_bytes;
        let Some(number) = self.channels.number(token) else {
            return;
        };
        let Some(channel) = self.channels.get(number) else {
            return;
        };
        if channel.stage != Stage::Serving || channel.growth.is_some() {
            self.drop_parser("it asked for two growths at once");
            return;
        }
        let fits = message.bytes > 0
            && message.bytes.is_multiple_of(SEGMENT_ALIGN)
            && message.bytes <= SEGMENT_MAX
            && channel
                .bytes
                .checked_add(message.bytes)
                .is_some_and(|bytes| bytes <= max_bytes)
            && channel.segments.len() < MAX_SEGMENTS;
        if !fits {
            self.answer_growth(token, message.id, LinkStatus::NoMemory, 0, None);
            return;
        }
        channel.bytes += message.bytes;
        channel.growth = Some(Growth {
            id: message.id,
            bytes: message.bytes,
            segment: None,
        });
        self.memory.take(number, vec![message.bytes]);
    }

    /// Asks the host to map a growth.
    pub(super) fn announce_growth(
        &mut self,
        number: u64,
        segments: Vec<Taken>,
    ) -> Result<(), MapperError> {
        let mut segments = segments;
        let (Some(segment), Some(rings)) = (segments.pop(), &mut self.rings) else {
            return Ok(());
        };
        let growth = self.channels.get(number).and_then(|channel| {
            channel
                .growth
                .as_mut()
                .map(|g| (&mut channel.outstanding, g))
        });
        let Some((outstanding, growth)) = growth else {
            self.memory.give_back(segment);
            return Ok(());
        };
        let grow = Grow {
            id: growth.id,
            pieces: segment.pieces.len() as u32,
            reserved: 0,
        };
        let parts = [grow.as_bytes(), segment.pieces.as_bytes()];
        let tag = Tag {
            kind: KIND_GROW,
            channel: number,
        };
        if let Err(error) = rings.request(tag, &parts, size_of::<GrowResponse>()) {
            tracing::warn!("channel {number}: {error}");
            self.memory.give_back(segment);
            self.not_made(number);
            return Ok(());
        }
        *outstanding += 1;
        tracing::debug!("channel {number}: {} bytes more", growth.bytes);
        growth.segment = Some(segment);
        Ok(())
    }

    /// The host answered a growth.
    pub(super) fn grown(&mut self, number: u64, bytes: &[u8]) {
        let Some(channel) = self.channels.get(number) else {
            return;
        };
        let Some(Growth {
            id,
            segment: Some(segment),
            ..
        }) = channel.growth.take()
        else {
            return;
        };
        let (token, dead) = (channel.open.channel, channel.dead);
        let duplicate = segment.segment.as_fd().try_clone_to_owned();
        let len = segment.segment.size();
        // Even a refused segment stays until the channel is closed, and counts: the host may have begun to map it.
        channel.segments.push(segment);
        if dead {
            return;
        }
        let response = GrowResponse::read_from_bytes(bytes).ok();
        let accepted = response.filter(|response| {
            response.status == LinkStatus::Ok as u32 && response.magic == GROW_MAGIC
        });
        match (accepted, duplicate) {
            (Some(response), Ok(fd)) if response.id == id && response.len == len => {
                self.answer_growth(token, id, LinkStatus::Ok, response.address, Some((len, fd)));
            }
            (accepted, _) => {
                let status = match (accepted, response) {
                    (None, Some(response)) => LinkStatus::from_word(response.status),
                    _ => LinkStatus::Internal,
                };
                tracing::warn!("channel {number}: the host refuses more memory: {status}");
                self.answer_growth(token, id, LinkStatus::NoMemory, 0, None);
            }
        }
    }

    pub(super) fn answer_growth(
        &mut self,
        token: u64,
        id: u32,
        status: LinkStatus,
        address: u64,
        segment: Option<(u64, OwnedFd)>,
    ) {
        let response = GrowResponse {
            magic: GROW_MAGIC,
            id,
            status: status as u32,
            reserved: 0,
            address,
            len: segment.as_ref().map_or(0, |(len, _)| *len),
        };
        let fds = segment.into_iter().map(|(_, fd)| fd).collect();
        self.say(GROWN, status, token, response.as_bytes(), fds);
    }

    /// The program or the worker is gone: nothing is answered any more, and the host is asked to close the channel.
    pub(super) fn close(&mut self, number: u64) -> Result<(), MapperError> {
        if let Some(channel) = self.channels.bury(number) {
            // Nobody may wait for ever, whatever the socket says.
            self.signaller.signal(&channel.wake);
        }
        self.settle(number)
    }

    /// Takes a dead channel's next step.
    pub(super) fn settle(&mut self, number: u64) -> Result<(), MapperError> {
        let Some(channel) = self.channels.get(number).filter(|channel| channel.dead) else {
            return Ok(());
        };
        let _ = epoll::delete(&self.epoll, channel.doorbell.as_fd());
        if channel.stage == Stage::Making || channel.closing || channel.stuck {
            return Ok(());
        }
        if channel.closed {
            // An answer that is still to come, or pages that are, lead here again.
            let making = channel
                .growth
                .as_ref()
                .is_some_and(|growth| growth.segment.is_none());
            if channel.outstanding == 0
                && !making
                && let Some(channel) = self.channels.remove(number)
            {
                tracing::info!("channel {number}: closed");
                self.give_back(channel.into_pages());
            }
            return Ok(());
        }
        let Some(rings) = &mut self.rings else {
            return Ok(());
        };
        let tag = Tag {
            kind: KIND_CLOSE,
            channel: number,
        };
        rings.request(tag, &[], size_of::<Closed>())?;
        channel.outstanding += 1;
        channel.closing = true;
        Ok(())
    }
}
