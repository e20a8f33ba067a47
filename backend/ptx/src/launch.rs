//! What a launch needs from its caller.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicBool;

/// The device memory a kernel may touch.
///
/// Device addresses are addresses of this process. Implementors promise that every range they
/// report stays mapped, readable and writable until the launch returns; that promise is what the
/// engine's raw accesses rest on, so the trait is unsafe to implement.
///
/// # Safety
///
/// A range returned by [`range_of`](Memory::range_of) must be mapped readable and writable for the
/// whole launch, and no Rust reference to its bytes may be live during the launch: the engine
/// accesses it with relaxed atomics from several threads.
pub unsafe trait Memory: Sync {
    /// The live allocation that contains `addr`, as `start..end` addresses, or `None` when there is
    /// none. Answers are cached by the engine for the length of the launch.
    fn range_of(&self, addr: u64) -> Option<Range<u64>>;
}

/// One kernel launch.
pub struct Launch<'a> {
    /// Blocks in x, y and z; each at least 1; at most 2^31-1, 65535, 65535.
    pub grid: [u32; 3],
    /// Threads per block in x, y and z; each at least 1; at most 1024, 1024, 64 and 1024 together.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory, beside the kernel's static ones.
    pub dynamic_shared: u32,
    /// The parameter block, laid out as [`Kernel::params`](crate::Kernel::params) says. May be longer.
    pub params: &'a [u8],
    /// The memory the kernel may touch.
    pub memory: &'a dyn Memory,
    /// Called once per thread and `printf` call with the formatted bytes, from any CPU thread.
    pub printf: &'a (dyn Fn(&[u8]) + Sync),
    /// When this becomes true the launch soon ends with [`LaunchError::Cancelled`](crate::LaunchError::Cancelled).
    pub cancel: &'a AtomicBool,
    /// CPU threads to use, at least 1. Never more are used than there are blocks.
    pub threads: usize,
    /// Most warp instructions (one instruction for up to 32 lanes) the launch may execute over all
    /// blocks, checked every few thousand; `None` for no limit.
    pub instruction_budget: Option<u64>,
}

impl fmt::Debug for Launch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("grid", &self.grid)
            .field("block", &self.block)
            .field("dynamic_shared", &self.dynamic_shared)
            .field("params", &self.params.len())
            .field("threads", &self.threads)
            .field("instruction_budget", &self.instruction_budget)
            .finish_non_exhaustive()
    }
}
