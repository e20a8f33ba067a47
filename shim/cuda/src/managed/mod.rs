//! Managed memory: memory of the channel's heap, which program, worker and device use at one
//! address.
//!
//! The device reaches it where it lies, so nothing migrates, and both sides see each other's stores
//! at every point where CUDA promises it for a device without concurrent managed access
//! (attribute 89 reads 0). Such devices take no prefetch and no advice that names a device.

mod advice;

use crate::client::{self, Client};
use crate::memory::{self, Kind, Range};
use crate::stream::{self, NullStream};
use crate::{capture, context, write};
use advice::Hints;
use core::ffi::c_void;
use vgpu_protocol::cuda::*;

/// `CU_MEM_ATTACH_GLOBAL`.
const ATTACH_GLOBAL: u32 = 1;
/// `CU_MEM_ATTACH_HOST`.
const ATTACH_HOST: u32 = 2;
/// `CU_MEM_ATTACH_SINGLE`.
const ATTACH_SINGLE: u32 = 4;

/// `CU_DEVICE_CPU`.
const DEVICE_CPU: i32 = -1;
/// `CU_DEVICE_INVALID`.
const DEVICE_INVALID: i32 = -2;

/// `CU_MEM_LOCATION_TYPE_*`.
mod location {
    pub const INVALID: u32 = 0;
    pub const DEVICE: u32 = 1;
    pub const HOST: u32 = 2;
    pub const HOST_NUMA: u32 = 3;
    pub const HOST_NUMA_CURRENT: u32 = 4;
}

/// `cuMemAllocManaged`.
///
/// # Safety
/// `dptr` is null or valid.
pub unsafe fn cuMemAllocManaged(
    dptr: *mut CUdeviceptr,
    bytes: usize,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ctx = context::required()?;
    client.sticky()?;
    if dptr.is_null() || bytes == 0 || !matches!(flags, ATTACH_GLOBAL | ATTACH_HOST) {
        return Err(CUresult::INVALID_VALUE);
    }
    if !offered(client, ctx) {
        return Err(CUresult::NOT_SUPPORTED);
    }
    let address = memory::alloc_shared(client, bytes as u64, Kind::Managed)?;
    write(dptr, CUdeviceptr(address))
}

/// Whether the context's device says that it has managed memory.
fn offered(client: &Client, ctx: CUcontext) -> bool {
    const MANAGED_MEMORY: i32 = 83;
    context::device_of(ctx)
        .and_then(|dev| client.device(dev).ok())
        .is_some_and(|device| device.attribute_or_zero(MANAGED_MEMORY) != 0)
}

/// Frees managed memory, for `cuMemFree_v2`.
///
/// # Errors
/// `INVALID_VALUE`.
pub fn free(client: &Client, range: &Range) -> Result<(), CUresult> {
    // The device may still use it; natively this call waits too.
    stream::settle_all(client);
    memory::leave(range.base);
    forget(range.base, range.len);
    client
        .channel()
        .free(range.base)
        .map_err(|_| CUresult::INVALID_VALUE)
}

/// Forgets what was advised about memory that is gone.
pub fn forget(base: u64, len: u64) {
    let (start, end) = advice::pages(base, len);
    advice::with(|advice| advice.change(start, end, |hints| *hints = Hints::default()));
}

/// A range that must lie inside one managed allocation, in whole pages.
fn managed_range(start: CUdeviceptr, bytes: usize) -> Result<(u64, u64), CUresult> {
    let range = memory::find(start.0)
        .filter(|range| range.kind == Kind::Managed)
        .ok_or(CUresult::INVALID_VALUE)?;
    let (offset, bytes) = (start.0 - range.base, bytes as u64);
    if bytes == 0 || bytes > range.len - offset {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(advice::pages(start.0, bytes))
}

/// `cuStreamAttachMemAsync`: nothing needs to move, so the association only has to be a valid one.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuStreamAttachMemAsync(
    default: NullStream,
    stream: CUstream,
    dptr: CUdeviceptr,
    bytes: usize,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    let state = stream::find(client, stream, default)?;
    client.sticky()?;
    let range = memory::find(dptr.0)
        .filter(|range| range.kind == Kind::Managed && range.base == dptr.0)
        .ok_or(CUresult::INVALID_VALUE)?;
    let whole = bytes == 0 || bytes as u64 == range.len;
    let known = matches!(flags, ATTACH_GLOBAL | ATTACH_HOST | ATTACH_SINGLE);
    if !whole || !known || (flags == ATTACH_SINGLE && state.is_legacy()) {
        return Err(CUresult::INVALID_VALUE);
    }
    if client.capturing() && capture::status(client, state.handle)? != 0 {
        return Err(CUresult::STREAM_CAPTURE_UNSUPPORTED);
    }
    Ok(())
}

