//! The process's connection to its worker: made by the first call that needs it, never undone.
//!
//! What every call passes through is [`entered`]: has `cuInit` succeeded, in this process and not
//! in a parent it was forked from (`semantics.md` 20)?

use crate::copy::copiers;
use crate::stream::{State, Wait};
use crate::{call, environment, log, stats, stream, thread, visible};
use core::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use vgpu_channel::client::{Channel, ConnectError, PostError};
use vgpu_channel::control::{FEATURE_APART, FEATURE_REAL_SYNC};
use vgpu_channel::link::{Hello, LinkError};
use vgpu_channel::ring::{HEADER_BYTES, RecordHeader};
use vgpu_channel::staging::{Staging, Words};
use vgpu_channel::timeline;
use vgpu_channel::wait::{APART_SPIN, SpinBudget, WaitError, usable_cpus};
use vgpu_channel::window::{Place, Reservation};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number;
use vgpu_protocol::wire::{
    Counters, DeviceSnapshot, RECORD_REPLY, SNAPSHOT_STREAM_MEMOPS, Snapshot, read_prefix,
};
use zerocopy::{FromZeros, IntoBytes};

/// What `cuDriverGetVersion` says while nobody can be asked: the newest API this library knows.
const OWN_VERSION: u32 = 13000;

/// How long a thread spins on a timeline word before it looks whether the device has failed.
const WORD_SPIN: Duration = Duration::from_millis(1);

/// Slots of the ring, as a power of two, after which streams are brought up to date.
const EPOCH_BITS: u32 = 28;

/// Bytes of the staging ring for copies of pageable memory.
const STAGING_BYTES: u64 = 24 << 20;

/// CUDA variables the driver reads, sent to the worker. The shim itself answers
/// `CUDA_VISIBLE_DEVICES` and `CUDA_LAUNCH_BLOCKING`; paths are never sent (`isolation.md` 13).
const FORWARDED: [&str; 7] = [
    "CUDA_MODULE_LOADING",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_FORCE_PTX_JIT",
    "CUDA_DISABLE_PTX_JIT",
    "CUDA_CACHE_DISABLE",
    "CUDA_DEVICE_ORDER",
    "CUDA_AUTO_BOOST",
];

/// The connected client, leaked: threads and exit handlers may use it to the end of the process.
static CLIENT: AtomicPtr<Client> = AtomicPtr::new(core::ptr::null_mut());

/// Whether `cuInit` has succeeded.
static INITIALISED: AtomicBool = AtomicBool::new(false);

/// A word on a page that the kernel wipes in forked children: 1 in the process that connected.
static OWN_PROCESS: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// Held while connecting.
static CONNECTING: Mutex<()> = Mutex::new(());

/// A device as the program sees it.
#[derive(Debug)]
pub struct Device {
    snapshot: DeviceSnapshot,
    /// The backend's ordinal.
    ordinal: i32,
    /// References to the primary context held by the program.
    retained: AtomicU32,
    /// Flags set for the primary context.
    primary_flags: AtomicU32,
}

impl Device {
    /// `cuDeviceGetUuid`.
    pub fn uuid(&self) -> [u8; 16] {
        self.snapshot.uuid
    }

    /// Everything known of it.
    pub fn snapshot(&self) -> &DeviceSnapshot {
        &self.snapshot
    }

    /// Handle of the primary context, valid before it is retained.
    pub fn primary_ctx(&self) -> CUcontext {
        CUcontext(self.snapshot.primary_ctx)
    }

    /// An attribute.
    ///
    /// # Errors
    /// What the driver returned for it; `INVALID_VALUE` for ids beyond the snapshot.
    pub fn attribute(&self, attribute: i32) -> Result<i32, CUresult> {
        let at = usize::try_from(attribute).map_err(|_| CUresult::INVALID_VALUE)?;
        let status = self
            .snapshot
            .attribute_status
            .get(at)
            .ok_or(CUresult::INVALID_VALUE)?;
        CUresult(*status).ok()?;
        self.snapshot
            .attributes
            .get(at)
            .copied()
            .ok_or(CUresult::INVALID_VALUE)
    }

    /// An attribute, 0 where there is none.
    pub fn attribute_or_zero(&self, attribute: i32) -> i32 {
        self.attribute(attribute).unwrap_or(0)
    }
}

