//! Batches of copies. Each copy of a batch travels as the single one it is, by the same rules: so
//! pageable ends are staged, and the batch as a whole is in stream order. Copies of a batch have no
//! order among themselves, so theirs harms nobody.

use super::strided::strided;
use super::{Mode, Pageable, any, begin, pageable_to_device, refuse_in_capture};
use crate::client::Client;
use crate::memory::{self, Side};
use crate::stream::{self, NullStream, State};
use crate::{exports, write};
use vgpu_protocol::cuda::*;

/// `CU_MEMCPY_SRC_ACCESS_ORDER_*`.
mod order {
    pub const STREAM: u32 = 1;
    /// The source may be gone when the call returns.
    pub const DURING_API_CALL: u32 = 2;
    pub const ANY: u32 = 3;
}

/// `CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE`: a hint.
const PREFER_OVERLAP: u32 = 1;

/// Which copy was at fault: none in particular.
const NOBODY: usize = usize::MAX;

/// A failure, and the copy at fault.
type Failure = (CUresult, usize);

/// A failure of the whole batch.
fn whole(error: CUresult) -> Failure {
    (error, NOBODY)
}

/// Tells the program which copy was at fault, if it wants to know.
fn tell(outcome: Result<(), Failure>, fail: *mut usize) -> Result<(), CUresult> {
    outcome.or_else(|(error, at)| {
        if !fail.is_null() {
            write(fail, at)?;
        }
        Err(error)
    })
}

/// A batch must name its stream: natively the legacy default stream takes none.
fn named(client_state: &State) -> Result<(), CUresult> {
    if client_state.is_legacy() {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(())
}

fn check_attributes(order: u32, flags: u32) -> Result<(), CUresult> {
    let known = (order::STREAM..=order::ANY).contains(&order) && flags & !PREFER_OVERLAP == 0;
    known.then_some(()).ok_or(CUresult::INVALID_VALUE)
}

/// An array of the program's.
///
/// # Safety
/// `list` is null or has `count` entries.
unsafe fn list<'a, T>(list: *const T, count: usize) -> Result<&'a [T], CUresult> {
    if list.is_null() || count == 0 || count > isize::MAX as usize / size_of::<T>() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    Ok(unsafe { core::slice::from_raw_parts(list, count) })
}

/// The index of each copy's attributes: `starts` says at which copy each begin to apply.
///
/// # Errors
/// `INVALID_VALUE` unless they begin with the first copy and ascend.
fn attribute_of_each(starts: &[usize], count: usize) -> Result<Vec<usize>, CUresult> {
    let ascend = starts.windows(2).all(|pair| pair[0] < pair[1]);
    if starts.first() != Some(&0) || !ascend || starts.last().is_none_or(|last| *last >= count) {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut of_each = Vec::with_capacity(count);
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 1).copied().unwrap_or(count);
        of_each.extend(core::iter::repeat_n(at, end - start));
    }
    Ok(of_each)
}

/// The program's own memory is read by this thread, at once. Where the source must be read in stream
/// order, a host function ahead in the stream may still write it: waits for the stream then.
fn in_order(client: &Client, state: &State, src: u64, order: u32) -> Result<(), CUresult> {
    if order != order::STREAM || memory::side(client, src, 1)? != Side::Pageable {
        return Ok(());
    }
    refuse_in_capture(client, state)?;
    state.synchronize(client, stream::Wait::of(state.ctx))
}

/// One copy of a batch.
///
/// # Safety
/// Both ends have `len` bytes.
unsafe fn one(
    client: &'static Client,
    state: &State,
    dst: u64,
    src: u64,
    len: u64,
    order: u32,
) -> Result<(), CUresult> {
    in_order(client, state, src, order)?;
    let from = memory::side(client, src, len)?;
    if order != order::DURING_API_CALL || from == Side::Pageable {
        return any(client, state, dst, src, len, Mode::Async);
    }
    let to = memory::side(client, dst, len)?;
    if from == Side::Pinned && matches!(to, Side::Device | Side::Unknown) {
        // Taken now, as pageable bytes are.
        let known = to == Side::Device;
        return pageable_to_device(client, state, dst, Pageable(src), len, known);
    }
    any(client, state, dst, src, len, Mode::Async)?;
    state.synchronize(client, stream::Wait::of(state.ctx))
}

