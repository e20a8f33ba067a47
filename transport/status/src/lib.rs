//! What a daemon says of its clients: one JSON document, which the daemon writes and `vgpu top` reads.
//!
//! A daemon answers at an abstract socket whose name is [`socket_name`] of its process id; the connection is the question.

use serde::{Deserialize, Serialize};

/// How the sockets' names begin, without the leading zero byte; a process id follows.
pub const SOCKET_PREFIX: &str = "vgpu-top-";

/// Changes when a field changes its meaning; new fields may come without.
pub const VERSION: u32 = 1;

/// Where the daemon `pid` answers.
#[must_use]
pub fn socket_name(pid: u32) -> String {
    format!("{SOCKET_PREFIX}{pid}")
}

/// What a daemon says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// The daemon.
    pub daemon: Daemon,
    /// Its clients.
    pub clients: Vec<Client>,
}

/// A daemon: what does not change while it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// Its process id.
    pub pid: u32,
    /// `cuda` or `software`.
    pub device: String,
    /// Clients it serves at once.
    pub max_clients: u64,
}

/// A client; totals since it began, sizes in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Client {
    /// Process id of its worker.
    pub worker: u32,
    /// Its user, unless it is in a virtual machine.
    pub user: Option<u32>,
    /// Its name, by its own word.
    pub program: Option<String>,
    /// Its channel, if it is in a virtual machine.
    pub channel: Option<u64>,
    /// Seconds since it began.
    pub seconds: u64,
    /// Calls executed.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Launches.
    pub launches: u64,
    /// Copies.
    pub copies: u64,
    /// Bytes of these.
    pub copied_bytes: u64,
    /// Waits that reached the worker.
    pub waits: u64,
    /// Records and values refused.
    pub refused: u64,
    /// Device memory charged.
    pub memory_used: u64,
    /// Device memory that it may hold; 0 for the device's.
    pub memory_limit: u64,
    /// The sticky error, 0 for none.
    pub sticky: u64,
}
