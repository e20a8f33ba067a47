//! The guest process's side of a channel.
//!
//! One [`Channel`] per process, shared by its threads. It starts no thread and prints nothing; every wait ends with an
//! error when the server is gone.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use zerocopy::{FromBytes, IntoBytes};

use crate::callback::CallbackReceiver;
use crate::control::{
    Bell, ControlLayout, ControlRing, FEATURES, Header, LayoutError, SERVER_STATE, STICKY_ERROR,
    ServerState,
};
use crate::heap::{Grow, Heap, HeapError, HeapStats, Region};
use crate::link::event::{GONE, poll};
use crate::link::message::{
    GROW_MAGIC, GrowRequest, GrowResponse, MAJOR, MINOR, MINOR_DISTANCE, WELCOME_FDS, WELCOME_MAGIC,
};
use crate::link::{Event, Fingerprint, Hello, LinkError, LinkStatus, Socket, Welcome};
use crate::output::OutputReceiver;
use crate::reply::{self, ReplyError, ReplySlot};
use crate::ring::{Producer, RecordHeader, Reservation as RingReservation, ReserveError};
use crate::segment::{SEGMENT_ALIGN, SegmentError, SegmentFd, Segments, Side};
use crate::shm::{OutOfRange, View};
use crate::staging::Words;
use crate::sync::{AtomicU32, Mutex, Ordering, lock};
use crate::wait::{Gate, Sleeper, SpinBudget, WaitError, Woken, unwoken_sleep};
use crate::window::{Reservation, Window};

/// How long the server may take for its welcome: it may have to initialise a driver first.
pub const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the server may take to grant or refuse more memory.
const GROW_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a thread spins for an answer before it sleeps. Without a channel between, the thread would be executing the
/// call meanwhile; those that enter the kernel, allocations say, take about as long.
const REPLY_SPIN: Duration = Duration::from_micros(100);

/// The heap grows by at least this much at a time.
const GROW_STEP: u64 = 64 << 20;

/// A record reserved in the channel's ring.
pub type Reserved<'a> = RingReservation<'a, ControlRing>;

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The link failed or the server refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The server is of a version that does not fit.
    #[error("The server has version {major}.{minor}, which does not fit this client")]
    Version {
        /// The server's major version.
        major: u16,
        /// The server's minor version.
        minor: u16,
    },
    /// A segment could not be believed or mapped.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The control segment cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A part of the control segment lies outside of it.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
}

/// Why a record was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The payload can never fit a record.
    #[error("A record of {0} payload bytes is longer than the ring takes")]
    TooLong(usize),
    /// The server is gone.
    #[error("The peer is gone")]
    PeerGone,
}

/// A channel to the server. Threads share it by reference.
#[derive(Debug)]
pub struct Channel {
    segments: Arc<Segments>,
    control: View,
    layout: ControlLayout,
    producer: Producer<ControlRing>,
    heap: Heap<LinkGrow>,
    callbacks: CallbackReceiver,
    output: OutputReceiver,
    gate: Gate,
    sleeper: LinkSleeper,
    doorbell: Arc<Event>,
    spin: SpinBudget,
    server_fingerprint: Fingerprint,
    server_minor: u16,
}

impl Channel {
    /// Connects to the server at `path`, with the window that `reservation` holds; `hello` must name it.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], naming what is wrong. The reservation is lost then.
    pub fn connect(
        path: &Path,
        hello: &Hello,
        reservation: Reservation,
    ) -> Result<Channel, ConnectError> {
        let socket = Socket::connect(path, WELCOME_TIMEOUT)?;
        Channel::over(socket, hello, reservation, WELCOME_TIMEOUT)
    }

    /// As [`Channel::connect`], over a connection that is already there.
    ///
    /// # Errors
    ///
    /// As for [`Channel::connect`].
    pub fn over(
        socket: Socket,
        hello: &Hello,
        reservation: Reservation,
        timeout: Duration,
    ) -> Result<Channel, ConnectError> {
        socket.send(hello.as_bytes(), &[])?;
        Channel::open(socket, Segments::new(reservation, Side::Client), timeout)
    }

