//! What all threads of a worker share.

use crate::capture::Captures;
use crate::copies::PostedCopies;
use crate::exchange::Exchange;
use crate::figures::{Counts, Word};
use crate::gate::Gate;
use crate::graph_charges::GraphCharges;
use crate::ipc::Sharing;
use crate::issuers::Issuers;
use crate::link::Links;
use crate::live::{Live, lock};
use crate::output::Output;
use crate::printing::Printing;
use crate::quota::Quota;
use crate::registered::Registered;
use crate::registration::Registrar;
use crate::user_objects::UserObjects;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use vgpu_channel::permits::Permits;
use vgpu_channel::server::Channel;
use vgpu_channel::wait::SpinBudget;
use vgpu_channel::window::Place;
use vgpu_driver::Driver;
use vgpu_protocol::cuda::CUresult;

/// Where device addresses may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// In the driver's part of the channel's window, or in the shared segments. What every worker
    /// process uses.
    Window,
    /// Anywhere. For both sides in one process, where the driver's allocations cannot be led into
    /// the window; the driver's own checks are all that is left.
    Anywhere,
}

/// What was refused, for the log and for `vgpu doctor`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records with a number that is not served.
    pub unknown: AtomicU64,
    /// Records whose payload breaks its format.
    pub malformed: AtomicU64,
    /// Handles that were not live.
    pub handles: AtomicU64,
    /// Addresses outside of what a client may name.
    pub addresses: AtomicU64,
    /// Allocations that the driver placed outside the window.
    pub misplaced: AtomicU64,
}

/// One client's worker.
#[derive(Debug)]
pub struct Worker {
    /// The driver.
    pub driver: Driver,
    /// The channel.
    pub channel: Arc<Channel>,
    /// Handles that may be used.
    pub live: Live,
    /// Active captures.
    pub captures: Captures,
    /// Issuers of contexts other than the first.
    pub issuers: Issuers,
    /// Closed while the client's machine is paused.
    pub gate: Gate,
    /// Device memory.
    pub quota: Quota,
    /// Which of it belongs to graphs.
    pub graph_charges: GraphCharges,
    /// Objects of the program.
    pub user_objects: UserObjects,
    /// Registration of shared memory with the driver.
    pub registrar: Registrar,
    /// The program's own memory that is registered.
    pub registered: Registered,
    /// Posted copies that other streams must wait for.
    pub posted: PostedCopies,
    /// Linker invocations.
    pub links: Links,
    /// What is shared with other processes.
    pub sharing: Sharing,
    /// Text that device code prints.
    pub output: Output,
    /// Which kernels print.
    pub printing: Printing,
    /// Compute capabilities of the devices that execute machine code, as 90 for 9.0.
    pub archs: Vec<u32>,
    /// What was refused.
    pub counters: Counters,
    /// Figures for the host's operator.
    pub figures: Counts,
    /// Where device addresses may lie.
    pub addresses: Addresses,
    /// Number of devices.
    pub devices: i32,
    /// Primary context of each device, 0 where the driver did not say.
    pub primaries: Vec<u64>,
    /// First address of the heap, behind the control segment.
    pub heap: u64,
    /// How long issuers spin for the next record.
    pub budget: SpinBudget,
    permits: Option<Permits>,
    sticky: AtomicU32,
    stopping: AtomicBool,
    named: Mutex<HashSet<u16>>,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// The driver, initialised.
    pub driver: Driver,
    /// The channel.
    pub channel: Arc<Channel>,
    /// Bytes of device memory the client may hold; 0 for no limit.
    pub quota: u64,
    /// Where device addresses may lie.
    pub addresses: Addresses,
    /// Where device text comes from.
    pub output: Output,
    /// Figures for the host's operator.
    pub figures: Counts,
    /// Number of devices.
    pub devices: i32,
    /// Primary context of each device, 0 where the driver did not say.
    pub primaries: Vec<u64>,
    /// Compute capabilities of the devices that execute machine code, as 90 for 9.0; none for the software device.
    pub archs: Vec<u32>,
    /// How long issuers spin for the next record.
    pub budget: SpinBudget,
    /// What limits spinning to the host's budget, if anything does.
    pub permits: Option<Permits>,
    /// What is shared with other processes.
    pub sharing: Sharing,
}

impl Parts {
    /// A worker with `driver` for one device on `channel`, and nothing else: no quota, no window, no relayed text.
    pub fn bare(driver: Driver, channel: Arc<Channel>) -> Self {
        Self {
            driver,
            channel,
            quota: 0,
            addresses: Addresses::Anywhere,
            output: Output::none(),
            figures: Counts::private(),
            devices: 1,
            primaries: Vec::new(),
            archs: Vec::new(),
            budget: SpinBudget::default(),
            permits: None,
            sharing: Sharing::new(Exchange::none(), None),
        }
    }
}

impl Worker {
    /// Checks `ready` for as long as `budget` lasts, or only a few times while as many threads of the host spin as may
    /// (`semantics.md` 22); whether it became true.
    #[inline]
    pub fn spin(&self, budget: &SpinBudget, ready: impl FnMut() -> bool) -> bool {
        match &self.permits {
            Some(permits) => permits.spin(budget, ready),
            None => budget.spin(ready),
        }
    }

