//! A virtual machine without a processor: its RAM is memory files of this process, its virtual machine monitor is the `vhost`
//! crate's front-end, and its driver is this file, which fills the queues by hand as the agent in a guest does.

use super::{Client, LONG, until};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vgpu_channel::client::Channel;
use vgpu_channel::control::ControlLayout;
use vgpu_channel::link::message::{GrowRequest, GrowResponse, Hello, LinkStatus, Welcome};
use vgpu_channel::link::virtio::*;
use vgpu_channel::link::{Event, Socket};
use vgpu_channel::segment::{
    FilePiece, HugePages, Pieces, SEGMENT_ALIGN, SegmentFd, Segments, Side,
};
use vgpu_channel::window::Reservation;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap,
    MmapRegion,
};
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// One huge page.
pub const PAGE: u64 = SEGMENT_ALIGN;
/// Entries of both queues.
const ENTRIES: u16 = 64;
/// Bytes for each direction of one chain.
const BUFFER: u64 = 128 << 10;
/// Chains offered for notices.
const NOTICES: u16 = 8;
/// Where RAM above the hole begins.
pub const HIGH: u64 = 4 << 30;
/// Where more RAM is plugged in.
pub const DIMM: u64 = 8 << 30;
const LOW_PAGES: u64 = 32;
const HIGH_PAGES: u64 = 192;
const DIMM_PAGES: u64 = 16;

fn ram(pages: u64) -> File {
    let fd = memfd_create("guest-ram", MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.set_len(pages * PAGE).unwrap();
    file
}

fn region(address: u64, pages: u64, file: &File, offset: u64) -> Arc<GuestRegionMmap> {
    let file = FileOffset::new(file.try_clone().unwrap(), offset * PAGE);
    let map = MmapRegion::from_file(file, (pages * PAGE) as usize).unwrap();
    Arc::new(GuestRegionMmap::new(map, GuestAddress(address)).unwrap())
}

/// The driver's side of a queue. Chain `n` is descriptor `2 n` for what the device reads and `2 n + 1` for what it writes.
struct Queue {
    index: usize,
    base: u64,
    buffers: u64,
    available: u16,
    used: u16,
    free: Vec<u16>,
    kick: EventFd,
    call: EventFd,
}

impl Queue {
    fn new(index: usize) -> Queue {
        Queue {
            index,
            base: index as u64 * PAGE,
            buffers: (2 + 8 * index as u64) * PAGE,
            available: 0,
            used: 0,
            free: (0..ENTRIES / 2).collect(),
            kick: EventFd::new(0).unwrap(),
            call: EventFd::new(0).unwrap(),
        }
    }

    fn descriptors(&self) -> u64 {
        self.base
    }

    fn available_ring(&self) -> u64 {
        self.base + 0x1_0000
    }

    fn used_ring(&self) -> u64 {
        self.base + 0x2_0000
    }

    fn readable(&self, chain: u16) -> u64 {
        self.buffers + u64::from(chain) * 2 * BUFFER
    }

    fn writable(&self, chain: u16) -> u64 {
        self.readable(chain) + BUFFER
    }

    fn put(&mut self, memory: &GuestMemoryMmap, bytes: &[u8], room: u32) -> u16 {
        let chain = self.free.pop().expect("a free chain");
        memory
            .write_slice(bytes, GuestAddress(self.readable(chain)))
            .unwrap();
        let (first, second) = (2 * chain, 2 * chain + 1);
        let descriptor = |at: u16, address: u64, len: u32, flags: u16, next: u16| {
            let place = GuestAddress(self.descriptors() + u64::from(at) * 16);
            let mut raw = [0; 16];
            raw[..8].copy_from_slice(&address.to_le_bytes());
            raw[8..12].copy_from_slice(&len.to_le_bytes());
            raw[12..14].copy_from_slice(&flags.to_le_bytes());
            raw[14..].copy_from_slice(&next.to_le_bytes());
            memory.write_slice(&raw, place).unwrap();
        };
        let chained = u16::from(room > 0);
        descriptor(
            first,
            self.readable(chain),
            bytes.len() as u32,
            chained,
            second,
        );
        descriptor(second, self.writable(chain), room, 2, 0);
        let head = if bytes.is_empty() { second } else { first };
        let slot = self.available_ring() + 4 + u64::from(self.available % ENTRIES) * 2;
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        let index = GuestAddress(self.available_ring() + 2);
        memory
            .store(self.available, index, Ordering::Release)
            .unwrap();
        self.kick.write(1).unwrap();
        chain
    }

    /// What came back: chain and bytes.
    fn take(&mut self, memory: &GuestMemoryMmap) -> Option<(u16, Vec<u8>)> {
        let index: u16 = memory
            .load(GuestAddress(self.used_ring() + 2), Ordering::Acquire)
            .unwrap();
        if index == self.used {
            return None;
        }
        let entry = self.used_ring() + 4 + u64::from(self.used % ENTRIES) * 8;
        self.used = self.used.wrapping_add(1);
        let head: u32 = memory.read_obj(GuestAddress(entry)).unwrap();
        let len: u32 = memory.read_obj(GuestAddress(entry + 4)).unwrap();
        let chain = head as u16 / 2;
        let mut bytes = vec![0; len as usize];
        memory
            .read_slice(&mut bytes, GuestAddress(self.writable(chain)))
            .unwrap();
        assert!(!self.free.contains(&chain), "chain {chain} came back twice");
        self.free.push(chain);
        Some((chain, bytes))
    }
}

/// A process of the guest, as its agent sees it.
struct Process {
    socket: Socket,
    doorbell: Event,
    wake: Event,
    segments: Arc<Segments>,
}

/// What the guest's driver knows. A thread moves what is in the queues.
pub struct Inner {
    front: Option<Frontend>,
    regions: Vec<Arc<GuestRegionMmap>>,
    memory: GuestMemoryMmap,
    queues: [Queue; QUEUES],
    answers: HashMap<u16, Vec<u8>>,
    processes: BTreeMap<u64, Process>,
    /// Growths on their way: chain, channel and pieces.
    growths: Vec<(u16, u64, Vec<Piece>)>,
    /// Notices seen: kind and channel.
    pub notices: Vec<(u32, u64)>,
    /// Chains for notices that came back empty.
    pub empty: usize,
    /// Whether chains for notices are kept back instead of being offered again.
    pub silent: bool,
    /// Pages of 2 MiB that nobody has.
    pub free: Vec<u64>,
    bases: [u16; QUEUES],
    paused: bool,
    pub session: u64,
    next: u64,
    files: Arc<[OwnedFd]>,
    dimm: File,
    event_idx: bool,
}

/// The machine.
pub struct Guest {
    inner: Arc<Mutex<Inner>>,
    ending: Arc<AtomicBool>,
    mover: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        let _ = self.mover.take().map(std::thread::JoinHandle::join);
    }
}