    /// As [`Channel::over`], in segments of which the caller mapped some already, with [`Side::Both`]. This is how a test
    /// stands for a machine whose memory it laid out itself.
    ///
    /// # Errors
    ///
    /// As for [`Channel::connect`].
    pub fn in_segments(
        socket: Socket,
        hello: &Hello,
        segments: Arc<Segments>,
        timeout: Duration,
    ) -> Result<Channel, ConnectError> {
        socket.send(hello.as_bytes(), &[])?;
        Channel::open(socket, segments, timeout)
    }

    /// Waits for the welcome and sets the channel up in `segments`.
    pub(crate) fn open(
        socket: Socket,
        segments: Arc<Segments>,
        timeout: Duration,
    ) -> Result<Channel, ConnectError> {
        let (bytes, fds) = socket.receive_with_fds::<{ size_of::<Welcome>() }>(timeout)?;
        let welcome = Welcome::read_from_bytes(&bytes).map_err(|_| LinkError::Malformed)?;
        if welcome.magic != WELCOME_MAGIC {
            return Err(LinkError::Malformed.into());
        }
        let status = LinkStatus::from_word(welcome.status);
        if status != LinkStatus::Ok {
            return Err(LinkError::Refused(status).into());
        }
        if welcome.major != MAJOR || welcome.minor.abs_diff(MINOR) > MINOR_DISTANCE {
            return Err(ConnectError::Version {
                major: welcome.major,
                minor: welcome.minor,
            });
        }
        if welcome.window != segments.window().index {
            return Err(LinkError::Refused(LinkStatus::Window).into());
        }
        let [control, heap, doorbell, wake] =
            <[_; WELCOME_FDS]>::try_from(fds).map_err(|_| LinkError::Descriptors)?;
        segments.append(
            welcome.control_address,
            &SegmentFd::receive(control, welcome.control_len)?,
        )?;
        let heap = segments.append(
            welcome.heap_address,
            &SegmentFd::receive(heap, welcome.heap_len)?,
        )?;

        let control = segments.view(welcome.control_address, welcome.control_len)?;
        let mut header = [0; size_of::<Header>()];
        control.read(0, &mut header)?;
        let header = Header::read_from_bytes(&header).map_err(|_| LayoutError::Magic)?;
        let layout = header.layout(welcome.control_len)?;
        let doorbell = Arc::new(Event::from_fd(doorbell));
        let bell: Arc<dyn Bell> = Arc::clone(&doorbell) as Arc<dyn Bell>;
        let socket = Arc::new(socket);
        let grow = LinkGrow {
            socket: Arc::clone(&socket),
            segments: Arc::clone(&segments),
            next: Mutex::new(1),
        };
        let channel = Channel {
            producer: Producer::new(ControlRing::new(&control, &layout, Some(bell))?),
            callbacks: CallbackReceiver::new(&control, &layout)?,
            output: OutputReceiver::new(&control, &layout)?,
            heap: Heap::new(grow),
            gate: Gate::new(),
            sleeper: LinkSleeper {
                wake: Event::from_fd(wake),
                socket,
            },
            spin: SpinBudget::new(REPLY_SPIN),
            server_fingerprint: welcome.fingerprint,
            server_minor: welcome.minor,
            doorbell,
            segments,
            control,
            layout,
        };
        channel.heap.add(Region {
            address: heap.address,
            len: heap.len,
        });
        Ok(channel)
    }

    /// Sets how long this process's threads spin before they sleep.
    pub fn set_spin(&mut self, spin: SpinBudget) {
        self.spin = spin;
    }

    /// How long this process's threads spin before they sleep.
    #[must_use]
    pub fn spin(&self) -> SpinBudget {
        self.spin
    }

    /// The address window.
    #[must_use]
    pub fn window(&self) -> &Window {
        self.segments.window()
    }

    /// The mapped segments.
    #[must_use]
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// Diagnostic: the server's set of calls.
    #[must_use]
    pub fn server_fingerprint(&self) -> Fingerprint {
        self.server_fingerprint
    }

    /// The server's minor version.
    #[must_use]
    pub fn server_minor(&self) -> u16 {
        self.server_minor
    }

    // --- the server's words ---