/// A device of the forms that predate locations.
fn of_device(device: CUdevice) -> CUmemLocation {
    CUmemLocation {
        kind: if device.0 == DEVICE_CPU {
            location::HOST
        } else {
            location::DEVICE
        },
        id: device.0,
    }
}

/// That a location is the host. Devices lack concurrent managed access; host NUMA nodes cannot be
/// told apart through the channel.
fn is_host(place: CUmemLocation) -> Result<(), CUresult> {
    match place.kind {
        location::HOST => Ok(()),
        location::DEVICE => Err(CUresult::INVALID_DEVICE),
        location::HOST_NUMA | location::HOST_NUMA_CURRENT => Err(CUresult::NOT_SUPPORTED),
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// `cuMemAdvise_v2`. Advice is kept and told again; it changes nothing, as memory stays where it is.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemAdvise_v2(
    dptr: CUdeviceptr,
    bytes: usize,
    advised: u32,
    place: CUmemLocation,
) -> Result<(), CUresult> {
    client::entered()?.sticky()?;
    let (start, end) = managed_range(dptr, bytes)?;
    let change: fn(&mut Hints) = match advised {
        1 => |hints| hints.read_mostly = true,
        2 => |hints| hints.read_mostly = false,
        3 => |hints| hints.prefers_host = true,
        4 => |hints| hints.prefers_host = false,
        5 => |hints| hints.host_accesses = true,
        6 => |hints| hints.host_accesses = false,
        _ => return Err(CUresult::INVALID_VALUE),
    };
    // The others ignore the location.
    if matches!(advised, 3 | 5 | 6) {
        is_host(place)?;
    }
    advice::with(|advice| advice.change(start, end, change));
    Ok(())
}

/// `cuMemAdvise`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemAdvise(
    dptr: CUdeviceptr,
    bytes: usize,
    advised: u32,
    device: CUdevice,
) -> Result<(), CUresult> {
    // SAFETY: takes no pointers that are followed there.
    unsafe { cuMemAdvise_v2(dptr, bytes, advised, of_device(device)) }
}

/// `cuMemPrefetchAsync_v2`: both the destination and the stream's device would need concurrent
/// managed access.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemPrefetchAsync_v2(
    default: NullStream,
    dptr: CUdeviceptr,
    bytes: usize,
    place: CUmemLocation,
    flags: u32,
    stream: CUstream,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    stream::find(client, stream, default)?;
    client.sticky()?;
    managed_range(dptr, bytes)?;
    if flags != 0 || matches!(place.kind, location::INVALID) || place.kind > 4 {
        return Err(CUresult::INVALID_VALUE);
    }
    Err(CUresult::INVALID_DEVICE)
}

/// `cuMemPrefetchAsync`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemPrefetchAsync(
    default: NullStream,
    dptr: CUdeviceptr,
    bytes: usize,
    device: CUdevice,
    stream: CUstream,
) -> Result<(), CUresult> {
    // SAFETY: takes no pointers that are followed there.
    unsafe { cuMemPrefetchAsync_v2(default, dptr, bytes, of_device(device), 0, stream) }
}

/// Judges a batch of prefetches or discards: every device would need concurrent managed access.
///
/// # Safety
/// Both lists have `count` entries.
unsafe fn judge_batch(
    default: NullStream,
    stream: CUstream,
    dptrs: *const CUdeviceptr,
    sizes: *const usize,
    count: usize,
    flags: u64,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    stream::find(client, stream, default)?;
    client.sticky()?;
    if dptrs.is_null() || sizes.is_null() || count == 0 || flags != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    for at in 0..count {
        // SAFETY: the caller's contract.
        let (dptr, bytes) = unsafe { (*dptrs.add(at), *sizes.add(at)) };
        managed_range(dptr, bytes)?;
    }
    Err(CUresult::INVALID_DEVICE)
}

/// `cuMemPrefetchBatchAsync`.
///
/// # Safety
/// The lists have as many entries as they say.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuMemPrefetchBatchAsync(
    default: NullStream,
    dptrs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    places: *mut CUmemLocation,
    starts: *mut usize,
    place_count: usize,
    flags: u64,
    stream: CUstream,
) -> Result<(), CUresult> {
    if places.is_null() || starts.is_null() || place_count == 0 || place_count > count {
        client::entered()?;
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    unsafe { judge_batch(default, stream, dptrs, sizes, count, flags) }
}

/// `cuMemDiscardBatchAsync`.
///
/// # Safety
/// Both lists have `count` entries.
pub unsafe fn cuMemDiscardBatchAsync(
    default: NullStream,
    dptrs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    flags: u64,
    stream: CUstream,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { judge_batch(default, stream, dptrs, sizes, count, flags) }
}

/// `cuMemDiscardAndPrefetchBatchAsync`.
///
/// # Safety
/// The lists have as many entries as they say.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuMemDiscardAndPrefetchBatchAsync(
    default: NullStream,
    dptrs: *mut CUdeviceptr,
    sizes: *mut usize,
    count: usize,
    places: *mut CUmemLocation,
    starts: *mut usize,
    place_count: usize,
    flags: u64,
    stream: CUstream,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        cuMemPrefetchBatchAsync(
            default,
            dptrs,
            sizes,
            count,
            places,
            starts,
            place_count,
            flags,
            stream,
        )
    }
}

