//! The privileged process: device, pages, and the relay of events. It parses nothing that a program sent but the
//! fixed-size [`ToMapper`], and checks that as if a program had written it.
//!
//! | module | what lives there |
//! |---|---|
//! | [`rings`] | the device's queues and their buffers |
//! | [`channels`] | channels and their stages |
//! | [`memory`] | the thread that makes pages |
//! | [`nap`] | sleeping without interrupts |
//! | [`start`] | how the process begins |
//!
//! # A channel's pages
//!
//! They are given back only when the host has answered that it closed the channel and no other request about the
//! channel is unanswered; or when a whole new session has begun, by which the host has let go of everything older.

pub mod channels;
pub mod memory;
pub mod nap;
pub mod rings;
pub mod start;

use crate::device::{Device, DeviceError, Health};
use crate::messages::{
    CLOSE, ENDED, GROW, GROWN, HERE, OPEN, OPENED, PARSER, READY, STOP, ToMapper, ToParser, Word,
};
use crate::pages::{PageError, Taken};
use crate::queue::QueueError;
use crate::signal::{self, Signaller};
use channels::{Channel, Channels, Growth, Stage};
use memory::{Made, Memory};
use nap::Nap;
use rings::{Answer, LEAST_ENTRIES, Rings, Tag};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use vgpu_channel::control::ControlLayout;
use vgpu_channel::link::message::{
    GROW_MAGIC, GrowResponse, Hello, MAJOR, MINOR, MINOR_DISTANCE, WELCOME_MAGIC, Welcome,
};
use vgpu_channel::link::virtio::{
    CONFIG_MAGIC, Closed, DeviceConfig, Grow, KIND_CLOSE, KIND_GROW, KIND_HELLO, KIND_OPEN,
    NOTICE_ENDED, NOTICE_WAKE, Notice, Open, SessionHello, SessionWelcome,
};
use vgpu_channel::link::{LinkError, LinkStatus, Socket};
use vgpu_channel::segment::{SEGMENT_ALIGN, SEGMENT_MAX};
use vgpu_channel::shm::View;
use zerocopy::{FromBytes, IntoBytes, transmute};

/// How long the host may take to begin a session: it ends an older one's workers first.
const GREETING: Duration = Duration::from_secs(20);
/// First wait before another attempt to begin a session.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before another attempt.
const RETRY_LAST: Duration = Duration::from_secs(5);
/// How often a device without interrupts is asked how it is while it is used.
const CHECKUP: Duration = Duration::from_millis(100);
/// Messages for the parser that may wait; it is ended when it does not read them.
const BACKLOG: usize = 4096;
/// Segments of one channel: each is a map in two processes.
const MAX_SEGMENTS: usize = 4096;
/// Events taken from epoll at once.
const EVENTS: usize = 64;

