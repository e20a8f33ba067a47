//! The process's connection to its worker: made by the first call that needs it, never undone.
//!
//! What every call passes through is [`entered`]: has `cuInit` succeeded, in this process and not
//! in a parent it was forked from (`semantics.md` 20)?

mod device;
mod records;
mod waits;

pub use device::Device;
pub use records::Epochs;

use crate::copy::copiers;
use crate::{environment, log, visible};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use vgpu_channel::client::{Channel, ConnectError};
use vgpu_channel::control::{FEATURE_APART, FEATURE_REAL_SYNC};
use vgpu_channel::link::{Hello, LinkError};
use vgpu_channel::staging::Staging;
use vgpu_channel::wait::{APART_SPIN, SpinBudget, usable_cpus};
use vgpu_channel::window::{Place, Reservation};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number;
use vgpu_protocol::wire::{DeviceSnapshot, Snapshot, read_prefix};

/// What `cuDriverGetVersion` says while nobody can be asked: the newest API this library knows.
const OWN_VERSION: u32 = 13000;

/// How long a thread spins on a timeline word before it looks whether the device has failed.
const WORD_SPIN: Duration = Duration::from_millis(1);

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
}