/// The connection and what was learnt over it.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    snapshot: Snapshot,
    devices: Vec<Device>,
    staging: Staging,
    word_spin: SpinBudget,
    /// Whether a waiting thread may keep a CPU busy.
    spare_cpus: bool,
    /// Threads that may share a large copy.
    copy_width: usize,
    /// `VGPU_SYNC` or `CUDA_LAUNCH_BLOCKING`: every command waits for its end.
    synchronous: bool,
    /// Captures that this process has begun and not ended.
    captures: AtomicU32,
    lost: AtomicBool,
    epochs: Epochs,
}

/// Says when streams must be brought up to date: every 2^28 slots, so that no two stamps that are
/// compared are ever half of 2^32 apart.
#[derive(Debug, Default)]
pub struct Epochs {
    /// Ring position by [`EPOCH_BITS`], as of the last time.
    entered: AtomicU64,
}

impl Epochs {
    /// Whether `position` is in an epoch that nobody has entered yet. True for one thread only.
    #[inline]
    pub fn enter(&self, position: u64) -> bool {
        let epoch = position >> EPOCH_BITS;
        epoch != self.entered.load(Ordering::Relaxed)
            && self.entered.fetch_max(epoch, Ordering::Relaxed) < epoch
    }
}

/// The client, connecting if need be.
///
/// # Errors
/// `NO_DEVICE` when there is no backend to talk to; the reason is logged.
pub fn get() -> Result<&'static Client, CUresult> {
    if let Some(client) = existing() {
        return Ok(client);
    }
    let _one = CONNECTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = existing() {
        return Ok(client);
    }
    abandon_inherited();
    let client = Client::connect()?;
    let page = wiped_page()?;
    // SAFETY: a fresh page of this process, mapped for good.
    unsafe { (*page).store(1, Ordering::Relaxed) };
    let client: &'static Client = Box::leak(Box::new(client));
    OWN_PROCESS.store(page, Ordering::Release);
    CLIENT.store(core::ptr::from_ref(client).cast_mut(), Ordering::Release);
    Ok(client)
}

/// The client of this very process, if it is connected.
fn existing() -> Option<&'static Client> {
    let page = OWN_PROCESS.load(Ordering::Acquire);
    // SAFETY: null or the page that `get` mapped for good.
    let own = unsafe { page.as_ref() }?.load(Ordering::Relaxed);
    if own == 0 {
        return None;
    }
    // SAFETY: null or leaked by `get`.
    unsafe { CLIENT.load(Ordering::Acquire).as_ref() }
}

/// The client of this very process, without connecting.
pub fn connected() -> Option<&'static Client> {
    existing()
}

/// In a child of a process that had connected but not called `cuInit`: lets go of the parent's
/// descriptors and of its address window, once, so that the child can connect for itself.
fn abandon_inherited() {
    let inherited = CLIENT.swap(core::ptr::null_mut(), Ordering::AcqRel);
    if inherited.is_null() {
        return;
    }
    // SAFETY: leaked by the parent's `get`; the struct lies in private memory, which this child has
    // a copy of. Nothing else in the child refers to it: without `cuInit` no call got any further.
    let client = unsafe { Box::from_raw(inherited) };
    if let Err(error) = client.channel.abandon_in_child() {
        log::line(format_args!(
            "the parent's connection could not be closed: {error}"
        ));
    }
}

/// Whether this process was forked from one that had called `cuInit`.
fn forked() -> bool {
    let page = OWN_PROCESS.load(Ordering::Acquire);
    // SAFETY: null or the page that `get` mapped for good.
    INITIALISED.load(Ordering::Acquire)
        && unsafe { page.as_ref() }.is_some_and(|word| word.load(Ordering::Relaxed) == 0)
}

/// A page that reads zero in forked children.
fn wiped_page() -> Result<*mut AtomicU32, CUresult> {
    const PAGE: usize = 4096;
    // SAFETY: a new anonymous mapping; the address is used only if the calls succeed.
    unsafe {
        let page = libc::mmap(
            core::ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED || libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) != 0 {
            return Err(CUresult::OPERATING_SYSTEM);
        }
        Ok(page.cast())
    }
}