impl Guest {
    /// A machine that is connected and whose queues run.
    pub fn boot(socket: &Path) -> Guest {
        let low = ram(LOW_PAGES + HIGH_PAGES);
        let regions = vec![
            region(0, LOW_PAGES, &low, 0),
            region(HIGH, HIGH_PAGES, &low, LOW_PAGES),
        ];
        let memory = GuestMemoryMmap::from_arc_regions(regions.clone()).unwrap();
        // No two pages that follow each other lie beside each other.
        let free = (0..HIGH_PAGES).map(|n| HIGH + n * 73 % HIGH_PAGES * PAGE);
        let inner = Inner {
            front: None,
            regions,
            memory,
            queues: [Queue::new(CONTROL_QUEUE), Queue::new(DOORBELL_QUEUE)],
            answers: HashMap::new(),
            processes: BTreeMap::new(),
            growths: Vec::new(),
            notices: Vec::new(),
            empty: 0,
            silent: false,
            free: free.collect(),
            bases: [0; QUEUES],
            paused: true,
            session: 1,
            next: 1,
            files: [OwnedFd::from(low)].into(),
            dimm: ram(DIMM_PAGES),
            event_idx: false,
        };
        let guest = Guest {
            inner: Arc::new(Mutex::new(inner)),
            ending: Arc::default(),
            mover: None,
        };
        guest.connect(socket);
        guest.start();
        guest.with_mover()
    }

