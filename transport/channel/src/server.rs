//! The worker's side of a channel.
//!
//! [`Parts`] is what the privileged side makes for a client that said hello. [`Channel::open`] turns it into the
//! [`Channel`] that the worker's threads share and the [`Consumer`] that one of them reads commands from.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use zerocopy::{FromBytes, IntoBytes};

use crate::callback::{Callback, CallbackSender};
use crate::control::{
    ControlLayout, ControlRing, FEATURES, SERVER_STATE, STICKY_ERROR, ServerState,
};
use crate::link::event::{GONE, poll};
use crate::link::listener::refuse;
use crate::link::message::{GROW_MAGIC, GrowRequest, GrowResponse, MAJOR, MINOR, WELCOME_MAGIC};
use crate::link::{Accepted, Event, Fingerprint, Hello, LinkError, LinkStatus, Socket, Welcome};
use crate::output::OutputSender;
use crate::reply::{ReplyError, ReplySlot};
use crate::ring::{self, Corrupt, Record, RecordBuf};
use crate::segment::{HugePages, Memory, Segment, SegmentError, SegmentFd, Segments, Side};
use crate::shm::{OutOfRange, View};
use crate::staging::Words;
use crate::sync::{AtomicU32, Condvar, Mutex, Ordering, lock};
use crate::wait::{SpinBudget, WaitError};
use crate::window::{Reservation, Window};

/// How the memory of a channel is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Slots of the command ring; see [`ControlLayout::new`].
    pub ring_slots: u64,
    /// Bytes of the first heap segment, a multiple of 2 MiB.
    pub heap_bytes: u64,
    /// Whether to try huge pages.
    pub pages: HugePages,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ring_slots: ring::DEFAULT_SLOTS,
            heap_bytes: 32 << 20,
            pages: HugePages::Try,
        }
    }
}

/// Why a channel could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Memory could not be made or mapped.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A part of the control segment lies outside of it.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// The window held is not the client's.
    #[error("Address window {held} is held, but the client chose {chosen}")]
    Window {
        /// Index of the window that this process holds.
        held: u32,
        /// Index of the window that the client holds.
        chosen: u32,
    },
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The system refused.
    #[error("The system refused an event descriptor")]
    System(#[from] io::Error),
}

/// Everything a worker needs to serve one client; made by the privileged side.
#[derive(Debug)]
pub struct Parts<M = SegmentFd> {
    /// The connection.
    pub socket: Socket,
    /// The client's hello, checked.
    pub hello: Hello,
    /// The control segment's memory, zero.
    pub control: M,
    /// The first heap segment's memory, zero.
    pub heap: M,
    /// Client wakes server.
    pub doorbell: Event,
    /// Server wakes client.
    pub wake: Event,
    /// Layout of the control segment.
    pub layout: ControlLayout,
}

impl Parts {
    /// Makes memory and event descriptors for a client. On failure the client is told.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn create(accepted: Accepted, config: &Config) -> Result<Parts, SetupError> {
        let Accepted { socket, hello } = accepted;
        let made = (|| {
            let layout = ControlLayout::new(config.ring_slots);
            let control = SegmentFd::create(layout.size, config.pages)?;
            let heap = SegmentFd::create(config.heap_bytes, config.pages)?;
            Ok((layout, control, heap, Event::new()?, Event::new()?))
        })();
        match made {
            Ok((layout, control, heap, doorbell, wake)) => Ok(Parts {
                socket,
                hello,
                control,
                heap,
                doorbell,
                wake,
                layout,
            }),
            Err(error) => {
                let status = match error {
                    SetupError::Segment(SegmentError::NoMemory(_)) => LinkStatus::NoMemory,
                    _ => LinkStatus::Internal,
                };
                refuse(&socket, status);
                Err(error)
            }
        }
    }
}

/// What the client wants over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Another heap segment. Answer with [`Channel::grant`] or [`Channel::deny`].
    Grow(GrowRequest),
}

/// The worker's side of a channel; threads share it.
#[derive(Debug)]
pub struct Channel {
    segments: Arc<Segments>,
    control: View,
    layout: ControlLayout,
    control_segment: (Segment, Option<SegmentFd>),
    heap_segment: (Segment, Option<SegmentFd>),
    hello: Hello,
    socket: Socket,
    doorbell: Event,
    wake: Event,
    callbacks: CallbackSender,
    output: OutputSender,
    /// Moves whenever the doorbell rang, for threads that wait for an acknowledgement.
    rang: Mutex<u64>,
    ringing: Condvar,
    /// The feature flags; the word in shared memory is the client's to overwrite.
    features: Mutex<u32>,
}

