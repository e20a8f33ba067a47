//! Copies of rectangles and boxes.
//!
//! The driver does them where both ends are memory it reaches; rows of pageable memory travel
//! through staging, packed.

use super::{Mode, PIECE, Pageable, begin, direct, refuse_in_capture};
use crate::client::Client;
use crate::memory::{self, Side};
use crate::stats::{self, HostSide};
use crate::stream::{self, NullStream, State, Until};
use vgpu_channel::staging::Chunk;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use zerocopy::IntoBytes;

/// `cuMemcpy2D_v2`.
///
/// # Safety
/// `copy` is null or a copy description whose ends have the extents it names.
pub unsafe fn cuMemcpy2D_v2(
    default: NullStream,
    copy: *const CUDA_MEMCPY2D,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { strided(default, CUstream::NULL, widen(copy)?, Mode::Sync) }
}

/// `cuMemcpy2DUnaligned_v2`.
///
/// # Safety
/// As [`cuMemcpy2D_v2`].
pub unsafe fn cuMemcpy2DUnaligned_v2(
    default: NullStream,
    copy: *const CUDA_MEMCPY2D,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { cuMemcpy2D_v2(default, copy) }
}

/// `cuMemcpy2DAsync_v2`.
///
/// # Safety
/// As [`cuMemcpy2D_v2`].
pub unsafe fn cuMemcpy2DAsync_v2(
    default: NullStream,
    copy: *const CUDA_MEMCPY2D,
    stream: CUstream,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { strided(default, stream, widen(copy)?, Mode::Async) }
}

/// `cuMemcpy3D_v2`.
///
/// # Safety
/// As [`cuMemcpy2D_v2`].
pub unsafe fn cuMemcpy3D_v2(
    default: NullStream,
    copy: *const CUDA_MEMCPY3D,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        strided(
            default,
            CUstream::NULL,
            *copy.as_ref().ok_or(CUresult::INVALID_VALUE)?,
            Mode::Sync,
        )
    }
}

/// `cuMemcpy3DAsync_v2`.
///
/// # Safety
/// As [`cuMemcpy2D_v2`].
pub unsafe fn cuMemcpy3DAsync_v2(
    default: NullStream,
    copy: *const CUDA_MEMCPY3D,
    stream: CUstream,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        strided(
            default,
            stream,
            *copy.as_ref().ok_or(CUresult::INVALID_VALUE)?,
            Mode::Async,
        )
    }
}

/// A two-dimensional copy as a three-dimensional one with a single slice.
///
/// # Safety
/// `copy` is null or a copy description.
unsafe fn widen(copy: *const CUDA_MEMCPY2D) -> Result<CUDA_MEMCPY3D, CUresult> {
    // SAFETY: the caller's contract.
    let copy = unsafe { copy.as_ref() }.ok_or(CUresult::INVALID_VALUE)?;
    Ok(CUDA_MEMCPY3D {
        src_x: copy.src_x,
        src_y: copy.src_y,
        src_memory_type: copy.src_memory_type,
        src_host: copy.src_host,
        src_device: copy.src_device,
        src_array: copy.src_array,
        src_pitch: copy.src_pitch,
        dst_x: copy.dst_x,
        dst_y: copy.dst_y,
        dst_memory_type: copy.dst_memory_type,
        dst_host: copy.dst_host,
        dst_device: copy.dst_device,
        dst_array: copy.dst_array,
        dst_pitch: copy.dst_pitch,
        width: copy.width,
        height: copy.height,
        depth: 1,
        ..CUDA_MEMCPY3D::default()
    })
}

/// One end of a strided copy.
#[derive(Clone, Copy, Debug)]
struct End {
    /// First byte touched.
    first: u64,
    /// Bytes from row to row.
    pitch: u64,
    /// Bytes from slice to slice.
    slice: u64,
}

impl End {
    /// Bytes from the first touched to behind the last.
    fn extent(&self, copy: &CUDA_MEMCPY3D) -> Option<u64> {
        let slices = self.slice.checked_mul(copy.depth - 1)?;
        let rows = self.pitch.checked_mul(copy.height - 1)?;
        slices.checked_add(rows)?.checked_add(copy.width)
    }

