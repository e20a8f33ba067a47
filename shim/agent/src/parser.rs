//! The unprivileged process: it alone reads what programs send.
//!
//! | stage of a client | waits for | at most |
//! |---|---|---|
//! | greeting | the mapper's beginning, then the program's hello or question | 10 s, then 2 s |
//! | asking | the mapper's answer | 11 s |
//! | opening | the mapper's answer | 40 s |
//! | serving | requests, or either side's end | |
//!
//! It holds no device, no capability and no memory of a channel: the four descriptors of a welcome pass through it. It
//! ends when the mapper's socket does; the keeper then starts both anew.

use crate::messages::{
    ANSWERED, ASK, CLOSE, ENDED, GROW, GROWN, HERE, OPEN, OPENED, ToMapper, ToParser,
};
use crate::options::ParserOptions;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use vgpu_channel::link::event::ready;
use vgpu_channel::link::listener::{HELLO_TIMEOUT, hear, refuse};
use vgpu_channel::link::message::{GROW_MAGIC, GrowRequest, GrowResponse, WELCOME_FDS, Welcome};
use vgpu_channel::link::{First, LinkError, LinkStatus, Listener, Query, Socket};
use zerocopy::{FromZeros, IntoBytes, transmute};

/// How long the mapper may take to open a channel.
const OPENING: Duration = Duration::from_secs(40);
/// How long an answer may take: the host gives up after 10 s.
const ASKING: Duration = Duration::from_secs(11);
/// How long programs are kept waiting for a mapper that has not begun yet, at the start and after a crash.
const BEGINNING: Duration = Duration::from_secs(10);
/// Connections taken per turn.
const ACCEPTS: usize = 16;
/// Connections, more than there may be clients, that have not said yet that they want a channel, or never do: those of
/// questions, and those that a limit will refuse.
const MAX_UNHEARD: usize = 64;
/// How long not to accept when descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest sleep of the loop.
const TURN: Duration = Duration::from_secs(10);
/// Messages for the mapper that may wait.
const BACKLOG: usize = 65536;

#[derive(Debug)]
enum Stage {
    Greeting { deadline: Instant },
    Asking { deadline: Instant },
    Opening { deadline: Instant },
    Serving { growing: Option<u32> },
}

#[derive(Debug)]
struct Client {
    user: u32,
    process: u32,
    pidfd: Option<OwnedFd>,
    socket: Socket,
    stage: Stage,
}

impl Client {
    /// Whether it has a channel or is about to: what the limits count.
    fn has_channel(&self) -> bool {
        matches!(self.stage, Stage::Opening { .. } | Stage::Serving { .. })
    }
}

#[derive(Clone, Copy)]
enum Token {
    Mapper,
    Listener,
    Client(u64),
    Process(u64),
}

/// What the parser is told at its start.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at once.
    pub clients: usize,
    /// Clients of one user at once.
    pub per_user: usize,
}

/// The parser.
#[derive(Debug)]
pub struct Parser {
    listener: Listener,
    mapper: Socket,
    /// The mapper has spoken.
    mapper_here: bool,
    /// Until when programs wait for that.
    beginning: Instant,
    out: VecDeque<ToMapper>,
    clients: BTreeMap<u64, Client>,
    next: u64,
    limits: Limits,
    pause: Option<Instant>,
}

/// The process: takes its sockets from the keeper, drops every privilege, serves.
///
/// # Errors
///
/// A sentence.
pub fn run(options: &ParserOptions) -> Result<(), String> {
    let keeper = crate::process::keeper_socket()?;
    crate::privilege::die_with_parent()?;
    let (_, mut fds) = crate::process::receive_start(&keeper)?;
    let (Some(mapper), Some(listener)) = (fds.pop(), fds.pop()) else {
        return Err("the keeper sent no sockets".to_owned());
    };
    crate::process::raise_descriptor_limit();
    crate::privilege::drop_all(options.user)?;
    let limits = Limits {
        clients: options.limits.max_clients,
        per_user: options.limits.max_clients_per_user,
    };
    // The keeper never speaks again; its end of the socket only keeps its number taken.
    drop(keeper);
    Parser::new(Listener::from_fd(listener), Socket::from_fd(mapper), limits)
        .map_err(|error| format!("the parser cannot start: {error}"))?
        .serve();
    Ok(())
}

