//! What every end-to-end test needs: the CUDA test programs and what they ask for ([`program`]), running a command with a
//! time limit ([`command`]), reading its verdict ([`verdict`]), a backend of one's own ([`backend`]), the built parts
//! ([`parts`]), `vgpu doctor` and what it says ([`diagnosis`]), a look at other processes through `/proc` ([`process`]), and a virtual machine to run all this in
//! ([`qemu`], [`guest`], [`machine`]).
//!
//! The crate drives finished binaries only; it links none of the parts it tests.

pub mod backend;
pub mod command;
pub mod diagnosis;
pub mod elf;
pub mod guest;
pub mod machine;
pub mod parts;
pub mod process;
pub mod program;
pub mod qemu;
pub mod verdict;