    fn word(&self, offset: usize) -> u32 {
        // SYNC POINT (words), pairs with the server's stores: what a word announces was written before it.
        self.control
            .u32(offset)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// The error that every further call ends with; 0 while there is none.
    #[must_use]
    #[inline]
    pub fn sticky_error(&self) -> u32 {
        self.word(STICKY_ERROR)
    }

    /// Feature flags (see [`crate::control`]).
    #[must_use]
    #[inline]
    pub fn features(&self) -> u32 {
        self.word(FEATURES)
    }

    /// What the server says it is doing.
    #[must_use]
    pub fn server_state(&self) -> ServerState {
        ServerState::from_word(self.word(SERVER_STATE))
    }

    /// The snapshot that the server left before its welcome; empty if none.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let Ok(area) = self.layout.snapshot.of(&self.control) else {
            return Vec::new();
        };
        let len = area.u64(0).map_or(0, |len| len.load(Ordering::Acquire));
        let mut bytes = vec![
            0;
            usize::try_from(len)
                .unwrap_or(usize::MAX)
                .min(area.len() - 8)
        ];
        if area.read(8, &mut bytes).is_err() {
            bytes.clear();
        }
        bytes
    }

    // --- commands ---

    /// Reserves a record if there is room now.
    ///
    /// # Errors
    ///
    /// [`ReserveError`].
    #[inline]
    pub fn try_reserve(&self, payload_len: usize) -> Result<Reserved<'_>, ReserveError> {
        self.producer.try_reserve(payload_len)
    }

    /// Reserves a record, waiting for room while the ring is full.
    ///
    /// # Errors
    ///
    /// [`PostError`].
    #[inline]
    pub fn reserve(&self, payload_len: usize) -> Result<Reserved<'_>, PostError> {
        match self.producer.try_reserve(payload_len) {
            Ok(reserved) => Ok(reserved),
            Err(ReserveError::TooLong(len)) => Err(PostError::TooLong(len)),
            Err(ReserveError::Full) => self.reserve_when_free(payload_len),
        }
    }

    #[cold]
    fn reserve_when_free(&self, payload_len: usize) -> Result<Reserved<'_>, PostError> {
        let mut reserved = None;
        let attempt = || match self.producer.try_reserve(payload_len) {
            Err(ReserveError::Full) => false,
            other => {
                reserved = other.ok();
                true
            }
        };
        self.poll_until(attempt, None)
            .map_err(|_| PostError::PeerGone)?;
        reserved.ok_or(PostError::TooLong(payload_len))
    }

    /// Sends a record whose payload is `parts` one after the other, and gives its ring position.
    ///
    /// # Errors
    ///
    /// [`PostError`].
    #[inline]
    pub fn post(&self, header: &RecordHeader, parts: &[&[u8]]) -> Result<u64, PostError> {
        let mut reserved = self.reserve(parts.iter().map(|part| part.len()).sum())?;
        let mut offset = 0;
        for part in parts {
            reserved.write(offset, part);
            offset += part.len();
        }
        let position = reserved.position();
        reserved.publish(header);
        Ok(position)
    }

    /// Position that the next record would get if no other thread came in between.
    #[must_use]
    pub fn ring_head(&self) -> u64 {
        self.producer.head()
    }

    // --- replies ---

    /// Allocates and clears a reply slot. Give it back with [`Channel::free`].
    ///
    /// # Errors
    ///
    /// [`HeapError::Full`].
    pub fn alloc_reply(&self) -> Result<u64, HeapError> {
        let address = self.heap.alloc(reply::SLOT_BYTES, reply::SLOT_ALIGN)?;
        let cleared = ReplySlot::at(&self.segments, address).and_then(|slot| slot.reset());
        cleared.map_err(|_| HeapError::NotAllocated(address))?;
        Ok(address)
    }

    /// The reply slot at `address`.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Address`].
    #[inline]
    pub fn reply(&self, address: u64) -> Result<ReplySlot<'_>, ReplyError> {
        ReplySlot::at(&self.segments, address)
    }

    /// Waits until `slot` holds the answer `sequence`; gives its status and payload length.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    #[inline]
    pub fn wait_reply(
        &self,
        slot: ReplySlot<'_>,
        sequence: u32,
        timeout: Option<Duration>,
    ) -> Result<(i32, usize), WaitError> {
        self.wait_until(|| slot.is_complete(sequence), || slot.arm(), timeout)?;
        Ok(slot.outcome())
    }

    // --- waiting ---

    /// Waits until `ready`: spins for the channel's budget, then sleeps on the wake descriptor. `arm` must make the
    /// server signal it, by a flag in shared memory or by a record; it runs before each sleep.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    #[inline]
    pub fn wait_until(
        &self,
        mut ready: impl FnMut() -> bool,
        arm: impl FnMut(),
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        if self.spin.spin(&mut ready) {
            return Ok(());
        }
        self.sleep_until(ready, arm, timeout)
    }

    /// As [`Channel::wait_until`], without spinning.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    #[cold]
    pub fn sleep_until(
        &self,
        ready: impl FnMut() -> bool,
        arm: impl FnMut(),
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        self.gate.wait(&self.sleeper, arm, ready, timeout)
    }

    /// Waits until `ready` where nobody will signal: spins, then looks again after sleeps of at most 50 µs.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn poll_until(
        &self,
        mut ready: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        if self.spin.spin(&mut ready) {
            return Ok(());
        }
        let start = Instant::now();
        loop {
            let waited = start.elapsed();
            if timeout.is_some_and(|timeout| waited >= timeout) {
                return Err(WaitError::TimedOut);
            }
            if self.gate.is_gone() || self.sleeper.pause(unwoken_sleep(waited)) {
                self.gate.close();
                return if ready() {
                    Ok(())
                } else {
                    Err(WaitError::PeerGone)
                };
            }
            if ready() {
                return Ok(());
            }
        }
    }

    /// Makes every sleeping thread of this process look at its condition again.
    pub fn wake_sleepers(&self) {
        self.sleeper.wake.signal();
    }

    /// Whether the server's end was noticed. Looks at the link only if `ask`.
    #[must_use]
    pub fn is_gone(&self, ask: bool) -> bool {
        if !self.gate.is_gone() && ask && self.sleeper.socket.is_gone() {
            self.close();
        }
        self.gate.is_gone()
    }

    /// Ends all waits, now and later, as if the server were gone.
    pub fn close(&self) {
        self.gate.close();
        self.sleeper.wake.signal();
    }

    /// Rings the server's doorbell, whether it sleeps or not.
    pub fn ring_doorbell(&self) {
        self.doorbell.signal();
    }

    // --- memory ---

    /// Allocates shared memory, at least 64-byte aligned; asks the server for more if need be.
    ///
    /// # Errors
    ///
    /// [`HeapError`].
    #[inline]
    pub fn alloc(&self, len: u64, align: u64) -> Result<u64, HeapError> {
        self.heap.alloc(len, align)
    }

    /// Gives shared memory back.
    ///
    /// # Errors
    ///
    /// [`HeapError::NotAllocated`].
    #[inline]
    pub fn free(&self, address: u64) -> Result<(), HeapError> {
        self.heap.free(address)
    }

    /// Bytes of the allocated block that starts at `address`.
    #[must_use]
    pub fn size_of(&self, address: u64) -> Option<u64> {
        self.heap.size_of(address)
    }

    /// Start and bytes of the allocated block that holds `address`. Slow.
    #[must_use]
    pub fn block_of(&self, address: u64) -> Option<Region> {
        self.heap.block_of(address)
    }

    /// Figures about the heap.
    #[must_use]
    pub fn heap_stats(&self) -> HeapStats {
        self.heap.stats()
    }

    /// Copies bytes into shared memory.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`].
    #[inline]
    pub fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), OutOfRange> {
        self.segments.copy_in(address, from)
    }

    /// Copies bytes out of shared memory.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`].
    #[inline]
    pub fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        self.segments.copy_out(address, into)
    }

    /// A control word of the heap (a timeline word, say).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`].
    #[inline]
    pub fn heap_word(&self, address: u64) -> Result<&AtomicU32, OutOfRange> {
        self.segments.word(address)
    }

    // --- callbacks and output ---

    /// Requests of the server for the dispatcher thread.
    #[must_use]
    pub fn callbacks(&self) -> &CallbackReceiver {
        &self.callbacks
    }

    /// Text that device code printed.
    #[must_use]
    pub fn output(&self) -> &OutputReceiver {
        &self.output
    }

    /// Dispatcher thread: waits for a request or text. `stop` ends the wait too; wake it by
    /// [`Channel::wake_sleepers`].
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait_dispatch(
        &self,
        mut stop: impl FnMut() -> bool,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        let waited = self.wait_until(
            || self.callbacks.ready() || self.output.ready() || stop(),
            || self.callbacks.arm(),
            timeout,
        );
        self.callbacks.disarm();
        waited
    }

    /// Dispatcher thread: says that the request at `position` was run.
    pub fn acknowledge(&self, position: u64) {
        if self.callbacks.ack(position) {
            self.doorbell.signal();
        }
    }

    /// In a forked child: lets go of the parent's connection and event descriptors, so that the child neither keeps the
    /// parent's channel alive nor signals on it. Every wait ends with [`WaitError::PeerGone`] from then on. The memory is
    /// not there in a child; touching it faults.
    ///
    /// # Errors
    ///
    /// The system's error, out of descriptors as a rule.
    pub fn abandon_in_child(&self) -> io::Result<()> {
        let nothing = Event::new()?;
        self.gate.close();
        self.sleeper.socket.replace_by(&nothing)?;
        self.sleeper.wake.replace_by(&nothing)?;
        self.doorbell.replace_by(&nothing)
    }
}

