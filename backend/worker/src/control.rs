//! The control thread: more heap from the daemon, and the end when the daemon is gone.

use crate::state::Worker;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use vgpu_channel::link::message::{GROW_MAGIC, GrowRequest, GrowResponse};
use vgpu_channel::link::{LinkError, LinkStatus, Socket};
use vgpu_channel::segment::{Segment, SegmentFd};
use zerocopy::{FromBytes, IntoBytes};

/// How often an idle control thread looks whether the worker stops.
const LOOK: Duration = Duration::from_secs(60);

/// Serves the daemon until it is gone or the worker stops.
pub fn serve(worker: &Arc<Worker>, socket: &Socket) {
    // A failed registration leaves the segment mapped here and unknown to the client, whose own
    // segments must stay without holes: there can be no further one.
    let mut closed = false;
    loop {
        let received = socket.receive_with_fds::<{ size_of::<GrowRequest>() }>(LOOK);
        let (bytes, mut fds) = match received {
            Ok(received) => received,
            Err(LinkError::TimedOut) if !worker.stopping() => continue,
            Err(LinkError::TimedOut | LinkError::Closed) => return,
            Err(error) => {
                tracing::error!("the daemon's message cannot be used: {error}");
                return;
            }
        };
        let request = match GrowRequest::read_from_bytes(&bytes) {
            Ok(request) if request.magic == GROW_MAGIC => request,
            _ => {
                tracing::error!("the daemon sent a malformed message");
                return;
            }
        };
        let grown = match fds.pop() {
            Some(fd) if fds.is_empty() && !closed => grow(worker, request.bytes, fd, &mut closed),
            _ => None,
        };
        let status = if grown.is_some() {
            LinkStatus::Ok
        } else {
            LinkStatus::NoMemory
        };
        let segment = grown.unwrap_or(Segment { address: 0, len: 0 });
        let response = GrowResponse {
            magic: GROW_MAGIC,
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

fn grow(
    worker: &Worker,
    bytes: u64,
    fd: std::os::fd::OwnedFd,
    closed: &mut bool,
) -> Option<Segment> {
    let segments = worker.channel.segments();
    let mapped =
        SegmentFd::receive(fd, bytes).and_then(|segment| segments.append(segments.end(), &segment));
    match mapped {
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

/// Removes the daemon's socket file if nobody answers there.
pub fn remove_stale_socket(path: Option<PathBuf>) {
    let Some(path) = path else { return };
    let gone = matches!(
        Socket::connect(&path, Duration::from_millis(200)),
        Err(LinkError::NoServer { source, .. })
            if source.kind() == std::io::ErrorKind::ConnectionRefused
    );
    if gone {
        let _ = std::fs::remove_file(&path);
    }
}
