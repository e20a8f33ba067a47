//! From a call to a command: into the capture of its stream, or into the stream.

use crate::capture;
use crate::copy::Copy;
use crate::event::{Event, Record, State};
use crate::foreign::Outcome;
use crate::graph::Action;
use crate::stream::{Mark, Stream};
use crate::work::Work;
use std::sync::Arc;

/// Enqueues an action; `None` if it became a node of a capture.
///
/// # Errors
/// As [`capture::divert`] and [`Stream::submit`].
pub(crate) fn enqueue(stream: &Arc<Stream>, action: Action) -> Outcome<Option<Mark>> {
    match capture::divert(stream, action)? {
        None => Ok(None),
        Some(action) => stream.submit(action.work(), Vec::new()).map(Some),
    }
}

/// Enqueues a copy by the rules for pageable memory: a pageable source may be changed as soon as
/// this returns, a pageable destination is filled when this returns. In a capture the addresses are
/// recorded as they are.
pub(crate) fn enqueue_copy(stream: &Arc<Stream>, mut copy: Copy) -> Outcome {
    if copy.shape.is_empty() {
        return Ok(());
    }
    let mut wait = false;
    if !capture::is_capturing(stream) {
        wait = copy.fills_pageable() || (copy.reads_pageable() && !copy.stage());
    }
    let mark = enqueue(stream, Action::Copy(copy))?;
    if let Some(mark) = mark.filter(|_| wait) {
        mark.wait();
        stream.core.check()?;
    }
    Ok(())
}

/// Enqueues a copy and waits for its end: the synchronous forms.
pub(crate) fn copy_now(stream: &Arc<Stream>, copy: Copy) -> Outcome {
    if copy.shape.is_empty() {
        return Ok(());
    }
    if let Some(mark) = enqueue(stream, Action::Copy(copy))? {
        mark.wait();
    }
    stream.core.check()
}

/// Records an event in a stream.
///
/// # Errors
/// `INVALID_HANDLE` if they belong to different contexts; as [`capture::record`].
pub(crate) fn record(stream: &Arc<Stream>, event: &Arc<Event>, flags: u32) -> Outcome {
    if event.core.id != stream.core.id {
        return Err(vgpu_protocol::cuda::CUresult::INVALID_HANDLE);
    }
    if capture::record(stream, event, flags)? {
        return Ok(());
    }
    let record = Arc::new(Record::of(event));
    // Not under the event's lock: submitting may wait for room in the stream.
    let submitted = stream.submit(Work::Record(Arc::clone(&record)), Vec::new());
    let mark = submitted.inspect_err(|_| record.release())?;
    *event.state.lock() = State::Recorded(mark, record);
    Ok(())
}

/// Makes a stream wait for an event's last recording.
///
/// # Errors
/// As [`capture::wait`].
pub(crate) fn wait_event(stream: &Arc<Stream>, event: &Arc<Event>, flags: u32) -> Outcome {
    if capture::wait(stream, event, flags)? {
        return Ok(());
    }
    let mark = event.mark()?.filter(|mark| !mark.is_reached());
    let work = match event.point().filter(|point| !point.is_reached()) {
        Some(point) => Work::Await(point),
        None if mark.is_none() => return Ok(()),
        None => Work::Nothing,
    };
    stream.submit(work, mark.into_iter().collect()).map(drop)
}
