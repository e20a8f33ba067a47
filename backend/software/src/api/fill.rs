//! Fills. Like CUDA's they are asynchronous to the host in all forms.

use crate::copy::Fill;
use crate::dispatch::enqueue;
use crate::entry::entries;
use crate::foreign::Outcome;
use crate::graph::Action;
use crate::{capture, stream};
use vgpu_protocol::cuda::{CUdeviceptr, CUstream};

/// A fill of one row.
fn row(dst: CUdeviceptr, value: u32, element: u32, count: usize) -> Fill {
    Fill {
        dst: dst.0,
        pitch: 0,
        value,
        element,
        width: count as u64,
        height: 1,
    }
}

/// A fill of several rows.
fn rows(dst: CUdeviceptr, pitch: usize, value: u32, element: u32, extent: [usize; 2]) -> Fill {
    Fill {
        dst: dst.0,
        pitch: pitch as u64,
        value,
        element,
        width: extent[0] as u64,
        height: extent[1] as u64,
    }
}

fn asynchronous(stream: CUstream, fill: Fill) -> Outcome {
    let (_, stream) = stream::get(stream)?;
    enqueue(&stream, Action::Fill(fill.checked()?)).map(drop)
}

fn plain(fill: Fill) -> Outcome {
    let (_, legacy) = stream::get(CUstream::NULL)?;
    capture::refuse_stream(&legacy)?;
    enqueue(&legacy, Action::Fill(fill.checked()?)).map(drop)
}

entries! {
    uncaptured fn cuMemsetD8_v2(val dst: CUdeviceptr, val value: u8, val count: usize) {
        plain(row(dst, value.into(), 1, count))
    }

    uncaptured fn cuMemsetD16_v2(val dst: CUdeviceptr, val value: u16, val count: usize) {
        plain(row(dst, value.into(), 2, count))
    }

    uncaptured fn cuMemsetD32_v2(val dst: CUdeviceptr, val value: u32, val count: usize) {
        plain(row(dst, value, 4, count))
    }

    uncaptured fn cuMemsetD2D8_v2(
        val dst: CUdeviceptr, val pitch: usize, val value: u8, val width: usize, val height: usize,
    ) {
        plain(rows(dst, pitch, value.into(), 1, [width, height]))
    }

    uncaptured fn cuMemsetD2D16_v2(
        val dst: CUdeviceptr, val pitch: usize, val value: u16, val width: usize, val height: usize,
    ) {
        plain(rows(dst, pitch, value.into(), 2, [width, height]))
    }

    uncaptured fn cuMemsetD2D32_v2(
        val dst: CUdeviceptr, val pitch: usize, val value: u32, val width: usize, val height: usize,
    ) {
        plain(rows(dst, pitch, value, 4, [width, height]))
    }

    ready fn cuMemsetD8Async(
        val dst: CUdeviceptr, val value: u8, val count: usize, val stream: CUstream,
    ) {
        asynchronous(stream, row(dst, value.into(), 1, count))
    }

    ready fn cuMemsetD16Async(
        val dst: CUdeviceptr, val value: u16, val count: usize, val stream: CUstream,
    ) {
        asynchronous(stream, row(dst, value.into(), 2, count))
    }

    ready fn cuMemsetD32Async(
        val dst: CUdeviceptr, val value: u32, val count: usize, val stream: CUstream,
    ) {
        asynchronous(stream, row(dst, value, 4, count))
    }

    ready fn cuMemsetD2D8Async(
        val dst: CUdeviceptr, val pitch: usize, val value: u8, val width: usize, val height: usize,
        val stream: CUstream,
    ) {
        asynchronous(stream, rows(dst, pitch, value.into(), 1, [width, height]))
    }

    ready fn cuMemsetD2D16Async(
        val dst: CUdeviceptr, val pitch: usize, val value: u16, val width: usize, val height: usize,
        val stream: CUstream,
    ) {
        asynchronous(stream, rows(dst, pitch, value.into(), 2, [width, height]))
    }

    ready fn cuMemsetD2D32Async(
        val dst: CUdeviceptr, val pitch: usize, val value: u32, val width: usize, val height: usize,
        val stream: CUstream,
    ) {
        asynchronous(stream, rows(dst, pitch, value, 4, [width, height]))
    }
}
