//! Copies.

use crate::copy::{Copy, Place};
use crate::dispatch::{copy_now, enqueue, enqueue_copy};
use crate::entry::entries;
use crate::foreign::Outcome;
use crate::graph::Action;
use crate::{capture, context, stream};
use std::ffi::c_void;
use vgpu_protocol::cuda::{CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUcontext, CUdeviceptr, CUstream};

/// A synchronous copy: waits unless both sides are device memory, whose copies CUDA does not
/// synchronise with the host either.
fn synchronous(make: impl FnOnce() -> Outcome<Copy>) -> Outcome {
    let (_, legacy) = stream::get(CUstream::NULL)?;
    capture::refuse_stream(&legacy)?;
    let copy = make()?;
    if copy.is_within_device() && !copy.shape.is_empty() {
        return enqueue(&legacy, Action::Copy(copy)).map(drop);
    }
    copy_now(&legacy, copy)
}

fn asynchronous(stream: CUstream, make: impl FnOnce() -> Outcome<Copy>) -> Outcome {
    let (_, stream) = stream::get(stream)?;
    enqueue_copy(&stream, make()?)
}

fn to_device(dst: CUdeviceptr, src: *const c_void, bytes: usize) -> Outcome<Copy> {
    Copy::linear(
        (dst.0, Place::Device),
        (src as u64, Place::Any),
        bytes as u64,
    )
}

fn to_host(dst: *mut c_void, src: CUdeviceptr, bytes: usize) -> Outcome<Copy> {
    Copy::linear(
        (dst as u64, Place::Any),
        (src.0, Place::Device),
        bytes as u64,
    )
}

fn on_device(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize) -> Outcome<Copy> {
    Copy::linear((dst.0, Place::Device), (src.0, Place::Device), bytes as u64)
}

fn unified(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize) -> Outcome<Copy> {
    Copy::linear((dst.0, Place::Any), (src.0, Place::Any), bytes as u64)
}

/// A copy between contexts of the one device. Each address must be known; in which of the two
/// contexts it was allocated makes no difference.
fn between(
    dst: CUdeviceptr,
    dst_ctx: CUcontext,
    src: CUdeviceptr,
    src_ctx: CUcontext,
    bytes: usize,
) -> Outcome<Copy> {
    context::get(dst_ctx)?;
    context::get(src_ctx)?;
    on_device(dst, src, bytes)
}

entries! {
    uncaptured fn cuMemcpy(val dst: CUdeviceptr, val src: CUdeviceptr, val bytes: usize) {
        synchronous(|| unified(dst, src, bytes))
    }

    ready fn cuMemcpyAsync(
        val dst: CUdeviceptr, val src: CUdeviceptr, val bytes: usize, val stream: CUstream,
    ) {
        asynchronous(stream, || unified(dst, src, bytes))
    }

    uncaptured fn cuMemcpyHtoD_v2(val dst: CUdeviceptr, val src: *const c_void, val bytes: usize) {
        synchronous(|| to_device(dst, src, bytes))
    }

    ready fn cuMemcpyHtoDAsync_v2(
        val dst: CUdeviceptr, val src: *const c_void, val bytes: usize, val stream: CUstream,
    ) {
        asynchronous(stream, || to_device(dst, src, bytes))
    }

    uncaptured fn cuMemcpyDtoH_v2(val dst: *mut c_void, val src: CUdeviceptr, val bytes: usize) {
        synchronous(|| to_host(dst, src, bytes))
    }

    ready fn cuMemcpyDtoHAsync_v2(
        val dst: *mut c_void, val src: CUdeviceptr, val bytes: usize, val stream: CUstream,
    ) {
        asynchronous(stream, || to_host(dst, src, bytes))
    }

    uncaptured fn cuMemcpyDtoD_v2(val dst: CUdeviceptr, val src: CUdeviceptr, val bytes: usize) {
        synchronous(|| on_device(dst, src, bytes))
    }

    ready fn cuMemcpyDtoDAsync_v2(
        val dst: CUdeviceptr, val src: CUdeviceptr, val bytes: usize, val stream: CUstream,
    ) {
        asynchronous(stream, || on_device(dst, src, bytes))
    }

    uncaptured fn cuMemcpy2D_v2(src copy: CUDA_MEMCPY2D) {
        synchronous(|| Copy::plane(&copy.get()?))
    }

    uncaptured fn cuMemcpy2DUnaligned_v2(src copy: CUDA_MEMCPY2D) {
        synchronous(|| Copy::plane(&copy.get()?))
    }

    ready fn cuMemcpy2DAsync_v2(src copy: CUDA_MEMCPY2D, val stream: CUstream) {
        asynchronous(stream, || Copy::plane(&copy.get()?))
    }

    uncaptured fn cuMemcpy3D_v2(src copy: CUDA_MEMCPY3D) {
        synchronous(|| Copy::planes(&copy.get()?))
    }

    ready fn cuMemcpy3DAsync_v2(src copy: CUDA_MEMCPY3D, val stream: CUstream) {
        asynchronous(stream, || Copy::planes(&copy.get()?))
    }

    uncaptured fn cuMemcpyPeer(
        val dst: CUdeviceptr, val dst_ctx: CUcontext, val src: CUdeviceptr, val src_ctx: CUcontext,
        val bytes: usize,
    ) {
        synchronous(|| between(dst, dst_ctx, src, src_ctx, bytes))
    }

    ready fn cuMemcpyPeerAsync(
        val dst: CUdeviceptr, val dst_ctx: CUcontext, val src: CUdeviceptr, val src_ctx: CUcontext,
        val bytes: usize, val stream: CUstream,
    ) {
        asynchronous(stream, || between(dst, dst_ctx, src, src_ctx, bytes))
    }
}