impl Channel {
    /// Maps the parts inside the window held and writes the control header. The client waits until
    /// [`Channel::welcome`].
    ///
    /// # Errors
    ///
    /// [`SetupError`]; the client is told.
    pub fn open(
        parts: Parts<impl Into<Memory>>,
        reservation: Reservation,
    ) -> Result<(Arc<Channel>, Consumer), SetupError> {
        let (held, chosen) = (reservation.window().index, parts.hello.window);
        if held != chosen {
            refuse(&parts.socket, LinkStatus::Window);
            return Err(SetupError::Window { held, chosen });
        }
        Channel::open_in(parts, Segments::new(reservation, Side::Server))
    }

    pub(crate) fn open_in(
        parts: Parts<impl Into<Memory>>,
        segments: Arc<Segments>,
    ) -> Result<(Arc<Channel>, Consumer), SetupError> {
        let Parts {
            socket,
            hello,
            control,
            heap,
            doorbell,
            wake,
            layout,
        } = parts;
        let mapped = (|| {
            let control = segments.append_memory(segments.end(), control.into())?;
            let heap = segments.append_memory(segments.end(), heap.into())?;
            let view = segments.view(control.0.address, control.0.len)?;
            view.write(0, layout.header().as_bytes())?;
            let ring = ControlRing::new(&view, &layout, None)?;
            let callbacks = CallbackSender::new(&view, &layout)?;
            let output = OutputSender::new(&view, &layout)?;
            Ok((control, heap, view, ring, callbacks, output))
        })();
        let (control, heap, view, ring, callbacks, output) = match mapped {
            Ok(mapped) => mapped,
            Err(error) => {
                refuse(&socket, LinkStatus::Internal);
                return Err(error);
            }
        };
        let channel = Arc::new(Channel {
            segments,
            control: view,
            layout,
            control_segment: control,
            heap_segment: heap,
            hello,
            socket,
            doorbell,
            wake,
            callbacks,
            output,
            rang: Mutex::new(0),
            ringing: Condvar::new(),
            features: Mutex::new(0),
        });
        let consumer = Consumer {
            ring: ring::Consumer::new(ring),
            channel: Arc::clone(&channel),
        };
        Ok((channel, consumer))
    }

    /// Accepts the client: hands out memory, if it lies in memory files, and event descriptors. The snapshot must be written before.
    ///
    /// # Errors
    ///
    /// [`LinkError`], when the client is gone as a rule.
    pub fn welcome(&self, fingerprint: Fingerprint) -> Result<(), LinkError> {
        self.set_state(ServerState::Serving);
        let (control, control_fd) = &self.control_segment;
        let (heap, heap_fd) = &self.heap_segment;
        let welcome = Welcome {
            magic: WELCOME_MAGIC,
            status: LinkStatus::Ok as u32,
            window: self.segments.window().index,
            major: MAJOR,
            minor: MINOR,
            flags: 0,
            fingerprint,
            control_address: control.address,
            control_len: control.len,
            heap_address: heap.address,
            heap_len: heap.len,
        };
        let files = [control_fd, heap_fd].into_iter().flatten();
        let fds: Vec<_> = files
            .map(AsFd::as_fd)
            .chain([self.doorbell.as_fd(), self.wake.as_fd()])
            .collect();
        self.socket.send(welcome.as_bytes(), &fds)
    }

    /// Refuses the client instead of welcoming it.
    pub fn refuse(&self, status: LinkStatus) {
        refuse(&self.socket, status);
    }

    /// The client's hello.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
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

    /// The heap segments mapped so far (for registration with a driver).
    #[must_use]
    pub fn heap_segments(&self) -> Vec<Segment> {
        self.segments.list().into_iter().skip(1).collect()
    }

    // --- words for the client ---

    fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.control.u32(offset) {
            // SYNC POINT (words), pairs with the client's loads.
            word.store(value, Ordering::Release);
        }
    }

    /// Stores the error that every further call of the client ends with. The server does not read it back.
    pub fn set_sticky_error(&self, error: u32) {
        self.store(STICKY_ERROR, error);
    }

    /// Adds feature flags (see [`crate::control`]).
    pub fn add_features(&self, features: u32) {
        let mut all = lock(&self.features);
        *all |= features;
        self.store(FEATURES, *all);
    }

    /// Takes feature flags back. A client may act on them for a while longer, so both must be right then.
    pub fn remove_features(&self, features: u32) {
        let mut all = lock(&self.features);
        *all &= !features;
        self.store(FEATURES, *all);
    }

    /// Stores what the server is doing.
    pub fn set_state(&self, state: ServerState) {
        self.store(SERVER_STATE, state as u32);
    }

    /// Writes the snapshot, before the welcome.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] when it is longer than the area.
    pub fn write_snapshot(&self, bytes: &[u8]) -> Result<(), OutOfRange> {
        let area = self.layout.snapshot.of(&self.control)?;
        area.write(8, bytes)?;
        if let Some(len) = area.u64(0) {
            len.store(bytes.len() as u64, Ordering::Release);
        }
        Ok(())
    }

    // --- answers ---

    /// Answers in the reply slot at `address` and wakes the client if it sleeps.
    ///
    /// # Errors
    ///
    /// [`ReplyError`]: the client named no slot, or the payload is too long.
    #[inline]
    pub fn complete(
        &self,
        address: u64,
        sequence: u32,
        status: i32,
        payload: &[u8],
    ) -> Result<(), ReplyError> {
        if ReplySlot::at(&self.segments, address)?.complete(sequence, status, payload)? {
            self.wake.signal();
        }
        Ok(())
    }

    /// Latches the failure of a posted call in the reply slot at `address`.
    ///
    /// # Errors
    ///
    /// [`ReplyError::Address`].
    pub fn latch(&self, address: u64, error: u32) -> Result<(), ReplyError> {
        ReplySlot::at(&self.segments, address)?.latch(error);
        Ok(())
    }

    /// Makes [`Consumer::sleep`] return, as if the client had rung.
    pub fn wake_consumer(&self) {
        self.doorbell.signal();
    }

    /// Wakes every sleeping thread of the client.
    pub fn wake_client(&self) {
        self.wake.signal();
    }

    // --- memory ---

    /// Whether all of a range that the client named is mapped.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: u64, len: u64) -> bool {
        self.segments.contains(address, len)
    }

    /// Copies bytes into shared memory.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`].
    pub fn copy_in(&self, address: u64, from: &[u8]) -> Result<(), OutOfRange> {
        self.segments.copy_in(address, from)
    }

    /// Copies bytes out of shared memory, once.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`].
    pub fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        self.segments.copy_out(address, into)
    }

    /// A control word of the heap (a timeline word, say).
    ///
    /// # Errors
    ///
    /// [`OutOfRange`].
    pub fn heap_word(&self, address: u64) -> Result<&AtomicU32, OutOfRange> {
        self.segments.word(address)
    }

    // --- callbacks and output ---

    /// Asks the client's dispatcher to run a function; gives the position to wait for. `None` when 256 are outstanding.
    pub fn call_back(&self, callback: &Callback) -> Option<u64> {
        let (position, wake) = self.callbacks.try_push(callback)?;
        if wake {
            self.wake.signal();
        }
        Some(position)
    }

    /// Whether the request at `position` was run.
    #[must_use]
    pub fn acknowledged(&self, position: u64) -> bool {
        self.callbacks.acknowledged(position)
    }

    /// Waits until the request at `position` was run. Needs a thread that reads commands ([`Consumer::sleep`]) to hear
    /// of it at once; without one it looks every millisecond.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    pub fn wait_acknowledged(
        &self,
        position: u64,
        timeout: Option<Duration>,
    ) -> Result<(), WaitError> {
        let start = Instant::now();
        loop {
            let rang = lock(&self.rang);
            self.callbacks.want_ack();
            if self.acknowledged(position) {
                return Ok(());
            }
            if timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
                return Err(WaitError::TimedOut);
            }
            drop(self.ringing.wait_timeout(rang, Duration::from_millis(1)));
            if self.socket.is_gone() && !self.acknowledged(position) {
                return Err(WaitError::PeerGone);
            }
        }
    }

    /// Relays text that device code printed; what there is no room for is cut and counted.
    pub fn print(&self, text: &[u8]) {
        self.output.write_or_drop(text);
        if self.callbacks.must_wake() {
            self.wake.signal();
        }
    }

    /// The output ring, to relay text piecewise instead of cutting it.
    #[must_use]
    pub fn output(&self) -> &OutputSender {
        &self.output
    }

    // --- link ---

    /// The client's connection: readable when it wants something, hung up when it is gone.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the client is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.socket.is_gone()
    }

    /// Reads what the client wants. [`LinkError::TimedOut`] after `timeout`; any other error ends the channel.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub fn next_request(&self, timeout: Duration) -> Result<Request, LinkError> {
        let bytes: [u8; size_of::<GrowRequest>()] = self.socket.receive_plain(timeout)?;
        let request = GrowRequest::read_from_bytes(&bytes).map_err(|_| LinkError::Malformed)?;
        if request.magic != GROW_MAGIC {
            return Err(LinkError::Malformed);
        }
        Ok(Request::Grow(request))
    }

    /// Maps another heap segment and hands it to the client.
    ///
    /// # Errors
    ///
    /// [`SetupError`]; the client is told of a failed mapping.
    pub fn grant(&self, request: &GrowRequest, segment: &SegmentFd) -> Result<Segment, SetupError> {
        let mapped = match self.segments.append(self.segments.end(), segment) {
            Ok(mapped) => mapped,
            Err(error) => {
                self.deny(request, LinkStatus::NoMemory)?;
                return Err(error.into());
            }
        };
        self.answer(request, LinkStatus::Ok, mapped, &[segment.as_fd()])?;
        Ok(mapped)
    }

    /// Refuses another heap segment.
    ///
    /// # Errors
    ///
    /// [`LinkError`].
    pub fn deny(&self, request: &GrowRequest, status: LinkStatus) -> Result<(), LinkError> {
        self.answer(request, status, Segment { address: 0, len: 0 }, &[])
    }

    fn answer(
        &self,
        request: &GrowRequest,
        status: LinkStatus,
        segment: Segment,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        let response = GrowResponse {
            magic: GROW_MAGIC,
            id: request.id,
            status: status as u32,
            reserved: 0,
            address: segment.address,
            len: segment.len,
        };
        self.socket.send(response.as_bytes(), fds)
    }
}

