//! A virtual machine: its vhost-user device and the channels of the processes in it.
//!
//! | module | what lives there |
//! |---|---|
//! | [`front`] | the vhost-user protocol, on a thread of its own |
//! | [`table`] | the guest's RAM |
//! | [`life`] | what the monitor does with the machine |
//! | [`requests`] | the control queue |
//! | [`doorbell`] | the doorbell queue |
//! | [`ring`] | how a virtqueue is read and written |
//! | [`channel`] | one channel |
//! | here | what the event loop does for the machine |
//!
//! The wire between guest and daemon is described in [`vgpu_channel::link::virtio`]. All state is the event loop's; nothing
//! here waits. What the front-end waits for is kept as [`Wait`] until it is true:
//!
//! | the front-end | is answered when |
//! |---|---|
//! | stops the control queue | no request is unanswered, and each worker stands still or is reaped |
//! | takes RAM away | the workers that mapped some of it are reaped |
//! | resets the device, or is gone | all workers are reaped |

mod channel;
mod doorbell;
mod front;
mod life;
mod requests;
mod ring;
mod table;

use crate::client::Terms;
use crate::facts::Look;
use crate::log::Limit;
use crate::options::Options;
use anyhow::{Context, Result, bail};
use channel::{Channel, Stage};
use front::{LoopEnd, Message};
use ring::{Chain, Ring};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;
use table::Table;
use vgpu_channel::control::ControlLayout;
use vgpu_channel::link::message::{MAJOR, MINOR};
use vgpu_channel::link::virtio::{
    CONFIG_MAGIC, CONTROL_QUEUE, Closed, DeviceConfig, KIND_CLOSE, KIND_GROW, KIND_HELLO,
    KIND_OPEN, KIND_QUERY, Request, SessionWelcome,
};
pub use vgpu_channel::link::virtio::{QUEUE_SIZE, QUEUES};
use vgpu_channel::link::{Answer as QueryAnswer, Event, GrowResponse, LinkStatus, Query, Welcome};
use vgpu_protocol::number::fingerprint;
use vgpu_worker::setup::QUIESCE_TIME;
use zerocopy::FromBytes;

/// Bytes of the configuration space.
pub const CONFIG_BYTES: usize = size_of::<DeviceConfig>();
/// Maps of one channel's segments, at most: a process can have about twice as many of all kinds.
const MAX_MAPS: usize = 32_000;
/// Chains taken from one queue per turn of the loop.
const BURST: usize = 64;

/// Whose descriptor became ready.
#[derive(Clone, Copy, Debug)]
pub enum Token {
    /// The front-end's thread has a message.
    Front,
    /// The driver put something into a queue.
    Kick(usize),
    /// A channel's worker wakes its client.
    Wake(u64),
    /// A channel's worker speaks.
    Worker(u64),
    /// A channel's worker is dead.
    Death(u64),
    /// A channel's worker logs.
    Log(u64),
    /// A channel's worker asks the exchange.
    Exchange(u64),
}

/// What the front-end waits for.
#[derive(Debug)]
enum Wait {
    Stop(Sender<u16>),
    Memory(Table, Sender<()>),
    Reset(Sender<()>),
    Gone(Sender<()>),
}