/// Why the mapper ends.
#[derive(Debug, thiserror::Error)]
pub enum MapperError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There is not even a page for the queues.
    #[error("There is no page for the device's queues")]
    Pages(#[from] PageError),
    /// The host speaks another version.
    #[error(
        "The host's vhost-user-vgpu speaks version {0}.{1} of the link, this agent {MAJOR}.{MINOR}: install the same release on both sides"
    )]
    Version(u16, u16),
    /// The host does not begin a session.
    #[error("The host refuses a session: {0}; see the log of vhost-user-vgpu on the host")]
    Refused(LinkStatus),
    /// The device asks for a reset, or was reset by somebody else.
    #[error(
        "The device wants to be reset: its daemon on the host went away, or this machine was suspended"
    )]
    NeedsReset,
    /// Nothing answers behind the device.
    #[error("Nothing answers behind the device: is vhost-user-vgpu running on the host?")]
    NobodyThere,
    /// The host does not answer.
    #[error("The host did not answer within {GREETING:?}; is vhost-user-vgpu running there?")]
    Silent,
    /// A queue failed.
    #[error("A queue failed")]
    Queue(#[from] QueueError),
    /// A socket failed.
    #[error("The keeper cannot be reached")]
    Keeper(#[source] LinkError),
    /// The system refused.
    #[error("The system refused")]
    System(#[from] io::Error),
}

/// What the mapper is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a channel's first heap segment.
    pub heap: u64,
    /// Channels at once; the device's own limit counts too.
    pub channels: usize,
    /// Channels of one user at once, closing ones included.
    pub per_user: usize,
}

/// Who a ready descriptor belongs to: below [`FIRST_CHANNEL`] one of these, else a channel's doorbell.
const KEEPER: u64 = 1;
const PARSER_SOCKET: u64 = 2;
const PAGES: u64 = 3;
const QUEUE_INTERRUPT: u64 = 4;
const CONFIG_INTERRUPT: u64 = 5;
const FIRST_CHANNEL: u64 = 16;

/// The session with the host.
#[derive(Debug)]
enum Session {
    /// There is none; the next attempt is at this time.
    Down { retry: Instant },
    /// The host was greeted.
    Greeting { deadline: Instant },
    /// Channels can be opened.
    Ready,
}

/// The process that feeds the mapper.
#[derive(Debug)]
struct Parser {
    socket: Socket,
    out: VecDeque<(ToParser, Vec<OwnedFd>)>,
    blocked: bool,
}

/// The mapper.
#[derive(Debug)]
pub struct Mapper<D> {
    device: D,
    config: DeviceConfig,
    rings: Option<Rings>,
    queue_page: View,
    queue_base: u64,
    /// Keeps the queues' page.
    _queue_pages: Taken,
    memory: Memory,
    keeper: Socket,
    parser: Option<Parser>,
    epoll: OwnedFd,
    limits: Limits,
    session: Session,
    session_id: u64,
    retry: Duration,
    /// When the last attempt to begin a session was made.
    attempt: Instant,
    was_ready: bool,
    channels: Channels,
    signaller: Signaller,
    /// Pages of sessions that failed: the host lets go of them when it begins the next.
    quarantine: Vec<Taken>,
    /// Opens that came while the host was greeted.
    waiting: Vec<ToMapper>,
    nap: Nap,
    checkup: Instant,
    stopping: bool,
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
    let data = epoll::EventData::new_u64(token);
    Ok(epoll::add(epoll, fd, data, epoll::EventFlags::IN)?)
}

impl<D: Device> Mapper<D> {
    /// A mapper for a device that was reset. `queue_pages` is one page for the queues.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new(
        device: D,
        queue_pages: Taken,
        memory: Memory,
        keeper: Socket,
        limits: Limits,
    ) -> Result<Mapper<D>, MapperError> {
        let queue_page = queue_pages.segment.map()?;
        let queue_base = queue_pages.pieces.first().map_or(0, |piece| piece.address);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        watch(&epoll, keeper.as_fd(), KEEPER)?;
        watch(&epoll, memory.event.as_fd(), PAGES)?;
        if let Some(interrupts) = device.interrupts() {
            watch(&epoll, interrupts.queues.as_fd(), QUEUE_INTERRUPT)?;
            watch(&epoll, interrupts.config.as_fd(), CONFIG_INTERRUPT)?;
        }
        let config = device.config()?;
        let now = Instant::now();
        Ok(Mapper {
            device,
            config,
            rings: None,
            queue_page,
            queue_base,
            _queue_pages: queue_pages,
            memory,
            keeper,
            parser: None,
            epoll,
            limits,
            session: Session::Down { retry: now },
            session_id: 0,
            retry: RETRY_FIRST,
            attempt: now,
            was_ready: false,
            channels: Channels::default(),
            signaller: Signaller::new()?,
            quarantine: Vec::new(),
            waiting: Vec::new(),
            nap: Nap::new(),
            checkup: now,
            stopping: false,
        })
    }

    /// Serves until the keeper says stop or is gone; the device is reset then.
    ///
    /// # Errors
    ///
    /// [`MapperError`]: what cannot be mended within this process, or what was wrong at the first attempt.
    pub fn run(&mut self) -> Result<(), MapperError> {
        let outcome = self.serve();
        // Whatever happened, the host must let go before pages are freed with this process.
        match self.device.reset() {
            Ok(()) => outcome,
            Err(error) => outcome.and(Err(error.into())),
        }
    }

    fn serve(&mut self) -> Result<(), MapperError> {
        loop {
            if let Err(error) = self.turn() {
                self.lose(error)?;
            }
            self.flush();
            if self.stopping {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// One look at everything but descriptors.
    fn turn(&mut self) -> Result<(), MapperError> {
        let now = Instant::now();
        match self.session {
            Session::Down { retry } if retry <= now => self.greet()?,
            Session::Greeting { deadline } if deadline <= now => return Err(MapperError::Silent),
            _ => {}
        }
        if self.drain()? {
            self.nap.reset();
        }
        if self.device.interrupts().is_none() && self.is_busy() && self.checkup <= now {
            self.checkup = now + CHECKUP;
            self.examine()?;
        }
        self.notify();
        Ok(())
    }

    fn notify(&mut self) {
        if let Some(rings) = &mut self.rings {
            for queue in rings.take_notifications() {
                self.device.notify(queue);
            }
        }
    }

    /// Whether the device may have something to say.
    fn is_busy(&self) -> bool {
        self.rings
            .as_ref()
            .is_some_and(|rings| !self.channels.is_empty() || rings.outstanding() > 0)
    }

    /// Fails if the device is not well.
    fn examine(&self) -> Result<(), MapperError> {
        if self.rings.is_none() {
            return Ok(());
        }
        match self.device.health() {
            Health::Working => Ok(()),
            Health::NeedsReset => Err(MapperError::NeedsReset),
            Health::Gone => Err(DeviceError::Gone.into()),
        }
    }

    /// Starts the device and asks the host for a session.
    fn greet(&mut self) -> Result<(), MapperError> {
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
    fn lose(&mut self, error: MapperError) -> Result<(), MapperError> {
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

    fn fail_channels(&mut self) {
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
        for open in std::mem::take(&mut self.waiting) {
            self.refuse_open(open.channel, LinkStatus::NoDevice);
        }
    }

    fn unwatch(&self, channel: &Channel) {
        // A channel that does not serve yet is not watched.
        let _ = epoll::delete(&self.epoll, channel.doorbell.as_fd());
    }

    /// Takes what the host has to say; whether there was anything.
    fn drain(&mut self) -> Result<bool, MapperError> {
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

    fn answered(&mut self, answer: &Answer) -> Result<(), MapperError> {
        if answer.tag.kind == KIND_HELLO {
            return self.welcomed(&answer.bytes);
        }
        let number = answer.tag.channel;
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

    fn welcomed(&mut self, bytes: &[u8]) -> Result<(), MapperError> {
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
        for open in std::mem::take(&mut self.waiting) {
            self.open(open)?;
        }
        Ok(())
    }

    fn noticed(&mut self, notice: Notice) -> Result<(), MapperError> {
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

    /// The parser's request.
    fn asked(&mut self, message: ToMapper) -> Result<(), MapperError> {
        match message.kind {
            OPEN => {
                if matches!(self.session, Session::Ready) {
                    // A device that failed while nobody looked is mended first.
                    match self.examine() {
                        Ok(()) => return self.open(message),
                        Err(error) => self.lose(error)?,
                    }
                }
                if self.waiting.len() >= self.limits.channels {
                    self.refuse_open(message.channel, LinkStatus::Busy);
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

    fn refuse_open(&mut self, token: u64, status: LinkStatus) {
        self.say(OPENED, status, token, &[], vec![]);
    }

    fn open(&mut self, mut open: ToMapper) -> Result<(), MapperError> {
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
    fn made(&mut self, made: Made) -> Result<(), MapperError> {
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

    fn give_back(&self, segments: Vec<Taken>) {
        for taken in segments {
            self.memory.give_back(taken);
        }
    }

    /// There are no pages for a channel or its growth.
    fn not_made(&mut self, number: u64) {
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
    fn announce(&mut self, number: u64, segments: Vec<Taken>) -> Result<(), MapperError> {
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
    fn opened(&mut self, number: u64, bytes: &[u8]) {
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

    fn hand_out(&mut self, number: u64, welcome: &[u8]) -> io::Result<()> {
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

    fn grow(&mut self, message: &ToMapper) {
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
    fn announce_growth(&mut self, number: u64, segments: Vec<Taken>) -> Result<(), MapperError> {
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
    fn grown(&mut self, number: u64, bytes: &[u8]) {
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

    fn answer_growth(
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
    fn close(&mut self, number: u64) -> Result<(), MapperError> {
        if let Some(channel) = self.channels.bury(number) {
            // Nobody may wait for ever, whatever the socket says.
            self.signaller.signal(&channel.wake);
        }
        self.settle(number)
    }

    /// Takes a dead channel's next step.
    fn settle(&mut self, number: u64) -> Result<(), MapperError> {
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

    fn say(&mut self, kind: u32, status: LinkStatus, channel: u64, body: &[u8], fds: Vec<OwnedFd>) {
        let Some(parser) = &mut self.parser else {
            return;
        };
        let mut message = ToParser {
            kind,
            status: status as u32,
            channel,
            body: [0; 64],
        };
        for (to, from) in message.body.iter_mut().zip(body) {
            *to = *from;
        }
        parser.out.push_back((message, fds));
        if parser.out.len() > BACKLOG {
            self.drop_parser("it does not listen");
        }
    }

    /// Sends what the parser takes.
    fn flush(&mut self) {
        let Some(parser) = &mut self.parser else {
            return;
        };
        let mut gone = false;
        parser.blocked = false;
        while let Some((message, fds)) = parser.out.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match parser.socket.send(message.as_bytes(), &borrowed) {
                Ok(()) => {
                    parser.out.pop_front();
                }
                Err(LinkError::TimedOut) => {
                    parser.blocked = true;
                    break;
                }
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        if gone {
            self.drop_parser("it is gone");
        }
    }

    /// The parser is gone or must go: its channels are closed. The keeper starts another one.
    fn drop_parser(&mut self, why: &str) {
        let Some(parser) = self.parser.take() else {
            return;
        };
        tracing::warn!("the parser is dropped: {why}");
        let _ = epoll::delete(&self.epoll, parser.socket.as_fd());
        drop(parser);
        self.waiting.clear();
        for number in self.channels.numbers() {
            // A queue that fails here fails the whole device at the next turn.
            if let Err(error) = self.close(number) {
                tracing::error!("channel {number}: {}", error_text(&error));
            }
        }
    }

    fn new_parser(&mut self, fd: OwnedFd) -> io::Result<()> {
        self.drop_parser("there is a new one");
        rustix::io::ioctl_fionbio(&fd, true)?;
        watch(&self.epoll, fd.as_fd(), PARSER_SOCKET)?;
        self.parser = Some(Parser {
            socket: Socket::from_fd(fd),
            out: VecDeque::new(),
            blocked: false,
        });
        self.say(HERE, LinkStatus::Ok, 0, &[], vec![]);
        Ok(())
    }

    /// How long to wait for descriptors, `None` without limit.
    fn patience(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let timer = match self.session {
            Session::Down { retry } => Some(retry.saturating_duration_since(now)),
            Session::Greeting { deadline } => Some(deadline.saturating_duration_since(now)),
            Session::Ready => None,
        };
        let nap = (self.device.interrupts().is_none() && self.is_busy()).then(|| self.nap.take());
        // Rare: a parser that reads slowly is asked again soon.
        let blocked = self
            .parser
            .as_ref()
            .filter(|parser| parser.blocked)
            .map(|_| Duration::from_millis(1));
        [timer, nap, blocked].into_iter().flatten().min()
    }

    /// Waits for descriptors and does what they want.
    fn wait(&mut self) -> Result<(), MapperError> {
        let timeout = self.patience().map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        // `epoll_wait` counts in milliseconds, `ppoll` in nanoseconds.
        let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let mut events = Vec::with_capacity(EVENTS);
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&none),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        self.nap.reset();
        for event in events {
            let token = event.data.u64();
            if let Err(error) = self.ready(token) {
                self.lose(error)?;
            }
        }
        Ok(())
    }

    fn ready(&mut self, token: u64) -> Result<(), MapperError> {
        match token {
            KEEPER => self.keeper_speaks(),
            PARSER_SOCKET => self.parser_speaks(),
            PAGES => {
                self.memory.event.drain();
                while let Some(made) = self.memory.made() {
                    self.made(made)?;
                }
                Ok(())
            }
            QUEUE_INTERRUPT => match self.device.interrupts() {
                Some(interrupts) if interrupts.queues.drain() && interrupts.shared => {
                    self.examine()
                }
                _ => Ok(()),
            },
            CONFIG_INTERRUPT => {
                if let Some(interrupts) = self.device.interrupts() {
                    interrupts.config.drain();
                }
                self.examine()
            }
            other => {
                let number = other - FIRST_CHANNEL;
                let Some(channel) = self.channels.get(number) else {
                    return Ok(());
                };
                if signal::drain(&channel.doorbell)
                    && !channel.dead
                    && let Some(rings) = &mut self.rings
                {
                    rings.ring(number)?;
                }
                Ok(())
            }
        }
    }

    fn keeper_speaks(&mut self) -> Result<(), MapperError> {
        let received = self
            .keeper
            .receive_with_fds::<{ size_of::<Word>() }>(Duration::ZERO);
        let (bytes, mut fds) = match received {
            Ok(received) => received,
            Err(LinkError::TimedOut) => return Ok(()),
            Err(error) => {
                // Without a keeper nobody holds the pages through a crash: end in order.
                if !matches!(error, LinkError::Closed) {
                    tracing::error!("the keeper: {error}");
                }
                self.stopping = true;
                return Ok(());
            }
        };
        let word: Word = transmute!(bytes);
        match word.kind {
            PARSER => {
                if let Some(fd) = fds.pop() {
                    self.new_parser(fd)?;
                }
            }
            STOP => self.stopping = true,
            _ => tracing::warn!("the keeper sent an unknown word"),
        }
        Ok(())
    }

    fn parser_speaks(&mut self) -> Result<(), MapperError> {
        // A bounded number at once, so that nobody else starves.
        for _ in 0..EVENTS {
            let Some(parser) = &self.parser else {
                return Ok(());
            };
            let received = parser
                .socket
                .receive_plain::<{ size_of::<ToMapper>() }>(Duration::ZERO);
            match received {
                Ok(bytes) => self.asked(transmute!(bytes))?,
                Err(LinkError::TimedOut) => return Ok(()),
                Err(LinkError::Closed) => {
                    self.drop_parser("it is gone");
                    return Ok(());
                }
                Err(_) => {
                    self.drop_parser("it sent nonsense");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The status that an answer begins with, whatever it answers; a failure if it has none.
fn status_of(bytes: &[u8]) -> LinkStatus {
    match Closed::read_from_prefix(bytes) {
        Ok((closed, _)) if closed.status != LinkStatus::Ok as u32 => {
            LinkStatus::from_word(closed.status)
        }
        Ok((_, [])) => LinkStatus::Ok,
        _ => LinkStatus::Internal,
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
