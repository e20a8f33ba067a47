//! The stream functions of the driver API.

use super::{GENERATION, NullStream, STREAMS, Wait, create, find, id_of, synchronize_context};
use crate::call;
use crate::{client, context, write};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::IntoBytes;

/// `cuStreamCreate`.
///
/// # Safety
/// `stream` is null or valid.
pub unsafe fn cuStreamCreate(stream: *mut CUstream, flags: u32) -> Result<(), CUresult> {
    let client = client::entered()?;
    if stream.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    write(stream, create(client, flags, None)?)
}

/// `cuStreamCreateWithPriority`.
///
/// # Safety
/// `stream` is null or valid.
pub unsafe fn cuStreamCreateWithPriority(
    stream: *mut CUstream,
    flags: u32,
    priority: i32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if stream.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    write(stream, create(client, flags, Some(priority))?)
}

/// `cuStreamDestroy_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuStreamDestroy_v2(stream: CUstream) -> Result<(), CUresult> {
    let client = client::entered()?;
    if stream.0 <= CUstream::PER_THREAD.0 {
        return Err(CUresult::INVALID_HANDLE);
    }
    let state = find(client, stream, NullStream::Legacy)?;
    // Before it is destroyed: a context that is synchronised by another thread meanwhile may still have to wait for it.
    state.ends(client);
    let args = wire::cuStreamDestroy_v2::Args {
        stream: Word::of(stream),
    };
    call::call(
        client,
        number::cuStreamDestroy_v2,
        &[args.as_bytes()],
        &mut [],
    )?;
    let gone = STREAMS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&(CUcontext::NULL, stream));
    if let Some(state) = gone {
        state.dead.store(true, Ordering::Relaxed);
    }
    GENERATION.fetch_add(1, Ordering::Release);
    Ok(())
}

/// `cuStreamSynchronize`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuStreamSynchronize(default: NullStream, stream: CUstream) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = find(client, stream, default)?;
    state.synchronize(client, Wait::of(state.ctx))
}

/// `cuCtxSynchronize`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxSynchronize() -> Result<(), CUresult> {
    synchronize_context(client::entered()?)
}

/// `cuCtxSynchronize_v2`: of a given context, or the current one for null.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxSynchronize_v2(ctx: CUcontext) -> Result<(), CUresult> {
    let client = client::entered()?;
    if ctx.is_null() {
        return synchronize_context(client);
    }
    context::device_of(ctx).ok_or(CUresult::INVALID_CONTEXT)?;
    context::with_current(ctx, || synchronize_context(client))
}

/// `cuStreamQuery`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuStreamQuery(default: NullStream, stream: CUstream) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = find(client, stream, default)?;
    call::deliver(client)?;
    if state.may_use_word(client) && state.is_idle(client) {
        return Ok(());
    }
    let last = state.last();
    state.query(client)?;
    state.completed(last);
    client.drain_output();
    Ok(())
}

/// `cuStreamGetFlags`.
///
/// # Safety
/// `flags` is null or valid.
pub unsafe fn cuStreamGetFlags(
    default: NullStream,
    stream: CUstream,
    flags: *mut u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    write(flags, find(client, stream, default)?.flags)
}

/// `cuStreamGetCtx`.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe fn cuStreamGetCtx(
    default: NullStream,
    stream: CUstream,
    ctx: *mut CUcontext,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    write(ctx, find(client, stream, default)?.ctx)
}

/// `cuStreamGetCtx_v2`. There are no green contexts, so no stream is of one.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuStreamGetCtx_v2(
    default: NullStream,
    stream: CUstream,
    ctx: *mut CUcontext,
    green: *mut u64,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = find(client, stream, default)?;
    if ctx.is_null() || green.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    write(green, 0)?;
    write(ctx, state.ctx)
}

/// `cuStreamGetGreenCtx`: none, as natively for streams that are not of one.
///
/// # Safety
/// `green` is null or valid.
pub unsafe fn cuStreamGetGreenCtx(stream: CUstream, green: *mut u64) -> Result<(), CUresult> {
    let client = client::entered()?;
    find(client, stream, NullStream::Legacy)?;
    write(green, 0)
}

/// `cuStreamGetDevice`.
///
/// # Safety
/// `dev` is null or valid.
pub unsafe fn cuStreamGetDevice(
    default: NullStream,
    stream: CUstream,
    dev: *mut CUdevice,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ctx = find(client, stream, default)?.ctx;
    write(
        dev,
        context::device_of(ctx).ok_or(CUresult::INVALID_CONTEXT)?,
    )
}

/// `cuStreamGetId`.
///
/// # Safety
/// `out` is null or valid.
pub unsafe fn cuStreamGetId(
    default: NullStream,
    stream: CUstream,
    out: *mut u64,
) -> Result<(), CUresult> {
    write(out, id_of(stream, default)?)
}

/// Reads or writes one attribute of a stream.
fn attribute(
    default: NullStream,
    stream: CUstream,
    attribute: u32,
    value: [u64; 8],
    number: u16,
    reply: &mut [u8],
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = find(client, stream, default)?;
    let args = wire::AttributeRequest {
        object: state.handle.0,
        attribute,
        len: 64,
        value,
    };
    call::call(client, number, &[args.as_bytes()], reply)
}

/// `cuStreamGetAttribute`.
///
/// # Safety
/// `value` is null or valid.
pub unsafe fn cuStreamGetAttribute(
    default: NullStream,
    stream: CUstream,
    which: u32,
    value: *mut CUlaunchAttributeValue,
) -> Result<(), CUresult> {
    let mut reply = wire::AttributeReply::default();
    attribute(
        default,
        stream,
        which,
        [0; 8],
        number::cuStreamGetAttribute,
        reply.as_mut_bytes(),
    )?;
    write(value, CUlaunchAttributeValue { words: reply.value })
}

/// `cuStreamSetAttribute`.
///
/// # Safety
/// `value` is null or valid.
pub unsafe fn cuStreamSetAttribute(
    default: NullStream,
    stream: CUstream,
    which: u32,
    value: *const CUlaunchAttributeValue,
) -> Result<(), CUresult> {
    if value.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null; the caller gives a valid value.
    let words = unsafe { (*value).words };
    attribute(
        default,
        stream,
        which,
        words,
        number::cuStreamSetAttribute,
        &mut [],
    )
}
