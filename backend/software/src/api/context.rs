//! Contexts and the threads they are current to.

use super::device::check;
use crate::context::{CONTEXT_FLAGS, Context};
use crate::entry::entries;
use crate::foreign::Outcome;
use crate::{capture, context, current, stream};
use std::ffi::c_void;
use std::sync::Arc;
use vgpu_protocol::cuda::{CUcontext, CUdevice, CUresult};

/// `cuCtxGetApiVersion` of ordinary contexts.
const API_VERSION: u32 = 3020;

fn create(flags: u32, dev: CUdevice) -> Outcome<CUcontext> {
    check(dev)?;
    if flags & !CONTEXT_FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let context = Context::create(dev.0, flags);
    current::push(context.handle);
    Ok(context.handle)
}

/// The context a `_v2` query means: the one given, or the current one.
fn given_or_current(ctx: CUcontext) -> Outcome<Arc<Context>> {
    if ctx.is_null() {
        current::live()
    } else {
        context::get(ctx)
    }
}

/// The device of a context: of a live one, or of a primary one, live or not.
fn device_of(ctx: CUcontext) -> Outcome<CUdevice> {
    match context::primary_device(ctx) {
        Some(device) => Ok(CUdevice(device)),
        None => Ok(CUdevice(context::get(ctx)?.device)),
    }
}

fn synchronize(context: &Context) -> Outcome {
    context.core.check()?;
    capture::refuse_context(&context.core)?;
    context.synchronize()
}

