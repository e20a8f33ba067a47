//! The event loop: one thread, no wait without limit, nothing in it that a client can hold up.

use crate::client::{Client, Next, Terms};
use crate::exchange::Exchange;
use crate::facts::{Board, Held, Look, NvmlTerms, Seen};
use crate::machine::{self, Machine};
use crate::options::{NvmlScope, Options};
use crate::peers::Peer;
use crate::probe;
use crate::status;
use crate::status::registry::{Registry, program_name};
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use vgpu_channel::link::event::ready;
use vgpu_channel::link::listener::refuse;
use vgpu_channel::link::{Event, LinkStatus, Listener, Query, Socket};
use vgpu_channel::permits::PermitPage;
use vgpu_channel::segment::{HugePages, SegmentFd};
use vgpu_channel::server::{Config, Parts};
use vgpu_channel::wait::usable_cpus;
use vgpu_protocol::facts::QUERY_PROCESSES;
use vgpu_worker::setup::{DEVICE_CUDA, DEVICE_SOFTWARE, PATH_BYTES};

/// How long the end may take, workers included.
const END: Duration = Duration::from_secs(5);
/// Connections taken per turn, so that a storm of them does not hold up clients.
const ACCEPTS: usize = 16;
/// Connections, more than there may be clients, that have not said yet that they want a channel, or never do: those of
/// questions, and those that a limit will refuse.
const MAX_UNHEARD: usize = 64;
/// How long not to accept when descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest sleep of the loop.
const TURN: Duration = Duration::from_secs(10);

/// What threads hand back to the loop.
enum Made {
    Channel(u64, Option<Box<Parts>>),
    Segment(u64, Option<SegmentFd>),
    Seen(Seen),
}

/// Who a descriptor belongs to.
#[derive(Clone, Copy)]
enum Token {
    Listener,
    Signals,
    Made,
    Client(u64),
    Worker(u64),
    Death(u64),
    Log(u64),
    Exchange(u64),
    Machine(machine::Token),
}

struct Server {
    listener: Option<Listener>,
    signals: UnixStream,
    made: (Sender<Made>, Receiver<Made>),
    made_event: Arc<Event>,
    clients: BTreeMap<u64, Client>,
    machine: Option<Machine>,
    /// Clients whose answer waits for a look at the host.
    asking: Vec<(u64, Query)>,
    /// Looks that are under way.
    looking: Vec<Look>,
    next: u64,
    terms: Terms,
    config: Config,
    max_clients: usize,
    max_per_user: usize,
    pause: Option<Instant>,
    idle_exit: Option<Duration>,
    idle_since: Instant,
    ending: Option<Instant>,
}

/// Serves until told to end.
///
/// # Errors
/// When it cannot start; once it serves, it ends in good order only.
pub fn run(options: &Options) -> Result<()> {
    let signals = catch_signals().context("signals cannot be received")?;
    raise_descriptor_limit();
    let path = options.socket();
    let quota = options.memory.unwrap_or(0);
    let nvml = NvmlTerms {
        figures: options.nvml == NvmlScope::Host,
        library: options.nvml_library.clone(),
    };
    let (device, facts) = probe::choose(options.device, options.software_devices, quota, &nvml)?;
    let listener = path.as_deref().map(listen).transpose()?;
    if let Some(path) = &path {
        tracing::info!("listening on {}", path.display());
    }
    let config = Config {
        pages: HugePages::Try,
        ..Config::default()
    };
    let terms = Terms {
        device,
        software_devices: if device == DEVICE_SOFTWARE {
            options.software_devices
        } else {
            0
        },
        quota,
        pinned: options.pinned_limit(),
        ring_slots: config.ring_slots,
        // Only NVIDIA's driver compiles.
        cache: (device == DEVICE_CUDA)
            .then(|| options.compile_cache())
            .flatten(),
        listen: path.as_deref().map_or([0; PATH_BYTES], path_bytes),
        spin: PermitPage::create(PermitPage::for_cpus(usable_cpus()))
            .context("no page for permits to spin")?,
        level: options.log_level,
        registry: Registry::default(),
        exchange: Exchange::default(),
        facts: Arc::new(facts),
        board: Board::default(),
    };
    let daemon = vgpu_status::Daemon {
        pid: std::process::id(),
        device: match device {
            DEVICE_CUDA => "cuda".to_owned(),
            _ => "software".to_owned(),
        },
        max_clients: options.max_clients as u64,
    };
    let _status =
        status::server::start(daemon, terms.registry.clone(), options.metrics.as_deref())?;
    let machine = Machine::start(options, &terms)?;
    let mut server = Server {
        listener,
        signals,
        made: channel(),
        made_event: Arc::new(Event::new()?),
        clients: BTreeMap::new(),
        machine,
        asking: Vec::new(),
        looking: Vec::new(),
        next: 0,
        terms,
        config,
        max_clients: options.max_clients,
        max_per_user: options.max_clients_per_user,
        pause: None,
        idle_exit: options.idle_exit.map(Duration::from_secs),
        idle_since: Instant::now(),
        ending: None,
    };
    server.serve();
    Ok(())
}

