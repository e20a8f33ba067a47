//! Streams and their timelines.
//!
//! Every stream has a *timeline word* in the shared heap. A command's *stamp* is the low half of
//! its ring position; when the device has finished everything up to a flushed command, it writes
//! that command's stamp to the word. So an idle stream is seen by one load, and waiting costs no
//! host thread (`semantics.md` 4). The driver's own synchronisation is used where a word must not
//! be: during captures, on the legacy stream while other blocking streams live, once device text
//! has to be relayed or memory was freed in stream order, and for waits that last (`semantics.md` 3, 6,
//! 8).

mod calls;
mod contexts;
mod left_busy;
mod staging;
mod state;

pub use calls::*;
pub use contexts::{bring_up_to_date, context_died, settle_all, synchronize_context};
pub use staging::*;
pub use state::{State, Wait};

use crate::call;
use crate::client::{self, Client};
use crate::context;
use crate::thread::{self, Lane};
use core::mem::ManuallyDrop;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::{FromZeros, IntoBytes};

/// Which stream handle 0 means: plain exports say legacy, `_ptsz`/`_ptds` exports per-thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullStream {
    /// The legacy default stream.
    Legacy,
    /// The calling thread's default stream.
    PerThread,
}

/// Streams by handle; legacy streams also by context, since they share one handle.
type Streams = HashMap<(CUcontext, CUstream), Arc<State>>;

static STREAMS: LazyLock<RwLock<Streams>> = LazyLock::new(RwLock::default);

/// Moves whenever a stream goes away, so that threads drop what they remember.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// One remembered look-up: stream, current context, generation, state.
type Remembered = (CUstream, CUcontext, u64, Arc<State>);

thread_local! {
    /// The last look-ups of this thread, by a few bits of the handle.
    static RECENT: ManuallyDrop<RefCell<[Option<Remembered>; 8]>> =
        const { ManuallyDrop::new(RefCell::new([const { None }; 8])) };
}

/// The state of a stream as the program names it.
///
/// # Errors
/// `INVALID_CONTEXT` for a default stream without a current context, `INVALID_HANDLE` for what is
/// no stream.
pub fn find(
    client: &Client,
    stream: CUstream,
    default: NullStream,
) -> Result<Arc<State>, CUresult> {
    let ctx = thread::with(|thread| Ok(thread.current.get()))?;
    let stream = match (stream, default) {
        (CUstream::NULL, NullStream::Legacy) => CUstream::LEGACY,
        (CUstream::NULL, NullStream::PerThread) => CUstream::PER_THREAD,
        (other, _) => other,
    };
    let stream = if stream == CUstream::PER_THREAD {
        own(client, ctx)?
    } else {
        stream
    };
    let generation = GENERATION.load(Ordering::Acquire);
    RECENT.with(|recent| {
        let mut recent = recent.borrow_mut();
        let place = &mut recent[(stream.0 >> 4 ^ stream.0 >> 12) as usize % 8];
        if let Some((known, under, at, state)) = place
            && (*known, *under, *at) == (stream, ctx, generation)
        {
            return Ok(state.clone());
        }
        let state = find_slow(client, stream, ctx)?;
        *place = Some((stream, ctx, generation, state.clone()));
        Ok(state)
    })
}

fn find_slow(client: &Client, stream: CUstream, ctx: CUcontext) -> Result<Arc<State>, CUresult> {
    let key = if stream == CUstream::LEGACY {
        if ctx.is_null() {
            return Err(CUresult::INVALID_CONTEXT);
        }
        (ctx, stream)
    } else {
        (CUcontext::NULL, stream)
    };
    if let Some(state) = STREAMS
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
    {
        return Ok(state.clone());
    }
    if stream != CUstream::LEGACY {
        return Err(CUresult::INVALID_HANDLE);
    }
    let state = Arc::new(State::new(client, CUstream::LEGACY, ctx, 0)?);
    let mut streams = STREAMS.write().unwrap_or_else(PoisonError::into_inner);
    Ok(streams.entry(key).or_insert(state).clone())
}

