//! The streams of a whole context, and all streams.

use super::{GENERATION, STREAMS, State, Wait, left_busy};
use crate::call;
use crate::client::Client;
use crate::{context, thread};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use vgpu_channel::timeline::reached;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;

/// All live streams of a context.
pub(super) fn of_context(ctx: CUcontext) -> Vec<Arc<State>> {
    let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
    streams
        .values()
        .filter(|state| state.ctx == ctx)
        .cloned()
        .collect()
}

/// Whether a context has streams, other than the legacy one, that synchronise with it.
pub(super) fn blocking_streams(ctx: CUcontext) -> bool {
    let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
    streams.values().any(|state| {
        state.ctx == ctx && !state.is_legacy() && state.flags & CU_STREAM_NON_BLOCKING == 0
    })
}

/// Whether the driver itself has synchronised every stream of a context since its last command: then there is nothing
/// to wait for, and no text of device code to come.
pub(super) fn all_synchronised(ctx: CUcontext) -> bool {
    let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
    streams
        .values()
        .filter(|state| state.ctx == ctx)
        .all(|state| state.is_synchronised())
}

/// Slots by which a stamp may lag behind the ring's head before it is noted on its stream: more than
/// the ring has, since an unpublished record stops the ring.
pub(super) const NOTE_LAG: u32 = 1 << 20;

/// Brings the stamps of all streams close to `now`, the ring's head: idle streams jump there, busy
/// ones get their word written. See [`Client::send_noted`].
pub fn bring_up_to_date(client: &Client, now: u32) {
    let base = now.wrapping_sub(NOTE_LAG);
    let streams: Vec<_> = {
        let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
        streams.values().cloned().collect()
    };
    for state in streams {
        let written = state.word == 0
            || reached(
                client.word(state.word),
                state.flushed.load(Ordering::Acquire),
            );
        if state.is_idle(client) && written {
            state.move_up(base);
            if state.word != 0 && !reached(client.word(state.word), base) {
                client.set_word(state.word, base);
            }
        } else if state.may_use_word(client) {
            // A failure shows at the next wait.
            let _ = state.flush(client);
        }
    }
}

/// Waits until every stream of every context has done all that was sent. A context that has failed
/// does nothing any more and counts as done.
pub fn settle_all(client: &Client) {
    let streams: Vec<_> = {
        let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
        streams.values().cloned().collect()
    };
    for state in streams.iter().filter(|state| !state.is_idle(client)) {
        let last = state.last();
        let done = context::with_current(state.ctx, || {
            thread::with(|thread| state.real_sync(client, thread, &*thread.lane(client)?))
        });
        if done.is_ok() {
            state.completed(last);
        }
    }
    // During a capture the driver would refuse, and end the capture.
    if client.capturing() {
        return;
    }
    for (ctx, mark) in left_busy::all() {
        let done = context::with_current(ctx, || ask_driver(client, ctx));
        if done.is_ok() {
            left_busy::is_over(ctx, mark);
        }
    }
}

/// Has the driver synchronise the current context, which is `ctx`.
fn ask_driver(client: &Client, ctx: CUcontext) -> Result<(), CUresult> {
    thread::with(|thread| {
        let lane = &*thread.lane(client)?;
        let result = call::real_call(
            client,
            thread,
            lane,
            number::cuCtxSynchronize,
            &[],
            Wait::of(ctx),
        );
        client.drain_output();
        result
    })
}

/// `cuCtxSynchronize` of the current context.
///
/// # Errors
/// The failure that ended it.
pub fn synchronize_context(client: &Client) -> Result<(), CUresult> {
    let ctx = context::required()?;
    call::deliver(client)?;
    let streams = of_context(ctx);
    let trim_is_due = streams.iter().any(|state| state.trim_is_due());
    let left = left_busy::of(ctx);
    if !client.real_sync_only() && !client.capturing() && !trim_is_due && left.is_none() {
        let dirty: Vec<_> = streams
            .iter()
            .filter(|state| !state.is_idle(client))
            .collect();
        if dirty.is_empty() && streams.iter().all(|state| state.word != 0) {
            return client.sticky();
        }
        if let [only] = dirty.as_slice()
            && only.may_use_word(client)
            && Wait::of(ctx) == Wait::Spin
        {
            return only.synchronize(client, Wait::Spin);
        }
    }
    let stamps: Vec<_> = streams.iter().map(|state| (state, state.last())).collect();
    for state in &streams {
        state.trimming();
    }
    ask_driver(client, ctx)?;
    if let Some(mark) = left {
        left_busy::is_over(ctx, mark);
    }
    for (state, stamp) in stamps {
        state.synchronised(stamp);
    }
    call::deliver(client)
}

/// Forgets the streams of a context that is gone.
pub fn context_died(ctx: CUcontext) {
    let mut streams = STREAMS.write().unwrap_or_else(PoisonError::into_inner);
    streams.retain(|_, state| {
        let dies = state.ctx == ctx;
        if dies {
            state.dead.store(true, Ordering::Relaxed);
        }
        !dies
    });
    drop(streams);
    left_busy::forget(ctx);
    GENERATION.fetch_add(1, Ordering::Release);
}
