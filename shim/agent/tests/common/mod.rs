//! A host in memory: the device's side of the queues, and what the daemon would do.

#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vgpu_agent::device::{Device, DeviceError, Health, Interrupts};
use vgpu_agent::pages::{PageError, PageSource, Taken, merge};
use vgpu_agent::queue::Addresses;
use vgpu_channel::link::message::{
    GROW_MAGIC, GrowRequest, GrowResponse, Hello, MAJOR, MINOR, WELCOME_FDS, WELCOME_MAGIC, Welcome,
};
use vgpu_channel::link::virtio::*;
use vgpu_channel::link::{Answer, Event, LinkError, LinkStatus, Query, Socket};
use vgpu_channel::segment::{HugePages, SEGMENT_ALIGN, SegmentFd};
use vgpu_channel::shm::View;
use zerocopy::{FromBytes, IntoBytes};

pub const PAGE: u64 = SEGMENT_ALIGN;
pub const HEAP: u64 = 2 * PAGE;

/// What the host shall do unlike a good one.
#[derive(Default)]
pub struct Plan {
    pub refuse_hello: Option<LinkStatus>,
    pub refuse_open: Option<LinkStatus>,
    pub refuse_grow: Option<LinkStatus>,
    pub hold_open: bool,
    pub hold_close: bool,
    /// It is older than questions.
    pub no_questions: bool,
    /// It does not answer them.
    pub hold_questions: bool,
    /// Nothing answers behind the device.
    pub away: bool,
    pub max_channels: Option<u32>,
    pub version: Option<u16>,
}

#[derive(Default)]
struct Inner {
    log: Mutex<Vec<String>>,
    file: Mutex<Option<File>>,
    pages: Mutex<BTreeMap<u64, View>>,
    bell: (Mutex<bool>, Condvar),
    plan: Mutex<Plan>,
    health: AtomicU8,
    stop: AtomicBool,
    notices: Mutex<VecDeque<Notice>>,
}

/// The host, as a test sees it.
#[derive(Clone, Default)]
pub struct Host(Arc<Inner>);

impl Host {
    pub fn logging_to(path: &Path) -> Host {
        let host = Host::default();
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        *host.0.file.lock().unwrap() = Some(file);
        host
    }

    pub fn note(&self, line: impl Into<String>) {
        let line = line.into();
        if let Some(file) = &mut *self.0.file.lock().unwrap() {
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        self.0.log.lock().unwrap().push(line);
    }

    pub fn log(&self) -> Vec<String> {
        self.0.log.lock().unwrap().clone()
    }

    /// Waits until `count` lines begin with `start`.
    pub fn expect(&self, start: &str, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let log = self.log();
            let seen = log.iter().filter(|line| line.starts_with(start)).count();
            if seen >= count {
                return;
            }
            assert!(Instant::now() < deadline, "{count} × {start}: {log:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn count(&self, start: &str) -> usize {
        let log = self.log();
        log.iter().filter(|line| line.starts_with(start)).count()
    }

    pub fn plan(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.0.plan.lock().unwrap());
        self.ring();
    }

    pub fn notice(&self, kind: u32, channel: u64) {
        self.0.notices.lock().unwrap().push_back(Notice {
            kind,
            reserved: 0,
            channel,
        });
        self.ring();
    }

    /// The device asks for a reset, as when its backend goes.
    pub fn fail(&self) {
        self.0.health.store(1, Ordering::SeqCst);
    }

    pub fn remove(&self) {
        self.0.health.store(2, Ordering::SeqCst);
    }

    fn ring(&self) {
        *self.0.bell.0.lock().unwrap() = true;
        self.0.bell.1.notify_all();
    }

    /// The memory at a guest-physical address, within one page.
    fn memory(&self, address: u64, len: u64) -> View {
        let pages = self.0.pages.lock().unwrap();
        let (&base, view) = pages.range(..=address).next_back().expect("mapped");
        view.slice((address - base) as usize, len as usize)
            .expect("within a page")
    }

    /// Makes the pages of a segment known by their addresses.
    pub fn learn(&self, taken: &Taken) {
        let view = taken.segment.map().unwrap();
        let mut offset = 0;
        let mut pages = self.0.pages.lock().unwrap();
        for piece in &taken.pieces {
            for page in 0..piece.len / PAGE {
                let part = view.slice(offset as usize, PAGE as usize).unwrap();
                pages.insert(piece.address + page * PAGE, part);
                offset += PAGE;
            }
        }
    }

    pub fn forget(&self, taken: &Taken) {
        let mut pages = self.0.pages.lock().unwrap();
        for piece in &taken.pieces {
            for page in 0..piece.len / PAGE {
                pages.remove(&(piece.address + page * PAGE));
            }
        }
    }
}

/// Ordinary pages with made-up addresses, in an order that is none.
pub struct FakePages {
    pub host: Host,
    pub left: u64,
    next: u64,
}

impl FakePages {
    pub fn new(host: &Host) -> FakePages {
        FakePages {
            host: host.clone(),
            left: u64::MAX,
            next: 1,
        }
    }
}

/// A segment of ordinary pages with made-up addresses.
pub fn fake_segment(id: u64, len: u64) -> Taken {
    placed(id, SegmentFd::create(len, HugePages::Never).unwrap())
}

/// Made-up addresses for a segment.
pub fn placed(id: u64, segment: SegmentFd) -> Taken {
    let count = segment.size() / PAGE;
    // Backwards, so that none is the next one's neighbour, but for the last two.
    let mut pages: Vec<u64> = (0..count).rev().map(|page| id * 4096 + page).collect();
    let last = pages.len();
    if last > 2 {
        pages.swap(last - 1, last - 2);
    }
    let pages: Vec<u64> = pages.into_iter().map(|page| page * PAGE).collect();
    Taken {
        id,
        segment,
        pieces: merge(&pages),
    }
}

impl PageSource for FakePages {
    fn inherit(&mut self, _: u64) -> Result<Option<Taken>, PageError> {
        Ok(None)
    }