/// The handle to send for a stream the program names.
///
/// # Errors
/// As [`find`].
pub fn handle(
    client: &Client,
    stream: CUstream,
    default: NullStream,
) -> Result<CUstream, CUresult> {
    find(client, stream, default).map(|state| state.handle)
}

/// The calling thread's default stream in `ctx`: a real blocking stream, made on first use
/// (`semantics.md` 8).
fn own(client: &Client, ctx: CUcontext) -> Result<CUstream, CUresult> {
    if ctx.is_null() {
        return Err(CUresult::INVALID_CONTEXT);
    }
    let known = thread::with(|thread| {
        let own = thread.own_streams.borrow();
        Ok(own
            .iter()
            .find(|(of, _)| *of == ctx)
            .map(|(_, stream)| *stream))
    })?;
    if let Some(stream) = known {
        let key = (CUcontext::NULL, stream);
        if STREAMS
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&key)
        {
            return Ok(stream);
        }
    }
    let stream = create(client, 0, None)?;
    thread::with(|thread| {
        let mut own = thread.own_streams.borrow_mut();
        own.retain(|(of, _)| *of != ctx);
        own.push((ctx, stream));
        Ok(stream)
    })
}

/// Destroys the default streams of a thread that is ending.
///
/// # Errors
/// `DEVICE_UNAVAILABLE` when the worker is gone.
pub fn end_own(
    client: &Client,
    lane: &Lane,
    own: &[(CUcontext, CUstream)],
) -> Result<(), CUresult> {
    for (_, stream) in own {
        let key = (CUcontext::NULL, *stream);
        let gone = STREAMS
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        if let Some(state) = gone {
            state.ends(client);
            GENERATION.fetch_add(1, Ordering::Release);
            let args = wire::cuStreamDestroy_v2::Args {
                stream: Word::of(*stream),
            };
            client.notify(
                lane.index,
                lane.slot,
                number::cuStreamDestroy_v2,
                args.as_bytes(),
            )?;
        }
    }
    Ok(())
}

/// Forgets what the calling thread remembers, when it ends.
pub fn forget_recent() {
    RECENT.with(|recent| recent.borrow_mut().fill(None));
}

/// Never-reused id of a stream.
///
/// # Errors
/// As [`find`].
pub fn id(stream: CUstream) -> Result<u64, CUresult> {
    id_of(stream, NullStream::Legacy)
}

fn id_of(stream: CUstream, default: NullStream) -> Result<u64, CUresult> {
    let client = client::entered()?;
    let state = find(client, stream, default)?;
    let known = state.id.load(Ordering::Relaxed);
    if known != 0 {
        return Ok(known);
    }
    let args = wire::cuStreamGetId::Args {
        stream: Word::of(state.handle),
        id: [],
    };
    let mut reply = wire::cuStreamGetId::Reply::new_zeroed();
    call::call(
        client,
        number::cuStreamGetId,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let id = reply.id.get();
    state.id.store(id, Ordering::Relaxed);
    Ok(id)
}

/// Asks the worker for a new stream and enters it.
fn create(client: &Client, flags: u32, priority: Option<i32>) -> Result<CUstream, CUresult> {
    let ctx = context::required()?;
    let handle: CUstream = match priority {
        None => {
            let args = wire::cuStreamCreate::Args {
                stream: [],
                flags: Word::of(flags),
            };
            let mut reply = wire::cuStreamCreate::Reply::new_zeroed();
            call::call(
                client,
                number::cuStreamCreate,
                &[args.as_bytes()],
                reply.as_mut_bytes(),
            )?;
            reply.stream.get()
        }
        Some(priority) => {
            let args = wire::cuStreamCreateWithPriority::Args {
                stream: [],
                flags: Word::of(flags),
                priority: Word::of(priority),
            };
            let mut reply = wire::cuStreamCreateWithPriority::Reply::new_zeroed();
            call::call(
                client,
                number::cuStreamCreateWithPriority,
                &[args.as_bytes()],
                reply.as_mut_bytes(),
            )?;
            reply.stream.get()
        }
    };
    let state = Arc::new(State::new(client, handle, ctx, flags)?);
    STREAMS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert((CUcontext::NULL, handle), state);
    GENERATION.fetch_add(1, Ordering::Release);
    Ok(handle)
}
