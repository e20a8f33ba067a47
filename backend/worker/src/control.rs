//! The control thread: more heap from the daemon, pauses, and the end when the daemon is gone.

use crate::call::Executor;
use crate::setup::{QUIESCE, QUIESCE_TIME, RESUME, SetupError, read_pieces};
use crate::state::Worker;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu_channel::link::message::{GROW_MAGIC, GrowRequest, GrowResponse};
use vgpu_channel::link::{LinkError, LinkStatus, Socket};
use vgpu_channel::segment::{FilePiece, Segment, SegmentFd};
use zerocopy::{FromBytes, IntoBytes};

/// How often an idle control thread looks whether the worker stops.
const LOOK: Duration = Duration::from_secs(60);

/// Serves the daemon until it is gone or the worker stops.
pub fn serve(worker: &Arc<Worker>, thread: &mut Executor, socket: &Socket) {
    // A failed registration leaves the segment mapped here and unknown to the client, whose own
    // segments must stay without holes: there can be no further one.
    let mut closed = false;
    loop {
        let received = socket.receive_with_fds::<{ size_of::<GrowRequest>() }>(LOOK);
        let (bytes, fds) = match received {
            Ok(received) => received,
            Err(LinkError::TimedOut) if !worker.stopping() => continue,
            Err(LinkError::TimedOut | LinkError::Closed) => return,
            Err(error) => {
                tracing::error!("the daemon's message cannot be used: {error}");
                return;
            }
        };
        let request = match GrowRequest::read_from_bytes(&bytes) {
            Ok(request) if [GROW_MAGIC, QUIESCE, RESUME].contains(&request.magic) => request,
            _ => {
                tracing::error!("the daemon sent a malformed message");
                return;
            }
        };
        let nothing = Segment { address: 0, len: 0 };
        let done = match request.magic {
            RESUME => {
                worker.gate.open();
                continue;
            }
            QUIESCE => {
                let deadline = Instant::now() + QUIESCE_TIME;
                let shut = worker.gate.shut(worker, thread, deadline);
                shut.then_some(nothing)
            }
            _ if closed => None,
            _ => grow(worker, request.bytes, fds, &mut closed),
        };
        // The registrar and the gate change what is current here.
        thread.forget_current();
        let status = match (done, request.magic) {
            (Some(_), _) => LinkStatus::Ok,
            (None, GROW_MAGIC) => LinkStatus::NoMemory,
            (None, _) => LinkStatus::Internal,
        };
        let segment = done.unwrap_or(nothing);
        let response = GrowResponse {
            magic: request.magic,
            id: request.id,
            status: status as u32,
            reserved: 0,
            address: segment.address,
            len: segment.len,
        };
        if socket.send(response.as_bytes(), &[]).is_err() {
            return;
        }
    }
}

fn grow(worker: &Worker, bytes: u64, fds: Vec<OwnedFd>, closed: &mut bool) -> Option<Segment> {
    match map(worker, bytes, fds) {
        Ok(segment) => match worker.registrar.grew(worker, segment) {
            Ok(()) => Some(segment),
            Err(error) => {
                tracing::error!("new heap could not be registered with the driver: {error}");
                *closed = true;
                None
            }
        },
        Err(error) => {
            tracing::error!("new heap could not be mapped: {error}");
            None
        }
    }
}

/// Maps a segment: one memory file, or a list of pieces with the files they lie in.
fn map(worker: &Worker, bytes: u64, mut fds: Vec<OwnedFd>) -> Result<Segment, SetupError> {
    let segments = worker.channel.segments();
    if fds.len() == 1
        && let Some(file) = fds.pop()
    {
        return Ok(segments.append(segments.end(), &SegmentFd::receive(file, bytes)?)?);
    }
    let mut fds = fds.into_iter();
    let list = fds.next().ok_or(SetupError::Malformed)?;
    let len = rustix::fs::fstat(&list).map_or(0, |stat| stat.st_size);
    let count = usize::try_from(len).unwrap_or(0) / size_of::<FilePiece>();
    let mut lists = read_pieces(&list, &fds.collect(), &[count])?;
    match lists.pop() {
        Some(pieces) if pieces.size() == bytes => {
            Ok(segments.append_pieces(segments.end(), &pieces)?)
        }
        _ => Err(SetupError::Malformed),
    }
}

/// Removes the daemon's socket file if nobody answers there. A daemon that dies closes its descriptors one after the other,
/// this worker's link perhaps before the socket it listens on, so an answer is not believed at once.
pub fn remove_stale_socket(path: Option<PathBuf>) {
    let Some(path) = path else { return };
    for _ in 0..10 {
        let connected = Socket::connect(&path, Duration::from_millis(50));
        match connected {
            Err(LinkError::NoServer { source, .. }) => {
                if source.kind() == std::io::ErrorKind::ConnectionRefused {
                    let _ = std::fs::remove_file(&path);
                }
                return;
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
