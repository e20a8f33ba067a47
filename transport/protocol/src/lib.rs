//! What shim and backend agree on: CUDA's types, **the one table of CUDA calls**, and the wire
//! structs generated from it.
//!
//! * [`cuda`] — the driver API's handles, structs and result codes, as plain data.
//! * [`table`] — [`cuda_calls!`](crate::cuda_calls), [`cuda_aliases!`](crate::cuda_aliases) and [`cuda_stubs!`](crate::cuda_stubs): every symbol of the
//!   driver, declared once. Exports, `cuGetProcAddress` answers, wire structs, the backend's
//!   driver table and dispatch, and the coverage report all come from it.
//! * [`wire`] — request and reply structs: generated ones per call, and those with odd shapes.
//! * [`number`] — permanent call numbers and what the table says about each call.
//!
//! What never lives here: code of one side only, and anything about how bytes travel
//! (`vgpu-channel`).

// First: the modules after it use its macros.
#[macro_use]
pub mod table;

pub mod cuda;
pub mod number;
pub mod wire;

/// Version of the wire protocol. Equal majors talk to each other; minors may differ by two.
pub const PROTOCOL_MAJOR: u16 = 1;
/// See [`PROTOCOL_MAJOR`].
pub const PROTOCOL_MINOR: u16 = 1;
