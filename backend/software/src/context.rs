//! Contexts: what belongs to one, how one ends, and each device's primary context.
//!
//! A context's handle stays known to threads after its end: they get `CONTEXT_IS_DESTROYED`. The
//! primary context's handle is there from the start and for ever; the context behind it comes with
//! the first retain and goes with the last release or a reset.

use crate::callback::HostThread;
use crate::device;
use crate::foreign::Outcome;
use crate::stream::{Mark, Role, Stream};
use crate::table::{Kind, Table, unique};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use vgpu_protocol::cuda::{CUcontext, CUresult};

/// The part of a context that its queued work needs.
pub(crate) struct Core {
    /// Names this context as the owner of memory and objects. Never reused, unlike the handle of
    /// the primary context.
    pub(crate) id: u64,
    /// The first fault, or 0. A context does not recover from it.
    fault: AtomicU32,
    /// Raised when the context ends: work in progress stops soon. Kernels watch it.
    pub(crate) cancel: AtomicBool,
    /// Runs the context's host functions, one at a time.
    pub(crate) host: HostThread,
}

impl Core {
    /// Notes a fault; only the first one counts.
    pub(crate) fn fail(&self, code: CUresult) {
        // Relaxed: the code is the whole message; who learns of it reads nothing else by it.
        let _ = self
            .fault
            .compare_exchange(0, code.0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The fault, if there was one.
    pub(crate) fn fault(&self) -> Option<CUresult> {
        match self.fault.load(Ordering::Relaxed) {
            0 => None,
            code => Some(CUresult(code)),
        }
    }

    /// The fault as an error.
    pub(crate) fn check(&self) -> Outcome {
        self.fault().map_or(Ok(()), Err)
    }

    /// Whether work of this context is not to be executed any more.
    pub(crate) fn is_over(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.fault().is_some()
    }
}

/// A context.
pub(crate) struct Context {
    pub(crate) handle: CUcontext,
    /// Ordinal of its device.
    pub(crate) device: i32,
    pub(crate) core: Arc<Core>,
    pub(crate) settings: Mutex<Settings>,
    /// All streams that may have work. The lock also is the order in which commands of the
    /// context's streams are submitted.
    pub(crate) streams: Mutex<Vec<Weak<Stream>>>,
    legacy: OnceLock<Arc<Stream>>,
    per_thread: Mutex<HashMap<u64, Arc<Stream>>>,
}

/// What a context lets its user set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `CU_CTX_*` flags.
    pub(crate) flags: u32,
    /// Limits by `CUlimit`.
    pub(crate) limits: BTreeMap<u32, usize>,
    /// `CUfunc_cache`.
    pub(crate) cache_config: u32,
    /// `CUsharedconfig`.
    pub(crate) shared_config: u32,
}

/// Flags a context may have: scheduling, host mapping, local memory, core dumps, synchronous
/// memory operations.
pub(crate) const CONTEXT_FLAGS: u32 = 0xff;

impl Settings {
    fn new(flags: u32) -> Self {
        // Stack per thread, printf buffer, heap, depth and pending launches of device-side
        // launches, L2 fetch granularity, persisting L2: what a real device starts with.
        let limits = [(0, 1024), (1, 1 << 20), (2, 8 << 20), (5, 64), (6, 0)];
        Self {
            flags,
            limits: limits.into_iter().collect(),
            cache_config: 0,
            shared_config: 1,
        }
    }
}

static CONTEXTS: Table<Context> = Table::new(Kind::Context);

struct Primary {
    references: u64,
    flags: u32,
    active: Option<Arc<Context>>,
}

const DEVICES: usize = device::MAX_DEVICES as usize;

static PRIMARIES: [Mutex<Primary>; DEVICES] = [const {
    Mutex::new(Primary {
        references: 0,
        flags: 0,
        active: None,
    })
}; DEVICES];

/// The primary context of a device whose ordinal was checked.
fn primary(device: i32) -> MutexGuard<'static, Primary> {
    PRIMARIES[device as usize % DEVICES].lock()
}

/// Handles of the primary contexts, active or not.
fn primary_handles() -> &'static [CUcontext; DEVICES] {
    static HANDLES: OnceLock<[CUcontext; DEVICES]> = OnceLock::new();
    HANDLES.get_or_init(|| std::array::from_fn(|_| CUcontext(Kind::Context.mint())))
}

/// Handle of the primary context of a device whose ordinal was checked.
pub(crate) fn primary_handle(device: i32) -> CUcontext {
    primary_handles()[device as usize % DEVICES]
}

/// The device of a primary context's handle.
pub(crate) fn primary_device(handle: CUcontext) -> Option<i32> {
    let devices = &primary_handles()[..device::count() as usize];
    let found = devices.iter().position(|primary| *primary == handle);
    found.map(|device| device as i32)
}

/// The live context of a handle.
pub(crate) fn find(handle: CUcontext) -> Option<Arc<Context>> {
    if let Some(device) = primary_device(handle) {
        return primary(device).active.clone();
    }
    CONTEXTS.get(handle.0)
}

/// The live context of a handle that a caller passed.
pub(crate) fn get(handle: CUcontext) -> Outcome<Arc<Context>> {
    find(handle).ok_or(CUresult::INVALID_CONTEXT)
}

/// The live context whose [`Core`] has this id.
fn by_owner(owner: u64) -> Option<Arc<Context>> {
    (0..device::count())
        .filter_map(|device| primary(device).active.clone())
        .find(|context| context.core.id == owner)
        .or_else(|| CONTEXTS.find(|context| context.core.id == owner))
}