/// # Safety
/// The arrays have as many entries as they say, and the copies' ends the extents.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
unsafe fn linear(
    default: NullStream,
    dsts: *const CUdeviceptr,
    srcs: *const CUdeviceptr,
    sizes: *const usize,
    count: usize,
    attributes: *const CUmemcpyAttributes,
    starts: *const usize,
    attribute_count: usize,
    stream: CUstream,
) -> Result<(), Failure> {
    let (client, state) = begin(default, stream).map_err(whole)?;
    named(&state).map_err(whole)?;
    // SAFETY: the caller's contract.
    let (dsts, srcs, sizes, attributes, starts) = unsafe {
        (
            list(dsts, count).map_err(whole)?,
            list(srcs, count).map_err(whole)?,
            list(sizes, count).map_err(whole)?,
            list(attributes, attribute_count).map_err(whole)?,
            list(starts, attribute_count).map_err(whole)?,
        )
    };
    let of_each = attribute_of_each(starts, count).map_err(whole)?;
    for attribute in attributes {
        check_attributes(attribute.order, attribute.flags).map_err(whole)?;
    }
    // What can be seen to be wrong is refused before anything is copied.
    for at in 0..count {
        let len = sizes[at] as u64;
        let wrong = len == 0 || dsts[at].0 == 0 || srcs[at].0 == 0;
        let sides = memory::side(client, dsts[at].0, len)
            .and_then(|_| memory::side(client, srcs[at].0, len))
            .and(if wrong {
                Err(CUresult::INVALID_VALUE)
            } else {
                Ok(())
            });
        sides.map_err(|error| (error, at))?;
    }
    for at in 0..count {
        let (dst, src, len) = (dsts[at].0, srcs[at].0, sizes[at] as u64);
        let order = attributes[of_each[at]].order;
        // SAFETY: the caller's contract.
        unsafe { one(client, &state, dst, src, len, order) }.map_err(|error| (error, at))?;
    }
    Ok(())
}

/// `cuMemcpyBatchAsync`: with the copy at fault.
///
/// # Safety
/// The arrays have as many entries as they say, and the copies' ends the extents; `fail` is null or
/// valid.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuMemcpyBatchAsync(
    default: NullStream,
    dsts: *mut CUdeviceptr,
    srcs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut CUmemcpyAttributes,
    starts: *mut usize,
    attribute_count: usize,
    fail: *mut usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    let copied = unsafe {
        linear(
            default,
            dsts,
            srcs,
            sizes,
            count,
            attributes,
            starts,
            attribute_count,
            stream,
        )
    };
    tell(copied, fail)
}

/// `cuMemcpyBatchAsync_v2`.
///
/// # Safety
/// As [`cuMemcpyBatchAsync`].
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuMemcpyBatchAsync_v2(
    default: NullStream,
    dsts: *mut CUdeviceptr,
    srcs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    attributes: *mut CUmemcpyAttributes,
    starts: *mut usize,
    attribute_count: usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    let fail = core::ptr::null_mut();
    // SAFETY: the caller's contract.
    unsafe {
        cuMemcpyBatchAsync(
            default,
            dsts,
            srcs,
            sizes,
            count,
            attributes,
            starts,
            attribute_count,
            fail,
            stream,
        )
    }
}

/// `CUmemcpy3DOperandType`.
mod operand {
    pub const POINTER: u32 = 1;
    pub const ARRAY: u32 = 2;
}

/// Bytes of an element of an array.
///
/// # Errors
/// The driver's; `NOT_SUPPORTED` for formats whose elements are no plain numbers.
fn element_of(array: CUarray) -> Result<u64, CUresult> {
    let mut descriptor = CUDA_ARRAY3D_DESCRIPTOR::default();
    // SAFETY: a pointer to a local.
    unsafe { exports::cuArray3DGetDescriptor_v2(&raw mut descriptor, array) }.ok()?;
    let bytes = match descriptor.format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        _ => return Err(CUresult::NOT_SUPPORTED),
    };
    Ok(bytes * u64::from(descriptor.channels))
}

/// A copy of a batch as a single one.
fn single(copy: &CUDA_MEMCPY3D_BATCH_OP) -> Result<CUDA_MEMCPY3D, CUresult> {
    let invalid = CUresult::INVALID_VALUE;
    check_attributes(copy.order, copy.flags)?;
    let [width, height, depth] = copy.extent;
    if width == 0 || height == 0 || depth == 0 {
        return Err(invalid);
    }
    let mut element = None;
    for end in [copy.src, copy.dst] {
        if end.kind == operand::ARRAY {
            let bytes = element_of(CUarray(end.words[0]))?;
            if element.is_some_and(|other| other != bytes) {
                return Err(invalid);
            }
            element = Some(bytes);
        }
    }
    let element = element.unwrap_or(1);
    let bytes = |count: u64| count.checked_mul(element).ok_or(invalid);
    let mut single = CUDA_MEMCPY3D {
        width: bytes(width)?,
        height,
        depth,
        ..CUDA_MEMCPY3D::default()
    };
    match (copy.src.kind, copy.src.words) {
        (operand::POINTER, [address, row, layer, _]) => {
            check_layout(row, layer, width, height)?;
            single.src_memory_type = CU_MEMORYTYPE_UNIFIED;
            single.src_device = CUdeviceptr(address);
            single.src_pitch = bytes(row)?;
            single.src_height = layer;
        }
        (operand::ARRAY, [array, x, y, z]) => {
            single.src_memory_type = CU_MEMORYTYPE_ARRAY;
            single.src_array = CUarray(array);
            (single.src_x, single.src_y, single.src_z) = (bytes(x)?, y, z);
        }
        _ => return Err(invalid),
    }
    match (copy.dst.kind, copy.dst.words) {
        (operand::POINTER, [address, row, layer, _]) => {
            check_layout(row, layer, width, height)?;
            single.dst_memory_type = CU_MEMORYTYPE_UNIFIED;
            single.dst_device = CUdeviceptr(address);
            single.dst_pitch = bytes(row)?;
            single.dst_height = layer;
        }
        (operand::ARRAY, [array, x, y, z]) => {
            single.dst_memory_type = CU_MEMORYTYPE_ARRAY;
            single.dst_array = CUarray(array);
            (single.dst_x, single.dst_y, single.dst_z) = (bytes(x)?, y, z);
        }
        _ => return Err(invalid),
    }
    Ok(single)
}