/// `cuInit`.
///
/// # Errors
/// `NO_DEVICE` without a backend or a device; the driver's own code if it failed in the worker.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuInit(flags: u32) -> Result<(), CUresult> {
    if flags != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if forked() {
        return Err(CUresult::NOT_INITIALIZED);
    }
    let client = get()?;
    CUresult(client.snapshot.init_status).ok()?;
    if client.devices.is_empty() {
        log::line(format_args!(
            "no device is visible (CUDA_VISIBLE_DEVICES, or the host has none)"
        ));
        return Err(CUresult::NO_DEVICE);
    }
    INITIALISED.store(true, Ordering::Release);
    Ok(())
}

/// The client, if `cuInit` has succeeded in this process.
///
/// # Errors
/// `NOT_INITIALIZED` before it, and in children forked after it.
#[inline]
pub fn entered() -> Result<&'static Client, CUresult> {
    match existing() {
        Some(client) if INITIALISED.load(Ordering::Relaxed) => Ok(client),
        _ => Err(CUresult::NOT_INITIALIZED),
    }
}

/// `cuDriverGetVersion`: the driver's behind the channel, or our own if nobody answers.
pub fn driver_version() -> u32 {
    if forked() {
        return OWN_VERSION;
    }
    get().map_or(OWN_VERSION, |client| match client.snapshot.driver_version {
        0 => OWN_VERSION,
        version => version,
    })
}

impl Client {
    fn connect() -> Result<Self, CUresult> {
        let path = vgpu_process::socket();
        let refuse = |reason: &dyn core::fmt::Display| {
            log::line(format_args!("no GPU: {}: {reason}", path.display()));
            CUresult::NO_DEVICE
        };
        let reservation = Reservation::for_client().map_err(|error| refuse(&error))?;
        let mut hello = Hello::new(reservation.window().index, number::fingerprint());
        for name in FORWARDED {
            if let Ok(value) = std::env::var(name)
                && let Err(error) = hello.set(name, &value)
            {
                log::line(format_args!("{name} is not passed on: {error}"));
            }
        }
        let mut channel = Channel::connect(&path, &hello, reservation).map_err(|error| match &error {
            ConnectError::Link(LinkError::NoServer { .. }) => refuse(&format_args!(
                "no backend answers there; start vhost-user-vgpu --listen, or use `vgpu run` ({error})"
            )),
            _ => refuse(&error),
        })?;
        // A worker on CPUs of its own leaves this process's free to spin on, if there are two.
        let apart = channel.features() & FEATURE_APART != 0;
        if apart {
            channel.set_spin(SpinBudget::apart(APART_SPIN));
        }
        let area = channel.snapshot();
        let (snapshot, mut rest) = read_prefix::<Snapshot>(&area)
            .ok_or_else(|| refuse(&"the backend sent no snapshot"))?;
        let mut all = Vec::new();
        for _ in 0..snapshot.device_count {
            let (device, tail) = read_prefix::<DeviceSnapshot>(rest)
                .ok_or_else(|| refuse(&"the backend's snapshot is cut short"))?;
            all.push(device);
            rest = tail;
        }
        let uuids: Vec<_> = all.iter().map(|device| device.uuid).collect();
        let setting = std::env::var_os("CUDA_VISIBLE_DEVICES")
            .map(|text| text.to_string_lossy().into_owned());
        let devices = visible::visible(setting.as_deref(), &uuids)
            .inspect_err(|_| {
                log::line(format_args!("CUDA_VISIBLE_DEVICES names a device twice"));
            })?
            .into_iter()
            .filter_map(|ordinal| {
                Some(Device {
                    snapshot: *all.get(ordinal)?,
                    ordinal: i32::try_from(ordinal).ok()?,
                    retained: AtomicU32::new(0),
                    primary_flags: AtomicU32::new(0),
                })
            })
            .collect::<Vec<_>>();
        let staging = channel
            .alloc(STAGING_BYTES, 4096)
            .map_err(|error| refuse(&error))?;
        log::line(format_args!(
            "connected to {}: driver {}, {} of {} devices visible",
            path.display(),
            snapshot.driver_version,
            devices.len(),
            all.len()
        ));
        Ok(Self {
            channel,
            snapshot,
            devices,
            staging: Staging::new(staging, STAGING_BYTES),
            word_spin: if apart {
                SpinBudget::apart(WORD_SPIN)
            } else {
                SpinBudget::new(WORD_SPIN)
            },
            spare_cpus: usable_cpus() > if apart { 1 } else { 2 },
            copy_width: copiers::width(usable_cpus()),
            synchronous: environment::flag("VGPU_SYNC")
                || std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|v| v != "0"),
            captures: AtomicU32::new(0),
            lost: AtomicBool::new(false),
            epochs: Epochs::default(),
        })
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The staging ring for pageable copies and large parameter blocks.
    pub fn staging(&self) -> &Staging {
        &self.staging
    }

