//! `libnvidia-ml.so.1` for monitors whose GPU is elsewhere: `nvidia-smi`, `nvitop`, PyTorch, Ollama and others find the same
//! device here as by our `libcuda.so.1`, with the same UUID, PCI address and memory.
//!
//! # The way of a call
//!
//! 1. [`exports`] — the C symbol, generated from [the one table](table).
//! 2. A function in one of the modules below. What does not change was learnt by `nvmlInit`.
//! 3. `ask` — what does change is asked for: one short connection to the backend, without a channel and without a worker.
//!
//! What the host does not tell clients is `NVML_ERROR_NOT_SUPPORTED`: a monitor shows "N/A". Nothing is made up.
//!
//! Like the other library it lives in strangers' processes: no thread, no descriptor kept, nothing printed unless `VGPU_LOG`
//! asks, no panic out.

#![allow(non_snake_case, reason = "functions bear NVML's names")]
#![allow(
    non_upper_case_globals,
    reason = "the marker bears the name that the backend looks for"
)]

#[macro_use]
pub mod table;
pub mod exports;

mod ask;
mod device;
mod error;
mod event;
mod figures;
mod give;
mod guard;
mod memory;
mod pci;
mod private;
mod process;
mod state;
mod system;