/// Handle of the live context whose [`Core`] has this id.
pub(crate) fn handle_of(owner: u64) -> Option<CUcontext> {
    by_owner(owner).map(|context| context.handle)
}

/// Device of the live context whose [`Core`] has this id.
pub(crate) fn device_of(owner: u64) -> Option<i32> {
    by_owner(owner).map(|context| context.device)
}

/// Waits for all work of the context whose [`Core`] has this id.
///
/// # Errors
/// The context's fault.
pub(crate) fn synchronize_owner(owner: u64) -> Outcome {
    by_owner(owner).map_or(Ok(()), |context| context.synchronize())
}

impl Context {
    fn build(handle: CUcontext, device: i32, flags: u32) -> Arc<Self> {
        let context = Arc::new(Self {
            handle,
            device,
            core: Arc::new(Core {
                id: unique(),
                fault: AtomicU32::new(0),
                cancel: AtomicBool::new(false),
                host: HostThread::default(),
            }),
            settings: Mutex::new(Settings::new(flags)),
            streams: Mutex::new(Vec::new()),
            legacy: OnceLock::new(),
            per_thread: Mutex::new(HashMap::new()),
        });
        context.legacy();
        context
    }

    /// Creates a context of a device; the caller makes it current.
    pub(crate) fn create(device: i32, flags: u32) -> Arc<Self> {
        CONTEXTS.insert_shared(|handle| Self::build(CUcontext(handle), device, flags))
    }

    /// The legacy default stream.
    pub(crate) fn legacy(self: &Arc<Self>) -> Arc<Stream> {
        let make = || Stream::build(self, 0, 7, Role::Legacy, 0);
        Arc::clone(self.legacy.get_or_init(make))
    }

    /// The calling thread's default stream.
    pub(crate) fn per_thread(self: &Arc<Self>) -> Arc<Stream> {
        let mut streams = self.per_thread.lock();
        let stream = streams
            .entry(crate::current::thread())
            .or_insert_with(|| Stream::build(self, 0, 15, Role::Blocking, 0));
        Arc::clone(stream)
    }

    /// What is submitted so far, on streams for which `wanted` holds.
    pub(crate) fn marks(&self, wanted: impl Fn(&Stream) -> bool) -> Vec<Mark> {
        let streams: Vec<_> = self
            .streams
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let wanted = streams.iter().filter(|stream| wanted(stream));
        wanted.filter_map(Mark::pending).collect()
    }

    /// Waits for everything submitted so far.
    ///
    /// # Errors
    /// The context's fault, which may have come up meanwhile.
    pub(crate) fn synchronize(&self) -> Outcome {
        for mark in self.marks(|_| true) {
            mark.wait();
        }
        crate::pool::synchronised();
        self.core.check()
    }

    /// Ends everything that belongs to the context. The caller has made sure that no new call finds
    /// the context.
    fn end(&self) {
        // Relaxed: the flag is the whole message.
        self.core.cancel.store(true, Ordering::Relaxed);
        let streams: Vec<_> = std::mem::take(&mut *self.streams.lock());
        let streams: Vec<_> = streams.iter().filter_map(Weak::upgrade).collect();
        for stream in &streams {
            stream.close();
        }
        for stream in &streams {
            if let Some(mark) = Mark::pending(stream) {
                mark.wait();
            }
        }
        self.per_thread.lock().clear();
        crate::stream::forget(self.core.id);
        crate::event::forget(self.core.id);
        crate::module::forget(self.core.id);
        device::memory().end_all(|range| range.owner == self.core.id);
    }
}

/// Destroys a context made by [`Context::create`].
///
/// # Errors
/// `INVALID_CONTEXT` for any other handle, the primary context's included.
pub(crate) fn destroy(handle: CUcontext) -> Outcome {
    let context = CONTEXTS.remove(handle.0).ok_or(CUresult::INVALID_CONTEXT)?;
    context.end();
    Ok(())
}

/// Retains a device's primary context.
pub(crate) fn retain_primary(device: i32) -> Arc<Context> {
    let mut primary = primary(device);
    primary.references += 1;
    let flags = primary.flags;
    let make = || Context::build(primary_handle(device), device, flags);
    Arc::clone(primary.active.get_or_insert_with(make))
}

/// Releases a device's primary context once; the last release ends it.
///
/// # Errors
/// `INVALID_CONTEXT` if it is not retained.
pub(crate) fn release_primary(device: i32) -> Outcome {
    let ended = {
        let mut primary = primary(device);
        primary.references = primary
            .references
            .checked_sub(1)
            .ok_or(CUresult::INVALID_CONTEXT)?;
        if primary.references == 0 {
            primary.active.take()
        } else {
            None
        }
    };
    if let Some(context) = ended {
        context.end();
    }
    Ok(())
}

/// Ends a device's primary context whoever holds it.
pub(crate) fn reset_primary(device: i32) {
    let ended = {
        // The references stay, as measured on a driver: as many releases are still due.
        primary(device).active.take()
    };
    if let Some(context) = ended {
        context.end();
    }
}

/// Flags of a device's primary context, and whether it is active.
pub(crate) fn primary_state(device: i32) -> (u32, bool) {
    let primary = primary(device);
    (primary.flags, primary.active.is_some())
}

/// Sets the flags of a device's primary context, also of the active one.
pub(crate) fn set_primary_flags(device: i32, flags: u32) -> Outcome {
    if flags & !CONTEXT_FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut primary = primary(device);
    primary.flags = flags;
    if let Some(context) = &primary.active {
        context.settings.lock().flags = flags;
    }
    Ok(())
}
