//! Streams and their memory operations.

use crate::callback::HostCall;
use crate::dispatch::{enqueue, wait_event};
use crate::entry::entries;
use crate::foreign::Outcome;
use crate::graph::Action;
use crate::operations::{self, Operations};
use crate::stream::Role;
use crate::{capture, current, event, pool, stream};
use std::ffi::c_void;
use vgpu_protocol::cuda::{
    CU_STREAM_NON_BLOCKING, CUcontext, CUdevice, CUdeviceptr, CUevent, CUhostFn,
    CUlaunchAttributeValue, CUresult, CUstream, CUstreamBatchMemOpParams, CUstreamCallback,
};

/// `CU_EVENT_WAIT_EXTERNAL`.
const WAIT_EXTERNAL: u32 = 1;

/// `CU_LAUNCH_ATTRIBUTE_PRIORITY`
const ATTRIBUTE_PRIORITY: u32 = 8;

/// Whether a stream attribute may be set: access policy, synchronisation policy, memory
/// synchronisation domain and its map. All are hints that change nothing here.
fn is_settable(attribute: u32) -> bool {
    matches!(attribute, 1 | 3 | 9 | 10)
}

fn batch(stream: CUstream, params: &[CUstreamBatchMemOpParams], flags: u32) -> Outcome {
    let (_, stream) = stream::get(stream)?;
    let operations = Operations::checked(params, flags)?;
    enqueue(&stream, Action::Operations(operations)).map(drop)
}

fn write(stream: CUstream, addr: CUdeviceptr, value: u64, wide: bool, flags: u32) -> Outcome {
    let write = operations::alone(operations::WRITE, addr.0, value, wide, flags);
    batch(stream, &[write], 0)
}

fn wait(stream: CUstream, addr: CUdeviceptr, value: u64, wide: bool, flags: u32) -> Outcome {
    let wait = operations::alone(operations::WAIT, addr.0, value, wide, flags);
    batch(stream, &[wait], 0)
}

