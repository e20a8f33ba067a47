//! One client from its hello to its end.
//!
//! | stage | waits for | at most |
//! |---|---|---|
//! | greeting | the client's hello or question | 2 s |
//! | asking | a look at the host's memory | 10 s |
//! | preparing | memory, made on a thread of its own | |
//! | starting | the worker's welcome | 30 s |
//! | serving | requests, or either side's end | |
//! | ending | the worker's death | |

use crate::exchange::{Domain, Exchange};
use crate::facts::{Board, Facts};
use crate::peers::{Home, Peer};
use crate::process::Worker;
use crate::status::registry::{Entry, Origin, Registry};
use std::cell::OnceCell;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu_channel::link::listener::{hear, refuse};
use vgpu_channel::link::message::{GROW_MAGIC, GrowRequest, GrowResponse, Welcome};
use vgpu_channel::link::{Accepted, Answer, Event, First, LinkError, LinkStatus, Query, Socket};
use vgpu_channel::maps;
use vgpu_channel::permits::PermitPage;
use vgpu_channel::segment::{SEGMENT_ALIGN, SEGMENT_MAX, SegmentFd};
use vgpu_channel::server::Parts;
use vgpu_worker::setup::{MAGIC, MEMORY_FILES, PATH_BYTES, Setup};
use zerocopy::{FromBytes, IntoBytes};

/// How long a client may take for its hello.
const HELLO: Duration = Duration::from_secs(2);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a worker may take until it welcomes its client.
const START: Duration = Duration::from_secs(30);

/// What is handed to the client with the welcome.
#[derive(Debug)]
struct Handout {
    control: SegmentFd,
    heap: SegmentFd,
    doorbell: Event,
    wake: Event,
}

#[derive(Debug)]
enum Stage {
    Greeting { deadline: Instant },
    Asking { deadline: Instant },
    Preparing,
    Starting { deadline: Instant, handout: Handout },
    Serving,
    Ending,
}

/// A growth of the heap on its way.
#[derive(Debug)]
enum Growth {
    /// Memory is being made.
    Making(GrowRequest),
    /// The worker maps it.
    Mapping(GrowRequest, SegmentFd),
}

/// What the event loop must do next for a client.
#[derive(Debug)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Make the memory of a channel on a thread, then call [`Client::prepared`].
    Prepare(Box<Accepted>),
    /// Make a heap segment on a thread, then call [`Client::grown`].
    Grow(u64),
    /// Call [`Client::answer_query`] with the answer.
    Ask(Query),
    /// Forget the client.
    Forget,
}

/// What workers are told about the daemon.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Device, as in [`Setup::device`].
    pub device: u32,
    /// Software devices, as in [`Setup::software_devices`].
    pub software_devices: u32,
    /// Device memory, as in [`Setup::quota`].
    pub quota: u64,
    /// Shared memory of one client in bytes.
    pub pinned: u64,
    /// Slots of the command ring.
    pub ring_slots: u64,
    /// Where compiled kernels are kept.
    pub cache: Option<std::path::PathBuf>,
    /// The daemon's socket path, as in [`Setup::listen`].
    pub listen: [u8; PATH_BYTES],
    /// Permits to spin, which all workers share.
    pub spin: Arc<PermitPage>,
    /// How much workers log.
    pub level: crate::options::LogLevel,
    /// Where clients are entered for the operator.
    pub registry: Registry,
    /// What clients share with each other.
    pub exchange: Exchange,
    /// What may be asked without a channel.
    pub facts: Arc<Facts>,
    /// The last look at the host's memory.
    pub board: Board,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Who is at the other end.
    pub peer: Peer,
    /// Where it lives: looked up when somebody asks, once.
    home: OnceCell<Option<Home>>,
    /// Its name, for the operator.
    program: String,
    /// Its row there.
    entry: Option<Entry>,
    socket: Option<Socket>,
    stage: Stage,
    /// Its worker.
    pub worker: Option<Worker>,
    growth: Option<Growth>,
    heap: u64,
    /// Heap segments, each a mapping in two processes.
    segments: usize,
}

impl Client {
    /// Bytes of device memory that its worker says it holds; `None` before it has one.
    pub fn held(&self) -> Option<u64> {
        self.entry.as_ref().map(Entry::held)
    }