impl Words for Channel {
    fn word_at(&self, address: u64) -> Option<u32> {
        // SYNC POINT (timeline), pairs with the device's or server's store: what the position stands for is visible.
        self.segments
            .word(address)
            .ok()
            .map(|word| word.load(Ordering::Acquire))
    }
}

/// Sleeps on the wake descriptor and the link.
#[derive(Debug)]
struct LinkSleeper {
    wake: Event,
    socket: Arc<Socket>,
}

impl LinkSleeper {
    /// Sleeps for a moment; whether the peer is gone.
    fn pause(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&*self.socket, PollFlags::RDHUP)];
        poll(&mut fds, Some(time)).is_ok_and(|ready| ready > 0)
    }
}

impl Sleeper for LinkSleeper {
    fn sleep(&self, timeout: Option<Duration>) -> Woken {
        // Answers on the socket belong to the thread that asked, so only its end is looked for.
        let mut fds = [
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::new(&*self.socket, PollFlags::RDHUP),
        ];
        match poll(&mut fds, timeout) {
            Ok(0) => Woken::TimedOut,
            Ok(_) if fds[1].revents().intersects(GONE) => Woken::PeerGone,
            Ok(_) => {
                self.wake.drain();
                Woken::Signalled
            }
            Err(_) => Woken::PeerGone,
        }
    }
}

