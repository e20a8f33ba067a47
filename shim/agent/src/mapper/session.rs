//! The session with the host: how it begins, what the host says in it, and what its loss means.

use super::channels::Channel;
use super::rings::{Answer, LEAST_ENTRIES, Rings, Tag};
use super::{
    GREETING, Mapper, MapperError, RETRY_FIRST, RETRY_LAST, Session, error_text, status_of,
};
use crate::device::{Device, DeviceError};
use crate::messages::{ANSWERED, ENDED, READY, Word};
use rustix::event::epoll;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;
use vgpu_channel::link::LinkStatus;
use vgpu_channel::link::message::{MAJOR, MINOR, MINOR_DISTANCE};
use vgpu_channel::link::virtio::{
    CONFIG_MAGIC, KIND_CLOSE, KIND_GROW, KIND_HELLO, KIND_OPEN, KIND_QUERY, NOTICE_ENDED,
    NOTICE_WAKE, Notice, SessionHello, SessionWelcome,
};
use zerocopy::{FromBytes, IntoBytes};

impl<D: Device> Mapper<D> {
    /// Starts the device and asks the host for a session.
    pub(super) fn greet(&mut self) -> Result<(), MapperError> {
        self.attempt = Instant::now();
        self.device.reset()?;
        let config = self.device.config()?;
        if config.magic != CONFIG_MAGIC {
            return Err(MapperError::NobodyThere);
        }
        if config.major != MAJOR || config.minor.abs_diff(MINOR) > MINOR_DISTANCE {
            return Err(MapperError::Version(config.major, config.minor));
        }
        self.config = config;
        let most = self.device.negotiate()?;
        if let Some(queue) = most.iter().position(|&entries| entries < LEAST_ENTRIES) {
            return Err(DeviceError::Queue(queue).into());
        }
        let interrupts = self.device.interrupts().is_some();
        let mut rings = Rings::new(&self.queue_page, self.queue_base, most, interrupts)?;
        self.device.start(&rings.addresses())?;
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(io::Error::from)?;
        self.session_id = u64::from_ne_bytes(random).max(1);
        let hello = SessionHello {
            session: self.session_id,
            major: MAJOR,
            minor: MINOR,
            flags: 0,
        };
        let tag = Tag {
            kind: KIND_HELLO,
            channel: 0,
        };
        rings.request(tag, &[hello.as_bytes()], size_of::<SessionWelcome>())?;
        self.rings = Some(rings);
        self.session = Session::Greeting {
            deadline: Instant::now() + GREETING,
        };
        self.nap.reset();
        self.examine()
    }

    /// The session is over: every channel fails, and another attempt is made later.
    ///
    /// # Errors
    ///
    /// The same error, if it will not mend by itself.
    pub(super) fn lose(&mut self, error: MapperError) -> Result<(), MapperError> {
        let gone = matches!(error, MapperError::Device(DeviceError::Gone));
        if !self.was_ready || gone {
            self.fail_channels();
            return Err(error);
        }
        let text = error_text(&error);
        if matches!(self.session, Session::Ready) {
            tracing::error!("the device has failed ({text}): all channels end");
        } else {
            tracing::warn!("no session with the host yet: {text}");
        }
        self.fail_channels();
        self.rings = None;
        self.device.reset()?;
        self.session = Session::Down {
            retry: Instant::now() + self.retry,
        };
        self.retry = (self.retry * 2).min(RETRY_LAST);
        Ok(())
    }

    pub(super) fn fail_channels(&mut self) {
        for number in self.channels.numbers() {
            let Some(channel) = self.channels.remove(number) else {
                continue;
            };
            if !channel.dead {
                self.unwatch(&channel);
                self.say(
                    ENDED,
                    LinkStatus::NoDevice,
                    channel.open.channel,
                    &[],
                    vec![],
                );
                self.signaller.signal(&channel.wake);
            }
            self.quarantine.extend(channel.into_pages());
        }
        for message in std::mem::take(&mut self.waiting) {
            self.refuse(&message, LinkStatus::NoDevice);
        }
        for (_, token) in std::mem::take(&mut self.questions) {
            self.say(ANSWERED, LinkStatus::NoDevice, token, &[], vec![]);
        }
    }

