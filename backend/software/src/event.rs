//! Events.

use crate::context::Core;
use crate::foreign::Outcome;
use crate::stream::Mark;
use crate::table::{Kind, Table};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use vgpu_protocol::cuda::{CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING, CUevent, CUresult};

/// One recording of an event.
#[derive(Default)]
pub(crate) struct Record {
    time: OnceLock<Instant>,
}

impl Record {
    /// The stream has come to the recording.
    pub(crate) fn complete(&self) {
        // Every recording is executed once, so this is the first and only time.
        let _ = self.time.set(Instant::now());
    }
}

/// What was last recorded.
#[derive(Clone)]
pub(crate) enum State {
    /// Nothing yet: counts as complete.
    Never,
    /// This point in a stream.
    Recorded(Mark, Arc<Record>),
    /// These nodes of a stream capture.
    Captured { capture: u64, nodes: Vec<u64> },
}

/// An event.
pub(crate) struct Event {
    pub(crate) flags: u32,
    pub(crate) core: Arc<Core>,
    pub(crate) state: Mutex<State>,
}

static EVENTS: Table<Event> = Table::new(Kind::Event);

/// Flags that are understood. Sharing with other processes is not.
const FLAGS: u32 = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING;
/// `CU_EVENT_INTERPROCESS`.
const INTERPROCESS: u32 = 4;

/// Creates an event in a context.
pub(crate) fn create(core: &Arc<Core>, flags: u32) -> Outcome<CUevent> {
    if flags & !(FLAGS | INTERPROCESS) != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if flags & INTERPROCESS != 0 {
        return Err(CUresult::NOT_SUPPORTED);
    }
    let mut name = CUevent::NULL;
    EVENTS.insert_with(|handle| {
        name = CUevent(handle);
        Event {
            flags,
            core: Arc::clone(core),
            state: Mutex::new(State::Never),
        }
    });
    Ok(name)
}

/// The live event of a handle.
pub(crate) fn get(handle: CUevent) -> Outcome<Arc<Event>> {
    let event = EVENTS.get(handle.0).ok_or(CUresult::INVALID_HANDLE)?;
    event.core.check()?;
    Ok(event)
}

/// Destroys an event. What waits for its recording still does.
pub(crate) fn destroy(handle: CUevent) -> Outcome {
    EVENTS
        .remove(handle.0)
        .map(drop)
        .ok_or(CUresult::INVALID_HANDLE)
}

/// Forgets the events of a context that ends.
pub(crate) fn forget(owner: u64) {
    EVENTS.remove_if(|event| event.core.id == owner);
}

impl Event {
    /// The point last recorded, `None` if there is none to wait for.
    ///
    /// # Errors
    /// `CAPTURED_EVENT` if it was last recorded in a stream capture.
    pub(crate) fn mark(&self) -> Outcome<Option<Mark>> {
        match &*self.state.lock() {
            State::Never => Ok(None),
            State::Recorded(mark, _) => Ok(Some(mark.clone())),
            State::Captured { .. } => Err(CUresult::CAPTURED_EVENT),
        }
    }

    /// When the recording was reached.
    ///
    /// # Errors
    /// `INVALID_HANDLE` without timing or recording, `CAPTURED_EVENT`, `NOT_READY`.
    fn time(&self) -> Outcome<Instant> {
        if self.flags & CU_EVENT_DISABLE_TIMING != 0 {
            return Err(CUresult::INVALID_HANDLE);
        }
        match &*self.state.lock() {
            State::Never => Err(CUresult::INVALID_HANDLE),
            State::Captured { .. } => Err(CUresult::CAPTURED_EVENT),
            State::Recorded(_, record) => record.time.get().copied().ok_or(CUresult::NOT_READY),
        }
    }
}

/// Milliseconds from one event to another; negative if they happened the other way round.
///
/// # Errors
/// As [`Event::time`]; `INVALID_HANDLE` across contexts.
pub(crate) fn elapsed(start: &Event, end: &Event) -> Outcome<f32> {
    if start.core.id != end.core.id {
        return Err(CUresult::INVALID_HANDLE);
    }
    let (start, end) = (start.time()?, end.time()?);
    let milliseconds = match end.checked_duration_since(start) {
        Some(forward) => forward.as_secs_f64() * 1e3,
        None => -(start.duration_since(end).as_secs_f64() * 1e3),
    };
    Ok(milliseconds as f32)
}
