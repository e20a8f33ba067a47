//! `libcuda.so.1` for programs whose GPU is elsewhere: every call of the CUDA driver API is answered
//! here if it can be, and otherwise travels through a shared-memory channel to a worker process.
//!
//! # The way of a call
//!
//! 1. [`exports`] — the C symbol, generated from the one table (`vgpu_protocol::table`).
//! 2. The function of the same name in one of the modules below, if the row says `hand`.
//! 3. `call` — a record into the ring, and the answer from the thread's reply slot.
//! 4. `vgpu-channel` — the ring itself.
//!
//! # What lives here, and what never does
//!
//! Everything that runs inside the program: it is loaded into strangers' processes, so it prints
//! nothing unless `VGPU_LOG` asks, makes no thread before a host function needs one, and lets no
//! panic out. Nothing of libc is interposed. Host-side code never lives here.

#![allow(non_snake_case, reason = "functions bear CUDA's names")]

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
compile_error!(
    "vgpu runs on x86-64 Linux with glibc 2.28 or newer: NVIDIA's libraries, which it serves, exist for no musl, and it knows no other processor and no Windows yet"
);

pub mod exports;

mod call;
mod callback;
mod capture;
mod client;
mod context;
mod copy;
mod device;
mod event;
mod fill;
mod function;
mod graph;
mod graph_edges;
mod graph_memory;
mod graph_nodes;
mod guard;
mod held;
mod image;
mod ipc;
mod jit;
mod launch;
mod link;
mod managed;
mod memory;
mod memory_operations;
mod module;
mod pool;
mod register;
mod resolve;
mod stats;
mod stream;
mod tables;
mod tensor_map;
mod texture;
mod thread;
mod visible;

/// Every hand-written function, where the generated exports look for it by name.
mod hand {
    pub use crate::callback::*;
    pub use crate::capture::*;
    pub use crate::client::cuInit;
    pub use crate::context::*;
    pub use crate::copy::*;
    pub use crate::device::*;
    pub use crate::event::*;
    pub use crate::fill::*;
    pub use crate::function::*;
    pub use crate::graph::*;
    pub use crate::graph_edges::*;
    pub use crate::graph_memory::*;
    pub use crate::graph_nodes::*;
    pub use crate::ipc::*;
    pub use crate::launch::*;
    pub use crate::link::*;
    pub use crate::managed::*;
    pub use crate::memory::*;
    pub use crate::memory_operations::*;
    pub use crate::module::*;
    pub use crate::pool::*;
    pub use crate::register::{cuMemHostRegister_v2, cuMemHostUnregister};
    pub use crate::resolve::*;
    pub use crate::stream::*;
    pub use crate::tables::*;
    pub use crate::tensor_map::*;
    pub use crate::texture::*;
}

use vgpu_process::{environment, log};
use vgpu_protocol::cuda::CUresult;

/// Stores a result where the program wants it.
///
/// Null is `INVALID_VALUE`. Every caller passes on a pointer of the program's which CUDA's contract
/// demands to be valid for a `T`, or a pointer to a local.
fn write<T>(to: *mut T, value: T) -> Result<(), CUresult> {
    if to.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by the contract of the CUDA function that is being served.
    unsafe { to.write(value) };
    Ok(())
}

/// Reads a struct the program passes by pointer; null is `INVALID_VALUE`. As for `write`, the
/// pointer is one that CUDA's contract demands to be valid.
fn read<T: Copy>(from: *const T) -> Result<T, CUresult> {
    if from.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null, and valid by the contract of the CUDA function that is being served.
    Ok(unsafe { from.read() })
}