    pub(super) fn unwatch(&self, channel: &Channel) {
        // A channel that does not serve yet is not watched.
        let _ = epoll::delete(&self.epoll, channel.doorbell.as_fd());
    }

    /// Takes what the host has to say; whether there was anything.
    pub(super) fn drain(&mut self) -> Result<bool, MapperError> {
        let mut any = false;
        while let Some(answer) = self.rings.as_mut().map_or(Ok(None), Rings::answer)? {
            any = true;
            self.answered(&answer)?;
        }
        while let Some(notice) = self.rings.as_mut().map_or(Ok(None), Rings::notice)? {
            any = true;
            self.noticed(notice)?;
        }
        Ok(any)
    }

    pub(super) fn answered(&mut self, answer: &Answer) -> Result<(), MapperError> {
        if answer.tag.kind == KIND_HELLO {
            return self.welcomed(&answer.bytes);
        }
        let number = answer.tag.channel;
        if answer.tag.kind == KIND_QUERY {
            self.told(number, &answer.bytes);
            return Ok(());
        }
        let Some(channel) = self.channels.get(number) else {
            return Ok(());
        };
        channel.outstanding = channel.outstanding.saturating_sub(1);
        channel.closed = false;
        match answer.tag.kind {
            KIND_OPEN => self.opened(number, &answer.bytes),
            KIND_GROW => self.grown(number, &answer.bytes),
            KIND_CLOSE => {
                channel.closing = false;
                match status_of(&answer.bytes) {
                    LinkStatus::Ok => channel.closed = true,
                    status => {
                        // Its pages stay where they are until another session begins.
                        channel.stuck = true;
                        tracing::error!("channel {number}: the host cannot close it: {status}");
                    }
                }
            }
            _ => {}
        }
        self.settle(number)
    }

    pub(super) fn welcomed(&mut self, bytes: &[u8]) -> Result<(), MapperError> {
        let welcome = SessionWelcome::read_from_bytes(bytes)
            .map_err(|_| MapperError::Refused(status_of(bytes)))?;
        match LinkStatus::from_word(welcome.status) {
            LinkStatus::Ok => {}
            LinkStatus::Version => {
                return Err(MapperError::Version(welcome.major, welcome.minor));
            }
            status => return Err(MapperError::Refused(status)),
        }
        tracing::info!(
            "session {:016x} with the host: {} channels at once",
            self.session_id,
            self.config.max_channels.min(welcome.max_channels)
        );
        self.config.max_channels = welcome.max_channels;
        // The host maps nothing of an older session any more.
        for taken in std::mem::take(&mut self.quarantine) {
            self.memory.give_back(taken);
        }
        self.memory.settled();
        self.session = Session::Ready;
        self.retry = RETRY_FIRST;
        if !self.was_ready {
            self.was_ready = true;
            self.keeper
                .send(Word::new(READY).as_bytes(), &[])
                .map_err(MapperError::Keeper)?;
        }
        for message in std::mem::take(&mut self.waiting) {
            self.begin(message)?;
        }
        Ok(())
    }

    pub(super) fn noticed(&mut self, notice: Notice) -> Result<(), MapperError> {
        match notice.kind {
            NOTICE_WAKE => {
                if let Some(channel) = self.channels.get(notice.channel) {
                    self.signaller.signal(&channel.wake);
                }
                Ok(())
            }
            NOTICE_ENDED => {
                if let Some(channel) = self.channels.get(notice.channel).filter(|c| !c.dead) {
                    let token = channel.open.channel;
                    tracing::warn!("channel {}: ended by the host", notice.channel);
                    self.say(ENDED, LinkStatus::Internal, token, &[], vec![]);
                }
                self.close(notice.channel)
            }
            _ => Ok(()),
        }
    }
}