entries! {
    ready fn cuDevicePrimaryCtxRetain(out ctx: CUcontext, val dev: CUdevice) {
        check(dev)?;
        ctx.require()?;
        ctx.put(context::retain_primary(dev.0).handle)
    }

    ready fn cuDevicePrimaryCtxRelease_v2(val dev: CUdevice) {
        check(dev)?;
        context::release_primary(dev.0)
    }

    ready fn cuDevicePrimaryCtxReset_v2(val dev: CUdevice) {
        check(dev)?;
        context::reset_primary(dev.0);
        Ok(())
    }

    ready fn cuDevicePrimaryCtxSetFlags_v2(val dev: CUdevice, val flags: u32) {
        check(dev)?;
        context::set_primary_flags(dev.0, flags)
    }

    ready fn cuDevicePrimaryCtxGetState(val dev: CUdevice, out flags: u32, out active: i32) {
        check(dev)?;
        flags.require()?;
        let state = context::primary_state(dev.0);
        active.put(i32::from(state.1))?;
        flags.put(state.0)
    }

    ready fn cuCtxCreate_v2(out ctx: CUcontext, val flags: u32, val dev: CUdevice) {
        ctx.require()?;
        ctx.put(create(flags, dev)?)
    }

    ready fn cuCtxCreate_v3(
        out ctx: CUcontext, out affinity: c_void, val count: i32, val flags: u32, val dev: CUdevice,
    ) {
        ctx.require()?;
        if count != 0 || !affinity.is_null() {
            return Err(CUresult::UNSUPPORTED_EXEC_AFFINITY);
        }
        ctx.put(create(flags, dev)?)
    }

    ready fn cuCtxCreate_v4(out ctx: CUcontext, out params: c_void, val flags: u32, val dev: CUdevice) {
        ctx.require()?;
        if !params.is_null() {
            return Err(CUresult::NOT_SUPPORTED);
        }
        ctx.put(create(flags, dev)?)
    }

    ready fn cuCtxDestroy_v2(val ctx: CUcontext) {
        context::destroy(ctx)?;
        if current::handle() == ctx {
            current::pop()?;
        }
        Ok(())
    }

    ready fn cuCtxGetCurrent(out ctx: CUcontext) {
        ctx.put(current::handle())
    }

    ready fn cuCtxSetCurrent(val ctx: CUcontext) {
        if !ctx.is_null() {
            device_of(ctx)?;
        }
        current::set(ctx);
        Ok(())
    }

    ready fn cuCtxPushCurrent_v2(val ctx: CUcontext) {
        device_of(ctx)?;
        current::push(ctx);
        Ok(())
    }

    ready fn cuCtxPopCurrent_v2(out ctx: CUcontext) {
        ctx.put_optional(current::pop()?);
        Ok(())
    }

    ready fn cuCtxGetDevice(out dev: CUdevice) {
        dev.require()?;
        dev.put(device_of(current::handle())?)
    }

    ready fn cuCtxGetDevice_v2(out dev: CUdevice, val ctx: CUcontext) {
        dev.require()?;
        let ctx = if ctx.is_null() { current::handle() } else { ctx };
        dev.put(device_of(ctx)?)
    }

    ready fn cuCtxGetApiVersion(val ctx: CUcontext, out version: u32) {
        version.require()?;
        given_or_current(ctx)?;
        version.put(API_VERSION)
    }

    ready fn cuCtxGetFlags(out flags: u32) {
        flags.put(current::live()?.settings.lock().flags)
    }

    ready fn cuCtxSetFlags(val flags: u32) {
        if flags & !CONTEXT_FLAGS != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        current::context()?.settings.lock().flags = flags;
        Ok(())
    }

    ready fn cuCtxGetId(val ctx: CUcontext, out id: u64) {
        id.require()?;
        id.put(given_or_current(ctx)?.core.id)
    }

    ready fn cuCtxGetLimit(out value: usize, val limit: u32) {
        value.require()?;
        let context = current::context()?;
        let settings = context.settings.lock();
        let known = settings.limits.get(&limit).copied();
        value.put(known.ok_or(unknown_limit(limit))?)
    }

    ready fn cuCtxSetLimit(val limit: u32, val value: usize) {
        let context = current::context()?;
        let mut settings = context.settings.lock();
        let known = settings.limits.get_mut(&limit);
        *known.ok_or(unknown_limit(limit))? = value;
        Ok(())
    }

    ready fn cuCtxGetCacheConfig(out config: u32) {
        config.put(current::context()?.settings.lock().cache_config)
    }

    ready fn cuCtxSetCacheConfig(val config: u32) {
        if config > 3 {
            return Err(CUresult::INVALID_VALUE);
        }
        current::context()?.settings.lock().cache_config = config;
        Ok(())
    }

    ready fn cuCtxGetSharedMemConfig(out config: u32) {
        config.put(current::context()?.settings.lock().shared_config)
    }

    ready fn cuCtxSetSharedMemConfig(val config: u32) {
        if config > 2 {
            return Err(CUresult::INVALID_VALUE);
        }
        current::context()?.settings.lock().shared_config = config.max(1);
        Ok(())
    }

    ready fn cuCtxGetStreamPriorityRange(out least: i32, out greatest: i32) {
        current::context()?;
        least.put_optional(stream::PRIORITIES.0);
        greatest.put_optional(stream::PRIORITIES.1);
        Ok(())
    }

    ready fn cuCtxResetPersistingL2Cache() {
        current::context().map(drop)
    }

    uncaptured fn cuCtxSynchronize() {
        synchronize(&*current::live()?)
    }

    uncaptured fn cuCtxSynchronize_v2(val ctx: CUcontext) {
        synchronize(&*given_or_current(ctx)?)
    }

    ready fn cuCtxEnablePeerAccess(val peer: CUcontext, val flags: u32) {
        current::context()?;
        context::get(peer)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        Err(CUresult::PEER_ACCESS_UNSUPPORTED)
    }

    ready fn cuCtxDisablePeerAccess(val peer: CUcontext) {
        current::context()?;
        context::get(peer)?;
        Err(CUresult::PEER_ACCESS_NOT_ENABLED)
    }
}

/// Limits CUDA knows but this device lacks are unsupported, others invalid.
fn unknown_limit(limit: u32) -> CUresult {
    if limit <= 8 {
        CUresult::UNSUPPORTED_LIMIT
    } else {
        CUresult::INVALID_VALUE
    }
}
