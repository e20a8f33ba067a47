//! The process that `vgpu agent` starts as: it makes the socket, starts the two others and starts them again, and keeps
//! every page that the host may write to.
//!
//! ```text
//!            keeper (memory files, pins, listening socket)
//!           /      \
//!    mapper ─────── parser ◀── programs
//!   (device)       (no privileges)
//! ```
//!
//! * A parser that dies takes its programs' channels with it: the mapper closes them with the host. A new parser gets
//!   the same listening socket.
//! * A mapper that dies takes all channels with it, but not a page: the keeper holds each memory file and a pin on its
//!   pages. The next mapper resets the device, takes the page of the queues over, and begins a session; only when the host
//!   has answered that are older pages dropped.
//! * At the end the mapper resets the device and waits for it before anything is freed; if there is no mapper just then,
//!   one is started for that.

mod kept;

use crate::messages::{PARSER, READY, START, STOP, Word};
use crate::store::{Store, Stored};
use kept::Kept;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use vgpu_channel::link::event::ready;
use vgpu_channel::link::{LinkError, Listener, Socket};
use zerocopy::{IntoBytes, transmute};

/// First wait before a child is started again.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait.
const BACKOFF_LAST: Duration = Duration::from_secs(5);
/// A child that lived so long starts with the first wait again.
const LIVED: Duration = Duration::from_secs(30);
/// How long the mapper may take to reset the device at the end.
const END: Duration = Duration::from_secs(15);

/// How the keeper starts its children.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The program, for both.
    pub program: PathBuf,
    /// The mapper's arguments.
    pub mapper: Vec<OsString>,
    /// The mapper's arguments for when it shall only reset the device.
    pub reset: Vec<OsString>,
    /// The parser's arguments.
    pub parser: Vec<OsString>,
}

/// A child process.
#[derive(Debug)]
struct Process {
    child: Child,
    pidfd: OwnedFd,
    socket: Socket,
    since: Instant,
}

