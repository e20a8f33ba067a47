//! Copies and stream memory operations, and the rule about posted copies.
//!
//! A synchronous copy from pageable memory is posted to the legacy stream and the guest goes on.
//! Natively the copy is over by then, so work in streams that do not wait for the legacy stream
//! must be made to wait for it (`semantics.md` 12): behind such a copy a private event is recorded,
//! and the first later command of each `NON_BLOCKING` stream waits for it.

use crate::call::{Call, Outcome};
use crate::live::{FastMap, Kind, lock};
use crate::rules;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use vgpu_protocol::cuda::{
    CU_EVENT_DISABLE_TIMING, CU_MEMORYTYPE_ARRAY, CU_MEMORYTYPE_DEVICE, CU_MEMORYTYPE_HOST,
    CU_MEMORYTYPE_UNIFIED, CU_STREAM_NON_BLOCKING, CUDA_MEMCPY3D, CUarray, CUevent, CUresult,
    CUstream,
};
use vgpu_protocol::wire::{CopyIn, CopyOut, RECORD_REPLY};

#[derive(Debug, Default)]
struct Posted {
    /// Per context: its private event, and the number of the last copy.
    events: FastMap<(u64, u64)>,
    /// `NON_BLOCKING` streams: context, and the number of the last copy waited for.
    streams: FastMap<(u64, u64)>,
}

/// Posted copies that other streams must wait for.
#[derive(Debug, Default)]
pub struct PostedCopies {
    state: Mutex<Posted>,
    /// Streams that have a copy to wait for.
    behind: AtomicU64,
}

impl PostedCopies {
    /// Whether any stream has a copy to wait for. One load.
    #[inline]
    pub fn any(&self) -> bool {
        self.behind.load(Ordering::Acquire) != 0
    }

    fn count(&self, state: &Posted) {
        let behind = state
            .streams
            .values()
            .filter(|(ctx, seen)| state.events.get(ctx).is_some_and(|(_, last)| last != seen))
            .count();
        self.behind.store(behind as u64, Ordering::Release);
    }

    /// A `NON_BLOCKING` stream was created.
    pub fn stream_created(&self, ctx: u64, stream: u64) {
        let mut state = lock(&self.state);
        // Behind from the start, should copies be on their way.
        state.streams.insert(stream, (ctx, 0));
        self.count(&state);
    }

    /// A stream was destroyed.
    pub fn stream_destroyed(&self, stream: u64) {
        let mut state = lock(&self.state);
        if state.streams.remove(&stream).is_some() {
            self.count(&state);
        }
    }

    /// A context died, its events and streams with it.
    pub fn context_died(&self, ctx: u64) {
        let mut state = lock(&self.state);
        state.events.remove(&ctx);
        state.streams.retain(|_, (of, _)| *of != ctx);
        self.count(&state);
    }
}

/// Records the private event behind a copy that was posted to the legacy stream.
fn mark(call: &mut Call<'_>) -> Outcome {
    let ctx = call.request.header.scope;
    let driver = call.driver();
    let mut state = lock(&call.worker.posted.state);
    if !state.streams.values().any(|(of, _)| *of == ctx) || !rules::may_touch(call, CUstream(0)) {
        return Ok(());
    }
    let (event, last) = match state.events.get(&ctx) {
        Some(known) => *known,
        None => {
            let create = driver.cuEventCreate.ok_or(CUresult::NOT_SUPPORTED)?;
            let mut event = CUevent::NULL;
            // SAFETY: the result has room here.
            call.result(unsafe { create(&raw mut event, CU_EVENT_DISABLE_TIMING) })?;
            (event.0, 0)
        }
    };
    state.events.insert(ctx, (event, last + 1));
    let record = driver.cuEventRecord.ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: our own event of this very context, and its legacy stream.
    let recorded = unsafe { record(CUevent(event), CUstream(0)) };
    call.worker.posted.count(&state);
    call.result(recorded)
}

/// Makes a stream wait for the posted copies it has not waited for yet.
///
/// # Errors
/// What the driver says.
#[cold]
pub fn catch_up(call: &mut Call<'_>, stream: CUstream) -> Outcome {
    let mut state = lock(&call.worker.posted.state);
    let Some((ctx, seen)) = state.streams.get(&stream.0).copied() else {
        return Ok(());
    };
    let Some((event, last)) = state.events.get(&ctx).copied() else {
        return Ok(());
    };
    if last == seen || !rules::may_touch(call, stream) {
        return Ok(());
    }
    let wait = call
        .driver()
        .cuStreamWaitEvent
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the stream is live and the event is ours.
    call.result(unsafe { wait(stream, CUevent(event), 0) })?;
    state.streams.insert(stream.0, (ctx, last));
    call.worker.posted.count(&state);
    Ok(())
}

/// Whether a stream was created without implicit order against the legacy stream.
pub fn is_non_blocking(flags: u32) -> bool {
    flags & CU_STREAM_NON_BLOCKING != 0
}