    fn with_mover(mut self) -> Guest {
        let (inner, ending) = (Arc::clone(&self.inner), Arc::clone(&self.ending));
        self.mover = Some(std::thread::spawn(move || {
            while !ending.load(Ordering::Acquire) {
                inner.lock().unwrap_or_else(PoisonError::into_inner).turn();
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
        self
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects the front-end and tells it of the RAM.
    pub fn connect(&self, socket: &Path) {
        let mut front = None;
        until(|| {
            front = Frontend::connect(socket, QUEUES as u64).ok();
            front.is_some()
        });
        let mut front = front.unwrap();
        let mut inner = self.lock();
        front.set_owner().unwrap();
        let features = front.get_features().unwrap();
        assert_ne!(features & (1 << 32), 0);
        let wanted = if inner.event_idx {
            u64::MAX
        } else {
            !(1 << 29)
        };
        front.set_features(features & wanted).unwrap();
        let protocol = front.get_protocol_features().unwrap();
        assert!(
            protocol.contains(
                VhostUserProtocolFeatures::RESET_DEVICE | VhostUserProtocolFeatures::CONFIG
            )
        );
        front.set_protocol_features(protocol).unwrap();
        front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(front.get_queue_num().unwrap(), QUEUES as u64);
        inner.front = Some(front);
        inner.set_memory();
    }

    /// Goes on with positions as notifications, from the next connection on.
    pub fn use_event_idx(&self) {
        self.lock().event_idx = true;
    }

    /// The configuration space.
    pub fn config(&self) -> DeviceConfig {
        let mut inner = self.lock();
        let (_, bytes) = inner
            .front
            .as_mut()
            .unwrap()
            .get_config(0, 64, VhostUserConfigFlags::WRITABLE, &[0; 64])
            .unwrap();
        DeviceConfig::read_from_bytes(&bytes).unwrap()
    }

    /// Starts the queues where they stopped.
    pub fn start(&self) {
        self.lock().start();
    }

    /// Stops the queues, as a monitor does to pause the machine. Gives where they stopped.
    pub fn stop(&self) -> [u16; QUEUES] {
        self.lock().stop()
    }

    /// What a guest that reboots does: queues that begin anew.
    pub fn forget_queues(&self) {
        self.lock().forget_queues();
    }

    /// Resets the device.
    pub fn reset(&self) {
        self.lock().front.as_mut().unwrap().reset_device().unwrap();
    }

    /// The front-end hangs up.
    pub fn disconnect(&self) {
        let mut inner = self.lock();
        inner.front = None;
        inner.paused = true;
    }

    /// Plugs more RAM in; gives its pages.
    pub fn plug(&self) -> Vec<u64> {
        let mut inner = self.lock();
        let added = region(DIMM, DIMM_PAGES, &inner.dimm, 0);
        let info = VhostUserMemoryRegionInfo::from_guest_region(&added).unwrap();
        inner.regions.push(added);
        inner.front.as_mut().unwrap().add_mem_region(&info).unwrap();
        (0..DIMM_PAGES).map(|n| DIMM + n * PAGE).collect()
    }

    /// Takes that RAM out again; `whole` sends the new table as a whole.
    pub fn unplug(&self, whole: bool) {
        let mut inner = self.lock();
        let gone = inner.regions.pop().unwrap();
        if whole {
            return inner.set_memory();
        }
        let info = VhostUserMemoryRegionInfo::from_guest_region(&gone).unwrap();
        inner
            .front
            .as_mut()
            .unwrap()
            .remove_mem_region(&info)
            .unwrap();
    }

    /// Sends a request and waits for what comes back.
    pub fn ask(&self, request: &[u8], room: usize) -> Vec<u8> {
        let chain = self.send(request, room);
        self.answer(chain)
    }

    /// Sends a request.
    pub fn send(&self, request: &[u8], room: usize) -> u16 {
        self.lock().control(request, room)
    }

    /// Waits for an answer.
    pub fn answer(&self, chain: u16) -> Vec<u8> {
        let mut answer = None;
        until(|| {
            answer = self.lock().answers.remove(&chain);
            answer.is_some()
        });
        answer.unwrap()
    }

    /// A session begins; its status.
    pub fn hello(&self, session: u64) -> LinkStatus {
        self.lock().session = session;
        let bytes = self.ask(&hello(session), size_of::<SessionWelcome>());
        let welcome = SessionWelcome::read_from_bytes(&bytes).unwrap();
        LinkStatus::from_word(welcome.status)
    }

    /// A number for the next channel.
    pub fn number(&self) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        inner.next
    }

    /// Takes pages.
    pub fn pages(&self, count: u64) -> Vec<Piece> {
        let mut inner = self.lock();
        (0..count)
            .map(|_| piece(inner.free.pop().expect("a free page")))
            .collect()
    }

    /// Scrubs pages for whoever gets them next.
    pub fn give_back<'p>(&self, pieces: impl IntoIterator<Item = &'p Piece>) {
        let mut inner = self.lock();
        for piece in pieces {
            let zero = vec![0; piece.len as usize];
            let address = GuestAddress(piece.address);
            inner.memory.write_slice(&zero, address).unwrap();
            inner.free.push(piece.address);
        }
    }

    /// Opens a channel that nobody uses; its number, or the status.
    pub fn open_idle(&self, control: &[Piece], heap: &[Piece]) -> Result<u64, LinkStatus> {
        let number = self.number();
        let session = self.lock().session;
        let request = open(number, session, 0, control, heap);
        let bytes = self.ask(&request, size_of::<Welcome>());
        let welcome = Welcome::read_from_bytes(&bytes).expect("a welcome");
        match LinkStatus::from_word(welcome.status) {
            LinkStatus::Ok => Ok(number),
            other => Err(other),
        }
    }

    /// Control segment and heap of the usual size.
    pub fn usual(&self) -> (Vec<Piece>, Vec<Piece>) {
        (self.pages(control_pages()), self.pages(4))
    }

    /// Opens a channel for a process, as an agent does.
    pub fn open(&self) -> (u64, Client) {
        let (control, heap) = self.usual();
        self.open_with(control, heap)
    }

    /// As [`Guest::open`], with these pages.
    pub fn open_with(&self, control: Vec<Piece>, heap: Vec<Piece>) -> (u64, Client) {
        let number = self.number();
        let reservation = Reservation::for_client().unwrap();
        let window = reservation.window().index;
        let segments = Segments::new(reservation, Side::Both);
        let (near, far) = Socket::pair().unwrap();
        let request = open(number, self.lock().session, window, &control, &heap);
        let answer = self.ask(&request, size_of::<Welcome>());
        let welcome = Welcome::read_from_bytes(&answer).expect("a welcome");
        assert_eq!(LinkStatus::from_word(welcome.status), LinkStatus::Ok);
        {
            let inner = self.lock();
            for (address, pieces) in [
                (welcome.control_address, &control),
                (welcome.heap_address, &heap),
            ] {
                let pieces = inner.in_files(pieces);
                segments.append_pieces(address, &pieces).unwrap();
            }
        }
        let (doorbell, wake) = (Event::new().unwrap(), Event::new().unwrap());
        let files = [welcome.control_len, welcome.heap_len]
            .map(|len| SegmentFd::create(len, HugePages::Never).unwrap());
        let fds = [
            files[0].as_fd(),
            files[1].as_fd(),
            doorbell.as_fd(),
            wake.as_fd(),
        ];
        near.send(welcome.as_bytes(), &fds).unwrap();
        let process = Process {
            socket: near,
            doorbell,
            wake,
            segments: Arc::clone(&segments),
        };
        self.lock().processes.insert(number, process);
        let hello = Hello::new(window, 0);
        let channel = Channel::in_segments(far, &hello, segments, LONG).unwrap();
        (number, Client::new(channel))
    }

    /// Closes a channel; the answer's status.
    pub fn close(&self, number: u64) -> LinkStatus {
        let bytes = self.ask(&close(number), size_of::<Closed>());
        self.lock().processes.remove(&number);
        closed(&bytes)
    }

    /// Rings a doorbell without a process.
    pub fn ring(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        let memory = inner.memory.clone();
        inner.queues[DOORBELL_QUEUE].put(&memory, bytes, 0);
    }

    /// Offers chains for notices again, as many as there were.
    pub fn offer_notices(&self) {
        let mut inner = self.lock();
        inner.silent = false;
        inner.offer_notices();
    }

    /// Waits for a notice.
    pub fn wait_notice(&self, kind: u32, channel: u64) {
        until(|| self.lock().notices.contains(&(kind, channel)));
    }
}

impl Inner {
    fn set_memory(&mut self) {
        let infos: Vec<_> = self
            .regions
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        self.front.as_mut().unwrap().set_mem_table(&infos).unwrap();
    }

    fn start(&mut self) {
        let memory = self.memory.clone();
        let front = self.front.as_mut().unwrap();
        let host = |address| memory.get_host_address(GuestAddress(address)).unwrap() as u64;
        for queue in &self.queues {
            let index = queue.index;
            front.set_vring_num(index, ENTRIES).unwrap();
            front.set_vring_base(index, self.bases[index]).unwrap();
            let place = VringConfigData {
                queue_max_size: ENTRIES,
                queue_size: ENTRIES,
                flags: 0,
                desc_table_addr: host(queue.descriptors()),
                used_ring_addr: host(queue.used_ring()),
                avail_ring_addr: host(queue.available_ring()),
                log_addr: None,
            };
            front.set_vring_addr(index, &place).unwrap();
            front.set_vring_kick(index, &queue.kick).unwrap();
            front.set_vring_call(index, &queue.call).unwrap();
            front.set_vring_enable(index, true).unwrap();
        }
        self.paused = false;
        self.offer_notices();
    }

    fn offer_notices(&mut self) {
        let notices = &mut self.queues[DOORBELL_QUEUE];
        while notices.free.len() > usize::from(ENTRIES / 2 - NOTICES) {
            notices.put(&self.memory, &[], size_of::<Notice>() as u32);
        }
    }

    fn stop(&mut self) -> [u16; QUEUES] {
        self.paused = true;
        let front = self.front.as_mut().unwrap();
        for index in 0..QUEUES {
            front.set_vring_enable(index, false).unwrap();
            self.bases[index] = front.get_vring_base(index).unwrap() as u16;
        }
        self.bases
    }

    fn forget_queues(&mut self) {
        self.bases = [0; QUEUES];
        self.answers.clear();
        self.growths.clear();
        self.processes.clear();
        for index in 0..QUEUES {
            let queue = Queue::new(index);
            for at in [queue.available_ring(), queue.used_ring()] {
                self.memory
                    .write_slice(&[0; 4096], GuestAddress(at))
                    .unwrap();
            }
            self.queues[index] = queue;
        }
    }

    fn control(&mut self, request: &[u8], room: usize) -> u16 {
        let memory = self.memory.clone();
        self.queues[CONTROL_QUEUE].put(&memory, request, room as u32)
    }

    /// Where pieces lie in the files behind the RAM.
    fn in_files(&self, pieces: &[Piece]) -> Pieces {
        let list = pieces.iter().map(|piece| FilePiece {
            file: 0,
            reserved: 0,
            offset: piece.address - HIGH + LOW_PAGES * PAGE,
            len: piece.len,
        });
        Pieces::new(&self.files, list.collect()).unwrap()
    }

    /// What an agent does whenever something happened.
    fn turn(&mut self) {
        if self.paused {
            return;
        }
        let memory = self.memory.clone();
        while let Some((chain, bytes)) = self.queues[CONTROL_QUEUE].take(&memory) {
            match self
                .growths
                .iter()
                .position(|(growing, ..)| *growing == chain)
            {
                Some(at) => self.grown(at, &bytes),
                None => drop(self.answers.insert(chain, bytes)),
            }
        }
        while let Some((chain, bytes)) = self.queues[DOORBELL_QUEUE].take(&memory) {
            let was_ring = memory
                .read_obj::<u32>(GuestAddress(u64::from(chain) * 32 + PAGE + 8))
                .unwrap()
                > 0;
            if was_ring {
                continue;
            }
            match Notice::read_from_bytes(&bytes) {
                Ok(notice) => {
                    if let Some(process) = self.processes.get(&notice.channel) {
                        process.wake.signal();
                    }
                    self.notices.push((notice.kind, notice.channel));
                }
                Err(_) => self.empty += 1,
            }
            if !self.silent {
                self.queues[DOORBELL_QUEUE].put(&memory, &[], size_of::<Notice>() as u32);
            }
        }
        let mut growing = Vec::new();
        for (&number, process) in &self.processes {
            if process.doorbell.drain() {
                let ring = Ring { channel: number };
                self.queues[DOORBELL_QUEUE].put(&memory, ring.as_bytes(), 0);
            }
            let asked = process
                .socket
                .receive_plain::<{ size_of::<GrowRequest>() }>(Duration::ZERO);
            if let Ok(bytes) = asked {
                growing.push((number, GrowRequest::read_from_bytes(&bytes).unwrap()));
            }
        }
        for (number, request) in growing {
            let count = request.bytes / PAGE;
            let pieces: Vec<Piece> = (0..count)
                .map(|_| piece(self.free.pop().expect("a free page")))
                .collect();
            let bytes = grow(number, request.id, &pieces);
            let chain = self.control(&bytes, size_of::<GrowResponse>());
            self.growths.push((chain, number, pieces));
        }
    }

    fn grown(&mut self, at: usize, bytes: &[u8]) {
        let (_, number, pieces) = self.growths.remove(at);
        let response = GrowResponse::read_from_bytes(bytes).unwrap();
        let Some(process) = self.processes.get(&number) else {
            return;
        };
        if response.status != LinkStatus::Ok as u32 {
            process.socket.send(bytes, &[]).unwrap();
            return;
        }
        let mapped = self.in_files(&pieces);
        process
            .segments
            .append_pieces(response.address, &mapped)
            .unwrap();
        let file = SegmentFd::create(response.len, HugePages::Never).unwrap();
        process.socket.send(bytes, &[file.as_fd()]).unwrap();
    }
}

/// Pages of a control segment.
pub fn control_pages() -> u64 {
    ControlLayout::new(vgpu_channel::ring::DEFAULT_SLOTS).size / PAGE
}

/// One page.
pub fn piece(address: u64) -> Piece {
    Piece { address, len: PAGE }
}

fn head(kind: u32, channel: u64) -> Vec<u8> {
    let request = Request {
        kind,
        reserved: 0,
        channel,
    };
    request.as_bytes().to_vec()
}

/// The bytes of a hello.
pub fn hello(session: u64) -> Vec<u8> {
    let mut hello = SessionHello::new_zeroed();
    (hello.session, hello.major) = (session, vgpu_channel::link::message::MAJOR);
    [head(KIND_HELLO, 0), hello.as_bytes().to_vec()].concat()
}

/// The bytes of an open.
pub fn open(number: u64, session: u64, window: u32, control: &[Piece], heap: &[Piece]) -> Vec<u8> {
    let mut open = Open {
        user: 1000,
        process: 42,
        control_pieces: control.len() as u32,
        heap_pieces: heap.len() as u32,
        hello: Hello::new(window, 0),
    };
    open.hello.session = session;
    let mut bytes = head(KIND_OPEN, number);
    bytes.extend(open.as_bytes());
    bytes.extend(control.as_bytes());
    bytes.extend(heap.as_bytes());
    bytes
}

/// The bytes of a growth.
pub fn grow(number: u64, id: u32, pieces: &[Piece]) -> Vec<u8> {
    let grow = Grow {
        id,
        pieces: pieces.len() as u32,
        reserved: 0,
    };
    let mut bytes = head(KIND_GROW, number);
    bytes.extend(grow.as_bytes());
    bytes.extend(pieces.as_bytes());
    bytes
}

/// The bytes of a close.
pub fn close(number: u64) -> Vec<u8> {
    head(KIND_CLOSE, number)
}

/// The status of an answer without more.
pub fn closed(bytes: &[u8]) -> LinkStatus {
    let closed = Closed::read_from_bytes(bytes).expect("a short answer");
    LinkStatus::from_word(closed.status)
}

/// The status of an answer to a growth.
pub fn grown(bytes: &[u8]) -> LinkStatus {
    let response = GrowResponse::read_from_bytes(bytes).expect("an answer to a growth");
    LinkStatus::from_word(response.status)
}