    fn take(&mut self, len: u64) -> Result<Taken, PageError> {
        if len > self.left {
            return Err(PageError::Pool(len));
        }
        let taken = fake_segment(self.next, len);
        self.next += 1;
        self.host.learn(&taken);
        self.host.note(format!("took {}", taken.id));
        Ok(taken)
    }

    fn give_back(&mut self, taken: Taken) {
        self.host.forget(&taken);
        self.host.note(format!("gave {}", taken.id));
    }

    fn settled(&mut self) {
        self.host.note("settled");
    }
}

/// The device.
pub struct FakeDevice {
    host: Host,
    interrupts: Option<Interrupts>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDevice {
    pub fn new(host: &Host, interrupts: bool) -> FakeDevice {
        FakeDevice {
            host: host.clone(),
            interrupts: interrupts.then(|| Interrupts {
                queues: Event::new().unwrap(),
                config: Event::new().unwrap(),
                shared: false,
            }),
            thread: None,
        }
    }
}

impl Device for FakeDevice {
    fn config(&self) -> Result<DeviceConfig, DeviceError> {
        let plan = self.host.0.plan.lock().unwrap();
        Ok(DeviceConfig {
            magic: if plan.away { 0 } else { CONFIG_MAGIC },
            major: plan.version.unwrap_or(MAJOR),
            minor: MINOR,
            flags: 0,
            max_channels: 8,
            ring_slots: 2048,
            max_channel_bytes: 64 * PAGE,
            fingerprint: 1,
            reserved: [0; 3],
        })
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        if self.health() == Health::Gone {
            return Err(DeviceError::Gone);
        }
        self.host.0.stop.store(true, Ordering::SeqCst);
        self.host.ring();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.host.0.health.store(0, Ordering::SeqCst);
        self.host.note("reset");
        Ok(())
    }

    fn negotiate(&mut self) -> Result<[u16; QUEUES], DeviceError> {
        Ok([QUEUE_SIZE; QUEUES])
    }

    fn start(&mut self, queues: &[Addresses; QUEUES]) -> Result<(), DeviceError> {
        self.host.0.stop.store(false, Ordering::SeqCst);
        let interrupt = self
            .interrupts
            .as_ref()
            .map(|interrupts| interrupts.queues.try_clone().unwrap());
        let mut side = Side {
            host: self.host.clone(),
            control: DeviceQueue::new(&self.host, queues[CONTROL_QUEUE]),
            doorbell: DeviceQueue::new(&self.host, queues[DOORBELL_QUEUE]),
            posted: VecDeque::new(),
            held: Vec::new(),
            ends: BTreeMap::new(),
            interrupt,
        };
        self.thread = Some(std::thread::spawn(move || side.run()));
        Ok(())
    }

    fn health(&self) -> Health {
        match self.host.0.health.load(Ordering::SeqCst) {
            0 => Health::Working,
            1 => Health::NeedsReset,
            _ => Health::Gone,
        }
    }

    fn notify(&self, _: usize) {
        self.host.ring();
    }

