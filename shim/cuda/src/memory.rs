//! Memory the program holds: device allocations, pinned host memory, variables of modules. What an
//! address is follows from its place in the window; how far it reaches, from the map kept here.

use crate::client::{self, Client};
use crate::{call, context, managed, register, stream, write};
use core::ffi::c_void;
use std::collections::BTreeMap;
use std::sync::{LazyLock, PoisonError, RwLock};
use vgpu_channel::window::Place;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::{FromZeros, IntoBytes};

/// Alignment of pinned host memory: a page.
const HOST_ALIGN: u64 = 4096;

/// What lies at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Device memory.
    Device,
    /// Pinned host memory of the channel's heap, with the flags of its allocation.
    Host(u32),
    /// The program's own memory, registered with these flags.
    Registered(u32),
    /// Managed memory, in the channel's heap too.
    Managed,
    /// A variable of this module or library.
    Global(u64),
    /// Device memory of another process.
    Imported,
}

impl Kind {
    /// Whether it lies in the channel's heap, where program and device use it at one address.
    fn is_shared(self) -> bool {
        matches!(self, Self::Host(_) | Self::Managed)
    }
}

/// A range the program may use.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub kind: Kind,
    /// The context it was allocated in.
    pub ctx: CUcontext,
    /// Never-reused id of the allocation (`CU_POINTER_ATTRIBUTE_BUFFER_ID`).
    pub id: u64,
    /// Whether the driver can share it by `cuIpcGetMemHandle`.
    pub sharable: bool,
    /// Whether other processes may see it.
    pub shared: bool,
    /// For memory allocated in stream order, the pool that was named; null for the device's current one.
    pub pool: Option<CUmemoryPool>,
}

#[derive(Debug, Default)]
struct Map {
    ranges: BTreeMap<u64, Range>,
    next_id: u64,
}

static MAP: LazyLock<RwLock<Map>> = LazyLock::new(RwLock::default);

/// Notes memory of the current context.
pub fn enter(base: u64, len: u64, kind: Kind) {
    enter_as(base, len, kind, Source::Other);
}

/// Where memory came from, as far as it matters later.
enum Source {
    /// An allocation that other processes could open.
    Sharable,
    /// A pool, null for the device's current one.
    Pool(CUmemoryPool),
    Other,
}

fn enter_as(base: u64, len: u64, kind: Kind, source: Source) {
    let mut map = MAP.write().unwrap_or_else(PoisonError::into_inner);
    map.next_id += 1;
    let id = map.next_id;
    map.ranges.insert(
        base,
        Range {
            base,
            len,
            kind,
            ctx: context::current(),
            id,
            sharable: matches!(source, Source::Sharable),
            shared: kind == Kind::Imported,
            pool: match source {
                Source::Pool(pool) => Some(pool),
                _ => None,
            },
        },
    );
}

/// The range that holds `address`.
pub fn find(address: u64) -> Option<Range> {
    let map = MAP.read().unwrap_or_else(PoisonError::into_inner);
    let (_, range) = map.ranges.range(..=address).next_back()?;
    (address - range.base < range.len.max(1)).then_some(*range)
}

/// Notes an allocation of device memory.
pub fn enter_device(base: CUdeviceptr, len: u64) {
    enter(base.0, len, Kind::Device);
}

/// Notes an allocation that other processes could open.
fn enter_sharable(base: CUdeviceptr, len: u64) {
    enter_as(base.0, len, Kind::Device, Source::Sharable);
}

/// Notes memory of another process, unless it was open already. With 0 bytes the driver did not say how much it is, and is
/// asked when that matters.
pub fn enter_imported(base: u64, len: u64) {
    let known = find(base).is_some_and(|range| range.base == base && range.kind == Kind::Imported);
    if len > 0 && !known {
        enter(base, len, Kind::Imported);
    }
}

/// Notes that other processes may open the range that holds `address`.
pub fn share(address: u64) {
    let mut map = MAP.write().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, range)) = map.ranges.range_mut(..=address).next_back()
        && address - range.base < range.len
    {
        range.shared = true;
    }
}

/// Notes memory allocated in stream order, from `pool` or, for null, from the device's current one.
pub fn enter_pooled(base: CUdeviceptr, len: u64, pool: CUmemoryPool) {
    enter_as(base.0, len, Kind::Device, Source::Pool(pool));
}

