//! All figures as one document, which `vgpu top` reads.

use super::registry::{Origin, Registry};
use serde::Serialize;
use vgpu_worker::figures::Figures;

/// Changes when a field changes its meaning; new fields may come without.
pub const VERSION: u32 = 1;

/// What does not change while the daemon runs.
#[derive(Clone, Debug, Serialize)]
pub struct Daemon {
    /// Its process id.
    pub pid: u32,
    /// `cuda` or `software`.
    pub device: &'static str,
    /// Clients it serves at once.
    pub max_clients: usize,
}

/// The document.
#[derive(Debug, Serialize)]
pub struct Document {
    version: u32,
    daemon: Daemon,
    clients: Vec<Client>,
}

/// One client. Figures are totals since it began; sizes are bytes.
#[derive(Debug, Serialize)]
struct Client {
    worker: u32,
    /// `None` for a virtual machine's.
    user: Option<u32>,
    program: Option<String>,
    /// `None` for a process of the host.
    channel: Option<u64>,
    seconds: u64,
    calls: u64,
    failed: u64,
    launches: u64,
    copies: u64,
    copied_bytes: u64,
    waits: u64,
    refused: u64,
    memory_used: u64,
    memory_limit: u64,
    sticky: u64,
}

/// The document as it is now.
pub fn document(daemon: &Daemon, registry: &Registry) -> Document {
    let list = registry.list();
    let clients = list.iter().map(|served| {
        let figures: Figures = served.figures();
        let (user, program, channel) = match &served.origin {
            Origin::Process { user, program } => (Some(*user), Some(program.clone()), None),
            Origin::Channel(number) => (None, None, Some(*number)),
        };
        Client {
            worker: served.worker,
            user,
            program,
            channel,
            seconds: served.since.elapsed().as_secs(),
            calls: figures.calls,
            failed: figures.failed,
            launches: figures.launches,
            copies: figures.copies,
            copied_bytes: figures.copied_bytes,
            waits: figures.waits,
            refused: figures.refused,
            memory_used: figures.memory_used,
            memory_limit: figures.memory_limit,
            sticky: figures.sticky,
        }
    });
    Document {
        version: VERSION,
        daemon: daemon.clone(),
        clients: clients.collect(),
    }
}