    fn interrupts(&self) -> Option<&Interrupts> {
        self.interrupts.as_ref()
    }
}

impl Drop for FakeDevice {
    fn drop(&mut self) {
        self.host.0.stop.store(true, Ordering::SeqCst);
        self.host.ring();
    }
}

/// The device's end of a queue.
struct DeviceQueue {
    at: Addresses,
    table: View,
    available: View,
    used_ring: View,
    seen: u16,
    used: u16,
}

/// A chain: its head, what can be read, where to write.
struct Chain {
    head: u16,
    readable: Vec<u8>,
    writable: Option<View>,
}

impl DeviceQueue {
    fn new(host: &Host, at: Addresses) -> DeviceQueue {
        let size = u64::from(at.size);
        DeviceQueue {
            at,
            table: host.memory(at.descriptors, 16 * size),
            available: host.memory(at.available, 4 + 2 * size),
            used_ring: host.memory(at.used, 4 + 8 * size),
            seen: 0,
            used: 0,
        }
    }

    fn pop(&mut self, host: &Host) -> Option<Chain> {
        let index = (self.available.u32(0).unwrap().load(Ordering::Acquire) >> 16) as u16;
        if index == self.seen {
            return None;
        }
        let mut head = [0; 2];
        let slot = usize::from(self.seen % self.at.size);
        self.available.read(4 + 2 * slot, &mut head).unwrap();
        self.seen = self.seen.wrapping_add(1);
        let head = u16::from_le_bytes(head);
        let mut chain = Chain {
            head,
            readable: Vec::new(),
            writable: None,
        };
        let mut next = Some(head);
        while let Some(at) = next {
            let mut bytes = [0; 16];
            self.table.read(16 * usize::from(at), &mut bytes).unwrap();
            let address = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes(bytes[12..14].try_into().unwrap());
            let view = host.memory(address, len.into());
            if flags & 2 != 0 {
                chain.writable = Some(view);
            } else {
                let mut part = vec![0; len as usize];
                view.read(0, &mut part).unwrap();
                chain.readable.extend(part);
            }
            next = (flags & 1 != 0).then(|| u16::from_le_bytes(bytes[14..16].try_into().unwrap()));
        }
        Some(chain)
    }

    /// Gives a chain back; whether the driver wants an interrupt.
    fn push(&mut self, chain: &Chain, answer: &[u8]) -> bool {
        if let Some(writable) = &chain.writable {
            writable.write(0, answer).unwrap();
        }
        let slot = 4 + 8 * usize::from(self.used % self.at.size);
        let head = u32::from(chain.head).to_le_bytes();
        self.used_ring.write(slot, &head).unwrap();
        let written = (answer.len() as u32).to_le_bytes();
        self.used_ring.write(slot + 4, &written).unwrap();
        self.used = self.used.wrapping_add(1);
        let word = u32::from(self.used) << 16;
        self.used_ring
            .u32(0)
            .unwrap()
            .store(word, Ordering::Release);
        fence(Ordering::SeqCst);
        self.available.u32(0).unwrap().load(Ordering::Relaxed) & 1 == 0
    }
}

/// The daemon's side.
struct Side {
    host: Host,
    control: DeviceQueue,
    doorbell: DeviceQueue,
    posted: VecDeque<Chain>,
    held: Vec<(Request, Chain, Vec<u8>)>,
    /// Where the next segment of each channel goes.
    ends: BTreeMap<u64, u64>,
    interrupt: Option<Event>,
}

impl Side {
    fn run(&mut self) {
        while !self.host.0.stop.load(Ordering::SeqCst) {
            self.turn();
            let (lock, condition) = &self.host.0.bell;
            let mut rung = lock.lock().unwrap();
            if !*rung {
                let wait = condition.wait_timeout(rung, Duration::from_millis(20));
                rung = wait.unwrap().0;
            }
            *rung = false;
        }
    }

    fn interrupt(&self, wanted: bool) {
        match &self.interrupt {
            Some(event) => {
                if wanted {
                    event.signal();
                }
            }
            None => assert!(!wanted, "a driver without interrupts must not want any"),
        }
    }

    fn turn(&mut self) {
        while let Some(chain) = self.control.pop(&self.host) {
            self.request(chain);
        }
        self.release();
        while let Some(chain) = self.doorbell.pop(&self.host) {
            if chain.writable.is_some() {
                self.posted.push_back(chain);
                continue;
            }
            let ring = Ring::read_from_bytes(&chain.readable).unwrap();
            self.host.note(format!("ring {}", ring.channel));
            let wanted = self.doorbell.push(&chain, &[]);
            self.interrupt(wanted);
        }
        loop {
            let mut notices = self.host.0.notices.lock().unwrap();
            if notices.is_empty() {
                return;
            }
            let Some(chain) = self.posted.pop_front() else {
                return;
            };
            let Some(notice) = notices.pop_front() else {
                return;
            };
            drop(notices);
            let wanted = self.doorbell.push(&chain, notice.as_bytes());
            self.interrupt(wanted);
        }
    }