/// A stream that becomes readable at SIGTERM and SIGINT.
fn catch_signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for signal in [15, 2] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read)
}

/// Each client takes several descriptors; the usual soft limit is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the limit on descriptors stays: {error}");
    }
}

fn listen(path: &Path) -> Result<Listener> {
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        // Root's is for everybody, a user's for that user.
        let root = rustix::process::geteuid().is_root();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(if root { 0o755 } else { 0o700 })
            .create(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let listener =
        Listener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    Ok(listener)
}

/// The path for workers, empty if it is too long for them.
fn path_bytes(path: &Path) -> [u8; PATH_BYTES] {
    let mut bytes = [0; PATH_BYTES];
    // Workers live in `/`, so a relative path would mean another file there.
    let absolute = std::path::absolute(path).unwrap_or_default();
    let source = absolute.as_os_str().as_bytes();
    if source.len() < PATH_BYTES {
        for (to, from) in bytes.iter_mut().zip(source) {
            *to = *from;
        }
    }
    bytes
}

impl Server {
    fn serve(&mut self) {
        loop {
            let ready = self.poll();
            for (token, flags) in ready {
                self.handle(token, flags);
            }
            self.expire();
            if self.is_over() {
                return;
            }
        }
    }

    /// Waits for something to do.
    fn poll(&self) -> Vec<(Token, PollFlags)> {
        let mut tokens = vec![Token::Signals, Token::Made];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&*self.made_event, PollFlags::IN),
        ];
        if let Some(listener) = self.listener.as_ref().filter(|_| self.pause.is_none()) {
            tokens.push(Token::Listener);
            fds.push(PollFd::new(listener, PollFlags::IN));
        }
        for (&id, client) in &self.clients {
            if let Some(socket) = client.socket() {
                let mut flags = PollFlags::RDHUP;
                if client.listens() {
                    flags |= PollFlags::IN;
                }
                tokens.push(Token::Client(id));
                fds.push(PollFd::new(socket, flags));
            }
            if let Some(worker) = &client.worker {
                tokens.extend([
                    Token::Worker(id),
                    Token::Exchange(id),
                    Token::Log(id),
                    Token::Death(id),
                ]);
                fds.push(PollFd::new(&worker.socket, PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(worker.exchange(), PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(worker.log(), PollFlags::IN));
                fds.push(PollFd::from_borrowed_fd(worker.pidfd(), PollFlags::IN));
            }
        }
        if let Some(machine) = &self.machine {
            machine.watch(&mut tokens, &mut fds, Token::Machine);
        }
        ready(tokens, &mut fds, Some(self.time_left())).unwrap_or_else(|error| {
            tracing::error!("the event loop cannot wait: {error}");
            // Never a spinning loop, whatever is wrong.
            std::thread::sleep(PAUSE);
            Vec::new()
        })
    }

    /// How long the loop may sleep.
    fn time_left(&self) -> Duration {
        let now = Instant::now();
        let idle = self
            .idle_exit
            .filter(|_| self.is_idle())
            .map(|limit| self.idle_since + limit);
        let machine = self.machine.as_ref().and_then(Machine::deadline);
        self.clients
            .values()
            .filter_map(Client::deadline)
            .chain(self.pause)
            .chain(self.ending)
            .chain(idle)
            .chain(machine)
            .map(|deadline| deadline.saturating_duration_since(now))
            .min()
            .unwrap_or(TURN)
            .min(TURN)
    }

    fn handle(&mut self, token: Token, flags: PollFlags) {
        const GONE: PollFlags = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::RDHUP);
        let pinned = self.terms.pinned;
        match token {
            Token::Signals => self.end(),
            Token::Listener => self.accept(),
            Token::Made => self.take_made(),
            Token::Client(id) => {
                let user = self.clients.get(&id).map(|client| client.peer.user);
                let full = user.is_some_and(|user| self.too_many(user));
                self.advance(id, |client| {
                    // A hello may be followed by the end at once; a request after the end is nothing.
                    if flags.contains(PollFlags::IN) && client.listens() && !flags.intersects(GONE)
                    {
                        client.readable(pinned, full)
                    } else if flags.intersects(GONE) {
                        client.end()
                    } else {
                        Next::Wait
                    }
                });
            }
            Token::Worker(id) => self.advance(id, Client::worker_speaks),
            Token::Death(id) => self.advance(id, Client::worker_died),
            Token::Machine(token) => {
                if let Some(machine) = &mut self.machine {
                    machine.handle(token, &self.terms);
                }
            }
            Token::Exchange(id) => self.advance(id, |client| {
                if let Some(worker) = &mut client.worker {
                    worker.serve_exchange();
                }
                Next::Wait
            }),
            Token::Log(id) => self.advance(id, |client| {
                if let Some(worker) = &mut client.worker
                    && !worker.read_log()
                {
                    // A worker keeps its log open as long as it lives.
                    worker.kill();
                }
                Next::Wait
            }),
        }
    }

    fn advance(&mut self, id: u64, step: impl FnOnce(&mut Client) -> Next) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        match step(client) {
            Next::Wait => {}
            Next::Forget => {
                self.clients.remove(&id);
                self.idle_since = Instant::now();
            }
            Next::Ask(query) => self.asked(id, query),
            Next::Prepare(accepted) => {
                let config = self.config;
                self.on_thread(Some(id), move || {
                    let parts = Parts::create(*accepted, &config);
                    if let Err(error) = &parts {
                        tracing::error!("a channel could not be made: {error}");
                    }
                    Made::Channel(id, parts.ok().map(Box::new))
                });
            }
            Next::Grow(bytes) => {
                let pages = self.config.pages;
                self.on_thread(Some(id), move || {
                    let segment = SegmentFd::create(bytes, pages);
                    if let Err(error) = &segment {
                        tracing::warn!("no more memory for a client: {error}");
                    }
                    Made::Segment(id, segment.ok())
                });
            }
        }
    }

    /// Answers a question, after a look at the host if need be.
    fn asked(&mut self, id: u64, query: Query) {
        if let Some(look) = self.terms.facts.needs_look(&query, &self.terms.board) {
            self.asking.push((id, query));
            return self.look(look);
        }
        let Some(asking) = self.clients.get(&id) else {
            return;
        };
        let peer = asking.peer;
        let held: Vec<Held> = self
            .clients
            .values()
            .filter(|client| client.peer.user == peer.user)
            .filter_map(|client| {
                let bytes = client.held()?;
                Some(Held {
                    process: match query.kind {
                        QUERY_PROCESSES => client.number_for(asking),
                        _ => 0,
                    },
                    own: client.peer == peer && peer.process != 0,
                    bytes,
                })
            })
            .collect();
        let answer = self.terms.facts.answer(&query, &self.terms.board, &held);
        self.advance(id, |client| client.answer_query(&answer));
    }

    /// Has the host looked at, unless that is under way.
    fn look(&mut self, look: Look) {
        if self.looking.contains(&look) {
            return;
        }
        self.looking.push(look);
        let facts = Arc::clone(&self.terms.facts);
        self.on_thread(None, move || Made::Seen(facts.look(look)));
    }

    /// Does beside the loop what takes a while, for a client or for several.
    fn on_thread(&mut self, id: Option<u64>, make: impl FnOnce() -> Made + Send + 'static) {
        let (sender, event) = (self.made.0.clone(), Arc::clone(&self.made_event));
        let spawned = std::thread::Builder::new()
            .name("memory".to_owned())
            .spawn(move || {
                // Without a receiver the daemon is ending.
                let _ = sender.send(make());
                event.signal();
            });
        if let Err(error) = spawned {
            tracing::error!("no thread to make memory: {error}");
            match id {
                Some(id) => drop(self.clients.remove(&id)),
                None => {
                    // Those who wait are disconnected when their time is over.
                    self.looking.clear();
                    self.asking.clear();
                }
            }
        }
    }

    fn take_made(&mut self) {
        self.made_event.drain();
        while let Ok(made) = self.made.1.try_recv() {
            match made {
                Made::Channel(id, parts) => {
                    let terms = self.terms.clone();
                    self.advance(id, |client| {
                        client.prepared(parts.map(|parts| *parts), &terms)
                    });
                }
                Made::Segment(id, segment) => {
                    self.advance(id, |client| client.grown(segment));
                }
                Made::Seen(seen) => {
                    self.looking.retain(|look| *look != seen.look());
                    self.terms.board.take(seen);
                    for (id, query) in std::mem::take(&mut self.asking) {
                        self.asked(id, query);
                    }
                }
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok(socket) => self.admit(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    self.pause = Some(Instant::now() + PAUSE);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: Socket) {
        let Ok(peer) = rustix::net::sockopt::socket_peercred(&socket) else {
            return;
        };
        // The loop must never block on a client that does not read.
        if rustix::io::ioctl_fionbio(&socket, true).is_err() {
            return;
        }
        let program = program_name(peer.pid.as_raw_nonzero().get());
        let peer = Peer::new(&peer);
        let unheard = |user: Option<u32>| {
            self.clients
                .values()
                .filter(|client| {
                    !client.has_channel() && user.is_none_or(|user| client.peer.user == user)
                })
                .count()
        };
        if unheard(None) >= self.max_clients.saturating_add(MAX_UNHEARD)
            || unheard(Some(peer.user)) >= self.max_per_user.saturating_add(MAX_UNHEARD)
        {
            tracing::warn!("user {}: refused: too many connections", peer.user);
            refuse(&socket, LinkStatus::Busy);
            return;
        }
        self.next += 1;
        self.clients
            .insert(self.next, Client::new(socket, peer, program));
    }

    /// Whether one more channel for a user would be one too many.
    fn too_many(&self, user: u32) -> bool {
        let channels = self.clients.values().filter(|client| client.has_channel());
        let of_user = channels.clone().filter(|client| client.peer.user == user);
        channels.count() >= self.max_clients || of_user.count() >= self.max_per_user
    }

    fn expire(&mut self) {
        let now = Instant::now();
        if self.pause.is_some_and(|until| until <= now) {
            self.pause = None;
        }
        let expired: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in expired {
            self.advance(id, Client::expired);
        }
        if let Some(machine) = &mut self.machine {
            machine.advance(&self.terms);
            if !machine.is_idle() {
                self.idle_since = now;
            }
            for look in machine.looks(&self.terms) {
                self.look(look);
            }
        }
        if let Some(limit) = self.idle_exit
            && self.is_idle()
            && self.idle_since + limit <= now
            && self.ending.is_none()
        {
            tracing::info!("no client for {limit:?}: ending");
            self.end();
        }
    }

    /// Stops listening and ends every client.
    fn end(&mut self) {
        if self.ending.is_some() {
            return;
        }
        tracing::info!("ending");
        // Removes the socket file.
        self.listener = None;
        self.ending = Some(Instant::now() + END);
        let ids: Vec<u64> = self.clients.keys().copied().collect();
        for id in ids {
            self.advance(id, Client::end);
        }
        if let Some(machine) = &mut self.machine {
            machine.end();
        }
    }

    fn is_idle(&self) -> bool {
        self.clients.is_empty() && self.machine.as_ref().is_none_or(Machine::is_idle)
    }

    /// Workers and clients that are left.
    fn left(&self) -> usize {
        self.clients.len() + self.machine.as_ref().map_or(0, Machine::workers)
    }

    fn is_over(&self) -> bool {
        match self.ending {
            None => false,
            Some(deadline) => {
                let late = deadline <= Instant::now();
                let left = self.left();
                if late && left > 0 {
                    tracing::error!("{left} worker(s) could not be reaped");
                }
                late || left == 0
            }
        }
    }
}