/// What is known about the driver's session.
#[derive(Clone, Copy, Debug)]
struct Session {
    number: u64,
    /// The highest number of a channel so far.
    last: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    messages: Receiver<Message>,
    event: Arc<Event>,
    /// Removed at the end.
    path: Option<PathBuf>,
    /// Held by this daemon and its workers; see [`lock_file`].
    lock: OwnedFd,
    complaints: Limit,
    /// Channels at once.
    max_channels: usize,
    control_bytes: u64,
    cache: Option<PathBuf>,
    connected: bool,
    table: Table,
    rings: [Option<Ring>; QUEUES],
    /// Counts queues started, so that answers never reach another one's driver.
    life: u64,
    /// Where the control queue stood when it was stopped.
    stopped_at: Option<u16>,
    session: Option<Session>,
    /// Channels by an own number, as drivers' numbers begin anew with each session.
    channels: BTreeMap<u64, Channel>,
    next: u64,
    /// Who has which guest-physical addresses: first, end and channel.
    claims: BTreeMap<u64, (u64, u64)>,
    /// Hellos that wait until channels below this number are gone.
    hellos: Vec<(Chain, u64)>,
    /// Questions that are not answered yet.
    questions: Vec<(Chain, Query)>,
    /// Chains for notices.
    kept: VecDeque<Chain>,
    wait: Option<Wait>,
    /// When workers that do not stand still are killed.
    quiet_by: Option<Instant>,
    /// Whether a queue has more than one turn takes.
    more: bool,
}

/// Where the front-end connects, bound or handed over.
fn listener(options: &Options) -> Result<Option<(UnixListener, Option<PathBuf>)>> {
    if let Some(path) = &options.vhost_user {
        return Ok(Some((bind(path)?, Some(path.clone()))));
    }
    let Some(number) = options.fd else {
        return Ok(None);
    };
    let fd = vgpu_channel::shm::inherited_descriptor(number)
        .with_context(|| format!("descriptor {number} was not handed over"))?;
    if !rustix::net::sockopt::socket_acceptconn(&fd).unwrap_or(false) {
        bail!("descriptor {number} is no listening socket");
    }
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(false)?;
    Ok(Some((listener, None)))
}

/// Listens at `path`. A socket that nobody listens on is replaced.
fn bind(path: &Path) -> Result<UnixListener> {
    let stale = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    if stale {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))
}

/// A file beside the socket, which the front-end's thread locks before it serves anybody. The lock is shared by all who hold
/// the descriptor, workers too, so a daemon that was killed and started again waits until nothing maps the guest's RAM.
fn lock_file(listener: &UnixListener) -> Result<OwnedFd> {
    let address = listener.local_addr()?;
    let Some(path) = address.as_pathname() else {
        tracing::warn!("the socket has no path: a restarted daemon will not wait for old workers");
        return Ok(memfd_create("vgpu-lock", MemfdFlags::CLOEXEC)?);
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("{} cannot be opened", path.display()))
}

impl Machine {
    /// Serves a machine if the options say so.
    ///
    /// # Errors
    /// When the socket cannot be served.
    pub fn start(options: &Options, terms: &Terms) -> Result<Option<Machine>> {
        let Some((listener, path)) = listener(options)? else {
            return Ok(None);
        };
        let config = DeviceConfig {
            magic: CONFIG_MAGIC,
            major: MAJOR,
            minor: MINOR,
            flags: 0,
            max_channels: u32::try_from(options.max_clients).unwrap_or(u32::MAX),
            ring_slots: u32::try_from(terms.ring_slots)?,
            max_channel_bytes: terms.pinned,
            fingerprint: fingerprint(),
            reserved: [0; 3],
        };
        let (sender, messages) = std::sync::mpsc::channel();
        let event = Arc::new(Event::new()?);
        let loop_end = LoopEnd {
            messages: sender,
            event: Arc::clone(&event),
        };
        let lock = lock_file(&listener)?;
        front::listen(listener, lock.try_clone()?, config, loop_end)?;
        match &path {
            Some(path) => tracing::info!("waiting for a virtual machine on {}", path.display()),
            None => tracing::info!("waiting for a virtual machine on the socket handed over"),
        }
        Ok(Some(Machine {
            messages,
            event,
            path,
            lock,
            complaints: Limit::default(),
            max_channels: options.max_clients,
            control_bytes: ControlLayout::new(terms.ring_slots).size,
            // Never one that another machine uses: only where the operator names one.
            cache: options
                .compile_cache
                .as_ref()
                .and(terms.cache.as_ref())
                .map(|base| base.join("machine")),
            connected: false,
            table: Table::default(),
            rings: [None, None],
            life: 0,
            stopped_at: None,
            session: None,
            channels: BTreeMap::new(),
            next: 0,
            claims: BTreeMap::new(),
            hellos: Vec::new(),
            questions: Vec::new(),
            kept: VecDeque::new(),
            wait: None,
            quiet_by: None,
            more: false,
        }))
    }