/// `CU_MEM_RANGE_ATTRIBUTE_*`.
mod attribute {
    pub const READ_MOSTLY: u32 = 1;
    pub const PREFERRED_LOCATION: u32 = 2;
    pub const ACCESSED_BY: u32 = 3;
    pub const LAST_PREFETCH_LOCATION: u32 = 4;
    pub const PREFERRED_LOCATION_TYPE: u32 = 5;
    pub const PREFERRED_LOCATION_ID: u32 = 6;
    pub const LAST_PREFETCH_LOCATION_TYPE: u32 = 7;
    pub const LAST_PREFETCH_LOCATION_ID: u32 = 8;
}

/// Stores one attribute of a range of whole pages.
///
/// # Safety
/// `data` is null or has `size` bytes.
unsafe fn range_attribute(
    data: *mut c_void,
    size: usize,
    which: u32,
    (start, end): (u64, u64),
) -> Result<(), CUresult> {
    let fits = match which {
        attribute::ACCESSED_BY => size != 0 && size.is_multiple_of(4),
        attribute::READ_MOSTLY..=attribute::LAST_PREFETCH_LOCATION_ID => size == 4,
        _ => false,
    };
    if data.is_null() || !fits {
        return Err(CUresult::INVALID_VALUE);
    }
    let all = |pick: fn(&Hints) -> bool| advice::with(|advice| advice.all(start, end, pick));
    let host = |yes: bool, host: i32, other: i32| if yes { host } else { other };
    let first = match which {
        attribute::READ_MOSTLY => i32::from(all(|hints| hints.read_mostly)),
        attribute::PREFERRED_LOCATION => {
            host(all(|hints| hints.prefers_host), DEVICE_CPU, DEVICE_INVALID)
        }
        attribute::ACCESSED_BY => {
            host(all(|hints| hints.host_accesses), DEVICE_CPU, DEVICE_INVALID)
        }
        attribute::PREFERRED_LOCATION_TYPE => host(
            all(|hints| hints.prefers_host),
            location::HOST as i32,
            location::INVALID as i32,
        ),
        attribute::LAST_PREFETCH_LOCATION => DEVICE_INVALID,
        attribute::LAST_PREFETCH_LOCATION_TYPE => location::INVALID as i32,
        // To be ignored, beside a type that is no device and no NUMA node.
        attribute::PREFERRED_LOCATION_ID => 0,
        _ => 0,
    };
    let to = data.cast::<i32>();
    for at in 0..size / 4 {
        let value = if at == 0 { first } else { DEVICE_INVALID };
        // SAFETY: the caller's contract; attributes need not be aligned.
        unsafe { to.add(at).write_unaligned(value) };
    }
    Ok(())
}

/// `cuMemRangeGetAttribute`.
///
/// # Safety
/// `data` is null or has `size` bytes.
pub unsafe fn cuMemRangeGetAttribute(
    data: *mut c_void,
    size: usize,
    which: u32,
    dptr: CUdeviceptr,
    bytes: usize,
) -> Result<(), CUresult> {
    client::entered()?.sticky()?;
    let range = managed_range(dptr, bytes)?;
    // SAFETY: the caller's contract.
    unsafe { range_attribute(data, size, which, range) }
}

/// `cuMemRangeGetAttributes`.
///
/// # Safety
/// The arrays are null or have `count` entries; each entry of `data` has the size beside it.
pub unsafe fn cuMemRangeGetAttributes(
    data: *mut *mut c_void,
    sizes: *mut usize,
    attributes: *mut u32,
    count: usize,
    dptr: CUdeviceptr,
    bytes: usize,
) -> Result<(), CUresult> {
    client::entered()?.sticky()?;
    if data.is_null() || sizes.is_null() || attributes.is_null() || count == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let range = managed_range(dptr, bytes)?;
    for at in 0..count {
        // SAFETY: the caller's contract.
        unsafe { range_attribute(*data.add(at), *sizes.add(at), *attributes.add(at), range)? };
    }
    Ok(())
}