/// Notes a variable of a module or library.
pub fn enter_global(container: u64, base: u64, len: u64) {
    if find(base).is_none() {
        enter(base, len, Kind::Global(container));
    }
}

/// Forgets the range that starts at `base`.
pub fn leave(base: u64) -> Option<Range> {
    MAP.write()
        .unwrap_or_else(PoisonError::into_inner)
        .ranges
        .remove(&base)
}

fn retain(keep: impl Fn(&Range) -> bool) {
    MAP.write()
        .unwrap_or_else(PoisonError::into_inner)
        .ranges
        .retain(|_, range| keep(range));
}

/// Forgets the variables of a module or library that is gone.
pub fn container_gone(container: u64) {
    retain(|range| range.kind != Kind::Global(container));
}

/// Forgets the memory of a context that is gone; its pinned and managed memory is invalid from now
/// on too, as natively (`semantics.md` 16).
pub fn context_died(ctx: CUcontext) {
    let mut map = MAP.write().unwrap_or_else(PoisonError::into_inner);
    let shared: Vec<(u64, u64)> = map
        .ranges
        .values()
        .filter(|range| range.ctx == ctx && range.kind.is_shared())
        .map(|range| (range.base, range.len))
        .collect();
    map.ranges.retain(|_, range| range.ctx != ctx);
    drop(map);
    if let Ok(client) = client::entered() {
        register::context_died(client, ctx);
        for (base, len) in shared {
            managed::forget(base, len);
            // Nothing of the context runs any more, so the block can be used again.
            let _ = client.channel().free(base);
        }
    }
}

/// The range that holds `address`, asking the driver about memory it handed out by itself (pools of
/// graphs, mapped virtual memory); the answer is kept.
fn find_or_ask(client: &Client, address: u64) -> Option<Range> {
    if let Some(range) = find(address) {
        return Some(range);
    }
    if !matches!(client.classify(address), Place::Driver | Place::Low)
        || context::current().is_null()
    {
        return None;
    }
    let (base, len) = ask_range(client, CUdeviceptr(address)).ok()?;
    enter_device(base, len as u64);
    find(address)
}

/// `cuMemGetAddressRange_v2` by the driver itself.
fn ask_range(client: &Client, dptr: CUdeviceptr) -> Result<(CUdeviceptr, usize), CUresult> {
    let args = wire::cuMemGetAddressRange_v2::Args {
        base: [],
        size: [],
        dptr: Word::of(dptr),
    };
    let mut reply = wire::cuMemGetAddressRange_v2::Reply::new_zeroed();
    call::call(
        client,
        number::cuMemGetAddressRange_v2,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    Ok((reply.base.get(), reply.size.get()))
}

/// How a copy or fill may treat a stretch of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Device memory, known to be all there.
    Device,
    /// Device memory by its place, but not known here, so that the driver decides, or seen by other processes: either way
    /// commands are calls, which return after they were issued (`semantics.md` 5).
    Unknown,
    /// Pinned, registered or managed memory, which is the channel's: both sides and the device use it
    /// at the same address.
    Pinned,
    /// The program's own pageable memory.
    Pageable,
}

/// What lies at `address .. address + len`.
///
/// # Errors
/// `INVALID_VALUE` when it starts inside a known range and ends behind it.
pub fn side(client: &Client, address: u64, len: u64) -> Result<Side, CUresult> {
    let place = client.classify(address);
    match place {
        Place::Outside if register::any() => match find(address) {
            Some(range) if address - range.base + len <= range.len => Ok(Side::Pinned),
            _ => Ok(Side::Pageable),
        },
        Place::Outside => Ok(Side::Pageable),
        Place::Shared => match find(address) {
            Some(range) if address - range.base + len <= range.len => Ok(Side::Pinned),
            _ => Err(CUresult::INVALID_VALUE),
        },
        Place::Driver | Place::Low => match find(address) {
            Some(range) if address - range.base + len <= range.len => Ok(match range.shared {
                true => Side::Unknown,
                false => Side::Device,
            }),
            Some(_) => Err(CUresult::INVALID_VALUE),
            None => Ok(Side::Unknown),
        },
    }
}