impl Parser {
    /// A parser that serves `listener`, which may block nobody.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn new(listener: Listener, mapper: Socket, limits: Limits) -> io::Result<Parser> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        rustix::io::ioctl_fionbio(&mapper, true)?;
        Ok(Parser {
            listener,
            mapper,
            mapper_here: false,
            beginning: Instant::now() + BEGINNING,
            out: VecDeque::new(),
            clients: BTreeMap::new(),
            next: 0,
            limits,
            pause: None,
        })
    }

    /// Serves until the mapper is gone. Clients are disconnected then; those that waited for its beginning are told why.
    pub fn serve(&mut self) {
        while self.turn() {}
        if self.mapper_here {
            return;
        }
        self.accept();
        for client in self.clients.values() {
            if matches!(client.stage, Stage::Greeting { .. })
                && hear(&client.socket, Duration::ZERO).is_ok()
            {
                refuse(&client.socket, LinkStatus::NoDevice);
            }
        }
    }

    /// One turn of the loop; false when the mapper is gone.
    fn turn(&mut self) -> bool {
        if !self.flush() {
            return false;
        }
        for (token, flags) in self.poll() {
            if !self.handle(token, flags) {
                return false;
            }
        }
        self.expire();
        true
    }

    /// Sends the mapper what it takes; false when it is gone.
    fn flush(&mut self) -> bool {
        while let Some(message) = self.out.front() {
            match self.mapper.send(message.as_bytes(), &[]) {
                Ok(()) => {
                    self.out.pop_front();
                }
                Err(LinkError::TimedOut) => return self.out.len() <= BACKLOG,
                Err(error) => {
                    tracing::debug!("the mapper cannot be told: {error}");
                    return false;
                }
            }
        }
        true
    }

    fn poll(&self) -> Vec<(Token, PollFlags)> {
        let mut wanted = PollFlags::IN;
        if !self.out.is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut tokens = vec![Token::Mapper];
        let mut fds = vec![PollFd::new(&self.mapper, wanted)];
        if self.pause.is_none() {
            tokens.push(Token::Listener);
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        for (&id, client) in &self.clients {
            let mut flags = PollFlags::RDHUP;
            // One request at a time: the next one waits in the socket.
            let listening = match client.stage {
                Stage::Greeting { .. } => !self.is_beginning(),
                Stage::Serving { growing } => growing.is_none(),
                Stage::Asking { .. } | Stage::Opening { .. } => false,
            };
            if listening {
                flags |= PollFlags::IN;
            }
            tokens.push(Token::Client(id));
            fds.push(PollFd::new(&client.socket, flags));
            if let Some(pidfd) = &client.pidfd {
                tokens.push(Token::Process(id));
                fds.push(PollFd::new(pidfd, PollFlags::IN));
            }
        }
        ready(tokens, &mut fds, Some(self.time_left())).unwrap_or_else(|error| {
            tracing::error!("the parser cannot wait: {error}");
            // Never a spinning loop, whatever is wrong.
            std::thread::sleep(PAUSE);
            Vec::new()
        })
    }

    /// Whether the mapper may yet begin, so that a program is better kept than refused.
    fn is_beginning(&self) -> bool {
        !self.mapper_here && Instant::now() < self.beginning
    }

    fn time_left(&self) -> Duration {
        let now = Instant::now();
        self.clients
            .values()
            .filter_map(Client::deadline)
            .chain(self.pause)
            .chain(self.is_beginning().then_some(self.beginning))
            .map(|deadline| deadline.saturating_duration_since(now))
            .min()
            .unwrap_or(TURN)
            .min(TURN)
    }

    /// False when the mapper is gone.
    fn handle(&mut self, token: Token, flags: PollFlags) -> bool {
        const GONE: PollFlags = PollFlags::HUP.union(PollFlags::ERR).union(PollFlags::RDHUP);
        match token {
            Token::Mapper if flags.contains(PollFlags::IN) => return self.mapper_speaks(),
            Token::Mapper => return !flags.intersects(GONE),
            Token::Listener => self.accept(),
            Token::Process(id) => self.end(id),
            Token::Client(id) => {
                if flags.intersects(GONE) {
                    self.end(id);
                } else if flags.contains(PollFlags::IN) {
                    self.readable(id);
                }
            }
        }
        true
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            match self.listener.accept() {
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
        let user = peer.uid.as_raw();
        let unheard = |user: Option<u32>| {
            self.clients
                .values()
                .filter(|client| {
                    !client.has_channel() && user.is_none_or(|user| client.user == user)
                })
                .count()
        };
        if unheard(None) >= self.limits.clients + MAX_UNHEARD
            || unheard(Some(user)) >= self.limits.per_user + MAX_UNHEARD
        {
            tracing::warn!("user {user}: refused: too many connections");
            refuse(&socket, LinkStatus::Busy);
            return;
        }
        // Processes of other namespaces have no number here, and then only their socket tells.
        let pidfd = pidfd_open(peer.pid, PidfdFlags::empty()).ok();
        self.next += 1;
        let heard = if self.is_beginning() {
            self.beginning
        } else {
            Instant::now()
        };
        self.clients.insert(
            self.next,
            Client {
                user,
                process: number_of(peer.pid),
                pidfd,
                socket,
                stage: Stage::Greeting {
                    deadline: heard + HELLO_TIMEOUT,
                },
            },
        );
    }

    /// Whether one more channel for `user` would be one too many.
    fn too_many(&self, user: u32) -> bool {
        let channels = self.clients.values().filter(|client| client.has_channel());
        let of_user = channels.clone().filter(|client| client.user == user);
        channels.count() >= self.limits.clients || of_user.count() >= self.limits.per_user
    }

    fn tell(&mut self, kind: u32, id: u64, change: impl FnOnce(&mut ToMapper)) {
        let mut message = ToMapper::new_zeroed();
        message.kind = kind;
        message.channel = id;
        change(&mut message);
        self.out.push_back(message);
    }

    /// Forgets a client and its channel.
    fn end(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id)
            && !matches!(client.stage, Stage::Greeting { .. } | Stage::Asking { .. })
        {
            self.tell(CLOSE, id, |_| {});
        }
    }

    fn readable(&mut self, id: u64) {
        match self.clients.get(&id).map(|client| &client.stage) {
            Some(Stage::Greeting { .. }) => self.greet(id),
            Some(Stage::Serving { growing: None }) => self.request(id),
            _ => {}
        }
    }

    fn greet(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else {
            return;
        };
        let user = client.user;
        let first = match hear(&client.socket, Duration::ZERO) {
            Ok(first) => first,
            Err(LinkError::TimedOut) => return,
            Err(error) => {
                if !matches!(error, LinkError::Closed) {
                    tracing::warn!("user {user}: refused: {error}");
                }
                return self.end(id);
            }
        };
        let refusal = match first {
            _ if !self.mapper_here => Some(LinkStatus::NoDevice),
            // A question takes nothing, so it does not count.
            First::Hello(_) if self.too_many(user) => {
                tracing::warn!("user {user}: refused: too many clients");
                Some(LinkStatus::Busy)
            }
            _ => None,
        };
        if let Some(status) = refusal {
            refuse(&client.socket, status);
            return self.end(id);
        }
        let process = client.process;
        let now = Instant::now();
        let stage = match first {
            First::Hello(hello) => {
                self.tell(OPEN, id, |message| {
                    message.user = user;
                    message.process = process;
                    message.hello = hello;
                });
                Stage::Opening {
                    deadline: now + OPENING,
                }
            }
            First::Query(query) => {
                self.tell(ASK, id, |message| {
                    message.query = Query {
                        user,
                        process,
                        ..query
                    };
                });
                Stage::Asking {
                    deadline: now + ASKING,
                }
            }
        };
        if let Some(client) = self.clients.get_mut(&id) {
            client.stage = stage;
        }
    }

    fn request(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let user = client.user;
        let received = client
            .socket
            .receive_plain::<{ size_of::<GrowRequest>() }>(Duration::ZERO);
        let request = match received.map(|bytes| -> GrowRequest { transmute!(bytes) }) {
            Ok(request) if request.magic == GROW_MAGIC => request,
            Err(LinkError::TimedOut) => return,
            Err(LinkError::Closed) => return self.end(id),
            Err(error) => {
                tracing::warn!("user {user}: disconnected: {error}");
                return self.end(id);
            }
            Ok(_) => {
                tracing::warn!("user {user}: disconnected: malformed request");
                return self.end(id);
            }
        };
        client.stage = Stage::Serving {
            growing: Some(request.id),
        };
        self.tell(GROW, id, |message| {
            message.id = request.id;
            message.bytes = request.bytes;
        });
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
            if let Some(client) = self.clients.get(&id)
                && matches!(client.stage, Stage::Opening { .. } | Stage::Asking { .. })
            {
                refuse(&client.socket, LinkStatus::Internal);
            }
            self.end(id);
        }
    }

    /// Takes what the mapper says; false when it is gone.
    fn mapper_speaks(&mut self) -> bool {
        loop {
            let received = self
                .mapper
                .receive_with_fds::<{ size_of::<ToParser>() }>(Duration::ZERO);
            match received {
                Ok((bytes, fds)) => self.told(&transmute!(bytes), &fds),
                Err(LinkError::TimedOut) => return true,
                Err(_) => return false,
            }
        }
    }

    fn told(&mut self, message: &ToParser, fds: &[OwnedFd]) {
        if message.kind == HERE {
            self.mapper_here = true;
            return;
        }
        let id = message.channel;
        let status = LinkStatus::from_word(message.status);
        // A program that left meanwhile: the descriptors are closed, the mapper was told already.
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let sent = match (message.kind, &client.stage) {
            (OPENED, Stage::Opening { .. }) if status == LinkStatus::Ok => {
                client.stage = Stage::Serving { growing: None };
                let welcome = message.body.get(..size_of::<Welcome>());
                borrowed.len() == WELCOME_FDS
                    && welcome.is_some_and(|bytes| client.socket.send(bytes, &borrowed).is_ok())
            }
            (OPENED, Stage::Opening { .. }) => {
                refuse(&client.socket, status);
                self.clients.remove(&id);
                return;
            }
            (ANSWERED, Stage::Asking { .. }) => {
                if status == LinkStatus::Ok {
                    // One that is gone misses it.
                    let _ = client.socket.send(&message.body, &[]);
                } else {
                    refuse(&client.socket, status);
                }
                self.clients.remove(&id);
                return;
            }
            (GROWN, Stage::Serving { growing: Some(_) }) => {
                client.stage = Stage::Serving { growing: None };
                let response = message.body.get(..size_of::<GrowResponse>());
                // A program that does not take its answers is ended rather than waited for.
                response.is_some_and(|bytes| client.socket.send(bytes, &borrowed).is_ok())
            }
            (ENDED, stage) => {
                if matches!(stage, Stage::Opening { .. }) {
                    refuse(&client.socket, status);
                }
                self.clients.remove(&id);
                return;
            }
            _ => false,
        };
        if !sent {
            self.end(id);
        }
    }
}

impl Client {
    fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Greeting { deadline }
            | Stage::Asking { deadline }
            | Stage::Opening { deadline } => Some(deadline),
            Stage::Serving { .. } => None,
        }
    }
}

fn number_of(pid: Pid) -> u32 {
    u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0)
}
