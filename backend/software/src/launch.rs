//! Kernel launches: what is checked at once, and the execution.

use crate::context::Core;
use crate::device::{
    self, MAX_BLOCK, MAX_BLOCK_THREADS, MAX_GRID, SHARED_OPT_IN, SHARED_PER_BLOCK,
};
use crate::foreign::Outcome;
use crate::module::Function;
use crate::printf;
use std::sync::Arc;
use vgpu_protocol::cuda::CUresult;
use vgpu_ptx::{Launch, LaunchError};

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Grid extents in blocks.
    pub(crate) grid: [u32; 3],
    /// Block extents in threads.
    pub(crate) block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub(crate) dynamic_shared: u32,
}

/// A launch that was checked.
#[derive(Debug)]
pub(crate) struct KernelLaunch {
    pub(crate) function: Arc<Function>,
    pub(crate) shape: Shape,
    /// The parameter block.
    params: Box<[u8]>,
    /// Address in `params` of each parameter, for who asks a graph node for its parameters.
    pub(crate) pointers: Box<[usize]>,
}

/// Most dynamic shared memory a function may be launched with, in bytes.
pub(crate) fn dynamic_shared_limit(function: &Function) -> u32 {
    let settings = function.settings.lock();
    settings
        .max_dynamic_shared
        .unwrap_or_else(|| SHARED_PER_BLOCK.saturating_sub(function.kernel.static_shared_bytes()))
}

/// Most a function may opt in to, in bytes.
pub(crate) fn dynamic_shared_opt_in(static_shared: u32) -> u32 {
    SHARED_OPT_IN.saturating_sub(static_shared)
}

impl KernelLaunch {
    /// Checks a launch.
    ///
    /// # Errors
    /// As natively: `INVALID_VALUE` for extents that no launch may have, too much shared memory or
    /// too few parameter bytes; `LAUNCH_OUT_OF_RESOURCES` for more threads than this function's own
    /// limit.
    pub(crate) fn new(function: Arc<Function>, shape: Shape, params: Vec<u8>) -> Outcome<Self> {
        let within = |extents: [u32; 3], limits: [u32; 3]| {
            let mut pairs = extents.iter().zip(limits);
            pairs.all(|(extent, limit)| (1..=limit).contains(extent))
        };
        let threads: u64 = shape
            .block
            .iter()
            .map(|extent| u64::from(*extent))
            .product();
        let shapely = within(shape.grid, MAX_GRID)
            && within(shape.block, MAX_BLOCK)
            && threads <= u64::from(MAX_BLOCK_THREADS);
        let kernel = &function.kernel;
        if !shapely || shape.dynamic_shared > dynamic_shared_limit(&function) {
            return Err(CUresult::INVALID_VALUE);
        }
        if threads > u64::from(kernel.max_threads()) {
            return Err(CUresult::LAUNCH_OUT_OF_RESOURCES);
        }
        if kernel
            .required_block()
            .is_some_and(|block| block != shape.block)
        {
            return Err(CUresult::INVALID_VALUE);
        }
        if params.len() < params_end(kernel) {
            return Err(CUresult::INVALID_VALUE);
        }
        let params = params.into_boxed_slice();
        let base = params.as_ptr() as usize;
        let pointers = kernel.params().iter();
        let pointers = pointers.map(|param| base + param.offset as usize).collect();
        Ok(Self {
            function,
            shape,
            params,
            pointers,
        })
    }

    /// Executes the launch.
    ///
    /// # Errors
    /// The fault, which becomes the context's.
    pub(crate) fn run(&self, core: &Core) -> Result<(), CUresult> {
        let memory = device::memory();
        let _ticket = memory.enter();
        let options = device::options();
        let launch = Launch {
            grid: self.shape.grid,
            block: self.shape.block,
            dynamic_shared: self.shape.dynamic_shared,
            params: &self.params,
            memory: &View {
                owner: self.function.owner,
            },
            printf: &printf::to_stdout,
            cancel: &core.cancel,
            threads: options.threads,
            instruction_budget: options.instruction_budget,
        };
        let kernel = &self.function.kernel;
        kernel.launch(&launch).map_err(|error| {
            tracing::warn!(kernel = kernel.name(), "{error}");
            if matches!(error, LaunchError::Assert(_)) {
                printf::to_stderr(error.to_string().as_bytes());
            }
            fault(&error)
        })
    }
}

/// Bytes of the parameter block that are really used.
pub(crate) fn params_end(kernel: &vgpu_ptx::Kernel) -> usize {
    let ends = kernel.params().iter();
    let ends = ends.map(|param| param.offset as usize + param.size as usize);
    ends.max().unwrap_or(0)
}

fn fault(error: &LaunchError) -> CUresult {
    match error {
        LaunchError::IllegalAddress(_) => CUresult::ILLEGAL_ADDRESS,
        LaunchError::Misaligned(_) => CUresult::MISALIGNED_ADDRESS,
        LaunchError::Assert(_) => CUresult::ASSERT,
        LaunchError::InvalidCall(_) => CUresult::INVALID_PC,
        LaunchError::StackOverflow(_) => CUresult::HARDWARE_STACK_ERROR,
        LaunchError::Budget(_) | LaunchError::Cancelled(_) => CUresult::LAUNCH_TIMEOUT,
        LaunchError::Internal(_) => CUresult::UNKNOWN,
        // Traps, deadlocks, and what was refused only while running: the kernel did not do its
        // work, and natively there is no milder way to say so afterwards.
        _ => CUresult::LAUNCH_FAILED,
    }
}

/// The memory a context's kernels may touch: its own and all known host memory.
struct View {
    owner: u64,
}

// SAFETY: `KernelLaunch::run` holds a ticket for the whole launch, taken before any range is looked
// up, so every range found here stays mapped until the launch is over. Device memory and registered
// host memory are never behind Rust references.
unsafe impl vgpu_ptx::Memory for View {
    fn range_of(&self, addr: u64) -> Option<std::ops::Range<u64>> {
        let range = device::memory().find(addr)?;
        let allowed = range.owner == self.owner || range.origin.is_host();
        allowed.then(|| range.start..range.end())
    }
}