    /// The visible devices, in the program's order.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// A device by the program's ordinal.
    ///
    /// # Errors
    /// `INVALID_DEVICE`.
    pub fn device(&self, dev: CUdevice) -> Result<&Device, CUresult> {
        usize::try_from(dev.0)
            .ok()
            .and_then(|at| self.devices.get(at))
            .ok_or(CUresult::INVALID_DEVICE)
    }

    /// The backend's ordinal of a device.
    ///
    /// # Errors
    /// `INVALID_DEVICE`.
    pub fn backend_ordinal(&self, dev: CUdevice) -> Result<CUdevice, CUresult> {
        self.device(dev).map(|device| CUdevice(device.ordinal))
    }

    /// Changes the count of the program's references to a primary context and gives the count before.
    /// A reset leaves the count as it is, as measured on the driver.
    pub fn retained(&self, dev: CUdevice, by: i32) -> u32 {
        let Ok(device) = self.device(dev) else {
            return 0;
        };
        device
            .retained
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                Some(count.saturating_add_signed(by))
            })
            .unwrap_or(0)
    }

    /// Flags set for a primary context.
    pub fn primary_flags(&self, dev: CUdevice) -> u32 {
        self.device(dev)
            .map_or(0, |device| device.primary_flags.load(Ordering::Relaxed))
    }

    /// Remembers flags set for a primary context.
    pub fn set_primary_flags(&self, dev: CUdevice, flags: u32) {
        if let Ok(device) = self.device(dev) {
            device.primary_flags.store(flags, Ordering::Relaxed);
        }
    }

    /// What kind of memory an address is.
    pub fn classify(&self, address: u64) -> Place {
        self.channel.window().classify(address)
    }

    // --- errors ---

    /// The sticky error, once one has struck.
    ///
    /// # Errors
    /// That error.
    #[inline]
    pub fn sticky(&self) -> Result<(), CUresult> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(CUresult::DEVICE_UNAVAILABLE);
        }
        CUresult(self.channel.sticky_error()).ok()
    }

    /// The error that a failed post left for the thread of `slot`; taken.
    ///
    /// # Errors
    /// That error.
    #[inline]
    pub fn take_latched(&self, slot: u64) -> Result<(), CUresult> {
        match self.channel.reply(slot) {
            Ok(reply) => CUresult(reply.take_latched()).ok(),
            Err(_) => Ok(()),
        }
    }

    /// The worker is gone: from now on everything fails.
    fn gone(&self) -> CUresult {
        if !self.lost.swap(true, Ordering::Relaxed) {
            log::line(format_args!(
                "the backend is gone: every call fails from now on"
            ));
        }
        CUresult::DEVICE_UNAVAILABLE
    }

    // --- records ---

    /// Sends a record and gives its stamp.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` when the worker is gone.
    #[inline]
    pub fn send(&self, header: &RecordHeader, parts: &[&[u8]]) -> Result<u32, CUresult> {
        self.send_noted(header, parts, |_| {})
    }

    /// As [`Client::send`]; `note` gets the stamp before anybody else can act on the record.
    ///
    /// # Errors
    /// As [`Client::send`].
    #[inline]
    pub fn send_noted(
        &self,
        header: &RecordHeader,
        parts: &[&[u8]],
        note: impl FnOnce(u32),
    ) -> Result<u32, CUresult> {
        let len = parts.iter().map(|part| part.len()).sum();
        if HEADER_BYTES + len > call::MAX_COPIED {
            log::line(format_args!(
                "a record of call {} and {len} bytes is too long",
                header.call
            ));
            return Err(CUresult::UNKNOWN);
        }
        let mut record = match self.channel.reserve(len) {
            Ok(record) => record,
            Err(PostError::PeerGone) => return Err(self.gone()),
            Err(PostError::TooLong(_)) => return Err(CUresult::INVALID_VALUE),
        };
        let mut offset = 0;
        for part in parts {
            record.write(offset, part);
            offset += part.len();
        }
        let position = record.position();
        note(position as u32);
        record.publish(header);
        stats::crossed();
        if self.epochs.enter(position) {
            stream::bring_up_to_date(self, position as u32);
        }
        Ok(position as u32)
    }

    /// Sends a record about `stream` that nobody answers, for the calling thread.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn send_from_thread(
        &self,
        number: u16,
        stream: &State,
        payload: &[u8],
    ) -> Result<u32, CUresult> {
        thread::with(|thread| {
            let lane = &*thread.lane(self)?;
            let header = RecordHeader {
                call: number,
                flags: call::foreign(thread, stream),
                thread: lane.index,
                reply_sequence: 0,
                reply_address: lane.slot,
                scope: thread.current.get().0,
            };
            self.send(&header, &[payload])
        })
    }

    /// Sends a record that nobody answers for a thread that is ending.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn notify(
        &self,
        thread: u32,
        slot: u64,
        number: u16,
        payload: &[u8],
    ) -> Result<u32, CUresult> {
        let header = RecordHeader {
            call: number,
            thread,
            reply_address: slot,
            ..RecordHeader::default()
        };
        self.send(&header, &[payload])
    }

    /// What the worker has counted; `None` if it does not say so soon. May be called when the process ends.
    pub fn counters(&self) -> Option<Counters> {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.sticky().ok()?;
        let slot = self.new_reply_slot().ok()?;
        let header = RecordHeader {
            call: number::internal::COUNTERS,
            flags: RECORD_REPLY,
            reply_sequence: 1,
            reply_address: slot,
            ..RecordHeader::default()
        };
        self.channel.try_reserve(0).ok()?.publish(&header);
        let reply = self.channel.reply(slot).ok()?;
        let (status, len) = self.channel.wait_reply(reply, 1, Some(PATIENCE)).ok()?;
        let mut counters = Counters::new_zeroed();
        if status != 0 || len < size_of::<Counters>() {
            return None;
        }
        reply.payload(counters.as_mut_bytes()).ok()?;
        Some(counters)
    }

    /// Stores a timeline word of a stream that is idle.
    pub fn set_word(&self, address: u64, stamp: u32) {
        if let Ok(word) = self.channel.heap_word(address) {
            word.store(stamp, Ordering::Release);
        }
    }

    /// Stamp that the next record would get.
    pub fn stamp_now(&self) -> u32 {
        self.channel.ring_head() as u32
    }

    // --- replies ---

    /// A new reply slot.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn new_reply_slot(&self) -> Result<u64, CUresult> {
        self.channel
            .alloc_reply()
            .map_err(|_| CUresult::OUT_OF_MEMORY)
    }

    /// Clears a reply slot for its next thread.
    pub fn reset_reply_slot(&self, slot: u64) {
        if let Ok(reply) = self.channel.reply(slot) {
            let _ = reply.reset();
        }
    }

    /// Waits for an answer, asleep or spinning first; gives the status and the payload's length, and fills the front of
    /// `into`.
    ///
    /// # Errors
    /// `DEVICE_UNAVAILABLE` when the worker is gone.
    pub fn wait_reply(
        &self,
        slot: u64,
        sequence: u32,
        into: &mut [u8],
        wait: Wait,
    ) -> Result<(u32, usize), CUresult> {
        stats::waits();
        let reply = self.channel.reply(slot).map_err(|_| CUresult::UNKNOWN)?;
        let relay = self.real_sync_only();
        loop {
            let ready = || reply.is_complete(sequence) || (relay && self.channel.output().ready());
            let arm = || {
                reply.arm();
                if relay {
                    self.channel.callbacks().arm();
                }
            };
            match wait {
                Wait::Spin => self.channel.wait_until(ready, arm, None),
                Wait::Sleep => self.channel.sleep_until(ready, arm, None),
            }
            .map_err(|_| self.gone())?;
            if relay {
                self.drain_output();
            }
            if reply.is_complete(sequence) {
                break;
            }
        }
        let (status, len) = reply.outcome();
        let len = len.min(into.len());
        reply
            .payload(&mut into[..len])
            .map_err(|_| CUresult::UNKNOWN)?;
        Ok((status.cast_unsigned(), len))
    }

    // --- timeline words ---

    /// A timeline word that reads `start`, or 0 where the driver cannot write such words.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn new_word(&self, start: u32) -> Result<u64, CUresult> {
        if self.snapshot.flags & SNAPSHOT_STREAM_MEMOPS == 0 {
            return Ok(0);
        }
        let address = self
            .channel
            .alloc(timeline::WORD_BYTES, timeline::WORD_BYTES)
            .map_err(|_| CUresult::OUT_OF_MEMORY)?;
        let word = self
            .channel
            .heap_word(address)
            .map_err(|_| CUresult::UNKNOWN)?;
        word.store(start, Ordering::Release);
        Ok(address)
    }

    /// Gives a timeline word back.
    pub fn free_word(&self, address: u64) {
        self.staging.release_word(address);
        let _ = self.channel.free(address);
    }

    /// What a timeline word says.
    #[inline]
    pub fn word(&self, address: u64) -> u32 {
        self.channel.word_at(address).unwrap_or(0)
    }

    /// Spins until `reached`; false if that takes too long.
    ///
    /// # Errors
    /// The sticky error, if it strikes meanwhile.
    pub fn spin_word(&self, reached: impl Fn() -> bool) -> Result<bool, CUresult> {
        stats::waits();
        let done = self
            .word_spin
            .spin(|| reached() || self.channel.sticky_error() != 0);
        if done && reached() {
            return Ok(true);
        }
        self.sticky()?;
        Ok(false)
    }

    /// Threads that may share a large copy, the caller included. Settled when the process connected:
    /// a thread that is bound to a CPU later says nothing about the process.
    pub fn copy_width(&self) -> usize {
        self.copy_width
    }

    /// Whether there are CPUs to spin on.
    pub fn may_spin(&self) -> bool {
        self.spare_cpus
    }

    /// Waits until `reached`, but no longer than `limit`; whether it came true.
    ///
    /// # Errors
    /// The sticky error, or `DEVICE_UNAVAILABLE`.
    pub fn wait_word(&self, reached: impl Fn() -> bool, limit: Duration) -> Result<bool, CUresult> {
        stats::waits();
        let waited = self.channel.poll_until(
            || reached() || self.channel.sticky_error() != 0,
            Some(limit),
        );
        match waited {
            Ok(()) => self.sticky().map(|()| true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::PeerGone) => Err(self.gone()),
        }
    }

    // --- modes ---

    /// Whether synchronisation must be the driver's own because device text has to be relayed.
    #[inline]
    pub fn real_sync_only(&self) -> bool {
        self.channel.features() & FEATURE_REAL_SYNC != 0
    }

    /// Whether every command waits for its end.
    pub fn synchronous(&self) -> bool {
        self.synchronous
    }

    /// Whether a capture is active in this process.
    #[inline]
    pub fn capturing(&self) -> bool {
        self.captures.load(Ordering::Acquire) != 0
    }

    /// Counts a capture that began.
    pub fn capture_began(&self) {
        self.captures.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a capture that ended.
    pub fn capture_ended(&self) {
        let _ = self
            .captures
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                count.checked_sub(1)
            });
    }

    /// Whether posts travel as calls.
    #[inline]
    pub fn posts_are_calls(&self) -> bool {
        self.synchronous || self.capturing()
    }

    // --- output ---

    /// Writes what device code printed to the program's own standard output.
    pub fn drain_output(&self) {
        let output = self.channel.output();
        if !output.ready() {
            return;
        }
        let mut text = [0_u8; 4096];
        loop {
            let len = output.read(&mut text);
            if len == 0 {
                break;
            }
            // SAFETY: through the C library's own stream, as the driver does, so that the order with
            // the program's own output is kept.
            unsafe {
                libc::fwrite(text.as_ptr().cast::<c_void>(), 1, len, stdout);
            }
        }
    }
}

unsafe extern "C" {
    /// The C library's standard output.
    static stdout: *mut libc::FILE;
}