    fn row(&self, row: u64, slice: u64) -> u64 {
        self.first + slice * self.slice + row * self.pitch
    }
}

/// A strided copy. Where an end is pageable, the rows travel through staging, packed.
///
/// # Safety
/// The ends have the extents that `copy` names.
unsafe fn strided(
    default: NullStream,
    stream: CUstream,
    copy: CUDA_MEMCPY3D,
    mode: Mode,
) -> Result<(), CUresult> {
    let (client, state) = begin(default, stream)?;
    if copy.width == 0 || copy.height == 0 || copy.depth == 0 {
        return Ok(());
    }
    let src = end(
        copy.src_memory_type,
        copy.src_host,
        copy.src_device.0,
        [copy.src_x, copy.src_y, copy.src_z],
        copy.src_pitch,
        copy.src_height,
        &copy,
    )?;
    let dst = end(
        copy.dst_memory_type,
        copy.dst_host,
        copy.dst_device.0,
        [copy.dst_x, copy.dst_y, copy.dst_z],
        copy.dst_pitch,
        copy.dst_height,
        &copy,
    )?;
    let far = CUresult::INVALID_VALUE;
    let from = memory::side(client, src.first, src.extent(&copy).ok_or(far)?)?;
    let to = memory::side(client, dst.first, dst.extent(&copy).ok_or(far)?)?;
    let bytes = copy
        .width
        .saturating_mul(copy.height)
        .saturating_mul(copy.depth);
    if from == Side::Pageable || to == Side::Pageable {
        stats::copy(HostSide::Pageable, bytes);
        stats::copied_by_cpu(bytes);
    } else if from == Side::Pinned || to == Side::Pinned {
        stats::copy(HostSide::Pinned, bytes);
    }
    match (from, to) {
        (Side::Pageable, Side::Pageable) => {
            refuse_in_capture(client, &state)?;
            state.synchronize(client, stream::Wait::of(state.ctx))?;
            for (slice, row) in rows(&copy) {
                // SAFETY: the caller's contract.
                unsafe {
                    core::ptr::copy(
                        src.row(row, slice) as *const u8,
                        dst.row(row, slice) as *mut u8,
                        copy.width as usize,
                    );
                }
            }
            Ok(())
        }
        (Side::Pageable, _) => {
            pack_rows(
                client,
                &state,
                &copy,
                src,
                dst,
                to == Side::Device || to == Side::Pinned,
            )?;
            // The worker orders other streams behind posted linear copies only.
            if mode == Mode::Sync {
                state.synchronize(client, stream::Wait::of(state.ctx))?;
            }
            Ok(())
        }
        (_, Side::Pageable) => unpack_rows(client, &state, &copy, src, dst),
        _ => {
            let known = from != Side::Unknown && to != Side::Unknown;
            // Host to host through pinned memory must be over when a synchronous call returns.
            let mode = if from == Side::Pinned || to == Side::Pinned {
                mode
            } else {
                Mode::Async
            };
            strided_command(client, &state, &copy, src, dst, known, mode)
        }
    }
}

/// First byte and strides of one end.
fn end(
    kind: u32,
    host: u64,
    device: u64,
    [x, y, z]: [u64; 3],
    pitch: u64,
    rows: u64,
    copy: &CUDA_MEMCPY3D,
) -> Result<End, CUresult> {
    let base = match kind {
        CU_MEMORYTYPE_HOST => host,
        CU_MEMORYTYPE_DEVICE | CU_MEMORYTYPE_UNIFIED => device,
        CU_MEMORYTYPE_ARRAY => return Err(CUresult::NOT_SUPPORTED),
        _ => return Err(CUresult::INVALID_VALUE),
    };
    let invalid = CUresult::INVALID_VALUE;
    // A pitch of 0 means rows without gaps, a height of 0 slices without gaps.
    let pitch = if pitch == 0 {
        x.checked_add(copy.width).ok_or(invalid)?
    } else {
        pitch
    };
    let rows = if rows == 0 {
        y.checked_add(copy.height).ok_or(invalid)?
    } else {
        rows
    };
    if base == 0 || (copy.height > 1 && pitch < copy.width) {
        return Err(invalid);
    }
    let slice = pitch.checked_mul(rows).ok_or(invalid)?;
    let first = (|| {
        base.checked_add(x)?
            .checked_add(y.checked_mul(pitch)?)?
            .checked_add(z.checked_mul(slice)?)
    })();
    Ok(End {
        first: first.ok_or(invalid)?,
        pitch,
        slice,
    })
}