impl Process {
    fn start(program: &PathBuf, arguments: &[OsString]) -> io::Result<Process> {
        let (near, far) = Socket::pair()?;
        rustix::io::ioctl_fionbio(&near, true)?;
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            // An interrupt at the terminal is for the keeper, which ends the others in order.
            .process_group(0)
            .stdin(Stdio::from(far.into_fd()))
            .stdout(Stdio::null())
            .spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        match pid
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        {
            Ok(pidfd) => Ok(Process {
                child,
                pidfd,
                socket: near,
                since: Instant::now(),
            }),
            Err(error) => {
                // It is of no use; reaped so that it is not left behind.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    fn say(&self, word: Word, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket
            .send(word.as_bytes(), fds)
            .map_err(io::Error::other)
    }
}

/// A child's place: running, or waiting to be started again.
#[derive(Debug)]
enum Slot {
    Running(Process),
    Waiting(Instant),
}

impl Slot {
    fn process(&mut self) -> Option<&mut Process> {
        match self {
            Slot::Running(process) => Some(process),
            Slot::Waiting(_) => None,
        }
    }

    /// Reaps it if it is dead.
    fn reap(&mut self) -> Option<(ExitStatus, Duration)> {
        let Slot::Running(process) = self else {
            return None;
        };
        let status = process.child.try_wait().ok().flatten()?;
        Some((status, process.since.elapsed()))
    }
}

/// How long to wait before a start.
#[derive(Debug)]
struct Backoff(Duration);

impl Backoff {
    fn next(&mut self, lived: Duration) -> Instant {
        if lived >= LIVED {
            self.0 = BACKOFF_FIRST;
        }
        let now = self.0;
        self.0 = (now * 2).min(BACKOFF_LAST);
        Instant::now() + now
    }
}

#[derive(Clone, Copy)]
enum Token {
    Signals,
    Mapper,
    Pages,
    MapperDeath,
    ParserDeath,
}

/// The keeper.
#[derive(Debug)]
pub struct Keeper {
    programs: Programs,
    listener: Listener,
    signals: UnixStream,
    mapper: Slot,
    parser: Slot,
    /// The keeper's end of the pages socket.
    pages: Option<Socket>,
    /// The mapper's end of a parser's socket, when there was no mapper to give it to.
    unclaimed: Option<OwnedFd>,
    kept: BTreeMap<u64, Kept>,
    store: Store,
    /// Memory files of a keeper before this one.
    stored: Vec<Stored>,
    /// Mappers started.
    turn: u64,
    was_ready: bool,
    mapper_backoff: Backoff,
    parser_backoff: Backoff,
}

impl Keeper {
    /// A keeper that serves `listener`, until `signals` is readable.
    #[must_use]
    pub fn new(programs: Programs, listener: Listener, signals: UnixStream) -> Keeper {
        let now = Instant::now();
        Keeper {
            programs,
            listener,
            signals,
            mapper: Slot::Waiting(now),
            parser: Slot::Waiting(now),
            pages: None,
            unclaimed: None,
            kept: BTreeMap::new(),
            store: Store::default(),
            stored: Vec::new(),
            turn: 0,
            was_ready: false,
            mapper_backoff: Backoff(BACKOFF_FIRST),
            parser_backoff: Backoff(BACKOFF_FIRST),
        }
    }

    /// Has the service manager store memory files, too; `stored` are those of a keeper before this one.
    #[must_use]
    pub fn with_store(mut self, store: Store, stored: Vec<Stored>) -> Keeper {
        if !stored.is_empty() {
            tracing::warn!(
                "{} segments of an earlier agent are kept until the host has let go of them",
                stored.len()
            );
        }
        (self.store, self.stored) = (store, stored);
        self
    }

    /// Keeps the others running until told to end.
    ///
    /// # Errors
    ///
    /// A sentence, when the first mapper could not begin: it said why itself.
    pub fn run(&mut self) -> Result<(), String> {
        loop {
            self.start_what_is_due();
            let ready = self.poll();
            for token in ready {
                match token {
                    Token::Signals => {
                        self.end();
                        return Ok(());
                    }
                    Token::Mapper => self.mapper_speaks(),
                    Token::Pages => self.pages_wanted(),
                    Token::MapperDeath => self.mapper_died()?,
                    Token::ParserDeath => self.parser_died(),
                }
            }
        }
    }

    fn start_what_is_due(&mut self) {
        let now = Instant::now();
        if matches!(self.mapper, Slot::Waiting(due) if due <= now) {
            let arguments = self.programs.mapper.clone();
            if let Err(error) = self.start_mapper(&arguments) {
                tracing::error!("the mapper cannot be started: {error}");
                self.mapper = Slot::Waiting(self.mapper_backoff.next(Duration::ZERO));
            }
        }
        if matches!(self.parser, Slot::Waiting(due) if due <= now)
            && let Err(error) = self.start_parser()
        {
            tracing::error!("the parser cannot be started: {error}");
            self.parser = Slot::Waiting(self.parser_backoff.next(Duration::ZERO));
        }
    }

    fn start_mapper(&mut self, arguments: &[OsString]) -> io::Result<()> {
        let process = Process::start(&self.programs.program, arguments)?;
        let (near, far) = Socket::pair()?;
        rustix::io::ioctl_fionbio(&near, true)?;
        process.say(Word::new(START), &[far.as_fd()])?;
        if let Some(fd) = self.unclaimed.take() {
            process.say(Word::new(PARSER), &[fd.as_fd()])?;
        }
        self.turn += 1;
        self.pages = Some(near);
        self.mapper = Slot::Running(process);
        Ok(())
    }

    fn start_parser(&mut self) -> io::Result<()> {
        let process = Process::start(&self.programs.program, &self.programs.parser)?;
        let (mappers, parsers) = Socket::pair()?;
        process.say(Word::new(START), &[self.listener.as_fd(), parsers.as_fd()])?;
        self.parser = Slot::Running(process);
        let told = match self.mapper.process() {
            Some(mapper) => mapper
                .say(Word::new(PARSER), &[mappers.as_fd()])
                .map_err(|error| tracing::warn!("the mapper cannot be told: {error}"))
                .is_ok(),
            None => false,
        };
        if !told {
            self.unclaimed = Some(mappers.into_fd());
        }
        Ok(())
    }

    fn poll(&mut self) -> Vec<Token> {
        let due = [&self.mapper, &self.parser]
            .into_iter()
            .filter_map(|slot| match slot {
                Slot::Waiting(due) => Some(due.saturating_duration_since(Instant::now())),
                Slot::Running(_) => None,
            })
            .min();
        // A word is heard before the death of who said it.
        let mut tokens = vec![Token::Signals];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(pages) = &self.pages {
            tokens.push(Token::Pages);
            fds.push(PollFd::new(pages, PollFlags::IN));
        }
        if let Slot::Running(mapper) = &self.mapper {
            tokens.extend([Token::Mapper, Token::MapperDeath]);
            fds.push(PollFd::new(&mapper.socket, PollFlags::IN));
            fds.push(PollFd::new(&mapper.pidfd, PollFlags::IN));
        }
        if let Slot::Running(parser) = &self.parser {
            tokens.push(Token::ParserDeath);
            fds.push(PollFd::new(&parser.pidfd, PollFlags::IN));
        }
        match ready(tokens, &mut fds, due) {
            Ok(ready) => ready.into_iter().map(|(token, _)| token).collect(),
            Err(error) => {
                tracing::error!("the keeper cannot wait: {error}");
                std::thread::sleep(BACKOFF_FIRST);
                Vec::new()
            }
        }
    }

    fn mapper_speaks(&mut self) {
        let Some(mapper) = self.mapper.process() else {
            return;
        };
        let received = mapper
            .socket
            .receive_plain::<{ size_of::<Word>() }>(Duration::ZERO);
        match received.map(|bytes| -> Word { transmute!(bytes) }) {
            Ok(word) if word.kind == READY => {
                self.was_ready = true;
                self.mapper_backoff = Backoff(BACKOFF_FIRST);
                self.store.ready();
                tracing::info!("serving programs");
            }
            Err(LinkError::TimedOut) => {}
            // Its socket ends with it as a rule; one without the other is no use.
            _ => {
                let _ = mapper.child.kill();
            }
        }
    }

    fn mapper_died(&mut self) -> Result<(), String> {
        // What it said last comes first.
        let Some((status, lived)) = self.mapper.reap() else {
            return Ok(());
        };
        self.pages = None;
        self.mapper = Slot::Waiting(self.mapper_backoff.next(lived));
        if !self.was_ready {
            self.end_parser();
            return Err(format!(
                "the agent cannot serve (its mapper ended: {status})"
            ));
        }
        tracing::error!(
            "the mapper ended ({status}); {} segments are kept until the host has let go of them",
            self.kept.len()
        );
        Ok(())
    }

    fn parser_died(&mut self) {
        let Some((status, lived)) = self.parser.reap() else {
            return;
        };
        tracing::warn!("the parser ended ({status}) and is started again");
        self.unclaimed = None;
        self.parser = Slot::Waiting(self.parser_backoff.next(lived));
    }

    fn end_parser(&mut self) {
        if let Some(parser) = self.parser.process() {
            let _ = parser.child.kill();
            let _ = parser.child.wait();
        }
        self.parser = Slot::Waiting(Instant::now());
    }

    fn kill_mapper(&mut self) {
        if let Some(mapper) = self.mapper.process() {
            let _ = mapper.child.kill();
            let _ = mapper.child.wait();
        }
    }

    /// Has the mapper reset the device and end; whether it did.
    fn stop_mapper(&mut self, deadline: Instant) -> bool {
        if let Some(mapper) = self.mapper.process()
            && let Err(error) = mapper.say(Word::new(STOP), &[])
        {
            tracing::debug!("the mapper ends already: {error}");
        }
        while Instant::now() < deadline {
            if let Some((status, _)) = self.mapper.reap() {
                return status.success();
            }
            // It may still want pages kept.
            self.pages_wanted();
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Ends everything in order: programs, device, pages.
    fn end(&mut self) {
        tracing::info!("ending");
        self.end_parser();
        let deadline = Instant::now() + END;
        let running = self.mapper.process().is_some() && self.mapper.reap().is_none();
        let nothing = self.kept.is_empty() && self.stored.is_empty();
        let mut reset = (running && self.stop_mapper(deadline)) || (!running && nothing);
        if !reset && Instant::now() < deadline {
            // One that was on its way up or down does not count.
            self.kill_mapper();
            let arguments = self.programs.reset.clone();
            reset = match self.start_mapper(&arguments) {
                Ok(()) => self.stop_mapper(deadline),
                Err(error) => {
                    tracing::error!("the mapper cannot be started: {error}");
                    false
                }
            };
        }
        if !reset {
            tracing::error!(
                "the device could not be reset: the host may still write to {} segments that are freed now",
                self.kept.len()
            );
        }
        self.kill_mapper();
        for kept in std::mem::take(&mut self.kept).into_values() {
            self.store.remove(&kept.name);
        }
        for stored in self.stored.drain(..) {
            self.store.remove(&stored.name);
        }
    }
}