    /// Whether it has a channel or is about to: what the limits count.
    pub fn has_channel(&self) -> bool {
        !matches!(self.stage, Stage::Greeting { .. } | Stage::Asking { .. })
    }

    fn home(&self) -> Option<Home> {
        *self.home.get_or_init(|| self.peer.home())
    }

    /// The number that `other` has for this process: 0 if they do not live in the same namespace, or that cannot be seen.
    pub fn number_for(&self, other: &Client) -> u32 {
        match (self.home(), other.home()) {
            (Some(own), Some(there)) => own.number_in(there),
            _ => 0,
        }
    }

    /// A connection that has not said anything yet.
    pub fn new(socket: Socket, peer: Peer, program: String) -> Client {
        Client {
            peer,
            home: OnceCell::new(),
            program,
            entry: None,
            socket: Some(socket),
            stage: Stage::Greeting {
                deadline: Instant::now() + HELLO,
            },
            worker: None,
            growth: None,
            heap: 0,
            segments: 0,
        }
    }

    /// The connection, unless another thread has it.
    pub fn socket(&self) -> Option<&Socket> {
        self.socket.as_ref()
    }

    /// Whether to read from the connection now. Its end is watched in any case.
    pub fn listens(&self) -> bool {
        match self.stage {
            Stage::Greeting { .. } => true,
            // One request at a time: the next one waits in the socket.
            Stage::Serving => self.growth.is_none(),
            _ => false,
        }
    }