/// `cuMemAlloc_v2`.
///
/// # Safety
/// `dptr` is null or valid.
pub unsafe fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytes: usize) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    if dptr.is_null() || bytes == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuMemAlloc_v2::Args {
        dptr: [],
        bytes: Word::of(bytes),
    };
    let mut reply = wire::cuMemAlloc_v2::Reply::new_zeroed();
    call::call(
        client,
        number::cuMemAlloc_v2,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let address: CUdeviceptr = reply.dptr.get();
    enter_sharable(address, bytes as u64);
    write(dptr, address)
}

/// `cuMemAllocPitch_v2`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuMemAllocPitch_v2(
    dptr: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    if dptr.is_null() || pitch.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuMemAllocPitch_v2::Args {
        dptr: [],
        pitch: [],
        width: Word::of(width),
        height: Word::of(height),
        element: Word::of(element),
    };
    let mut reply = wire::cuMemAllocPitch_v2::Reply::new_zeroed();
    call::call(
        client,
        number::cuMemAllocPitch_v2,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let (address, row): (CUdeviceptr, usize) = (reply.dptr.get(), reply.pitch.get());
    enter_sharable(address, (row as u64).saturating_mul(height as u64));
    write(dptr, address)?;
    write(pitch, row)
}

/// `cuMemFree_v2`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemFree_v2(dptr: CUdeviceptr) -> Result<(), CUresult> {
    let client = client::entered()?;
    if dptr.0 == 0 {
        return Ok(());
    }
    context::required()?;
    if let Some(range) = find(dptr.0).filter(|range| range.base == dptr.0)
        && range.kind == Kind::Managed
    {
        return managed::free(client, &range);
    }
    let args = wire::cuMemFree_v2::Args {
        dptr: Word::of(dptr),
    };
    call::call(client, number::cuMemFree_v2, &[args.as_bytes()], &mut [])?;
    leave(dptr.0);
    Ok(())
}

/// `cuMemAllocHost_v2`.
///
/// # Safety
/// `pointer` is null or valid.
pub unsafe fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) -> Result<(), CUresult> {
    // SAFETY: the caller's contract. Under unified addressing all pinned memory is portable and
    // mapped.
    unsafe { cuMemHostAlloc(pointer, bytes, CU_MEMHOST_PORTABLE | CU_MEMHOST_DEVICEMAP) }
}

/// `cuMemHostAlloc`: memory of the channel's heap, which the worker has registered with the driver.
///
/// # Safety
/// `pointer` is null or valid.
pub unsafe fn cuMemHostAlloc(
    pointer: *mut *mut c_void,
    bytes: usize,
    flags: u32,
) -> Result<(), CUresult> {
    const KNOWN_FLAGS: u32 = 7;
    let client = client::entered()?;
    context::required()?;
    client.sticky()?;
    if pointer.is_null() || bytes == 0 || flags & !KNOWN_FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let address = alloc_shared(client, bytes as u64, Kind::Host(flags))?;
    write(pointer, address as *mut c_void)
}

/// Allocates in the channel's heap, which the worker has registered with the driver.
///
/// # Errors
/// `OUT_OF_MEMORY` beyond what the heap may grow to.
pub fn alloc_shared(client: &Client, bytes: u64, kind: Kind) -> Result<u64, CUresult> {
    let address = bytes
        .checked_next_multiple_of(HOST_ALIGN)
        .and_then(|len| client.channel().alloc(len, HOST_ALIGN).ok())
        .ok_or(CUresult::OUT_OF_MEMORY)?;
    enter(address, bytes, kind);
    Ok(address)
}

/// `cuMemFreeHost`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemFreeHost(pointer: *mut c_void) -> Result<(), CUresult> {
    let client = client::entered()?;
    if pointer.is_null() {
        return Ok(());
    }
    match find(pointer as u64) {
        Some(range) if range.base == pointer as u64 && matches!(range.kind, Kind::Host(_)) => {}
        _ => return Err(CUresult::INVALID_VALUE),
    }
    // The device may still use it; natively this call waits too.
    stream::settle_all(client);
    leave(pointer as u64);
    client
        .channel()
        .free(pointer as u64)
        .map_err(|_| CUresult::INVALID_VALUE)
}

