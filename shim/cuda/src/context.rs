//! Contexts: the per-thread stack is the shim's own, creation and destruction are the worker's.

use crate::client::{self, Client};
use crate::{call, event, function, memory, module, stream, tables, thread, write};
use core::ffi::c_void;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};
use vgpu_protocol::cuda::{CUcontext, CUdevice, CUresult};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::{FromZeros, IntoBytes};

/// What the shim knows of a context.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The program's ordinal of its device.
    device: CUdevice,
    /// Whether it is a primary context (whose handle outlives release and reset).
    primary: bool,
    /// `cuCtxGetId`, once asked for.
    id: Option<u64>,
    /// Flags given at creation.
    flags: u32,
}

static CONTEXTS: LazyLock<RwLock<HashMap<CUcontext, Known>>> = LazyLock::new(RwLock::default);

fn known(ctx: CUcontext) -> Option<Known> {
    if let Some(known) = CONTEXTS
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&ctx)
    {
        return Some(*known);
    }
    // A primary context's handle is valid before the context is retained.
    let client = client::entered().ok()?;
    let device = client
        .devices()
        .iter()
        .position(|device| device.primary_ctx() == ctx)?;
    let known = Known {
        device: CUdevice(device as i32),
        primary: true,
        id: None,
        flags: 0,
    };
    CONTEXTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(ctx, known);
    Some(known)
}

/// The calling thread's current context, or null.
pub fn current() -> CUcontext {
    thread::with(|thread| Ok(thread.current.get())).unwrap_or_default()
}

/// The current context, which must be set.
///
/// # Errors
/// `INVALID_CONTEXT` if none is current.
pub fn required() -> Result<CUcontext, CUresult> {
    let ctx = thread::with(|thread| Ok(thread.current.get()))?;
    if ctx.is_null() {
        Err(CUresult::INVALID_CONTEXT)
    } else {
        Ok(ctx)
    }
}

/// Runs `body` with `ctx` current.
pub fn with_current<T>(ctx: CUcontext, body: impl FnOnce() -> T) -> T {
    let before = thread::with(|thread| Ok(thread.current.replace(ctx)));
    let value = body();
    if let Ok(before) = before {
        let _ = thread::with(|thread| {
            thread.current.set(before);
            Ok(())
        });
    }
    value
}

/// Never-reused id of a context.
///
/// # Errors
/// `INVALID_CONTEXT` for what is no context.
pub fn id(ctx: CUcontext) -> Result<u64, CUresult> {
    let Some(context) = known(ctx) else {
        return Err(CUresult::INVALID_CONTEXT);
    };
    if let Some(id) = context.id {
        return Ok(id);
    }
    let client = client::entered()?;
    let args = wire::cuCtxGetId::Args {
        ctx: Word::of(ctx),
        id: [],
    };
    let mut reply = wire::cuCtxGetId::Reply::new_zeroed();
    call::call(
        client,
        number::cuCtxGetId,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let id = reply.id.get();
    if let Some(context) = CONTEXTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .get_mut(&ctx)
    {
        context.id = Some(id);
    }
    Ok(id)
}

/// Forgets everything that dies with a context. The destructors of context-local storage have run.
fn forget(ctx: CUcontext) {
    stream::context_died(ctx);
    event::context_died(ctx);
    module::context_died(ctx);
    memory::context_died(ctx);
}

/// The device of the current context, as the program numbers it.
pub fn device() -> Result<CUdevice, CUresult> {
    known(required()?)
        .map(|context| context.device)
        .ok_or(CUresult::INVALID_CONTEXT)
}

/// The device of `ctx`, as the program numbers it.
pub fn device_of(ctx: CUcontext) -> Option<CUdevice> {
    known(ctx).map(|context| context.device)
}

/// Whether waits in this context should sleep rather than spin (`CU_CTX_SCHED_BLOCKING_SYNC`).
pub fn blocking_sync(ctx: CUcontext) -> bool {
    const CU_CTX_SCHED_BLOCKING_SYNC: u32 = 4;
    known(ctx).is_some_and(|context| context.flags & CU_CTX_SCHED_BLOCKING_SYNC != 0)
}

/// `cuCtxGetCurrent`.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe fn cuCtxGetCurrent(ctx: *mut CUcontext) -> Result<(), CUresult> {
    client::entered()?;
    write(ctx, current())
}

/// `cuCtxSetCurrent`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxSetCurrent(ctx: CUcontext) -> Result<(), CUresult> {
    client::entered()?;
    if !ctx.is_null() && known(ctx).is_none() {
        return Err(CUresult::INVALID_CONTEXT);
    }
    thread::with(|thread| {
        thread.current.set(ctx);
        if ctx.is_null() {
            // As the driver: setting null pops the top.
            if let Some(below) = thread.pushed.borrow_mut().pop() {
                thread.current.set(below);
            }
        }
        Ok(())
    })
}

/// `cuCtxPushCurrent_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxPushCurrent_v2(ctx: CUcontext) -> Result<(), CUresult> {
    client::entered()?;
    if known(ctx).is_none() {
        return Err(CUresult::INVALID_CONTEXT);
    }
    push(ctx)
}