fn rows(copy: &CUDA_MEMCPY3D) -> impl Iterator<Item = (u64, u64)> + use<> {
    let (height, depth) = (copy.height, copy.depth);
    (0..depth).flat_map(move |slice| (0..height).map(move |row| (slice, row)))
}

/// The copy as the driver does it, both ends as device addresses.
fn strided_command(
    client: &Client,
    stream: &State,
    copy: &CUDA_MEMCPY3D,
    src: End,
    dst: End,
    known: bool,
    mode: Mode,
) -> Result<(), CUresult> {
    let side = |end: &End| {
        (
            CU_MEMORYTYPE_UNIFIED,
            CUdeviceptr(end.first),
            end.pitch,
            end.slice / end.pitch.max(1),
        )
    };
    let (src_memory_type, src_device, src_pitch, src_height) = side(&src);
    let (dst_memory_type, dst_device, dst_pitch, dst_height) = side(&dst);
    let command = CUDA_MEMCPY3D {
        src_memory_type,
        src_device,
        src_pitch,
        src_height,
        dst_memory_type,
        dst_device,
        dst_pitch,
        dst_height,
        width: copy.width,
        height: copy.height,
        depth: copy.depth,
        ..CUDA_MEMCPY3D::default()
    };
    let mut payload = command.as_bytes().to_vec();
    payload.extend_from_slice(&stream.handle.0.to_le_bytes());
    direct(
        client,
        number::cuMemcpy3DAsync_v2,
        stream,
        &payload,
        known,
        mode,
    )
}

/// Groups of whole rows that fit a staged piece: first row (counted through all slices) and number.
fn groups(copy: &CUDA_MEMCPY3D) -> Result<impl Iterator<Item = (u64, u64)> + use<>, CUresult> {
    let total = copy
        .height
        .checked_mul(copy.depth)
        .ok_or(CUresult::INVALID_VALUE)?;
    let per_piece = (PIECE / copy.width).max(1);
    Ok((0..total)
        .step_by(usize::try_from(per_piece).unwrap_or(1))
        .map(move |first| (first, per_piece.min(total - first))))
}

/// A row by its number through all slices.
fn row_at(end: &End, copy: &CUDA_MEMCPY3D, row: u64) -> u64 {
    end.row(row % copy.height, row / copy.height)
}

/// Pageable rows to the device: packed into staging, then laid out by the device.
fn pack_rows(
    client: &Client,
    stream: &State,
    copy: &CUDA_MEMCPY3D,
    src: End,
    dst: End,
    known: bool,
) -> Result<(), CUresult> {
    refuse_in_capture(client, stream)?;
    for (first, count) in groups(copy)? {
        let chunk = stream::stage(client, count * copy.width)?;
        for row in 0..count {
            let from = Pageable(row_at(&src, copy, first + row));
            // SAFETY: the program's contract with the copy call.
            let bytes = unsafe { from.bytes(0, copy.width) };
            client
                .channel()
                .copy_in(chunk.address + row * copy.width, bytes)
                .map_err(|_| CUresult::UNKNOWN)?;
        }
        let sent = laid_out(copy, first, count).try_for_each(|(row, rows)| {
            let piece = CUDA_MEMCPY3D {
                height: rows,
                depth: 1,
                ..*copy
            };
            let packed = packed_end(&chunk, (row - first) * copy.width, copy.width, rows);
            let at = End {
                first: row_at(&dst, copy, row),
                ..dst
            };
            strided_command(client, stream, &piece, packed, at, known, Mode::Async)
        });
        let stamp = sent.map(|()| stream.last());
        stream::unstage(client, &chunk, stream, stamp, Until::Done)?;
    }
    Ok(())
}

