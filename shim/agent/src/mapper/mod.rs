//! The privileged process: device, pages, and the relay of events. It parses nothing that a program sent but the
//! fixed-size [`ToMapper`], and checks that as if a program had written it.
//!
//! | module | what lives there |
//! |---|---|
//! | [`rings`] | the device's queues and their buffers |
//! | `session` | the session with the host |
//! | `life` | a channel from the wish for it to the last page given back |
//! | [`channels`] | channels and their stages |
//! | `programs` | the socket to the parser |
//! | [`memory`] | the thread that makes pages |
//! | [`nap`] | sleeping without interrupts |
//! | [`start`] | how the process begins |
//!
//! # A channel's pages
//!
//! They are given back only when the host has answered that it closed the channel and no other request about the
//! channel is unanswered; or when a whole new session has begun, by which the host has let go of everything older.

pub mod channels;
mod life;
pub mod memory;
pub mod nap;
mod programs;
pub mod rings;
mod session;
pub mod start;

use crate::device::{Device, DeviceError, Health};
use crate::messages::{PARSER, STOP, ToMapper, ToParser, Word};
use crate::pages::{PageError, Taken};
use crate::queue::QueueError;
use crate::signal::{self, Signaller};
use channels::Channels;
use memory::Memory;
use nap::Nap;
use rings::Rings;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use vgpu_channel::link::message::{MAJOR, MINOR};
use vgpu_channel::link::virtio::{Closed, DeviceConfig};
use vgpu_channel::link::{LinkError, LinkStatus, Socket};
use vgpu_channel::shm::View;
use zerocopy::{FromBytes, transmute};

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
/// Questions that may be unanswered at once: fewer than the queue takes beside requests about channels.
const MAX_QUESTIONS: usize = 32;
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
    /// Opens and questions that came while the host was greeted.
    waiting: Vec<ToMapper>,
    /// Questions that the host has not answered: who asked, by the parser's number. The key is never used again, so that an
    /// answer never reaches a later parser's program.
    questions: BTreeMap<u64, u64>,
    /// The last key.
    last_question: u64,
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
            questions: BTreeMap::new(),
            last_question: 0,
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