    /// When something must have happened.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Greeting { deadline }
            | Stage::Asking { deadline }
            | Stage::Starting { deadline, .. } => Some(*deadline),
            _ => None,
        }
    }

    /// The deadline has passed.
    pub fn expired(&mut self) -> Next {
        if matches!(self.stage, Stage::Starting { .. }) {
            tracing::error!("a worker did not start within {START:?}");
            self.refuse(LinkStatus::Internal);
        }
        self.end()
    }

    fn refuse(&self, status: LinkStatus) {
        if let Some(socket) = &self.socket {
            refuse(socket, status);
        }
    }

    /// Ends the client: its connection at once, its worker by force.
    pub fn end(&mut self) -> Next {
        self.socket = None;
        self.growth = None;
        match &mut self.worker {
            Some(worker) => {
                worker.kill();
                self.stage = Stage::Ending;
                Next::Wait
            }
            None => match self.stage {
                // The thread that makes its memory still answers.
                Stage::Preparing => {
                    self.stage = Stage::Ending;
                    Next::Wait
                }
                _ => Next::Forget,
            },
        }
    }

    /// The connection is readable; `full` says that a limit on channels is reached.
    pub fn readable(&mut self, pinned: u64, full: bool) -> Next {
        match self.stage {
            Stage::Greeting { .. } => self.greet(full),
            Stage::Serving => self.request(pinned),
            _ => Next::Wait,
        }
    }

    fn greet(&mut self, full: bool) -> Next {
        let Some(socket) = self.socket.take() else {
            return self.end();
        };
        // It is readable, so there is no waiting, and the loop waits for nobody.
        match hear(&socket, Duration::ZERO) {
            // It takes nothing, so it does not count.
            Ok(First::Query(query)) => {
                self.socket = Some(socket);
                self.stage = Stage::Asking {
                    deadline: Instant::now() + ANSWER,
                };
                Next::Ask(query)
            }
            Ok(First::Hello(_)) if full => {
                tracing::warn!("user {}: refused: too many clients", self.peer.user);
                refuse(&socket, LinkStatus::Busy);
                self.end()
            }
            Ok(First::Hello(hello)) => {
                self.stage = Stage::Preparing;
                Next::Prepare(Box::new(Accepted { socket, hello }))
            }
            Err(LinkError::TimedOut) => {
                self.socket = Some(socket);
                Next::Wait
            }
            Err(LinkError::Closed) => self.end(),
            Err(error) => {
                tracing::warn!("user {}: refused: {error}", self.peer.user);
                self.end()
            }
        }
    }

    /// The answer to its question is there; that is all it wanted.
    pub fn answer_query(&mut self, answer: &Answer) -> Next {
        if let Some(socket) = &self.socket {
            // One that is gone misses it.
            let _ = socket.send(answer.as_bytes(), &[]);
        }
        self.end()
    }

    /// The channel's memory is made, or could not be.
    pub fn prepared(&mut self, parts: Option<Parts>, terms: &Terms) -> Next {
        let (Stage::Preparing, Some(parts)) = (&self.stage, parts) else {
            self.stage = Stage::Ending;
            return self.end();
        };
        let Parts {
            socket,
            hello,
            control,
            heap,
            doorbell,
            wake,
            ..
        } = parts;
        self.heap = heap.size();
        self.socket = Some(socket);
        let seat = terms.spin.seat();
        let setup = Setup {
            magic: MAGIC,
            device: terms.device,
            memory: MEMORY_FILES,
            software_devices: terms.software_devices,
            reserved: 0,
            quota: terms.quota,
            ring_slots: terms.ring_slots,
            control_len: control.size(),
            heap_len: heap.size(),
            control_pieces: 0,
            heap_pieces: 0,
            spin_permits: terms.spin.count(),
            spin_holder: seat.holder,
            listen: terms.listen,
            hello,
        };
        let origin = Origin::Process {
            user: self.peer.user,
            program: self.program.clone(),
        };
        let cache = terms.cache.as_ref();
        let cache = cache.map(|base| base.join(format!("user-{}", self.peer.user)));
        let started = terms
            .registry
            .prepare(origin)
            .and_then(|page| {
                let (member, exchange) = terms.exchange.join(Domain::User(self.peer.user))?;
                Ok((
                    Worker::start(&hello, cache.as_deref(), terms.level, seat, member)?,
                    page,
                    exchange,
                ))
            })
            .map_err(LinkError::System)
            .and_then(|(worker, page, exchange)| {
                let fds = [
                    doorbell.as_fd(),
                    wake.as_fd(),
                    terms.spin.as_fd(),
                    page.as_fd(),
                    exchange.as_fd(),
                    control.as_fd(),
                    heap.as_fd(),
                ];
                // A fresh socket has room for one message.
                let sent = worker.socket.send(setup.as_bytes(), &fds);
                self.entry = Some(page.serve(worker.id()));
                self.worker = Some(worker);
                sent
            });
        if let Err(error) = started {
            tracing::error!("a worker could not be started: {error}");
            self.refuse(LinkStatus::Internal);
            return self.end();
        }
        self.stage = Stage::Starting {
            deadline: Instant::now() + START,
            handout: Handout {
                control,
                heap,
                doorbell,
                wake,
            },
        };
        Next::Wait
    }

    /// The worker's socket is readable, or closed.
    pub fn worker_speaks(&mut self) -> Next {
        match &self.stage {
            Stage::Starting { .. } => self.welcome(),
            Stage::Serving => self.mapped(),
            _ => Next::Wait,
        }
    }

    fn welcome(&mut self) -> Next {
        let (Some(worker), Some(client), Stage::Starting { handout, .. }) =
            (&self.worker, &self.socket, &self.stage)
        else {
            return self.end();
        };
        let received = worker
            .socket
            .receive_with_fds::<{ size_of::<Welcome>() }>(Duration::ZERO);
        let bytes = match received {
            Ok((bytes, _)) => bytes,
            // Its death is seen, and told, by its pidfd.
            Err(_) => return Next::Wait,
        };
        let status = Welcome::read_from_bytes(&bytes).map_or(LinkStatus::Internal, |welcome| {
            LinkStatus::from_word(welcome.status)
        });
        if status != LinkStatus::Ok {
            tracing::warn!("user {}: the worker refused: {status}", self.peer.user);
            self.refuse(status);
            return self.end();
        }
        // The descriptors are the daemon's own, whatever the worker sent.
        let fds = [
            handout.control.as_fd(),
            handout.heap.as_fd(),
            handout.doorbell.as_fd(),
            handout.wake.as_fd(),
        ];
        if client.send(&bytes, &fds).is_err() {
            return self.end();
        }
        tracing::info!("user {}: served by worker {}", self.peer.user, worker.id());
        self.stage = Stage::Serving;
        Next::Wait
    }

    fn request(&mut self, pinned: u64) -> Next {
        let Some(socket) = &self.socket else {
            return self.end();
        };
        let bytes = match socket.receive_plain::<{ size_of::<GrowRequest>() }>(Duration::ZERO) {
            Ok(bytes) => bytes,
            Err(LinkError::TimedOut) => return Next::Wait,
            Err(error) => {
                if !matches!(error, LinkError::Closed) {
                    tracing::warn!("user {}: disconnected: {error}", self.peer.user);
                }
                return self.end();
            }
        };
        let request = match GrowRequest::read_from_bytes(&bytes) {
            Ok(request) if request.magic == GROW_MAGIC => request,
            _ => {
                tracing::warn!("user {}: disconnected: malformed request", self.peer.user);
                return self.end();
            }
        };
        let fits = request.bytes > 0
            && request.bytes % SEGMENT_ALIGN == 0
            && request.bytes <= SEGMENT_MAX
            && self
                .heap
                .checked_add(request.bytes)
                .is_some_and(|heap| heap <= pinned)
            && self.segments < maps::limit();
        if !fits {
            return self.answer(&request, LinkStatus::NoMemory, 0, None);
        }
        self.growth = Some(Growth::Making(request));
        Next::Grow(request.bytes)
    }

    fn answer(
        &mut self,
        request: &GrowRequest,
        status: LinkStatus,
        address: u64,
        segment: Option<&SegmentFd>,
    ) -> Next {
        let response = GrowResponse {
            magic: GROW_MAGIC,
            id: request.id,
            status: status as u32,
            reserved: 0,
            address,
            len: segment.map_or(0, SegmentFd::size),
        };
        let fds: Vec<_> = segment.iter().map(|segment| segment.as_fd()).collect();
        // A client that does not take its answers is ended rather than waited for.
        match self
            .socket
            .as_ref()
            .map(|socket| socket.send(response.as_bytes(), &fds))
        {
            Some(Ok(())) => Next::Wait,
            _ => self.end(),
        }
    }

    /// A heap segment is made, or could not be.
    pub fn grown(&mut self, segment: Option<SegmentFd>) -> Next {
        let Some(Growth::Making(request)) = self.growth.take() else {
            return Next::Wait;
        };
        let (Some(segment), Some(worker)) = (segment, &self.worker) else {
            return self.answer(&request, LinkStatus::NoMemory, 0, None);
        };
        if worker
            .socket
            .send(request.as_bytes(), &[segment.as_fd()])
            .is_err()
        {
            return self.end();
        }
        self.growth = Some(Growth::Mapping(request, segment));
        Next::Wait
    }

    fn mapped(&mut self) -> Next {
        let Some(worker) = &self.worker else {
            return self.end();
        };
        let received = worker
            .socket
            .receive_with_fds::<{ size_of::<GrowResponse>() }>(Duration::ZERO);
        let bytes = match received {
            Ok((bytes, _)) => bytes,
            Err(LinkError::TimedOut | LinkError::Closed) => return Next::Wait,
            Err(error) => {
                tracing::warn!("user {}: its worker misbehaves: {error}", self.peer.user);
                return self.end();
            }
        };
        let Some(Growth::Mapping(request, segment)) = self.growth.take() else {
            tracing::warn!(
                "user {}: its worker answers without question",
                self.peer.user
            );
            return self.end();
        };
        match GrowResponse::read_from_bytes(&bytes) {
            Ok(response) if response.status == LinkStatus::Ok as u32 => {
                self.heap = self.heap.saturating_add(segment.size());
                self.segments += 1;
                self.answer(&request, LinkStatus::Ok, response.address, Some(&segment))
            }
            _ => self.answer(&request, LinkStatus::NoMemory, 0, None),
        }
    }

    /// The worker is dead: reaps it.
    pub fn worker_died(&mut self) -> Next {
        let Some(worker) = &mut self.worker else {
            return Next::Wait;
        };
        let Some(status) = worker.reap() else {
            return Next::Wait;
        };
        match self.stage {
            Stage::Ending => tracing::info!("worker {} ended", worker.id()),
            _ => tracing::warn!("worker {} ended by itself: {status}", worker.id()),
        }
        self.worker = None;
        self.entry = None;
        if matches!(self.stage, Stage::Starting { .. }) {
            self.refuse(LinkStatus::Internal);
        }
        self.socket = None;
        Next::Forget
    }
}
