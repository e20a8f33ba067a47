//! Runs lowered kernels: blocks over CPU threads, warps in turn, groups of lanes by lowest pc.

mod access;
mod block;
mod frame;
mod grid;
mod warp;

pub(crate) use access::{
    Bytes, FUNCTION_BASE, Intent, LOCAL_BASE, Local, MemSpace, PARAM_BASE, Ranges, SHARED_BASE,
    Word,
};
pub(crate) use block::{BarrierKind, BarrierOp};
pub(crate) use frame::{FULL, Frame, LANES, Lane, Pred, PredSrc, Slot, lanes_of};
pub(crate) use grid::{Shares, run};

use crate::launch::Launch;
use crate::lower::Kernel;

/// What an instruction does to the active lanes.
pub(crate) type Op = Box<dyn Fn(&mut Cx<'_>, u32) -> Result<(), Fault> + Send + Sync>;

/// What a running instruction sees.
pub(crate) struct Cx<'a> {
    /// Registers of the current activation.
    pub(crate) frame: Frame,
    /// Where the current activation's variables begin in local memory.
    pub(crate) local_base: u32,
    /// Local memory of the current warp.
    pub(crate) local: Local,
    /// Shared memory of the block.
    pub(crate) shared: Bytes,
    /// Kernel parameters.
    pub(crate) params: Bytes,
    pub(crate) ranges: Ranges,
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) kernel: &'a Kernel,
    pub(crate) shares: &'a Shares,
    /// Index of the block in the grid.
    pub(crate) block: [u32; 3],
    /// Index of the warp in the block.
    pub(crate) warp: u32,
    /// Lanes of the warp that have not exited.
    pub(crate) live: u32,
    /// Instructions lately executed that look like waiting for somebody: compare-and-swap,
    /// exchange, volatile loads.
    pub(crate) polls: u32,
    /// Warp instructions executed by this CPU thread.
    pub(crate) clock: u64,
}

/// Why a warp cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    IllegalAddress,
    Misaligned,
    Assert,
    Trap,
    InvalidCall,
    StackOverflow,
    Deadlock,
    Budget,
    Unsupported,
    Cancelled,
    Internal,
}

/// A fault, boxed so that the good case stays one word.
#[derive(Debug)]
pub(crate) struct Fault(Box<(FaultKind, String)>);

impl Fault {
    #[cold]
    pub(crate) fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Fault(Box::new((kind, detail.into())))
    }

    pub(crate) fn kind(&self) -> FaultKind {
        self.0.0
    }

    pub(crate) fn detail(&self) -> &str {
        &self.0.1
    }

    /// Adds where it happened.
    #[cold]
    fn at(mut self, place: &str) -> Self {
        self.0.1.push_str(place);
        self
    }
}

/// One lowered instruction.
pub(crate) struct Inst {
    pub(crate) guard: Option<PredSrc>,
    pub(crate) kind: Kind,
}

/// What an instruction does to the flow of control.
pub(crate) enum Kind {
    /// Computes and falls through.
    Op(Op),
    /// Jumps.
    Branch(u32),
    /// Jumps through a table.
    BranchIndexed(Slot<u32>, Box<[u32]>),
    Return,
    Exit,
    Call(Box<Call>),
    /// Waits for other warps.
    Barrier(Box<BarrierOp>),
    /// Waits for the lanes of the warp named in a register, then computes.
    Sync(Slot<u32>, Option<Op>),
}

/// Who is called.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Index in [`Kernel::functions`].
    Direct(usize),
    /// The address is in a register.
    Indirect(Slot<u64>),
}

/// A call of a device function.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) target: Target,
    /// Offset and size of each argument in the caller's local memory.
    pub(crate) args: Vec<(u32, u32)>,
    /// Offset and size of each result in the caller's local memory.
    pub(crate) returns: Vec<(u32, u32)>,
}

/// Values filled into a new frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(crate) enum Special {
    TidX, TidY, TidZ, NtidX, NtidY, NtidZ, CtaidX, CtaidY, CtaidZ, NctaidX, NctaidY, NctaidZ,
    LaneId, WarpId, NWarpId, LaneMaskEq, LaneMaskLe, LaneMaskLt, LaneMaskGe, LaneMaskGt,
    DynamicShared, TotalShared,
    /// Offset of a variable of the activation in local memory, plus a tag; 64-bit.
    LocalAddress(u32, u64),
}

/// A lowered function.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) code: Vec<Inst>,
    /// Line and opcode of each instruction.
    pub(crate) origin: Vec<(u32, Box<str>)>,
    /// Registers of a new activation, constants filled in.
    pub(crate) image: Vec<u64>,
    /// Registers filled per warp: offset, whether 64-bit, value.
    pub(crate) specials: Vec<(u32, bool, Special)>,
    /// Bytes of local memory of one activation, a multiple of 16.
    pub(crate) local_bytes: u32,
    /// Offset and size in local memory.
    pub(crate) params: Vec<(u32, u32)>,
    /// Offset and size in local memory.
    pub(crate) returns: Vec<(u32, u32)>,
    /// Why the function cannot run, when it was only reached through its address.
    pub(crate) refused: Option<String>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function")
            .field("name", &self.name)
            .field("instructions", &self.code.len())
            .finish_non_exhaustive()
    }
}