/// The pinned range that holds `pointer`.
fn pinned(pointer: *mut c_void) -> Result<(Range, u32), CUresult> {
    match find(pointer as u64) {
        Some(range) => match range.kind {
            Kind::Host(flags) | Kind::Registered(flags) => Ok((range, flags)),
            _ => Err(CUresult::INVALID_VALUE),
        },
        None => Err(CUresult::INVALID_VALUE),
    }
}

/// `cuMemHostGetDevicePointer_v2`: the same address.
///
/// # Safety
/// `dptr` is null or valid.
pub unsafe fn cuMemHostGetDevicePointer_v2(
    dptr: *mut CUdeviceptr,
    pointer: *mut c_void,
    flags: u32,
) -> Result<(), CUresult> {
    client::entered()?;
    if dptr.is_null() || flags != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    pinned(pointer)?;
    write(dptr, CUdeviceptr(pointer as u64))
}

/// `cuMemHostGetFlags`.
///
/// # Safety
/// `flags` is null or valid.
pub unsafe fn cuMemHostGetFlags(flags: *mut u32, pointer: *mut c_void) -> Result<(), CUresult> {
    client::entered()?;
    let (_, of) = pinned(pointer)?;
    // Under unified addressing every allocation is also mapped.
    write(flags, of | CU_MEMHOST_DEVICEMAP)
}

/// `cuMemGetAddressRange_v2`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuMemGetAddressRange_v2(
    base: *mut CUdeviceptr,
    size: *mut usize,
    dptr: CUdeviceptr,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    let (start, len) = match find(dptr.0) {
        Some(range) => (CUdeviceptr(range.base), range.len as usize),
        None => ask_range(client, dptr)?,
    };
    if !base.is_null() {
        write(base, start)?;
    }
    if !size.is_null() {
        write(size, len)?;
    }
    Ok(())
}

/// `CU_POINTER_ATTRIBUTE_*`.
mod attribute {
    pub const CONTEXT: u32 = 1;
    pub const MEMORY_TYPE: u32 = 2;
    pub const DEVICE_POINTER: u32 = 3;
    pub const HOST_POINTER: u32 = 4;
    pub const SYNC_MEMOPS: u32 = 6;
    pub const BUFFER_ID: u32 = 7;
    pub const IS_MANAGED: u32 = 8;
    pub const DEVICE_ORDINAL: u32 = 9;
    pub const IS_LEGACY_CUDA_IPC_CAPABLE: u32 = 10;
    pub const RANGE_START_ADDR: u32 = 11;
    pub const RANGE_SIZE: u32 = 12;
    pub const MAPPED: u32 = 13;
    pub const ALLOWED_HANDLE_TYPES: u32 = 14;
    pub const IS_GPU_DIRECT_RDMA_CAPABLE: u32 = 15;
    pub const ACCESS_FLAGS: u32 = 16;
    pub const MEMPOOL_HANDLE: u32 = 17;
    pub const MAPPING_SIZE: u32 = 18;
    pub const MAPPING_BASE_ADDR: u32 = 19;
    pub const MEMORY_BLOCK_ID: u32 = 20;
    pub const IS_HW_DECOMPRESS_CAPABLE: u32 = 21;
}

/// What [`known_attribute`] says of an attribute it does not know, as opposed to one that this kind
/// of memory lacks.
const UNKNOWN_ATTRIBUTE: CUresult = CUresult::NOT_SUPPORTED;

/// Writes a value of its own width to an untyped pointer.
///
/// # Safety
/// `data` has room for a `T`.
unsafe fn put<T>(data: *mut c_void, value: T) {
    // SAFETY: the caller's contract; attributes need not be aligned.
    unsafe { data.cast::<T>().write_unaligned(value) };
}

