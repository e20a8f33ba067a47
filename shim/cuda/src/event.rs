//! Events. An event is known here as (stream, stamp) of its last record, so a done one is seen by
//! one load; those that graphs, external records or launch attributes touch are the driver's to
//! answer for (`semantics.md` 4).

use crate::call::{self, Completion};
use crate::client::{self, Client};
use crate::stream::{self, NullStream, State, Wait};
use crate::{context, write};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::{FromZeros, IntoBytes};

/// What an event stands for.
#[derive(Clone, Debug)]
enum Last {
    /// Done: never recorded, or recorded behind nothing.
    Nothing,
    /// This point of a stream's timeline.
    Point(Arc<State>, u32),
    /// Something only the driver knows.
    Elsewhere,
}

#[derive(Debug)]
struct Event {
    /// The context it belongs to.
    ctx: CUcontext,
    flags: u32,
    last: Mutex<Last>,
    /// Graphs record it, at launches that are not followed here, or other processes do.
    by_others: AtomicBool,
}

static EVENTS: LazyLock<RwLock<HashMap<CUevent, Arc<Event>>>> = LazyLock::new(RwLock::default);

fn find(event: CUevent) -> Result<Arc<Event>, CUresult> {
    let events = EVENTS.read().unwrap_or_else(PoisonError::into_inner);
    events.get(&event).cloned().ok_or(CUresult::INVALID_HANDLE)
}

impl Event {
    fn last(&self) -> Last {
        if self.by_others.load(Ordering::Relaxed) {
            return Last::Elsewhere;
        }
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether other processes can see it. Operations on such an event return only after they were issued
    /// (`semantics.md` 5).
    fn is_shared(&self) -> bool {
        self.flags & CU_EVENT_INTERPROCESS != 0
    }

    fn set(&self, last: Last) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

impl Event {
    /// Sends a command of `stream` that concerns the event, and gives its stamp.
    fn send(
        &self,
        client: &Client,
        number: u16,
        stream: &State,
        payload: &[u8],
        completion: Completion,
    ) -> Result<u32, CUresult> {
        if self.is_shared() {
            return call::call_across(client, number, stream, self.ctx, &[payload], &mut []);
        }
        call::post_across(client, number, stream, self.ctx, &[payload], completion)
    }
}

/// Forgets the events of a context that is gone.
pub fn context_died(ctx: CUcontext) {
    EVENTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|_, event| event.ctx != ctx);
}

/// Notes that something other than a plain record will complete an event.
pub fn recorded_elsewhere(event: CUevent) {
    if let Ok(event) = find(event) {
        event.set(Last::Elsewhere);
    }
}

/// Notes that launches of a graph will record an event: from now on the driver is asked about it.
pub fn recorded_by_graphs(event: CUevent) {
    if let Ok(event) = find(event) {
        event.by_others.store(true, Ordering::Relaxed);
    }
}

/// `cuEventCreate`.
///
/// # Safety
/// `event` is null or valid.
pub unsafe fn cuEventCreate(event: *mut CUevent, flags: u32) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ctx = context::required()?;
    if event.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuEventCreate::Args {
        event: [],
        flags: Word::of(flags),
    };
    let mut reply = wire::cuEventCreate::Reply::new_zeroed();
    call::call(
        client,
        number::cuEventCreate,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let handle: CUevent = reply.event.get();
    enter(handle, ctx, flags);
    write(event, handle)
}

/// Notes an event that the driver gave.
pub fn enter(handle: CUevent, ctx: CUcontext, flags: u32) {
    let event = Event {
        ctx,
        flags,
        last: Mutex::new(Last::Nothing),
        by_others: AtomicBool::new(flags & CU_EVENT_INTERPROCESS != 0),
    };
    EVENTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(handle, Arc::new(event));
}

/// `cuEventDestroy_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuEventDestroy_v2(event: CUevent) -> Result<(), CUresult> {
    let client = client::entered()?;
    // Before it is sent: the driver may give the handle to a new event, which another thread enters here.
    let known = EVENTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&event)
        .ok_or(CUresult::INVALID_HANDLE)?;
    let args = wire::cuEventDestroy_v2::Args {
        event: Word::of(event),
    };
    let (number, parts) = (number::cuEventDestroy_v2, [args.as_bytes()]);
    let sent = if context::device_of(known.ctx).is_some() && !known.is_shared() {
        // A live event of a live context: there is nothing that the driver could refuse.
        call::post_aside(client, number, known.ctx, &parts)
    } else {
        call::call(client, number, &parts, &mut [])
    };
    sent.inspect_err(|_| {
        EVENTS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(event)
            .or_insert(known);
    })
}

