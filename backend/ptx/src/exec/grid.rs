//! A launch: checks its shape, spreads the blocks over CPU threads, and gathers the first fault.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::{Bytes, Cx, Fault, FaultKind, Frame, Local, Ranges, block};
use crate::error::LaunchError;
use crate::launch::Launch;
use crate::lower::Kernel;
use crate::{MAX_BLOCK_THREADS, MAX_SHARED_BYTES};

/// Most CPU threads used for one launch.
const MAX_CPU_THREADS: usize = 256;

/// Most bytes of registers and local memory of all blocks in flight.
const MAX_THREAD_STATE: u64 = 4 << 30;

/// What the CPU threads of one launch share.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    next: AtomicU64,
    /// Set when a block failed: the others need not go on.
    pub(super) stop: AtomicBool,
    /// Warp instructions executed so far.
    pub(super) spent: AtomicU64,
    /// Bytes of registers and local memory in use.
    state: AtomicU64,
    failure: Mutex<Option<Fault>>,
}

impl Shares {
    /// Counts memory that a warp is about to take.
    pub(super) fn charge(&self, bytes: u64) -> Result<(), Fault> {
        let before = self.state.fetch_add(bytes, Relaxed);
        if before.saturating_add(bytes) <= MAX_THREAD_STATE {
            return Ok(());
        }
        self.state.fetch_sub(bytes, Relaxed);
        let why = format!(
            "the threads in flight need more than {MAX_THREAD_STATE} bytes of registers and local memory,"
        );
        Err(Fault::new(FaultKind::StackOverflow, why))
    }

    pub(super) fn release(&self, bytes: u64) {
        self.state.fetch_sub(bytes, Relaxed);
    }
}

/// Runs a launch to its end.
pub(crate) fn run(kernel: &Kernel, launch: &Launch<'_>) -> Result<(), LaunchError> {
    let blocks = check(kernel, launch)?;
    let shares = Shares::default();
    let threads = launch
        .threads
        .clamp(1, MAX_CPU_THREADS)
        .min(usize::try_from(blocks).unwrap_or(usize::MAX));
    if threads == 1 {
        work(kernel, launch, &shares, blocks);
    } else {
        let died = std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads)
                .map(|_| {
                    std::thread::Builder::new()
                        .spawn_scoped(scope, || work(kernel, launch, &shares, blocks))
                })
                .collect();
            work(kernel, launch, &shares, blocks);
            // A thread that could not be started is no loss: the others take its blocks.
            workers.into_iter().flatten().any(|w| w.join().is_err())
        });
        if died {
            return Err(LaunchError::Internal(format!(
                "a CPU thread of kernel '{}' panicked",
                kernel.name()
            )));
        }
    }
    match shares.failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(fault)) => Err(error(&fault)),
        Err(_) => Err(LaunchError::Internal("a CPU thread panicked".into())),
    }
}

fn check(kernel: &Kernel, launch: &Launch<'_>) -> Result<u64, LaunchError> {
    let bad = |why: String| {
        Err(LaunchError::InvalidConfiguration(format!(
            "kernel '{}': {why}",
            kernel.name()
        )))
    };
    let [gx, gy, gz] = launch.grid;
    let [bx, by, bz] = launch.block;
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65535 || gz > 65535 {
        return bad(format!("grid [{gx},{gy},{gz}]"));
    }
    let threads = u64::from(bx)
        .saturating_mul(u64::from(by))
        .saturating_mul(u64::from(bz));
    if threads == 0 || bz > 64 || threads > u64::from(MAX_BLOCK_THREADS) {
        return bad(format!("block [{bx},{by},{bz}]"));
    }
    if threads > u64::from(kernel.max_threads()) {
        return bad(format!(
            "{threads} threads per block, the kernel allows {}",
            kernel.max_threads()
        ));
    }
    if let Some(required) = kernel.required_block()
        && required != launch.block
    {
        return bad(format!(
            "block [{bx},{by},{bz}], the kernel requires {required:?}"
        ));
    }
    let shared = u64::from(kernel.static_shared_bytes()) + u64::from(launch.dynamic_shared);
    if shared > u64::from(MAX_SHARED_BYTES) {
        return bad(format!(
            "{shared} bytes of shared memory, at most {MAX_SHARED_BYTES} exist"
        ));
    }
    if launch.params.len() < kernel.param_bytes() as usize {
        return bad(format!(
            "{} bytes of parameters, {} needed",
            launch.params.len(),
            kernel.param_bytes()
        ));
    }
    Ok(u64::from(gx) * u64::from(gy) * u64::from(gz))
}

fn work(kernel: &Kernel, launch: &Launch<'_>, shares: &Shares, blocks: u64) {
    let shared = kernel.static_shared_bytes() as usize + launch.dynamic_shared as usize;
    let params = launch
        .params
        .get(..kernel.param_bytes() as usize)
        .unwrap_or(&[]);
    let mut cx = Cx {
        frame: Frame::default(),
        local_base: 0,
        local: Local::default(),
        shared: Bytes::zeroed(shared),
        params: Bytes::zeroed(params.len()),
        ranges: Ranges::default(),
        launch,
        kernel,
        shares,
        block: [0; 3],
        warp: 0,
        live: 0,
        polls: 0,
        clock: 0,
    };
    cx.params.fill_from(params);
    let [gx, gy, _] = launch.grid.map(u64::from);
    while !shares.stop.load(Relaxed) {
        let index = shares.next.fetch_add(1, Relaxed);
        if index >= blocks {
            break;
        }
        cx.block = [
            (index % gx) as u32,
            (index / gx % gy) as u32,
            (index / gx / gy) as u32,
        ];
        if let Err(fault) = block::run(&mut cx) {
            let already = shares.stop.swap(true, Relaxed);
            if let Ok(mut failure) = shares.failure.lock()
                && (!already || failure.is_none())
            {
                *failure = Some(fault);
            }
            break;
        }
    }
}

fn error(fault: &Fault) -> LaunchError {
    let detail = fault.detail().to_string();
    match fault.kind() {
        FaultKind::IllegalAddress => LaunchError::IllegalAddress(detail),
        FaultKind::Misaligned => LaunchError::Misaligned(detail),
        FaultKind::Assert => LaunchError::Assert(detail),
        FaultKind::Trap => LaunchError::Trap(detail),
        FaultKind::InvalidCall => LaunchError::InvalidCall(detail),
        FaultKind::StackOverflow => LaunchError::StackOverflow(detail),
        FaultKind::Deadlock => LaunchError::Deadlock(detail),
        FaultKind::Budget => LaunchError::Budget(detail),
        FaultKind::Unsupported => LaunchError::Unsupported(detail),
        FaultKind::Cancelled => LaunchError::Cancelled(detail),
        FaultKind::Internal => LaunchError::Internal(detail),
    }
}