/// One attribute of a known range.
///
/// # Safety
/// `data` has room for the attribute.
unsafe fn known_attribute(
    which: u32,
    data: *mut c_void,
    ptr: u64,
    range: &Range,
) -> Result<(), CUresult> {
    let host = matches!(range.kind, Kind::Host(_) | Kind::Registered(_));
    let managed = range.kind == Kind::Managed;
    // SAFETY: the caller's contract: `data` has the width of the attribute in `cuda.h`.
    unsafe {
        match which {
            attribute::CONTEXT => put(data, range.ctx),
            attribute::MEMORY_TYPE => put(
                data,
                if host {
                    CU_MEMORYTYPE_HOST
                } else {
                    CU_MEMORYTYPE_DEVICE
                },
            ),
            attribute::DEVICE_POINTER => put(data, ptr),
            attribute::HOST_POINTER if host || managed => put(data, ptr),
            attribute::HOST_POINTER => return Err(CUresult::INVALID_VALUE),
            attribute::SYNC_MEMOPS => put(data, 0_u32),
            attribute::IS_MANAGED => put(data, u32::from(managed)),
            attribute::BUFFER_ID | attribute::MEMORY_BLOCK_ID => put(data, range.id),
            attribute::DEVICE_ORDINAL => {
                put(data, context::device_of(range.ctx).unwrap_or_default().0)
            }
            attribute::IS_LEGACY_CUDA_IPC_CAPABLE => put(data, u32::from(range.sharable)),
            attribute::IS_GPU_DIRECT_RDMA_CAPABLE => put(data, 0_u32),
            attribute::RANGE_START_ADDR | attribute::MAPPING_BASE_ADDR => put(data, range.base),
            attribute::RANGE_SIZE | attribute::MAPPING_SIZE => put(data, range.len),
            attribute::IS_HW_DECOMPRESS_CAPABLE => put(data, 0_u32),
            attribute::MAPPED => put(data, 1_u32),
            attribute::ALLOWED_HANDLE_TYPES => put(data, 0_u64),
            attribute::ACCESS_FLAGS => put(data, 3_u32),
            attribute::MEMPOOL_HANDLE => put(data, 0_u64),
            other => {
                crate::log::line(format_args!("pointer attribute {other} is not supported"));
                return Err(CUresult::NOT_SUPPORTED);
            }
        }
    }
    Ok(())
}

/// `cuPointerGetAttribute`.
///
/// # Safety
/// `data` has room for the attribute.
pub unsafe fn cuPointerGetAttribute(
    data: *mut c_void,
    which: u32,
    ptr: CUdeviceptr,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if data.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let range = find_or_ask(client, ptr.0).ok_or(CUresult::INVALID_VALUE)?;
    // SAFETY: the caller's contract.
    match unsafe { known_attribute(which, data, ptr.0, &range) } {
        Err(UNKNOWN_ATTRIBUTE) => Err(CUresult::INVALID_VALUE),
        known => known,
    }
}

/// `cuPointerGetAttributes`: for memory CUDA does not know, zeros and success.
///
/// # Safety
/// Both arrays have `count` entries, and each entry of `data` has room for its attribute.
pub unsafe fn cuPointerGetAttributes(
    count: u32,
    attributes: *mut u32,
    data: *mut *mut c_void,
    ptr: CUdeviceptr,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if count == 0 || attributes.is_null() || data.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let range = find_or_ask(client, ptr.0);
    for at in 0..count as usize {
        // SAFETY: the caller's contract.
        unsafe {
            let (which, to) = (*attributes.add(at), *data.add(at));
            if to.is_null() {
                return Err(CUresult::INVALID_VALUE);
            }
            let found = match &range {
                Some(range) => known_attribute(which, to, ptr.0, range),
                None => Err(CUresult::INVALID_VALUE),
            };
            match found {
                Ok(()) => {}
                Err(UNKNOWN_ATTRIBUTE) => return Err(CUresult::INVALID_VALUE),
                Err(_) => unknown_attribute(which, to),
            }
        }
    }
    Ok(())
}

/// What the plural query says of memory CUDA does not know.
///
/// # Safety
/// `data` has room for the attribute.
unsafe fn unknown_attribute(which: u32, data: *mut c_void) {
    // SAFETY: the caller's contract.
    unsafe {
        match which {
            attribute::DEVICE_ORDINAL => put(data, -2_i32),
            attribute::MEMORY_TYPE
            | attribute::SYNC_MEMOPS
            | attribute::IS_MANAGED
            | attribute::IS_LEGACY_CUDA_IPC_CAPABLE
            | attribute::IS_GPU_DIRECT_RDMA_CAPABLE
            | attribute::MAPPED
            | attribute::IS_HW_DECOMPRESS_CAPABLE
            | attribute::ACCESS_FLAGS => put(data, 0_u32),
            _ => put(data, 0_u64),
        }
    }
}
