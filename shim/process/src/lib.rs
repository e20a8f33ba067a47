//! What our libraries need of the process they live in: its environment, its stderr, and where the backend is.
//!
//! Each library that links this crate has it for itself.

pub mod environment;
pub mod log;

use std::path::PathBuf;

/// Where the backend listens unless `VGPU_SOCKET` says otherwise.
const DEFAULT_SOCKET: &str = "/run/vgpu/vgpu.sock";

/// The socket of the backend, or in a guest of the agent.
#[must_use]
pub fn socket() -> PathBuf {
    environment::var("VGPU_SOCKET")
        .unwrap_or_else(|| DEFAULT_SOCKET.to_owned())
        .into()
}