fn push(ctx: CUcontext) -> Result<(), CUresult> {
    thread::with(|thread| {
        let below = thread.current.replace(ctx);
        if !below.is_null() {
            thread.pushed.borrow_mut().push(below);
        }
        Ok(())
    })
}

/// `cuCtxPopCurrent_v2`.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe fn cuCtxPopCurrent_v2(ctx: *mut CUcontext) -> Result<(), CUresult> {
    client::entered()?;
    let popped = thread::with(|thread| {
        let top = thread.current.get();
        if top.is_null() {
            return Err(CUresult::INVALID_CONTEXT);
        }
        thread
            .current
            .set(thread.pushed.borrow_mut().pop().unwrap_or_default());
        Ok(top)
    })?;
    if !ctx.is_null() {
        // SAFETY: not null; the caller gives a valid pointer.
        unsafe { *ctx = popped };
    }
    Ok(())
}

/// `cuCtxGetDevice`.
///
/// # Safety
/// `dev` is null or valid.
pub unsafe fn cuCtxGetDevice(dev: *mut CUdevice) -> Result<(), CUresult> {
    client::entered()?;
    write(dev, device()?)
}

/// `cuCtxGetDevice_v2`: of a given context, or the current one for null.
///
/// # Safety
/// `dev` is null or valid.
pub unsafe fn cuCtxGetDevice_v2(dev: *mut CUdevice, ctx: CUcontext) -> Result<(), CUresult> {
    client::entered()?;
    let ctx = if ctx.is_null() { required()? } else { ctx };
    write(dev, device_of(ctx).ok_or(CUresult::INVALID_CONTEXT)?)
}

/// `cuCtxGetApiVersion`: 3020 for every context that is no older one.
///
/// # Safety
/// `version` is null or valid.
pub unsafe fn cuCtxGetApiVersion(ctx: CUcontext, version: *mut u32) -> Result<(), CUresult> {
    client::entered()?;
    let ctx = if ctx.is_null() { required()? } else { ctx };
    known(ctx).ok_or(CUresult::INVALID_CONTEXT)?;
    write(version, 3020)
}

/// `cuCtxGetId`.
///
/// # Safety
/// `out` is null or valid.
pub unsafe fn cuCtxGetId(ctx: CUcontext, out: *mut u64) -> Result<(), CUresult> {
    client::entered()?;
    let ctx = if ctx.is_null() { required()? } else { ctx };
    write(out, id(ctx)?)
}

/// `cuCtxGetFlags`.
///
/// # Safety
/// `flags` is null or valid.
pub unsafe fn cuCtxGetFlags(flags: *mut u32) -> Result<(), CUresult> {
    let client = client::entered()?;
    required()?;
    let mut reply = wire::cuCtxGetFlags::Reply::new_zeroed();
    call::call(client, number::cuCtxGetFlags, &[], reply.as_mut_bytes())?;
    write(flags, reply.flags.get())
}

/// `cuCtxSetLimit`: launches that were fine before may not be any more.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxSetLimit(limit: u32, value: usize) -> Result<(), CUresult> {
    let client = client::entered()?;
    required()?;
    let args = wire::cuCtxSetLimit::Args {
        limit: Word::of(limit),
        value: Word::of(value),
    };
    call::call(client, number::cuCtxSetLimit, &[args.as_bytes()], &mut [])?;
    function::forget_signatures();
    Ok(())
}

/// `cuCtxGetStreamPriorityRange`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuCtxGetStreamPriorityRange(
    least: *mut i32,
    greatest: *mut i32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    required()?;
    let mut reply = wire::cuCtxGetStreamPriorityRange::Reply::new_zeroed();
    call::call(
        client,
        number::cuCtxGetStreamPriorityRange,
        &[],
        reply.as_mut_bytes(),
    )?;
    for (to, value) in [(least, reply.least), (greatest, reply.greatest)] {
        if !to.is_null() {
            // SAFETY: not null; the caller gives a valid pointer.
            unsafe { *to = value.get() };
        }
    }
    Ok(())
}

/// `cuDevicePrimaryCtxRetain`.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe fn cuDevicePrimaryCtxRetain(ctx: *mut CUcontext, dev: CUdevice) -> Result<(), CUresult> {
    let client = client::entered()?;
    if ctx.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuDevicePrimaryCtxRetain::Args {
        ctx: [],
        dev: Word::of(client.backend_ordinal(dev)?),
    };
    let mut reply = wire::cuDevicePrimaryCtxRetain::Reply::new_zeroed();
    call::call(
        client,
        number::cuDevicePrimaryCtxRetain,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let handle: CUcontext = reply.ctx.get();
    client.retained(dev, 1);
    let mut contexts = CONTEXTS.write().unwrap_or_else(PoisonError::into_inner);
    contexts.entry(handle).or_insert(Known {
        device: dev,
        primary: true,
        id: None,
        flags: client.primary_flags(dev),
    });
    drop(contexts);
    write(ctx, handle)
}