    /// Whether nobody uses it.
    pub fn is_idle(&self) -> bool {
        !self.connected && self.channels.is_empty()
    }

    /// Looks at the host that questions wait for.
    pub fn looks(&self, terms: &Terms) -> Vec<Look> {
        let needed = |(_, query): &(Chain, Query)| terms.facts.needs_look(query, &terms.board);
        self.questions.iter().filter_map(needed).collect()
    }

    /// Workers that are not reaped yet.
    pub fn workers(&self) -> usize {
        let alive = |channel: &&Channel| channel.worker.is_some();
        self.channels.values().filter(alive).count()
    }

    /// When something must be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        let now = self.more.then(Instant::now);
        let channels = self.channels.values().filter_map(Channel::deadline);
        channels.chain(self.quiet_by).chain(now).min()
    }

    /// Adds what to wait for.
    pub fn watch<'m, T>(
        &'m self,
        tokens: &mut Vec<T>,
        fds: &mut Vec<PollFd<'m>>,
        wrap: impl Fn(Token) -> T,
    ) {
        let mut add = |token, fd| {
            tokens.push(wrap(token));
            fds.push(fd);
        };
        add(Token::Front, PollFd::new(&*self.event, PollFlags::IN));
        for (index, ring) in self.rings.iter().enumerate() {
            if let Some(ring) = ring
                && self.is_served(index)
            {
                let fd = PollFd::from_borrowed_fd(ring.kick(), PollFlags::IN);
                add(Token::Kick(index), fd);
            }
        }
        for (&id, channel) in &self.channels {
            if !channel.woke && matches!(channel.stage, Stage::Serving) {
                add(Token::Wake(id), PollFd::new(&channel.wake, PollFlags::IN));
            }
            if let Some(worker) = &channel.worker {
                let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
                add(
                    Token::Worker(id),
                    PollFd::new(&worker.socket, PollFlags::IN),
                );
                add(Token::Exchange(id), watched(worker.exchange()));
                add(Token::Log(id), watched(worker.log()));
                add(Token::Death(id), watched(worker.pidfd()));
            }
        }
    }

    /// Whether a queue's chains are taken now.
    fn is_served(&self, index: usize) -> bool {
        let enabled = self
            .rings
            .get(index)
            .and_then(Option::as_ref)
            .is_some_and(|ring| ring.enabled);
        // A request must not begin while the front-end waits for all of them to be over.
        enabled && (index != CONTROL_QUEUE || self.wait.is_none())
    }

    /// Something is ready.
    pub fn handle(&mut self, token: Token, terms: &Terms) {
        match token {
            Token::Front => {
                self.event.drain();
                while let Ok(message) = self.messages.try_recv() {
                    self.take(message);
                }
            }
            Token::Kick(index) => {
                if let Some(Some(ring)) = self.rings.get(index) {
                    ring.take_kick();
                }
                self.more = true;
            }
            Token::Wake(id) => {
                if let Some(channel) = self.channels.get_mut(&id) {
                    channel.woke |= channel.wake.drain();
                }
            }
            Token::Worker(id) => {
                let answer = self.channels.get_mut(&id).and_then(Channel::worker_speaks);
                self.answer_all(answer);
            }
            Token::Exchange(id) => {
                if let Some(worker) = self.channels.get_mut(&id).and_then(|c| c.worker.as_mut()) {
                    worker.serve_exchange();
                }
            }
            Token::Log(id) => {
                if let Some(worker) = self.channels.get_mut(&id).and_then(|c| c.worker.as_mut())
                    && !worker.read_log()
                {
                    // A worker keeps its log open as long as it lives.
                    worker.kill();
                }
            }
            Token::Death(id) => self.reap(id),
        }
        self.advance(terms);
    }

    /// Does what became possible: takes chains, tells notices, answers the front-end.
    pub fn advance(&mut self, terms: &Terms) {
        if std::mem::take(&mut self.more) {
            self.serve_control(terms);
            self.serve_doorbell();
        }
        self.notify();
        self.expire();
        self.answer_hellos();
        self.answer_questions(terms);
        self.answer_front();
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for channel in self.channels.values_mut() {
            if channel.deadline().is_some_and(|deadline| deadline <= now) {
                tracing::error!("channel {}: its worker did not start", channel.number);
                channel.end(LinkStatus::Internal);
            }
        }
        if self.quiet_by.is_some_and(|deadline| deadline <= now) {
            self.quiet_by = None;
            for channel in self.channels.values_mut() {
                if channel.worker.is_some() && !channel.is_still() {
                    tracing::warn!(
                        "channel {}: not at rest within {QUIESCE_TIME:?}: its worker is ended",
                        channel.number
                    );
                    channel.end(LinkStatus::Internal);
                }
            }
        }
    }

    fn reap(&mut self, id: u64) {
        let Some(channel) = self.channels.get_mut(&id) else {
            return;
        };
        let answers = channel.worker_died();
        let over = channel.worker.is_none() && channel.forget;
        if over {
            self.remove(id);
        }
        self.answer_all(answers);
    }

    /// Forgets a channel whose worker is reaped; its pages are nobody's now.
    fn remove(&mut self, id: u64) {
        self.channels.remove(&id);
        self.claims.retain(|_, (_, owner)| *owner != id);
    }

    /// Ends all channels that `doomed` names. With `forget`, the driver is not told.
    fn end_where(&mut self, forget: bool, doomed: impl Fn(u64, &Channel) -> bool) {
        let ids: Vec<u64> = self
            .channels
            .iter()
            .filter(|(id, channel)| doomed(**id, channel))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(channel) = self.channels.get_mut(&id) else {
                continue;
            };
            channel.forget |= forget;
            channel.end(LinkStatus::Internal);
            if channel.worker.is_none() && channel.forget {
                self.remove(id);
            }
        }
    }

    /// The daemon ends.
    pub fn end(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = std::fs::remove_file(path);
        }
        self.end_where(true, |_, _| true);
    }
}

