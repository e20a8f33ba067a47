//! Staged blocks: shared memory for bytes on their way, and when it may be used again.

use super::{STREAMS, State};
use crate::client::Client;
use crate::{context, thread};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use vgpu_channel::staging::Chunk;
use vgpu_channel::timeline::reached;
use vgpu_protocol::cuda::*;

/// When a staged block may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The worker has handed the command to the driver, which takes parameters at once.
    Issued,
    /// The device has executed the command.
    Done,
}

/// Shared memory for bytes on their way, waiting for room if need be.
///
/// # Errors
/// `OUT_OF_MEMORY` for more than the whole ring; errors of what is waited for.
pub fn stage(client: &Client, len: u64) -> Result<Chunk, CUresult> {
    if len > client.staging().capacity() {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    loop {
        if let Some(chunk) = client.staging().alloc(len, client.channel()) {
            return Ok(chunk);
        }
        match client.staging().oldest() {
            Some((word, stamp)) => wait_for_word(client, word, stamp)?,
            // All of it is being filled by other threads.
            None => std::thread::yield_now(),
        }
    }
}

/// Waits until the timeline word at `word` has reached `stamp`, having it written if need be.
fn wait_for_word(client: &Client, word: u64, stamp: u32) -> Result<(), CUresult> {
    let streams = STREAMS.read().unwrap_or_else(PoisonError::into_inner);
    let owner = streams.values().find(|state| state.word == word).cloned();
    drop(streams);
    let Some(owner) = owner else {
        // The stream is gone and its work with it.
        client.staging().release_word(word);
        return Ok(());
    };
    if reached(client.word(word), stamp) {
        return Ok(());
    }
    if owner.may_use_word(client) && !reached(owner.flushed.load(Ordering::Acquire), stamp) {
        owner.flush(client)?;
    }
    if reached(owner.flushed.load(Ordering::Acquire), stamp) {
        return owner.wait_long(client, stamp);
    }
    context::with_current(owner.ctx, || {
        thread::with(|thread| owner.real_sync(client, thread, &*thread.lane(client)?))
    })?;
    client.staging().release_word(word);
    Ok(())
}

/// Gives a staged block back when the command that uses it no longer needs it.
///
/// # Errors
/// The command's own, passed on; errors of what is waited for.
pub fn unstage(
    client: &Client,
    chunk: &Chunk,
    state: &State,
    sent: Result<u32, CUresult>,
    until: Until,
) -> Result<u32, CUresult> {
    let stamp = match sent {
        Ok(stamp) => stamp,
        Err(error) => {
            client.staging().release(chunk.ticket);
            return Err(error);
        }
    };
    // A post that travelled as a call has been issued, and executed unless a capture is active.
    let called = client.posts_are_calls();
    if called && (until == Until::Issued || !client.capturing()) {
        client.staging().release(chunk.ticket);
    } else if let Some(word) = state.word_address().filter(|_| !called) {
        client.staging().release_at(chunk.ticket, word, stamp);
    } else {
        let done = thread::with(|thread| state.real_sync(client, thread, &*thread.lane(client)?));
        client.staging().release(chunk.ticket);
        done?;
    }
    Ok(stamp)
}
