//! From the start of the process to the first launch done.

use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use vgpu_protocol::cuda::{CUcontext, CUdevice};

use super::Case;
use crate::cuda::{Cuda, Failure, Kernels, Stream};
use crate::measure::sample::nanoseconds;
use crate::metric::Target;

/// A context with kernels in it, current to the thread that made it.
#[derive(Debug)]
pub struct Session<'c> {
    /// The library.
    pub cuda: &'c Cuda,
    /// The first device.
    pub device: CUdevice,
    /// Its primary context.
    pub context: CUcontext,
    /// The kernels in it.
    pub kernels: Kernels<'c>,
    /// How long that took.
    pub startup: Startup,
}

/// How long the steps to the first launch took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Startup {
    /// From the process's start, as seen by who started it, to the first launch done.
    pub total: Duration,
    /// Loading the library.
    pub load: Duration,
    /// `cuInit`.
    pub init: Duration,
    /// Retaining the primary context and making it current.
    pub context: Duration,
    /// Loading the module and finding its kernels.
    pub module: Duration,
    /// The first launch and waiting for it.
    pub first_launch: Duration,
}

/// The monotonic clock, which all processes of a machine share.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
}

impl Startup {
    /// Loads the library, timed.
    ///
    /// # Errors
    /// The loader's own.
    pub fn load(path: &Path) -> Result<(Cuda, Self), libloading::Error> {
        let begin = monotonic();
        let cuda = Cuda::load(path)?;
        let load = monotonic().saturating_sub(begin);
        Ok((
            cuda,
            Self {
                load,
                ..Self::default()
            },
        ))
    }
}

impl<'c> Session<'c> {
    /// Goes on to the first launch done, timing every step.
    ///
    /// # Errors
    /// The first failure.
    pub fn open(cuda: &'c Cuda, mut startup: Startup, started: Duration) -> Result<Self, Failure> {
        let mut last = monotonic();
        let mut lap = || {
            let now = monotonic();
            now.saturating_sub(std::mem::replace(&mut last, now))
        };
        cuda.init()?;
        startup.init = lap();
        let device = cuda.device(0)?;
        let context = cuda.primary_context(device)?;
        cuda.set_current(context)?;
        startup.context = lap();
        let kernels = Kernels::load(cuda)?;
        startup.module = lap();
        kernels.null(&Stream::legacy(cuda))?;
        cuda.synchronize()?;
        startup.first_launch = lap();
        startup.total = monotonic().saturating_sub(started);
        Ok(Self {
            cuda,
            device,
            context,
            kernels,
            startup,
        })
    }
}

/// One sample each: a process starts once.
pub fn cases() -> Vec<Case> {
    let part = |id: &str, label: &str, target, pick: fn(&Startup) -> Duration| {
        let run = move |session: &Session<'_>| Ok(vec![nanoseconds(pick(&session.startup))]);
        Case::time(id, label, target, run).unbound()
    };
    vec![
        part(
            "start_total",
            "process start to first launch done",
            Target::RatioAtMost(1.2),
            |s| s.total,
        ),
        part("start_load", "… loading the library", Target::None, |s| {
            s.load
        }),
        part("start_init", "… cuInit", Target::None, |s| s.init),
        part("start_context", "… primary context", Target::None, |s| {
            s.context
        }),
        part(
            "start_module",
            "… loading a PTX module",
            Target::None,
            |s| s.module,
        ),
        part(
            "start_launch",
            "… first launch and wait",
            Target::None,
            |s| s.first_launch,
        ),
    ]
}