entries! {
    ready fn cuStreamCreate(out stream: CUstream, val flags: u32) {
        stream.require()?;
        stream.put(stream::create(&current::context()?, flags, 0)?)
    }

    ready fn cuStreamCreateWithPriority(out stream: CUstream, val flags: u32, val priority: i32) {
        stream.require()?;
        stream.put(stream::create(&current::context()?, flags, priority)?)
    }

    ready fn cuStreamDestroy_v2(val stream: CUstream) {
        stream::destroy(stream)
    }

    ready fn cuStreamSynchronize(val stream: CUstream) {
        let (_, stream) = stream::get(stream)?;
        capture::refuse_stream(&stream)?;
        capture::prohibit()?;
        for mark in stream.outstanding() {
            mark.wait();
        }
        pool::synchronised();
        stream.core.check()
    }

    ready fn cuStreamQuery(val stream: CUstream) {
        let (_, stream) = stream::get(stream)?;
        capture::refuse_stream(&stream)?;
        capture::prohibit()?;
        let idle = stream.outstanding().is_empty();
        stream.core.check()?;
        if idle { Ok(()) } else { Err(CUresult::NOT_READY) }
    }

    ready fn cuStreamWaitEvent(val stream: CUstream, val event: CUevent, val flags: u32) {
        let (_, stream) = stream::get(stream)?;
        let event = event::get(event)?;
        if flags & !WAIT_EXTERNAL != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        wait_event(&stream, &event, flags)
    }

    ready fn cuStreamGetFlags(val stream: CUstream, out flags: u32) {
        flags.require()?;
        let (_, stream) = stream::get(stream)?;
        flags.put(match stream.role {
            Role::NonBlocking => CU_STREAM_NON_BLOCKING,
            Role::Blocking | Role::Legacy => 0,
        })
    }

    ready fn cuStreamGetPriority(val stream: CUstream, out priority: i32) {
        priority.require()?;
        priority.put(stream::get(stream)?.1.priority)
    }

    ready fn cuStreamGetId(val stream: CUstream, out id: u64) {
        id.require()?;
        id.put(stream::get(stream)?.1.id)
    }

    ready fn cuStreamGetCtx(val stream: CUstream, out ctx: CUcontext) {
        ctx.require()?;
        ctx.put(stream::get(stream)?.0.handle)
    }

    ready fn cuStreamGetDevice(val stream: CUstream, out dev: CUdevice) {
        dev.require()?;
        dev.put(CUdevice(stream::get(stream)?.0.device))
    }

    ready fn cuStreamCopyAttributes(val dst: CUstream, val src: CUstream) {
        let (_, dst) = stream::get(dst)?;
        let (_, src) = stream::get(src)?;
        let attributes = src.attributes.lock().clone();
        *dst.attributes.lock() = attributes;
        Ok(())
    }

    ready fn cuStreamGetAttribute(
        val stream: CUstream, val attribute: u32, out value: CUlaunchAttributeValue,
    ) {
        value.require()?;
        let (_, stream) = stream::get(stream)?;
        let mut found = CUlaunchAttributeValue::default();
        if attribute == ATTRIBUTE_PRIORITY {
            found.words[0] = u64::from(stream.priority as u32);
        } else if is_settable(attribute) {
            let attributes = stream.attributes.lock();
            found = attributes.get(&attribute).copied().unwrap_or_default();
        } else {
            return Err(CUresult::INVALID_VALUE);
        }
        value.put(found)
    }

    ready fn cuStreamSetAttribute(
        val stream: CUstream, val attribute: u32, src value: CUlaunchAttributeValue,
    ) {
        let (_, stream) = stream::get(stream)?;
        let value = value.get()?;
        if !is_settable(attribute) {
            return Err(CUresult::INVALID_VALUE);
        }
        stream.attributes.lock().insert(attribute, value);
        Ok(())
    }

    ready fn cuStreamWriteValue32_v2(
        val stream: CUstream, val addr: CUdeviceptr, val value: u32, val flags: u32,
    ) {
        write(stream, addr, value.into(), false, flags)
    }

    ready fn cuStreamWriteValue64_v2(
        val stream: CUstream, val addr: CUdeviceptr, val value: u64, val flags: u32,
    ) {
        write(stream, addr, value, true, flags)
    }

    ready fn cuStreamWaitValue32_v2(
        val stream: CUstream, val addr: CUdeviceptr, val value: u32, val flags: u32,
    ) {
        wait(stream, addr, value.into(), false, flags)
    }

    ready fn cuStreamWaitValue64_v2(
        val stream: CUstream, val addr: CUdeviceptr, val value: u64, val flags: u32,
    ) {
        wait(stream, addr, value, true, flags)
    }

    ready fn cuStreamBatchMemOp_v2(
        val stream: CUstream, val count: u32, list params: CUstreamBatchMemOpParams, val flags: u32,
    ) {
        batch(stream, &params.list(count.min(1 << 16) as usize)?, flags)
    }

    ready fn cuLaunchHostFunc(val stream: CUstream, val function: CUhostFn, val user: *mut c_void) {
        let (_, stream) = stream::get(stream)?;
        let function = function.ok_or(CUresult::INVALID_VALUE)?;
        let call = HostCall::Function { function, user: user as usize };
        enqueue(&stream, Action::Host(call)).map(drop)
    }

    ready fn cuStreamAddCallback(
        val stream: CUstream, val callback: CUstreamCallback, val user: *mut c_void, val flags: u32,
    ) {
        let handle = stream;
        let (_, stream) = stream::get(stream)?;
        let function = callback.ok_or(CUresult::INVALID_VALUE)?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let user = user as usize;
        let call = HostCall::Callback { function, stream: handle, user };
        enqueue(&stream, Action::Host(call)).map(drop)
    }
}
