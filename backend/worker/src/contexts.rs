//! Contexts: their lives, and what lives and dies with them.

use crate::call::{Call, Outcome};
use crate::live::{Entry, Kind};
use vgpu_protocol::cuda::{CUcontext, CUdevice, CUresult};
use vgpu_protocol::wire::{self, Result as _};

/// `cuDevicePrimaryCtxRetain`. The heap is registered before the answer.
///
/// # Errors
/// What the client gets.
pub fn retain(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuDevicePrimaryCtxRetain::Args>()?;
    let device = call.device(args.dev.get())?;
    let function = call
        .driver()
        .cuDevicePrimaryCtxRetain
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut ctx = CUcontext::NULL;
    // SAFETY: the result has room.
    call.result(unsafe { function(&raw mut ctx, device) })?;
    call.enter(ctx, 0);
    call.worker.registrar.retain(device.0);
    call.thread.forget_current();
    if let Err(error) = call.worker.registrar.came_alive(call.worker, ctx.0) {
        tracing::warn!("the heap could not be registered with the driver: {error}");
        let _ = release_one(call, device, ctx.0);
        return Err(error);
    }
    call.reply(&wire::cuDevicePrimaryCtxRetain::Reply {
        ctx: ctx.to_wire(),
        dev: [],
    })
}

/// `cuDevicePrimaryCtxRelease_v2`.
///
/// # Errors
/// What the client gets.
pub fn release(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuDevicePrimaryCtxRelease_v2::Args>()?;
    let device = call.device(args.dev.get())?;
    let ctx = primary_of(call, device);
    release_one(call, device, ctx)
}

/// Handle of a device's primary context, 0 if it was never seen.
fn primary_of(call: &Call<'_>, device: CUdevice) -> u64 {
    usize::try_from(device.0)
        .ok()
        .and_then(|index| call.worker.primaries.get(index).copied())
        .unwrap_or(0)
}

fn release_one(call: &mut Call<'_>, device: CUdevice, ctx: u64) -> Outcome {
    let function = call
        .driver()
        .cuDevicePrimaryCtxRelease_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let registrar = &call.worker.registrar;
    let last = registrar.is_last(device.0);
    if last {
        about_to_die(call, ctx);
    }
    call.thread.forget_current();
    // SAFETY: a device of this driver.
    let result = call.result(unsafe { function(device) });
    if result.is_ok() {
        registrar.release(device.0);
        if last {
            died(call, ctx);
        }
    }
    result
}

/// `cuDevicePrimaryCtxReset_v2`.
///
/// # Errors
/// What the client gets.
pub fn reset(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuDevicePrimaryCtxReset_v2::Args>()?;
    let device = call.device(args.dev.get())?;
    let function = call
        .driver()
        .cuDevicePrimaryCtxReset_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let ctx = primary_of(call, device);
    about_to_die(call, ctx);
    call.thread.forget_current();
    // SAFETY: a device of this driver.
    let result = call.result(unsafe { function(device) });
    died(call, ctx);
    result
}

/// `cuCtxCreate_v2`. The context becomes current on this thread; the shim keeps the guest's stack.
///
/// # Errors
/// What the client gets.
pub fn create(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuCtxCreate_v2::Args>()?;
    let device = call.device(args.dev.get())?;
    let function = call
        .driver()
        .cuCtxCreate_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut ctx = CUcontext::NULL;
    call.thread.forget_current();
    // SAFETY: the result has room, the device exists.
    call.result(unsafe { function(&raw mut ctx, args.flags.get(), device) })?;
    call.worker
        .live
        .enter(Kind::Context, ctx.0, Entry::default());
    if let Err(error) = call.worker.registrar.came_alive(call.worker, ctx.0) {
        tracing::warn!("the heap could not be registered with the driver: {error}");
        call.worker.live.remove(Kind::Context, ctx.0);
        // SAFETY: created just now and known to nobody else.
        let _ = unsafe { vgpu_driver::call!(call.driver(), cuCtxDestroy_v2(ctx)) };
        return Err(error);
    }
    call.reply(&wire::cuCtxCreate_v2::Reply {
        ctx: ctx.to_wire(),
        flags: [],
        dev: [],
    })
}