fn record(
    client: &Client,
    event: CUevent,
    stream: &Arc<State>,
    flags: Option<u32>,
) -> Result<(), CUresult> {
    let known = find(event)?;
    let driver_only =
        flags.is_some_and(|flags| flags != 0) || client.capturing() || known.is_shared();
    // On a stream that has nothing to do a record is done as it is made, and a wait behind it has no more to wait for than
    // one before it: the stream stays as idle as it was. What another thread sends there meanwhile is noted as ever. A time
    // is the device's to give.
    let done_at_once = !driver_only
        && known.flags & CU_EVENT_DISABLE_TIMING != 0
        && stream.has_nothing_to_wait_for(client);
    let completion = if done_at_once {
        Completion::AtOnce
    } else {
        Completion::Lazy
    };
    let stamp = match flags {
        None => {
            let args = wire::cuEventRecord::Args {
                event: Word::of(event),
                stream: Word::of(stream.handle),
            };
            known.send(
                client,
                number::cuEventRecord,
                stream,
                args.as_bytes(),
                completion,
            )?
        }
        Some(flags) => {
            let args = wire::cuEventRecordWithFlags::Args {
                event: Word::of(event),
                stream: Word::of(stream.handle),
                flags: Word::of(flags),
            };
            known.send(
                client,
                number::cuEventRecordWithFlags,
                stream,
                args.as_bytes(),
                completion,
            )?
        }
    };
    known.set(if driver_only {
        Last::Elsewhere
    } else if done_at_once {
        Last::Nothing
    } else {
        Last::Point(stream.clone(), stamp)
    });
    Ok(())
}

/// `cuEventRecord`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuEventRecord(
    default: NullStream,
    event: CUevent,
    stream: CUstream,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    record(client, event, &stream::find(client, stream, default)?, None)
}

/// `cuEventRecordWithFlags`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuEventRecordWithFlags(
    default: NullStream,
    event: CUevent,
    stream: CUstream,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    record(
        client,
        event,
        &stream::find(client, stream, default)?,
        Some(flags),
    )
}

/// `cuStreamWaitEvent`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuStreamWaitEvent(
    default: NullStream,
    stream: CUstream,
    event: CUevent,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    let known = find(event)?;
    let args = wire::cuStreamWaitEvent::Args {
        stream: Word::of(state.handle),
        event: Word::of(event),
        flags: Word::of(flags),
    };
    known
        .send(
            client,
            number::cuStreamWaitEvent,
            &state,
            args.as_bytes(),
            Completion::Lazy,
        )
        .map(|_| ())
}

/// Whether an event is known to be done without asking.
fn is_done(client: &Client, last: &Last) -> bool {
    !client.capturing()
        && match last {
            Last::Nothing => true,
            Last::Point(stream, stamp) => stream.reached(client, *stamp),
            Last::Elsewhere => false,
        }
}

/// Remembers that an event was seen done by the driver.
fn seen_done(last: &Last) {
    if let Last::Point(stream, stamp) = last {
        stream.completed(*stamp);
    }
}

/// `cuEventQuery`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuEventQuery(event: CUevent) -> Result<(), CUresult> {
    let client = client::entered()?;
    let last = find(event)?.last();
    client.sticky()?;
    if is_done(client, &last) {
        return Ok(());
    }
    let args = wire::cuEventQuery::Args {
        event: Word::of(event),
    };
    call::call(client, number::cuEventQuery, &[args.as_bytes()], &mut [])?;
    seen_done(&last);
    Ok(())
}

/// `cuEventSynchronize`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuEventSynchronize(event: CUevent) -> Result<(), CUresult> {
    let client = client::entered()?;
    let known = find(event)?;
    let last = known.last();
    call::deliver(client)?;
    let trim_is_due = matches!(&last, Last::Point(stream, _) if stream.trim_is_due());
    if is_done(client, &last) && !client.real_sync_only() && !trim_is_due {
        return Ok(());
    }
    if let Last::Point(stream, stamp) = &last
        && stream.last() == *stamp
        && stream.may_use_word(client)
        && known.flags & CU_EVENT_BLOCKING_SYNC == 0
    {
        return stream.synchronize(client, Wait::of(stream.ctx));
    }
    if let Last::Point(stream, _) = &last {
        stream.trimming();
    }
    let args = wire::cuEventSynchronize::Args {
        event: Word::of(event),
    };
    let wait = if known.flags & CU_EVENT_BLOCKING_SYNC != 0 {
        Wait::Sleep
    } else {
        Wait::of(known.ctx)
    };
    call::call_waiting(client, number::cuEventSynchronize, args.as_bytes(), wait)?;
    client.drain_output();
    seen_done(&last);
    call::deliver(client)
}

/// Makes a call about a context and an event, in that context.
fn of_context(number: u16, ctx: CUcontext, event: CUevent) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::device_of(ctx).ok_or(CUresult::INVALID_CONTEXT)?;
    let args = [ctx.0, event.0];
    context::with_current(ctx, || {
        call::call(client, number, &[args.as_bytes()], &mut [])
    })
}

/// `cuCtxRecordEvent`. The event is the driver's to answer for from now on.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxRecordEvent(ctx: CUcontext, event: CUevent) -> Result<(), CUresult> {
    of_context(number::cuCtxRecordEvent, ctx, event)?;
    recorded_by_graphs(event);
    Ok(())
}

/// `cuCtxWaitEvent`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxWaitEvent(ctx: CUcontext, event: CUevent) -> Result<(), CUresult> {
    of_context(number::cuCtxWaitEvent, ctx, event)
}