/// Rows and layers of memory are packed (0), or at least as long as the copy's.
fn check_layout(row: u64, layer: u64, width: u64, height: u64) -> Result<(), CUresult> {
    let fits = (row == 0 || row >= width) && (layer == 0 || layer >= height);
    fits.then_some(()).ok_or(CUresult::INVALID_VALUE)
}

/// # Safety
/// The array has as many entries as it says, and the copies' ends the extents.
unsafe fn boxes(
    default: NullStream,
    count: usize,
    copies: *const CUDA_MEMCPY3D_BATCH_OP,
    flags: u64,
    stream: CUstream,
) -> Result<(), Failure> {
    let (client, state) = begin(default, stream).map_err(whole)?;
    named(&state).map_err(whole)?;
    // SAFETY: the caller's contract.
    let copies = unsafe { list(copies, count).map_err(whole)? };
    if flags != 0 {
        return Err(whole(CUresult::INVALID_VALUE));
    }
    let singles = copies.iter().enumerate();
    let singles = singles.map(|(at, copy)| single(copy).map_err(|error| (error, at)));
    let singles = singles.collect::<Result<Vec<_>, _>>()?;
    for (at, (single, copy)) in singles.into_iter().zip(copies).enumerate() {
        let ready = match copy.src.kind {
            operand::POINTER => in_order(client, &state, copy.src.words[0], copy.order),
            _ => Ok(()),
        };
        // SAFETY: the caller's contract.
        let copied = ready.and_then(|()| unsafe { strided(default, stream, single, Mode::Async) });
        copied.map_err(|error| (error, at))?;
    }
    if copies
        .iter()
        .any(|copy| copy.order == order::DURING_API_CALL)
    {
        let wait = stream::Wait::of(state.ctx);
        state.synchronize(client, wait).map_err(whole)?;
    }
    Ok(())
}

/// `cuMemcpy3DBatchAsync`: with the copy at fault.
///
/// # Safety
/// The array has as many entries as it says, and the copies' ends the extents; `fail` is null or
/// valid.
pub unsafe fn cuMemcpy3DBatchAsync(
    default: NullStream,
    count: usize,
    copies: *mut CUDA_MEMCPY3D_BATCH_OP,
    fail: *mut usize,
    flags: u64,
    stream: CUstream,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    tell(
        unsafe { boxes(default, count, copies, flags, stream) },
        fail,
    )
}

/// `cuMemcpy3DBatchAsync_v2`.
///
/// # Safety
/// As [`cuMemcpy3DBatchAsync`].
pub unsafe fn cuMemcpy3DBatchAsync_v2(
    default: NullStream,
    count: usize,
    copies: *mut CUDA_MEMCPY3D_BATCH_OP,
    flags: u64,
    stream: CUstream,
) -> Result<(), CUresult> {
    let fail = core::ptr::null_mut();
    // SAFETY: the caller's contract.
    unsafe { cuMemcpy3DBatchAsync(default, count, copies, fail, flags, stream) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_apply_from_their_start_on() {
        assert_eq!(attribute_of_each(&[0, 2], 5), Ok(vec![0, 0, 1, 1, 1]));
        for starts in [&[][..], &[1], &[0, 0], &[0, 5], &[0, 3, 2]] {
            assert!(attribute_of_each(starts, 5).is_err(), "{starts:?}");
        }
    }

    #[test]
    fn rows_that_overlap_are_refused() {
        let end = |row| CUmemcpy3DOperand {
            kind: operand::POINTER,
            words: [0x1000, row, 0, 0],
            ..CUmemcpy3DOperand::default()
        };
        let copy = |row, order| CUDA_MEMCPY3D_BATCH_OP {
            src: end(row),
            dst: end(0),
            extent: [16, 2, 1],
            order,
            ..CUDA_MEMCPY3D_BATCH_OP::default()
        };
        assert_eq!(single(&copy(32, 1)).map(|copy| copy.src_pitch), Ok(32));
        assert!(single(&copy(15, 1)).is_err());
        assert!(single(&copy(32, 0)).is_err());
    }
}