impl Words for Channel {
    fn word_at(&self, address: u64) -> Option<u32> {
        self.segments
            .word(address)
            .ok()
            .map(|word| word.load(Ordering::Acquire))
    }
}

/// Why [`Consumer::sleep`] returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakeup {
    /// The doorbell rang, or a record was already there.
    pub doorbell: bool,
    /// The client wants something over the link ([`Channel::next_request`]).
    pub request: bool,
    /// The client is gone. Records may still be there to be read.
    pub gone: bool,
    /// The extra descriptor is readable or hung up.
    pub extra: bool,
}

/// The reading end of the command ring; one thread owns it.
#[derive(Debug)]
pub struct Consumer {
    ring: ring::Consumer<ControlRing>,
    channel: Arc<Channel>,
}

impl Consumer {
    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Copies the next record into `buf`; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]: the channel must be closed.
    #[inline]
    pub fn pop<'b>(&mut self, buf: &'b mut RecordBuf) -> Result<Option<Record<'b>>, Corrupt> {
        self.ring.pop(buf)
    }

    /// Whether a record is there.
    #[must_use]
    #[inline]
    pub fn ready(&self) -> bool {
        self.ring.ready()
    }

    /// Position of the next record.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.ring.position()
    }

    /// Spins for a record; whether there is one.
    #[inline]
    pub fn spin(&self, budget: &SpinBudget) -> bool {
        budget.spin(|| self.ready())
    }

    /// Sleeps until a record is there, the client wants something or is gone, `extra` is readable, or `timeout` is over.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn sleep(
        &self,
        extra: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<Wakeup> {
        if !self.ring.prepare_sleep() {
            return Ok(Wakeup {
                doorbell: true,
                ..Wakeup::default()
            });
        }
        let channel = &*self.channel;
        let link = PollFd::new(&channel.socket, PollFlags::IN | PollFlags::RDHUP);
        let bell = PollFd::new(&channel.doorbell, PollFlags::IN);
        let (mut two, mut three);
        let fds: &mut [PollFd<'_>] = match extra {
            None => {
                two = [bell, link];
                &mut two
            }
            Some(extra) => {
                three = [bell, link, PollFd::from_borrowed_fd(extra, PollFlags::IN)];
                &mut three
            }
        };
        let polled = poll(fds, timeout);
        self.ring.finish_sleep();
        polled?;
        let seen = |index: usize| fds.get(index).map_or(PollFlags::empty(), PollFd::revents);
        let doorbell = seen(0).intersects(PollFlags::IN);
        if doorbell {
            channel.doorbell.drain();
            let mut rang = lock(&channel.rang);
            *rang = rang.wrapping_add(1);
            drop(rang);
            channel.ringing.notify_all();
        }
        Ok(Wakeup {
            doorbell,
            request: seen(1).intersects(PollFlags::IN),
            gone: seen(1).intersects(GONE),
            extra: !seen(2).is_empty(),
        })
    }
}