/// Device rows to pageable memory: packed into staging by the device, then laid out by this thread.
fn unpack_rows(
    client: &Client,
    stream: &State,
    copy: &CUDA_MEMCPY3D,
    src: End,
    dst: End,
) -> Result<(), CUresult> {
    refuse_in_capture(client, stream)?;
    for (first, count) in groups(copy)? {
        let chunk = stream::stage(client, count * copy.width)?;
        let arrived = laid_out(copy, first, count)
            .try_for_each(|(row, rows)| {
                let piece = CUDA_MEMCPY3D {
                    height: rows,
                    depth: 1,
                    ..*copy
                };
                let packed = packed_end(&chunk, (row - first) * copy.width, copy.width, rows);
                let at = End {
                    first: row_at(&src, copy, row),
                    ..src
                };
                strided_command(client, stream, &piece, at, packed, false, Mode::Async)
            })
            .and_then(|()| stream.synchronize(client, stream::Wait::of(stream.ctx)));
        let copied = arrived.and_then(|()| {
            (0..count).try_for_each(|row| {
                let to = Pageable(row_at(&dst, copy, first + row));
                // SAFETY: the program's contract with the copy call.
                let bytes = unsafe { to.bytes_mut(0, copy.width) };
                client
                    .channel()
                    .copy_out(chunk.address + row * copy.width, bytes)
                    .map_err(|_| CUresult::UNKNOWN)
            })
        });
        client.staging().release(chunk.ticket);
        copied?;
    }
    Ok(())
}

/// Cuts `count` rows from row `first` on at slice borders: first row and number of each part.
fn laid_out(
    copy: &CUDA_MEMCPY3D,
    first: u64,
    count: u64,
) -> impl Iterator<Item = (u64, u64)> + use<> {
    let height = copy.height;
    let mut row = first;
    std::iter::from_fn(move || {
        let left = (first + count).checked_sub(row).filter(|left| *left > 0)?;
        let rows = left.min(height - row % height);
        let part = (row, rows);
        row += rows;
        Some(part)
    })
}

/// Rows without gaps in a staged piece.
fn packed_end(chunk: &Chunk, offset: u64, width: u64, rows: u64) -> End {
    End {
        first: chunk.address + offset,
        pitch: width,
        slice: width * rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(width: u64, height: u64, depth: u64) -> CUDA_MEMCPY3D {
        CUDA_MEMCPY3D {
            width,
            height,
            depth,
            ..CUDA_MEMCPY3D::default()
        }
    }

    #[test]
    fn groups_cover_every_row_once() {
        let shape = copy(PIECE / 3, 5, 4);
        let rows: Vec<u64> = groups(&shape)
            .expect("fits")
            .flat_map(|(first, count)| first..first + count)
            .collect();
        assert_eq!(rows, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn parts_end_at_slice_borders() {
        let parts: Vec<_> = laid_out(&copy(8, 5, 4), 3, 9).collect();
        assert_eq!(parts, [(3, 2), (5, 5), (10, 2)]);
    }

    #[test]
    fn ends_know_their_extent() {
        let shape = copy(10, 3, 2);
        let found = end(CU_MEMORYTYPE_HOST, 1000, 0, [4, 1, 0], 32, 5, &shape).expect("valid");
        assert_eq!(found.first, 1000 + 4 + 32);
        assert_eq!(found.extent(&shape), Some(160 + 64 + 10));
        assert!(end(CU_MEMORYTYPE_ARRAY, 0, 0, [0; 3], 0, 0, &shape).is_err());
        assert!(end(CU_MEMORYTYPE_HOST, 1, 0, [u64::MAX, 0, 0], 0, 0, &shape).is_err());
    }
}
