//! Memory freed in stream order that the same stream may get again: a free that is followed by an allocation of as many
//! bytes from the same pool on the same stream crosses to the worker in neither call.
//!
//! A freed allocation is *held*: its free is not sent yet. An allocation that it fits gets it; any call that is not such an
//! allocation has all frees sent first, and so has an allocation that fails. Why that is what CUDA promises:
//!
//! * Memory that is freed on a stream is free for what the stream does next, so the driver itself gives it to the next
//!   allocation there. Whoever used it on other streams had to be ordered before the free.
//! * The pointer is the driver's own, and real all the time. Nothing is handed out that the driver did not allocate, so
//!   errors (out of memory, quota) come from the call that meets them.
//! * To the driver, a free that is held has not happened. Whatever could see the difference is a call, and has the frees
//!   sent before itself ([`release`] in `call::ask`): pool attributes, free memory, allocations of any other kind,
//!   synchronisations that trim pools (after a free they are the driver's own, `semantics.md` 6), captures, the end of
//!   stream, pool or context. A free that is sent late, by whichever thread, is later in its stream, which harms nobody.
//! * A thread that finds frees to send waits while another one sends them, so that its own call is behind them. Sending
//!   waits for no device: room in the stream was made when the memory was freed.
//! * What is no allocation of this kind is never held: memory that graphs allocated is freed at once.
//!
//! A program that frees and makes no call any more leaves so much with the driver: natively pools keep it until the next
//! synchronisation, too. It is bounded.

use crate::call;
use crate::client::Client;
use crate::context;
use crate::stream::State;
use core::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::cuda::{CUdeviceptr, CUmemoryPool, CUresult};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::IntoBytes;

/// Allocations held at most, and their bytes.
const MAX_COUNT: usize = 64;
const MAX_BYTES: u64 = 64 << 20;

#[derive(Debug)]
struct Freed {
    address: CUdeviceptr,
    bytes: u64,
    pool: CUmemoryPool,
    stream: Arc<State>,
}

static HELD: Mutex<Vec<Freed>> = Mutex::new(Vec::new());

/// How many there are, for one load before each call. It is changed under the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn held() -> MutexGuard<'static, Vec<Freed>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// This thread sends frees.
    static SENDING: Cell<bool> = const { Cell::new(false) };
}

/// Holds an allocation of `bytes` from `pool` that the program frees on `stream`. False if its free must be sent.
///
/// # Errors
/// The failure of a stream that has no room.
pub fn hold(
    client: &Client,
    stream: &Arc<State>,
    address: CUdeviceptr,
    bytes: u64,
    pool: CUmemoryPool,
) -> Result<bool, CUresult> {
    if client.posts_are_calls() {
        return Ok(false);
    }
    if stream.make_room(client)? {
        stream.flush(client)?;
    }
    let mut held = held();
    let all: u64 = held.iter().map(|freed| freed.bytes).sum();
    if held.len() >= MAX_COUNT || all.saturating_add(bytes) > MAX_BYTES {
        return Ok(false);
    }
    held.push(Freed {
        address,
        bytes,
        pool,
        stream: Arc::clone(stream),
    });
    // A thread that is told of this free by the calling one sees the count.
    COUNT.store(held.len(), Ordering::Release);
    Ok(true)
}

/// A held allocation of `bytes` from `pool` for `stream`.
pub fn take(
    client: &Client,
    stream: &Arc<State>,
    bytes: u64,
    pool: CUmemoryPool,
) -> Option<CUdeviceptr> {
    if COUNT.load(Ordering::Acquire) == 0 || client.posts_are_calls() {
        return None;
    }
    let mut held = held();
    let fits = |freed: &Freed| {
        freed.bytes == bytes && freed.pool == pool && Arc::ptr_eq(&freed.stream, stream)
    };
    let at = held.iter().rposition(fits)?;
    let freed = held.swap_remove(at);
    COUNT.store(held.len(), Ordering::Release);
    Some(freed.address)
}

/// Whether memory may stay held when this call is made: for another size than what is there, programs that use several in
/// turn. What the driver has too little for is tried again without.
pub fn may_stay(call: u16) -> bool {
    matches!(
        call,
        number::cuMemAllocAsync | number::cuMemAllocFromPoolAsync
    )
}

/// Sends the frees that are held. Whether there were any.
#[inline]
pub fn release(client: &Client) -> bool {
    let any = COUNT.load(Ordering::Acquire) != 0 && !SENDING.get();
    if any {
        send_all(client);
    }
    any
}

#[cold]
fn send_all(client: &Client) {
    let mut held = held();
    SENDING.set(true);
    for freed in held.drain(..) {
        let args = wire::cuMemFreeAsync::Args {
            dptr: Word::of(freed.address),
            stream: Word::of(freed.stream.handle),
        };
        // The legacy stream is the current context's. A failure is sticky, or the worker is gone: the call behind this
        // one meets it, too.
        let _ = context::with_current(freed.stream.ctx, || {
            call::post_in_room(
                client,
                number::cuMemFreeAsync,
                &freed.stream,
                &[args.as_bytes()],
            )
        });
    }
    // Not before all are sent: who sees none goes on.
    COUNT.store(0, Ordering::Release);
    SENDING.set(false);
}