    fn request(&mut self, chain: Chain) {
        let (request, rest) = Request::read_from_prefix(&chain.readable).unwrap();
        let rest = rest.to_vec();
        let plan = self.host.0.plan.lock().unwrap();
        let hold = match request.kind {
            KIND_OPEN => plan.hold_open,
            KIND_CLOSE => plan.hold_close,
            _ => false,
        };
        drop(plan);
        if hold {
            self.host.note(format!("held {}", request.channel));
            self.held.push((request, chain, rest));
        } else {
            self.answer(request, &chain, &rest);
        }
    }

    fn release(&mut self) {
        let plan = self.host.0.plan.lock().unwrap();
        let (open, close) = (plan.hold_open, plan.hold_close);
        drop(plan);
        for (request, chain, rest) in std::mem::take(&mut self.held) {
            let hold = if request.kind == KIND_OPEN {
                open
            } else {
                close
            };
            if hold {
                self.held.push((request, chain, rest));
            } else {
                self.answer(request, &chain, &rest);
            }
        }
    }

    fn pieces(bytes: &[u8]) -> Vec<Piece> {
        bytes
            .chunks_exact(16)
            .map(|bytes| Piece::read_from_bytes(bytes).unwrap())
            .collect()
    }

    /// Checks the pieces, and writes into each page what a program can find there.
    fn mark(&self, channel: u64, pieces: &[Piece]) -> u64 {
        let mut page = 0_u64;
        for piece in pieces {
            assert!(piece.address.is_multiple_of(PAGE) && piece.len.is_multiple_of(PAGE));
            for index in 0..piece.len / PAGE {
                let view = self.host.memory(piece.address + index * PAGE, PAGE);
                let word = view.u64(PAGE as usize - 8).unwrap();
                assert_eq!(word.load(Ordering::Relaxed), 0, "pages are zero");
                word.store(channel << 32 | page, Ordering::Relaxed);
                page += 1;
            }
        }
        page * PAGE
    }

