//! Executes PTX on the CPU: the engine of the software device.
//!
//! The road of a kernel through this crate:
//!
//! 1. [`fatbin::select_ptx`] finds the PTX text in whatever image a program loads.
//! 2. [`Module::parse`] turns the text into a module: globals and functions.
//! 3. The caller allocates the globals ([`Module::globals`]) and binds their addresses with
//!    [`Module::link`], then copies [`LinkedModule::initial_bytes`] into each.
//! 4. [`LinkedModule::kernel`] lowers one kernel to a list of closures, each of which does one PTX
//!    instruction for the 32 lanes of a warp. What the engine lacks is refused here, by name.
//! 5. [`Kernel::launch`] runs a grid over CPU threads.
//!
//! PTX is hostile input: neither a text nor a kernel can make this crate panic, touch memory
//! outside the live allocations the caller declares through [`Memory`], or run for ever
//! (see [`Launch::cancel`] and [`Launch::instruction_budget`]).
//!
//! Device addresses are host virtual addresses of this process. Shared, local, parameter and
//! function addresses carry tags in bits 56–63, where no user-space address can be.

#[deny(clippy::indexing_slicing)]
mod ast;
mod error;
mod exec;
#[deny(clippy::indexing_slicing)]
pub mod fatbin;
mod launch;
#[deny(clippy::indexing_slicing)]
mod lexer;
mod lower;
#[deny(clippy::indexing_slicing)]
mod module;
mod num;
#[deny(clippy::indexing_slicing)]
mod parser;
#[deny(clippy::indexing_slicing)]
mod printf;

pub use error::{ImageError, LaunchError, LinkError, LowerError, ParseError};
pub use launch::{Launch, Memory};
pub use lower::{Kernel, Param};
pub use module::{Global, GlobalSpace, LinkedModule, Module, Relocation};

/// Threads per warp.
pub const WARP_SIZE: u32 = 32;

/// Most threads in one block.
pub const MAX_BLOCK_THREADS: u32 = 1024;

/// Most bytes of shared memory one block may use, static and dynamic together (as on cc 8.0: 163 KiB).
pub const MAX_SHARED_BYTES: u32 = 163 * 1024;

/// Most bytes of local memory (arrays, spills, call stack) one thread may use.
pub const MAX_LOCAL_BYTES: u32 = 512 * 1024;

/// Most bytes of parameters one kernel may take.
pub const MAX_PARAM_BYTES: u32 = 32 * 1024;