/// Grows the heap by asking over the link.
#[derive(Debug)]
struct LinkGrow {
    socket: Arc<Socket>,
    segments: Arc<Segments>,
    next: Mutex<u32>,
}

impl LinkGrow {
    fn ask(&self, bytes: u64) -> Result<Region, ConnectError> {
        let mut next = lock(&self.next);
        let id = *next;
        *next = next.wrapping_add(1);
        self.socket.send(
            GrowRequest {
                magic: GROW_MAGIC,
                id,
                bytes,
            }
            .as_bytes(),
            &[],
        )?;
        loop {
            let (message, fds) = self
                .socket
                .receive_with_fds::<{ size_of::<GrowResponse>() }>(GROW_TIMEOUT)?;
            let response =
                GrowResponse::read_from_bytes(&message).map_err(|_| LinkError::Malformed)?;
            if response.magic != GROW_MAGIC {
                return Err(LinkError::Malformed.into());
            }
            let status = LinkStatus::from_word(response.status);
            let segment = match (status, <[_; 1]>::try_from(fds)) {
                (LinkStatus::Ok, Ok([fd])) => SegmentFd::receive(fd, response.len)?,
                (LinkStatus::Ok, Err(_)) => return Err(LinkError::Descriptors.into()),
                // An answer to a request that was given up on.
                _ if response.id != id => continue,
                _ => return Err(LinkError::Refused(status).into()),
            };
            // Mapped even when it is the late answer to an older request: the server has counted it in.
            let mapped = self.segments.append(response.address, &segment)?;
            if response.id == id {
                return Ok(Region {
                    address: mapped.address,
                    len: mapped.len,
                });
            }
        }
    }
}

impl Grow for LinkGrow {
    fn grow(&self, min_bytes: u64) -> Option<Region> {
        let least = min_bytes.checked_next_multiple_of(SEGMENT_ALIGN)?;
        // Before the server maps it: a segment that this side cannot follow with is the last.
        if !self.segments.has_room() {
            return None;
        }
        // A refused generous request may still be granted as a modest one.
        match self.ask(least.max(GROW_STEP)) {
            Ok(region) => Some(region),
            Err(ConnectError::Link(LinkError::Refused(LinkStatus::NoMemory)))
                if least < GROW_STEP =>
            {
                self.ask(least).ok()
            }
            Err(_) => None,
        }
    }
}
