//! All figures as one document, which `vgpu top` reads.

use super::registry::{Origin, Registry, Served};
use vgpu_status::{Client, Daemon, Document, VERSION};
use vgpu_worker::figures::Figures;

/// The document as it is now.
pub fn document(daemon: &Daemon, registry: &Registry) -> Document {
    Document {
        version: VERSION,
        daemon: daemon.clone(),
        clients: registry
            .list()
            .iter()
            .map(|served| client(served))
            .collect(),
    }
}

fn client(served: &Served) -> Client {
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
}
