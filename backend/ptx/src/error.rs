//! What can go wrong, from image to launch. Every message is meant to be read by the person whose
//! program failed: it names the kernel, the PTX line and the instruction where there is one.

use thiserror::Error;

/// Why no PTX could be taken from an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The image is well formed but holds nothing this device can run: machine code only, or PTX
    /// for newer architectures only. CUDA: `NO_BINARY_FOR_GPU` (209).
    #[error("no PTX for this device: {0}")]
    NoBinary(String),
    /// The image is not a fatbin, not PTX, or damaged. CUDA: `INVALID_IMAGE` (200).
    #[error("invalid image: {0}")]
    Invalid(String),
}

/// The text is not PTX as we read it. CUDA: `INVALID_PTX` (218).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("ptx line {line}: {message}")]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// What was found and what was expected.
    pub message: String,
}

/// The module cannot be bound to addresses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The caller gave another number of addresses than there are globals.
    #[error("{given} addresses for {needed} globals")]
    AddressCount {
        /// Addresses given.
        given: usize,
        /// Globals of the module.
        needed: usize,
    },
    /// A symbol is declared `.extern` and nothing defines it.
    #[error("symbol '{0}' is declared extern and defined nowhere")]
    Unresolved(String),
}

/// A kernel cannot be made executable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LowerError {
    /// The module has no such kernel. CUDA: `NOT_FOUND` (500).
    #[error("no kernel named '{0}'")]
    NotFound(String),
    /// The kernel, or a function it may call, needs something the engine lacks.
    /// CUDA: `NOT_SUPPORTED` (801).
    #[error("{message}")]
    Unsupported {
        /// Names kernel, line and instruction.
        message: String,
    },
    /// The kernel breaks a rule of PTX. CUDA: `INVALID_PTX` (218).
    #[error("{message}")]
    Invalid {
        /// Names kernel, line and instruction.
        message: String,
    },
}

/// Why a launch did not run to its end. The payload says kernel, PTX line and block.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Grid, block, shared memory or parameters outside the limits; nothing ran.
    /// CUDA: `INVALID_VALUE` (1) or `LAUNCH_OUT_OF_RESOURCES` (701).
    #[error("invalid launch: {0}")]
    InvalidConfiguration(String),
    /// An access outside every live allocation. CUDA: `ILLEGAL_ADDRESS` (700), sticky.
    #[error("illegal memory access: {0}")]
    IllegalAddress(String),
    /// An access not aligned to its size. CUDA: `MISALIGNED_ADDRESS` (716), sticky.
    #[error("misaligned address: {0}")]
    Misaligned(String),
    /// A device-side `assert` failed. CUDA: `ASSERT` (710), sticky.
    #[error("device assertion failed: {0}")]
    Assert(String),
    /// `trap` or `brkpt`. CUDA: `LAUNCH_FAILED` (719), sticky.
    #[error("trap: {0}")]
    Trap(String),
    /// A call through a value that is no function. CUDA: `INVALID_PC` (718), sticky.
    #[error("invalid call target: {0}")]
    InvalidCall(String),
    /// Local memory or call depth exhausted. CUDA: `HARDWARE_STACK_ERROR` (714), sticky.
    #[error("stack overflow: {0}")]
    StackOverflow(String),
    /// No thread of a block can go on: barriers or warp-wide instructions that can never be met.
    /// CUDA: `LAUNCH_TIMEOUT` (702), sticky.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// The instruction budget is used up. CUDA: `LAUNCH_TIMEOUT` (702), sticky.
    #[error("instruction budget exhausted: {0}")]
    Budget(String),
    /// A function reached through a pointer needs what the engine lacks. CUDA: `NOT_SUPPORTED` (801).
    #[error("{0}")]
    Unsupported(String),
    /// The caller's cancel flag was raised.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// A defect of the engine itself. CUDA: `UNKNOWN` (999).
    #[error("engine failure: {0}")]
    Internal(String),
}
