//! Fills. Natively they return before the fill is done unless the memory is pinned host memory.

use crate::call::{self, Completion};
use crate::client::{self, Client};
use crate::context;
use crate::memory::{self, Side};
use crate::stream::{self, NullStream, State};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::IntoBytes;

/// Sends a fill of `extent` bytes from `dst` on.
fn fill(
    client: &Client,
    stream: &State,
    number: u16,
    payload: &[u8],
    dst: CUdeviceptr,
    extent: Option<u64>,
    wait: bool,
) -> Result<(), CUresult> {
    let extent = extent.ok_or(CUresult::INVALID_VALUE)?;
    match memory::side(client, dst.0, extent)? {
        Side::Device => {
            call::post(client, number, stream, &[payload], Completion::Lazy).map(|_| ())
        }
        Side::Unknown => {
            call::call_in_stream(client, number, stream, &[payload], &mut []).map(|_| ())
        }
        Side::Pinned => {
            call::post(client, number, stream, &[payload], Completion::Lazy)?;
            if wait {
                stream.synchronize(client, stream::Wait::of(stream.ctx))
            } else {
                Ok(())
            }
        }
        Side::Pageable => Err(CUresult::INVALID_VALUE),
    }
}

/// What every fill starts with.
fn begin(
    default: NullStream,
    stream: CUstream,
) -> Result<(&'static Client, std::sync::Arc<State>), CUresult> {
    let client = client::entered()?;
    context::required()?;
    Ok((client, stream::find(client, stream, default)?))
}

macro_rules! fills {
    ($($asynchronous:ident $synchronous:ident $value:ty;)*) => { $(
        #[doc = concat!("`", stringify!($asynchronous), "`.")]
        ///
        /// # Safety
        /// Takes no pointers that are followed here.
        pub unsafe fn $asynchronous(
            default: NullStream,
            dst: CUdeviceptr,
            value: $value,
            count: usize,
            stream: CUstream,
        ) -> Result<(), CUresult> {
            linear::$asynchronous(default, dst, value, count, stream, false)
        }

        #[doc = concat!("`", stringify!($synchronous), "`.")]
        ///
        /// # Safety
        /// Takes no pointers that are followed here.
        pub unsafe fn $synchronous(
            default: NullStream,
            dst: CUdeviceptr,
            value: $value,
            count: usize,
        ) -> Result<(), CUresult> {
            linear::$asynchronous(default, dst, value, count, CUstream::NULL, true)
        }
    )*
        /// One row of elements.
        mod linear {
            use super::*;
            $(
                pub fn $asynchronous(
                    default: NullStream,
                    dst: CUdeviceptr,
                    value: $value,
                    count: usize,
                    stream: CUstream,
                    wait: bool,
                ) -> Result<(), CUresult> {
                    let (client, state) = begin(default, stream)?;
                    if count == 0 {
                        return Ok(());
                    }
                    if dst.0 % size_of::<$value>() as u64 != 0 {
                        return Err(CUresult::INVALID_VALUE);
                    }
                    let args = wire::$asynchronous::Args {
                        dst: Word::of(dst),
                        value: Word::of(value),
                        count: Word::of(count),
                        stream: Word::of(state.handle),
                    };
                    let extent = (count as u64).checked_mul(size_of::<$value>() as u64);
                    fill(client, &state, number::$asynchronous, args.as_bytes(), dst, extent, wait)
                }
            )*
        }
    };
}

fills! {
    cuMemsetD8Async cuMemsetD8_v2 u8;
    cuMemsetD16Async cuMemsetD16_v2 u16;
    cuMemsetD32Async cuMemsetD32_v2 u32;
}

macro_rules! pitched_fills {
    ($($asynchronous:ident $synchronous:ident $value:ty;)*) => { $(
        #[doc = concat!("`", stringify!($asynchronous), "`.")]
        ///
        /// # Safety
        /// Takes no pointers that are followed here.
        pub unsafe fn $asynchronous(
            default: NullStream,
            dst: CUdeviceptr,
            pitch: usize,
            value: $value,
            width: usize,
            height: usize,
            stream: CUstream,
        ) -> Result<(), CUresult> {
            pitched::$asynchronous(default, dst, pitch, value, [width, height], stream, false)
        }

        #[doc = concat!("`", stringify!($synchronous), "`.")]
        ///
        /// # Safety
        /// Takes no pointers that are followed here.
        pub unsafe fn $synchronous(
            default: NullStream,
            dst: CUdeviceptr,
            pitch: usize,
            value: $value,
            width: usize,
            height: usize,
        ) -> Result<(), CUresult> {
            pitched::$asynchronous(default, dst, pitch, value, [width, height], CUstream::NULL, true)
        }
    )*
        /// Rows of elements.
        mod pitched {
            use super::*;
            $(
                pub fn $asynchronous(
                    default: NullStream,
                    dst: CUdeviceptr,
                    pitch: usize,
                    value: $value,
                    [width, height]: [usize; 2],
                    stream: CUstream,
                    wait: bool,
                ) -> Result<(), CUresult> {
                    let (client, state) = begin(default, stream)?;
                    if width == 0 || height == 0 {
                        return Ok(());
                    }
                    let row = width.checked_mul(size_of::<$value>()).ok_or(CUresult::INVALID_VALUE)?;
                    if height > 1 && pitch < row {
                        return Err(CUresult::INVALID_VALUE);
                    }
                    let args = wire::$asynchronous::Args {
                        dst: Word::of(dst),
                        pitch: Word::of(pitch),
                        value: Word::of(value),
                        width: Word::of(width),
                        height: Word::of(height),
                        stream: Word::of(state.handle),
                    };
                    let extent = (pitch as u64)
                        .checked_mul(height as u64 - 1)
                        .and_then(|rows| rows.checked_add(row as u64));
                    fill(client, &state, number::$asynchronous, args.as_bytes(), dst, extent, wait)
                }
            )*
        }
    };
}

pitched_fills! {
    cuMemsetD2D8Async cuMemsetD2D8_v2 u8;
    cuMemsetD2D16Async cuMemsetD2D16_v2 u16;
    cuMemsetD2D32Async cuMemsetD2D32_v2 u32;
}