/// `cuCtxDestroy_v2`.
///
/// # Errors
/// What the client gets.
pub fn destroy(call: &mut Call<'_>) -> Outcome {
    let ctx: CUcontext = call.decode::<wire::cuCtxDestroy_v2::Args>()?.ctx.get();
    call.live(ctx)?;
    if call.worker.primaries.contains(&ctx.0) {
        return Err(CUresult::INVALID_CONTEXT);
    }
    let function = call
        .driver()
        .cuCtxDestroy_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    about_to_die(call, ctx.0);
    let entry = call.worker.live.remove(Kind::Context, ctx.0);
    call.thread.forget_current();
    // SAFETY: the context was live until just now, and is no primary one.
    if let Err(error) = call.result(unsafe { function(ctx) }) {
        call.worker
            .live
            .enter(Kind::Context, ctx.0, entry.unwrap_or_default());
        return Err(error);
    }
    died(call, ctx.0);
    Ok(())
}

/// Takes all registrations out of a context.
fn about_to_die(call: &Call<'_>, ctx: u64) {
    call.worker.registered.about_to_die(call.worker, ctx);
    call.worker.registrar.about_to_die(call.worker, ctx);
}

/// Forgets what died with a context and registers the heap elsewhere.
fn died(call: &mut Call<'_>, ctx: u64) {
    let worker = call.worker;
    for stream in worker
        .live
        .remove_where(Kind::Stream, |entry| entry.ctx == ctx)
    {
        worker.captures.end(stream);
    }
    worker.live.context_died(ctx);
    worker.posted.context_died(ctx);
    worker.quota.context_died(ctx);
    worker.sharing.context_died(ctx);
    worker.registered.context_died(ctx);
    let freed = worker.graph_charges.context_died(ctx);
    worker.quota.give_back(freed);
    worker.registrar.died(worker);
    call.thread.forget_current();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Executor, Request, execute};
    use crate::state::{Parts, Worker};
    use std::sync::Arc;
    use vgpu_channel::link::Hello;
    use vgpu_channel::loopback;
    use vgpu_channel::ring::RecordHeader;
    use vgpu_channel::server::Config;
    use vgpu_driver::Driver;
    use vgpu_protocol::number::call as number;
    use vgpu_protocol::wire::RECORD_REPLY;

    unsafe extern "C" fn agree(_ctx: CUcontext) -> CUresult {
        CUresult::SUCCESS
    }

    #[test]
    fn what_a_destroyed_context_had_is_not_live_any_more() {
        const PRIMARY: u64 = 0x1000;
        const BRIEF: u64 = 0x2000;
        let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).expect("a channel");
        let worker = Worker::new(Parts {
            primaries: vec![PRIMARY],
            ..Parts::bare(
                Driver {
                    cuCtxSetCurrent: Some(agree),
                    cuCtxDestroy_v2: Some(agree),
                    ..Driver::default()
                },
                Arc::clone(&pair.server),
            )
        });
        let kinds = [Kind::Stream, Kind::Event, Kind::Module, Kind::Function];
        worker.live.enter(Kind::Context, BRIEF, Entry::default());
        for (ctx, handle) in [(PRIMARY, 0x10), (BRIEF, 0x20)] {
            for kind in kinds {
                let entry = Entry {
                    ctx,
                    ..Entry::default()
                };
                worker.live.enter(kind, handle, entry);
            }
        }
        let request = Request {
            header: RecordHeader {
                call: number::cuCtxDestroy_v2,
                flags: RECORD_REPLY,
                reply_sequence: 1,
                reply_address: pair.client.alloc_reply().expect("a slot"),
                scope: PRIMARY,
                ..RecordHeader::default()
            },
            position: 1,
            prohibited: false,
        };
        let mut thread = Executor::new(&worker.driver, 0);
        execute(&worker, &mut thread, request, &BRIEF.to_le_bytes());
        let slot = pair.client.reply(request.header.reply_address);
        assert_eq!(slot.expect("a slot").outcome().0, 0);
        assert!(!worker.live.contains(Kind::Context, BRIEF));
        for kind in kinds {
            assert!(!worker.live.contains(kind, 0x20), "{kind:?} of the dead");
            assert!(worker.live.contains(kind, 0x10), "{kind:?} of the other");
        }
    }
}