/// `cuDevicePrimaryCtxRelease_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice) -> Result<(), CUresult> {
    let client = client::entered()?;
    let handle = client.device(dev)?.primary_ctx();
    let last = client.retained(dev, 0) == 1;
    if last {
        tables::context_died(handle);
    }
    let args = wire::cuDevicePrimaryCtxRelease_v2::Args {
        dev: Word::of(client.backend_ordinal(dev)?),
    };
    call::call(
        client,
        number::cuDevicePrimaryCtxRelease_v2,
        &[args.as_bytes()],
        &mut [],
    )?;
    client.retained(dev, -1);
    if last {
        forget(handle);
    }
    Ok(())
}

/// `cuDevicePrimaryCtxReset_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuDevicePrimaryCtxReset_v2(dev: CUdevice) -> Result<(), CUresult> {
    let client = client::entered()?;
    let handle = client.device(dev)?.primary_ctx();
    tables::context_died(handle);
    let args = wire::cuDevicePrimaryCtxReset_v2::Args {
        dev: Word::of(client.backend_ordinal(dev)?),
    };
    call::call(
        client,
        number::cuDevicePrimaryCtxReset_v2,
        &[args.as_bytes()],
        &mut [],
    )?;
    forget(handle);
    Ok(())
}

/// `cuDevicePrimaryCtxSetFlags_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuDevicePrimaryCtxSetFlags_v2(dev: CUdevice, flags: u32) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuDevicePrimaryCtxSetFlags_v2::Args {
        dev: Word::of(client.backend_ordinal(dev)?),
        flags: Word::of(flags),
    };
    call::call(
        client,
        number::cuDevicePrimaryCtxSetFlags_v2,
        &[args.as_bytes()],
        &mut [],
    )?;
    client.set_primary_flags(dev, flags);
    let handle = client.device(dev)?.primary_ctx();
    if let Some(context) = CONTEXTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .get_mut(&handle)
    {
        context.flags = flags;
    }
    Ok(())
}

fn create(client: &Client, ctx: *mut CUcontext, flags: u32, dev: CUdevice) -> Result<(), CUresult> {
    if ctx.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuCtxCreate_v2::Args {
        ctx: [],
        flags: Word::of(flags),
        dev: Word::of(client.backend_ordinal(dev)?),
    };
    let mut reply = wire::cuCtxCreate_v2::Reply::new_zeroed();
    call::call(
        client,
        number::cuCtxCreate_v2,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let handle: CUcontext = reply.ctx.get();
    CONTEXTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(
            handle,
            Known {
                device: dev,
                primary: false,
                id: None,
                flags,
            },
        );
    push(handle)?;
    write(ctx, handle)
}

/// `cuCtxCreate_v2`.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe fn cuCtxCreate_v2(
    ctx: *mut CUcontext,
    flags: u32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    create(client::entered()?, ctx, flags, dev)
}

/// `cuCtxCreate_v3`: with execution affinity, which is not supported.
///
/// # Safety
/// `ctx` is null or valid.
pub unsafe fn cuCtxCreate_v3(
    ctx: *mut CUcontext,
    affinity: *mut c_void,
    count: i32,
    flags: u32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if !affinity.is_null() && count > 0 {
        return Err(CUresult::UNSUPPORTED_EXEC_AFFINITY);
    }
    create(client, ctx, flags, dev)
}

/// `cuCtxCreate_v4`: with parameters, which are not supported when they ask for anything.
///
/// # Safety
/// `ctx` is null or valid; `params` is null or a `CUctxCreateParams`.
pub unsafe fn cuCtxCreate_v4(
    ctx: *mut CUcontext,
    params: *mut c_void,
    flags: u32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if !params.is_null() {
        // SAFETY: three words: affinity array, its length, and graphics parameters.
        let [affinity, count, graphics] = unsafe { params.cast::<[u64; 3]>().read_unaligned() };
        if graphics != 0 || (affinity != 0 && count as i32 > 0) {
            return Err(CUresult::NOT_SUPPORTED);
        }
    }
    create(client, ctx, flags, dev)
}

/// `cuCtxDestroy_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuCtxDestroy_v2(ctx: CUcontext) -> Result<(), CUresult> {
    let client = client::entered()?;
    let context = known(ctx).ok_or(CUresult::INVALID_CONTEXT)?;
    if context.primary {
        return Err(CUresult::INVALID_CONTEXT);
    }
    tables::context_died(ctx);
    let args = wire::cuCtxDestroy_v2::Args { ctx: Word::of(ctx) };
    call::call(client, number::cuCtxDestroy_v2, &[args.as_bytes()], &mut [])?;
    forget(ctx);
    CONTEXTS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&ctx);
    thread::with(|thread| {
        if thread.current.get() == ctx {
            thread
                .current
                .set(thread.pushed.borrow_mut().pop().unwrap_or_default());
        }
        Ok(())
    })
}

/// `cuProfilerStart`: without a profiler in the process nothing happens, as natively.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuProfilerStart() -> Result<(), CUresult> {
    client::entered()?;
    required().map(|_| ())
}

/// `cuProfilerStop`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuProfilerStop() -> Result<(), CUresult> {
    // SAFETY: takes no pointers.
    unsafe { cuProfilerStart() }
}