/// `cuMemcpyHtoDAsync_v2`: from the record or from shared memory.
///
/// # Errors
/// What the client gets.
pub fn copy_in(call: &mut Call<'_>) -> Outcome {
    let args = call.take::<CopyIn>()?;
    let stream = call.in_stream(CUstream(args.stream))?;
    call.worker.device_range(args.dst, args.len)?;
    let len = usize::try_from(args.len).map_err(|_| call.malformed())?;
    let source = if args.src == 0 {
        // The driver takes pageable bytes of this size before it returns, but into a graph it
        // would put the address of this record.
        if !rules::may_touch(call, stream) {
            return Err(CUresult::NOT_SUPPORTED);
        }
        let bytes = call.take_bytes(len)?;
        bytes.as_ptr().cast::<c_void>()
    } else {
        call.worker.host_range(args.src, args.len)?;
        args.src as *const c_void
    };
    call.done()?;
    let copy = call
        .driver()
        .cuMemcpyHtoDAsync_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let dst = vgpu_protocol::cuda::CUdeviceptr(args.dst);
    // SAFETY: the source is readable for `len` bytes: private bytes that the driver copies before
    // it returns, or shared memory that stays mapped. The stream is live.
    let result = unsafe { copy(dst, source, len, stream) };
    call.result(result)?;
    let posted = call.request.header.flags & RECORD_REPLY == 0;
    if posted && stream.0 <= CUstream::LEGACY.0 {
        mark(call)?;
    }
    Ok(())
}

/// `cuMemcpyDtoHAsync_v2`: into shared memory.
///
/// # Errors
/// What the client gets.
pub fn copy_out(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<CopyOut>()?;
    let stream = call.in_stream(CUstream(args.stream))?;
    call.worker.device_range(args.src, args.len)?;
    call.worker.host_range(args.dst, args.len)?;
    let len = usize::try_from(args.len).map_err(|_| call.malformed())?;
    let copy = call
        .driver()
        .cuMemcpyDtoHAsync_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let src = vgpu_protocol::cuda::CUdeviceptr(args.src);
    // SAFETY: the destination is shared memory, which stays mapped; the stream is live.
    let result = unsafe { copy(args.dst as *mut c_void, src, len, stream) };
    call.result(result)
}

/// Bytes from the base address that one side of a copy may touch.
#[derive(Clone, Copy)]
struct Span {
    x: u64,
    y: u64,
    z: u64,
    pitch: u64,
    rows: u64,
}

impl Span {
    /// Bytes from the base to the end of the last row, or `None` on overflow.
    fn extent(&self, copy: &CUDA_MEMCPY3D) -> Option<u64> {
        if copy.width == 0 || copy.height == 0 || copy.depth == 0 {
            return Some(0);
        }
        // A pitch or height of 0 means tightly packed.
        let pitch = if self.pitch == 0 {
            copy.width.checked_add(self.x)?
        } else {
            self.pitch
        };
        let rows = if self.rows == 0 {
            copy.height.checked_add(self.y)?
        } else {
            self.rows
        };
        let slice = self.z.checked_add(copy.depth)?.checked_sub(1)?;
        let row = self.y.checked_add(copy.height)?.checked_sub(1)?;
        let slices = slice.checked_mul(rows)?.checked_add(row)?;
        slices
            .checked_mul(pitch)?
            .checked_add(self.x)?
            .checked_add(copy.width)
    }
}

/// Checks both sides of a three-dimensional copy.
///
/// # Errors
/// `INVALID_VALUE` for addresses and extents that may not be named, `INVALID_HANDLE` for arrays that
/// are not live.
pub fn check_3d(call: &Call<'_>, copy: &CUDA_MEMCPY3D) -> Outcome {
    let src = Span {
        x: copy.src_x,
        y: copy.src_y,
        z: copy.src_z,
        pitch: copy.src_pitch,
        rows: copy.src_height,
    };
    let dst = Span {
        x: copy.dst_x,
        y: copy.dst_y,
        z: copy.dst_z,
        pitch: copy.dst_pitch,
        rows: copy.dst_height,
    };
    check_side(
        call,
        copy,
        src,
        copy.src_memory_type,
        copy.src_host,
        copy.src_device.0,
        copy.src_array,
    )?;
    check_side(
        call,
        copy,
        dst,
        copy.dst_memory_type,
        copy.dst_host,
        copy.dst_device.0,
        copy.dst_array,
    )
}

fn check_side(
    call: &Call<'_>,
    copy: &CUDA_MEMCPY3D,
    span: Span,
    kind: u32,
    host: u64,
    device: u64,
    array: CUarray,
) -> Outcome {
    if kind == CU_MEMORYTYPE_ARRAY {
        // The driver checks the box against the array's extents.
        return call.entry(array).map(|_| ());
    }
    let extent = span.extent(copy).ok_or(CUresult::INVALID_VALUE)?;
    match kind {
        CU_MEMORYTYPE_HOST => call.worker.host_range(host, extent),
        CU_MEMORYTYPE_DEVICE | CU_MEMORYTYPE_UNIFIED => call.worker.device_range(device, extent),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// `cuMemcpy3DAsync_v2`.
///
/// # Errors
/// What the client gets.
pub fn copy_3d(call: &mut Call<'_>) -> Outcome {
    let copy = call.take::<CUDA_MEMCPY3D>()?;
    let stream = call.take::<u64>()?;
    call.done()?;
    let stream = call.in_stream(CUstream(stream))?;
    check_3d(call, &copy)?;
    let function = call
        .driver()
        .cuMemcpy3DAsync_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: both sides were checked: a live array, or device or shared memory as a whole. The
    // stream is live.
    let result = unsafe { function(&raw const copy, stream) };
    call.result(result)
}

/// Notes a new stream.
pub fn stream_created(call: &Call<'_>, stream: CUstream, flags: u32) {
    let ctx = call.request.header.scope;
    let entry = crate::live::Entry {
        ctx,
        data: u64::from(flags),
        ..Default::default()
    };
    call.worker.live.enter(Kind::Stream, stream.0, entry);
    if is_non_blocking(flags) {
        call.worker.posted.stream_created(ctx, stream.0);
    }
}
