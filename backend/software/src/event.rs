//! Events.

use crate::context::Core;
use crate::foreign::Outcome;
use crate::interprocess::{Point, Shared};
use crate::stream::Mark;
use crate::table::{Kind, Table};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use vgpu_protocol::cuda::{
    CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING, CU_EVENT_INTERPROCESS, CUevent, CUresult,
};

/// One recording of an event.
#[derive(Default)]
pub(crate) struct Record {
    time: OnceLock<Instant>,
    /// For other processes.
    point: Option<Point>,
}

impl Record {
    /// A recording of an event.
    pub(crate) fn of(event: &Event) -> Self {
        Self {
            time: OnceLock::new(),
            point: event.shared.as_ref().map(Shared::record),
        }
    }

    /// The stream has come to the recording.
    pub(crate) fn complete(&self) {
        // Every recording is executed once, so this is the first and only time.
        let _ = self.time.set(Instant::now());
        self.release();
    }

    /// Lets other processes go on, also where nothing of the context is executed any more.
    pub(crate) fn release(&self) {
        if let Some(point) = &self.point {
            point.complete();
        }
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
    /// What other processes see of it.
    pub(crate) shared: Option<Arc<Shared>>,
}

static EVENTS: Table<Event> = Table::new(Kind::Event);

/// Flags that are understood.
const FLAGS: u32 = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;

/// Creates an event in a context.
///
/// # Errors
/// `INVALID_VALUE` for unknown flags, and for an event that other processes could open but has a time.
pub(crate) fn create(core: &Arc<Core>, flags: u32) -> Outcome<CUevent> {
    let shared = match flags & (CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING) {
        _ if flags & !FLAGS != 0 => return Err(CUresult::INVALID_VALUE),
        CU_EVENT_INTERPROCESS => return Err(CUresult::INVALID_VALUE),
        both if both & CU_EVENT_INTERPROCESS != 0 => Some(Shared::create()?),
        _ => None,
    };
    Ok(enter(core, flags, shared))
}

/// Enters an event into a context.
pub(crate) fn enter(core: &Arc<Core>, flags: u32, shared: Option<Arc<Shared>>) -> CUevent {
    let mut name = CUevent::NULL;
    EVENTS.insert_with(|handle| {
        name = CUevent(handle);
        Event {
            flags,
            core: Arc::clone(core),
            state: Mutex::new(State::Never),
            shared,
        }
    });
    name
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

    /// The recording that counts if other processes see the event, too: the latest of all.
    pub(crate) fn point(&self) -> Option<Point> {
        self.shared.as_ref().map(Shared::last)
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