/// Room that the answer to a request needs.
fn room(bytes: &[u8]) -> usize {
    match Request::read_from_prefix(bytes).map(|(request, _)| request.kind) {
        Ok(KIND_HELLO) => size_of::<SessionWelcome>(),
        Ok(KIND_OPEN) => size_of::<Welcome>(),
        Ok(KIND_GROW) => size_of::<GrowResponse>(),
        Ok(KIND_CLOSE) => size_of::<Closed>(),
        Ok(KIND_QUERY) => size_of::<QueryAnswer>(),
        _ => 0,
    }
}

/// Whether one of the ranges has an address in common with `start .. end`.
fn overlaps(ranges: &BTreeMap<u64, (u64, u64)>, start: u64, end: u64) -> bool {
    // Ranges do not overlap each other, so the last one that begins before `end` ends last.
    ranges
        .range(..end)
        .next_back()
        .is_some_and(|(_, (last, _))| *last > start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_and_neighbours_are_none() {
        let ranges = BTreeMap::from([(10, (20, 1)), (30, (40, 2))]);
        for (start, end) in [(0, 11), (19, 20), (12, 15), (5, 50), (20, 31), (39, 41)] {
            assert!(overlaps(&ranges, start, end), "{start} to {end}");
        }
        for (start, end) in [(0, 10), (20, 30), (40, 50)] {
            assert!(!overlaps(&ranges, start, end), "{start} to {end}");
        }
    }
}
