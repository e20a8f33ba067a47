//! Rules about calls with generated bodies that a row of the table cannot state.

use crate::call::{Call, Outcome};
use crate::graph_ends;
use crate::live::Kind;
use vgpu_protocol::cuda::{CUgraphExec, CUresult, CUstream};
use vgpu_protocol::number::call;
use vgpu_protocol::wire;

/// Checks before the driver is called; the payload has the right size.
///
/// # Errors
/// What the client gets instead of the call.
#[inline]
pub fn before(call: &mut Call<'_>) -> Outcome {
    match call.number() {
        call::cuMemMap => {
            let args = call.decode::<wire::cuMemMap::Args>()?;
            if !call.worker.live.contains(Kind::Memory, args.handle.0) {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        call::cuMemcpyDtoDAsync_v2 => {
            let args = call.decode::<wire::cuMemcpyDtoDAsync_v2::Args>()?;
            call.worker.device_range(args.dst.0, args.bytes.0)?;
            call.worker.device_range(args.src.0, args.bytes.0)?;
        }
        call::cuMemcpyPeerAsync => {
            let args = call.decode::<wire::cuMemcpyPeerAsync::Args>()?;
            call.worker.device_range(args.dst.0, args.bytes.0)?;
            call.worker.device_range(args.src.0, args.bytes.0)?;
        }
        call::cuMemsetD8Async => {
            let args = call.decode::<wire::cuMemsetD8Async::Args>()?;
            call.worker.device_range(args.dst.0, args.count.0)?;
        }
        call::cuMemsetD16Async => {
            let args = call.decode::<wire::cuMemsetD16Async::Args>()?;
            fill_range(call, args.dst.0, args.count.0, 2)?;
        }
        call::cuMemsetD32Async => {
            let args = call.decode::<wire::cuMemsetD32Async::Args>()?;
            fill_range(call, args.dst.0, args.count.0, 4)?;
        }
        call::cuEventSynchronize | call::cuStreamSynchronize | call::cuCtxSynchronize => {
            call.synchronised = true;
        }
        call::cuEventDestroy_v2 => {
            let args = call.decode::<wire::cuEventDestroy_v2::Args>()?;
            call.worker.sharing.event_ends(args.event.0);
        }
        call::cuStreamDestroy_v2 => {
            let args = call.decode::<wire::cuStreamDestroy_v2::Args>()?;
            if args.stream.0 <= CUstream::PER_THREAD.0 {
                return Err(CUresult::INVALID_HANDLE);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Bookkeeping after success; the answer is complete.
///
/// # Errors
/// What the client gets.
#[inline]
pub fn after(call: &mut Call<'_>) -> Outcome {
    match call.number() {
        call::cuGraphClone => {
            let args = call.decode::<wire::cuGraphClone::Args>()?;
            if let Some(clone) = call.reply_word() {
                call.worker.user_objects.cloned(args.graph.0, clone);
            }
        }
        call::cuGraphInstantiateWithFlags => {
            let args = call.decode::<wire::cuGraphInstantiateWithFlags::Args>()?;
            if let Some(exec) = call.reply_word() {
                graph_ends::instantiated(call, args.graph.get(), CUgraphExec(exec));
            }
        }
        call::cuStreamDestroy_v2 => {
            let args = call.decode::<wire::cuStreamDestroy_v2::Args>()?;
            call.worker.posted.stream_destroyed(args.stream.0);
            call.worker.captures.end(args.stream.0);
        }
        call::cuLibraryGetModule => {
            let args = call.decode::<wire::cuLibraryGetModule::Args>()?;
            if let Some(module) = call.reply_word()
                && let Some(mut entry) = call.worker.live.get(Kind::Module, module)
            {
                entry.owner = args.library.0;
                call.worker.live.enter(Kind::Module, module, entry);
            }
        }
        _ => {}
    }
    Ok(())
}

fn fill_range(call: &Call<'_>, dst: u64, count: u64, element: u64) -> Outcome {
    let len = count.checked_mul(element).ok_or(CUresult::INVALID_VALUE)?;
    call.worker.device_range(dst, len)
}

/// Whether internal work may touch `stream` now: never one that is being captured.
pub fn may_touch(call: &Call<'_>, stream: CUstream) -> bool {
    if !call.worker.captures.any() {
        return true;
    }
    let Some(is_capturing) = call.driver().cuStreamIsCapturing else {
        return false;
    };
    let mut status = 1;
    // SAFETY: the stream is live, and the result has room here.
    let result = unsafe { is_capturing(stream, &raw mut status) };
    result == CUresult::SUCCESS && status == 0
}