    fn answer(&mut self, request: Request, chain: &Chain, rest: &[u8]) {
        let plan = self.host.0.plan.lock().unwrap();
        let (hello, open, grow, most) = (
            plan.refuse_hello,
            plan.refuse_open,
            plan.refuse_grow,
            plan.max_channels,
        );
        let plan_questions = (plan.no_questions, plan.hold_questions);
        drop(plan);
        let number = request.channel;
        let answer = match request.kind {
            KIND_HELLO => {
                let session = SessionHello::read_from_bytes(rest).unwrap();
                assert_ne!(session.session, 0);
                self.host.note(format!("hello {:x}", session.session));
                SessionWelcome {
                    status: hello.unwrap_or(LinkStatus::Ok) as u32,
                    max_channels: most.unwrap_or(8),
                    major: MAJOR,
                    minor: MINOR,
                    flags: 0,
                }
                .as_bytes()
                .to_vec()
            }
            KIND_OPEN => {
                let (asked, lists) = Open::read_from_prefix(rest).unwrap();
                let lists = Self::pieces(lists);
                let (control, heap) = lists.split_at(asked.control_pieces as usize);
                assert_eq!(heap.len(), asked.heap_pieces as usize);
                assert_ne!(asked.hello.session, 0);
                if let Some(status) = open {
                    self.host.note(format!("refused {number}"));
                    let closed = Closed {
                        status: status as u32,
                        reserved: 0,
                    };
                    let wanted = self.control.push(chain, closed.as_bytes());
                    return self.interrupt(wanted);
                }
                let control_len = self.mark(number, control);
                let heap_len = self.mark(number, heap);
                let start = vgpu_channel::window::Window::by_index(asked.hello.window)
                    .unwrap()
                    .high;
                self.ends.insert(number, start + control_len + heap_len);
                self.host.note(format!("open {number} user {}", asked.user));
                Welcome {
                    magic: WELCOME_MAGIC,
                    status: 0,
                    window: asked.hello.window,
                    major: MAJOR,
                    minor: MINOR,
                    flags: 0,
                    fingerprint: 1,
                    control_address: start,
                    control_len,
                    heap_address: start + control_len,
                    heap_len,
                }
                .as_bytes()
                .to_vec()
            }
            KIND_GROW => {
                let (asked, list) = Grow::read_from_prefix(rest).unwrap();
                let list = Self::pieces(list);
                assert_eq!(list.len(), asked.pieces as usize);
                let end = self.ends.get_mut(&number).unwrap();
                let address = *end;
                let status = grow.unwrap_or(LinkStatus::Ok);
                let mut len = 0;
                if status == LinkStatus::Ok {
                    len = list.iter().map(|piece| piece.len).sum();
                    *end += len;
                    self.mark(number, &list);
                }
                self.host.note(format!("grow {number}"));
                GrowResponse {
                    magic: GROW_MAGIC,
                    id: asked.id,
                    status: status as u32,
                    reserved: 0,
                    address,
                    len,
                }
                .as_bytes()
                .to_vec()
            }
            KIND_CLOSE => {
                self.ends.remove(&number);
                self.host.note(format!("close {number}"));
                Closed {
                    status: 0,
                    reserved: 0,
                }
                .as_bytes()
                .to_vec()
            }
            KIND_QUERY if plan_questions.0 => Closed {
                status: LinkStatus::Malformed as u32,
                reserved: 0,
            }
            .as_bytes()
            .to_vec(),
            KIND_QUERY => {
                let query = Query::read_from_bytes(rest).unwrap();
                self.host.note("asked");
                if plan_questions.1 {
                    return;
                }
                let body = [query.user.to_le_bytes(), query.process.to_le_bytes()].concat();
                Answer::new(query.kind, LinkStatus::Ok, &body)
                    .as_bytes()
                    .to_vec()
            }
            other => panic!("request {other}"),
        };
        let wanted = self.control.push(chain, &answer);
        self.interrupt(wanted);
    }
}

/// A program with its channel.
pub struct Program {
    pub socket: Socket,
    pub welcome: Welcome,
    pub control: SegmentFd,
    pub heap: SegmentFd,
    pub doorbell: Event,
    pub wake: Event,
}

pub fn hello() -> Hello {
    let mut hello = Hello::new(0, 1);
    hello.set("CUDA_VISIBLE_DEVICES", "0").unwrap();
    hello
}

pub const WAIT: Duration = Duration::from_secs(10);

/// Connects and says hello; the welcome, whatever it says.
pub fn greet(path: &Path) -> Result<(Socket, Welcome, Vec<OwnedFd>), LinkError> {
    let socket = Socket::connect(path, WAIT)?;
    socket.send(hello().as_bytes(), &[])?;
    let (bytes, fds) = socket.receive_with_fds::<64>(WAIT)?;
    Ok((socket, Welcome::read_from_bytes(&bytes).unwrap(), fds))
}

/// Checks that a segment's pages are those that the host marked, in order.
pub fn check_marks(segment: &SegmentFd, channel: u64) {
    let view = segment.map().unwrap();
    for page in 0..segment.size() / PAGE {
        let word = view.u64(((page + 1) * PAGE - 8) as usize).unwrap();
        assert_eq!(
            word.load(Ordering::Relaxed),
            channel << 32 | page,
            "page {page}"
        );
    }
}

impl Program {
    pub fn start(path: &Path) -> Program {
        let (socket, welcome, fds) = greet(path).unwrap();
        Program::welcomed(socket, welcome, fds)
    }

    pub fn welcomed(socket: Socket, welcome: Welcome, fds: Vec<OwnedFd>) -> Program {
        assert_eq!(LinkStatus::from_word(welcome.status), LinkStatus::Ok);
        let fds: [OwnedFd; WELCOME_FDS] = fds.try_into().unwrap();
        let [control, heap, doorbell, wake] = fds;
        Program {
            control: SegmentFd::receive(control, welcome.control_len).unwrap(),
            heap: SegmentFd::receive(heap, welcome.heap_len).unwrap(),
            doorbell: Event::from_fd(doorbell),
            wake: Event::from_fd(wake),
            socket,
            welcome,
        }
    }

    pub fn grow(&self, id: u32, bytes: u64) -> (GrowResponse, Vec<OwnedFd>) {
        let request = GrowRequest {
            magic: GROW_MAGIC,
            id,
            bytes,
        };
        self.socket.send(request.as_bytes(), &[]).unwrap();
        let (bytes, fds) = self.socket.receive_with_fds::<32>(WAIT).unwrap();
        (GrowResponse::read_from_bytes(&bytes).unwrap(), fds)
    }

    /// Waits for the connection's end.
    pub fn expect_end(&self) {
        let got = self.socket.receive_plain::<32>(WAIT);
        assert!(matches!(got, Err(LinkError::Closed)), "{got:?}");
    }

    pub fn expect_wake(&self) {
        let deadline = Instant::now() + WAIT;
        while !self.wake.drain() {
            assert!(Instant::now() < deadline, "no wake-up");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