    /// A worker that serves nobody yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let heap = parts
            .channel
            .heap_segments()
            .first()
            .map_or(u64::MAX, |segment| segment.address);
        let worker = Self {
            driver: parts.driver,
            printing: Printing::new(Arc::clone(&parts.channel)),
            channel: parts.channel,
            live: Live::default(),
            captures: Captures::default(),
            issuers: Issuers::default(),
            gate: Gate::default(),
            quota: Quota::new(parts.quota, parts.figures.clone()),
            graph_charges: GraphCharges::default(),
            user_objects: UserObjects::default(),
            registrar: Registrar::default(),
            registered: Registered::default(),
            posted: PostedCopies::default(),
            links: Links::default(),
            sharing: parts.sharing,
            output: parts.output,
            archs: parts.archs,
            counters: Counters::default(),
            figures: parts.figures,
            addresses: parts.addresses,
            devices: parts.devices,
            primaries: parts.primaries,
            heap,
            budget: parts.budget,
            permits: parts.permits,
            sticky: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            named: Mutex::new(HashSet::new()),
        };
        for primary in &worker.primaries {
            worker
                .live
                .enter(crate::live::Kind::Context, *primary, Default::default());
        }
        Arc::new(worker)
    }

    /// Passes a driver's result on; a sticky one is shown to the whole client first.
    ///
    /// # Errors
    /// The result, unless it is success.
    #[inline]
    pub fn result(&self, result: CUresult) -> Result<(), CUresult> {
        if result == CUresult::SUCCESS {
            return Ok(());
        }
        self.note(result);
        Err(result)
    }

    /// Shows a sticky error to the whole client. The first one stays.
    #[cold]
    pub fn note(&self, result: CUresult) {
        if result.is_sticky()
            && self
                .sticky
                .compare_exchange(0, result.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!("the client's context is lost: {result}");
            self.channel.set_sticky_error(result.0);
            self.figures.set(Word::Sticky, result.0.into());
            self.channel.wake_client();
        }
    }

    /// Counts something that was refused.
    #[cold]
    pub fn refused(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.figures.add(Word::Refused, 1);
    }

    /// The sticky error, 0 while there is none.
    pub fn sticky(&self) -> u32 {
        self.sticky.load(Ordering::Relaxed)
    }

    /// Whether a device address may be handed to the driver.
    ///
    /// # Errors
    /// `INVALID_VALUE`.
    #[inline]
    pub fn device_address(&self, address: u64) -> Result<(), CUresult> {
        if address == 0 || self.addresses == Addresses::Anywhere {
            return Ok(());
        }
        if self.in_window(address) || self.registered.holds(address, 1) {
            Ok(())
        } else {
            self.refused(&self.counters.addresses);
            Err(CUresult::INVALID_VALUE)
        }
    }

    /// Whether an address is the driver's by its place, or in a mapped segment.
    fn in_window(&self, address: u64) -> bool {
        match self.channel.window().classify(address) {
            Place::Driver | Place::Low => true,
            Place::Shared => self.channel.contains(address, 1),
            Place::Outside => false,
        }
    }

    /// Whether a range of device addresses may be handed to the driver: it must not begin in one
    /// part of the window and end in another, or behind the last shared segment or the registered range.
    ///
    /// # Errors
    /// `INVALID_VALUE`.
    #[inline]
    pub fn device_range(&self, address: u64, len: u64) -> Result<(), CUresult> {
        self.device_address(address)?;
        if len == 0 || address == 0 || self.addresses == Addresses::Anywhere {
            return Ok(());
        }
        let window = self.channel.window();
        let place = window.classify(address);
        let last = address.checked_add(len - 1);
        let whole = last.is_some_and(|last| window.classify(last) == place)
            && match place {
                Place::Driver | Place::Low => true,
                Place::Shared => self.channel.contains(address, len),
                Place::Outside => self.registered.holds(address, len),
            };
        if whole {
            Ok(())
        } else {
            self.refused(&self.counters.addresses);
            Err(CUresult::INVALID_VALUE)
        }
    }

    /// Whether an address that the driver gave may be shown to the client: everything else could
    /// equal one of the program's own pointers.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn placed(&self, address: u64) -> Result<(), CUresult> {
        let anywhere = address == 0 || self.addresses == Addresses::Anywhere;
        if anywhere || self.in_window(address) {
            return Ok(());
        }
        self.refused(&self.counters.addresses);
        if self.counters.misplaced.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!("the driver allocated at {address:#x}, outside the window");
        }
        Err(CUresult::OUT_OF_MEMORY)
    }

    /// Whether a host range that the client named lies in shared memory.
    ///
    /// # Errors
    /// `INVALID_VALUE`.
    #[inline]
    pub fn shared_range(&self, address: u64, len: u64) -> Result<(), CUresult> {
        if address >= self.heap && self.channel.contains(address, len) {
            Ok(())
        } else {
            self.refused(&self.counters.addresses);
            Err(CUresult::INVALID_VALUE)
        }
    }

    /// Whether a host range that the client named for a copy lies in shared memory, at its place in
    /// the heap or where the program registered it.
    ///
    /// # Errors
    /// `INVALID_VALUE`.
    #[inline]
    pub fn host_range(&self, address: u64, len: u64) -> Result<(), CUresult> {
        if self.registered.holds(address, len) {
            return Ok(());
        }
        self.shared_range(address, len)
    }

    /// Says once per number that a call is not served.
    #[cold]
    pub fn unknown(&self, number: u16) -> CUresult {
        self.refused(&self.counters.unknown);
        let mut named = lock(&self.named);
        if named.len() < 1024 && named.insert(number) {
            match vgpu_protocol::number::info(number) {
                Some(info) => tracing::warn!("{} is not supported", info.name),
                None => tracing::warn!("call number {number} is not known"),
            }
        }
        CUresult::NOT_SUPPORTED
    }

    /// Ends all threads as soon as they look.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether threads should end.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
