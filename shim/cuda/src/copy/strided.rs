//! Copies of rectangles and boxes.
//!
//! The driver does them where both ends are arrays or memory it reaches; rows of pageable memory
//! travel through staging, packed.

use super::place::{End, Place, place, row_at};
use super::{Mode, PIECE, Pageable, begin, direct, refuse_in_capture};
use crate::client::Client;
use crate::memory::Side;
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

/// A strided copy. Where an end is pageable, the rows travel through staging, packed.
///
/// # Safety
/// The ends have the extents that `copy` names.
pub(super) unsafe fn strided(
    default: NullStream,
    stream: CUstream,
    copy: CUDA_MEMCPY3D,
    mode: Mode,
) -> Result<(), CUresult> {
    let (client, state) = begin(default, stream)?;
    if copy.width == 0 || copy.height == 0 || copy.depth == 0 {
        return Ok(());
    }
    let src = place(
        copy.src_memory_type,
        copy.src_host,
        copy.src_device.0,
        copy.src_array,
        [copy.src_x, copy.src_y, copy.src_z],
        copy.src_pitch,
        copy.src_height,
        &copy,
    )?;
    let dst = place(
        copy.dst_memory_type,
        copy.dst_host,
        copy.dst_device.0,
        copy.dst_array,
        [copy.dst_x, copy.dst_y, copy.dst_z],
        copy.dst_pitch,
        copy.dst_height,
        &copy,
    )?;
    let (from, to) = (src.side(client, &copy)?, dst.side(client, &copy)?);
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
    match (src, from, dst, to) {
        (Place::Memory(src), Side::Pageable, Place::Memory(dst), Side::Pageable) => {
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
        (Place::Memory(src), Side::Pageable, ..) => {
            let known = to == Side::Device || to == Side::Pinned;
            pack_rows(client, &state, &copy, src, dst, known)?;
            // The worker orders other streams behind posted linear copies only.
            if mode == Mode::Sync {
                state.synchronize(client, stream::Wait::of(state.ctx))?;
            }
            Ok(())
        }
        (_, _, Place::Memory(dst), Side::Pageable) => unpack_rows(client, &state, &copy, src, dst),
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

fn rows(copy: &CUDA_MEMCPY3D) -> impl Iterator<Item = (u64, u64)> + use<> {
    let (height, depth) = (copy.height, copy.depth);
    (0..depth).flat_map(move |slice| (0..height).map(move |row| (slice, row)))
}

/// The copy as the driver does it, memory as device addresses.
fn strided_command(
    client: &Client,
    stream: &State,
    copy: &CUDA_MEMCPY3D,
    src: Place,
    dst: Place,
    known: bool,
    mode: Mode,
) -> Result<(), CUresult> {
    let mut command = CUDA_MEMCPY3D {
        width: copy.width,
        height: copy.height,
        depth: copy.depth,
        ..CUDA_MEMCPY3D::default()
    };
    match src {
        Place::Memory(end) => {
            command.src_memory_type = CU_MEMORYTYPE_UNIFIED;
            command.src_device = CUdeviceptr(end.first);
            command.src_pitch = end.pitch;
            command.src_height = end.slice / end.pitch.max(1);
        }
        Place::Array(corner) => {
            command.src_memory_type = CU_MEMORYTYPE_ARRAY;
            command.src_array = corner.array;
            (command.src_x, command.src_y, command.src_z) = (corner.x, corner.y, corner.z);
        }
    }
    match dst {
        Place::Memory(end) => {
            command.dst_memory_type = CU_MEMORYTYPE_UNIFIED;
            command.dst_device = CUdeviceptr(end.first);
            command.dst_pitch = end.pitch;
            command.dst_height = end.slice / end.pitch.max(1);
        }
        Place::Array(corner) => {
            command.dst_memory_type = CU_MEMORYTYPE_ARRAY;
            command.dst_array = corner.array;
            (command.dst_x, command.dst_y, command.dst_z) = (corner.x, corner.y, corner.z);
        }
    }
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

/// Pageable rows to the device: packed into staging, then laid out by the device.
fn pack_rows(
    client: &Client,
    stream: &State,
    copy: &CUDA_MEMCPY3D,
    src: End,
    dst: Place,
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
            let at = dst.at_row(copy, row);
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
    src: Place,
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
                let at = src.at_row(copy, row);
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
fn packed_end(chunk: &Chunk, offset: u64, width: u64, rows: u64) -> Place {
    Place::Memory(End {
        first: chunk.address + offset,
        pitch: width,
        slice: width * rows,
    })
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
}
