//! Memory pools and stream-ordered allocation.

use crate::call::{self, Completion};
use crate::client;
use crate::stream::{self, NullStream, State};
use crate::{exports, held, memory, write};
use core::ffi::c_void;
use std::sync::Arc;
use vgpu_channel::window::Place;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AttributeReply, AttributeRequest, Word};
use zerocopy::{FromZeros, IntoBytes};

/// Memory that the stream freed and gets again, entered as a new allocation.
fn held(
    client: &client::Client,
    state: &Arc<State>,
    bytes: usize,
    pool: CUmemoryPool,
) -> Result<Option<CUdeviceptr>, CUresult> {
    client.sticky()?;
    let address = held::take(client, state, bytes as u64, pool);
    if let Some(address) = address {
        memory::enter_pooled(address, bytes as u64, pool);
    }
    Ok(address)
}

/// Notes an allocation. One that was captured belongs to its graph, which each launch allocates anew: its free is never held.
fn entered(address: CUdeviceptr, bytes: usize, pool: CUmemoryPool, captured: bool) {
    if captured {
        memory::enter_device(address, bytes as u64);
    } else {
        memory::enter_pooled(address, bytes as u64, pool);
    }
}

/// Has the driver allocate, if need be with what is held.
fn allocate(
    client: &client::Client,
    number: u16,
    state: &State,
    args: &[u8],
    reply: &mut [u8],
) -> Result<(), CUresult> {
    match call::call_in_stream(client, number, state, &[args], reply) {
        Err(CUresult::OUT_OF_MEMORY) if held::release(client) => {
            call::call_in_stream(client, number, state, &[args], reply)
        }
        other => other,
    }
    .map(|_| ())
}

/// `cuMemAllocAsync`.
///
/// # Safety
/// `dptr` is null or valid.
pub unsafe fn cuMemAllocAsync(
    default: NullStream,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    if dptr.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if let Some(address) = held(client, &state, bytes, CUmemoryPool::NULL)? {
        return write(dptr, address);
    }
    let args = wire::cuMemAllocAsync::Args {
        dptr: [],
        bytes: Word::of(bytes),
        stream: Word::of(state.handle),
    };
    let captured = client.capturing();
    let mut reply = wire::cuMemAllocAsync::Reply::new_zeroed();
    allocate(
        client,
        number::cuMemAllocAsync,
        &state,
        args.as_bytes(),
        reply.as_mut_bytes(),
    )?;
    let address: CUdeviceptr = reply.dptr.get();
    entered(address, bytes, CUmemoryPool::NULL, captured);
    write(dptr, address)
}

/// `cuMemAllocFromPoolAsync`.
///
/// # Safety
/// `dptr` is null or valid.
pub unsafe fn cuMemAllocFromPoolAsync(
    default: NullStream,
    dptr: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    if dptr.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if let Some(address) = held(client, &state, bytes, pool)? {
        return write(dptr, address);
    }
    let args = wire::cuMemAllocFromPoolAsync::Args {
        dptr: [],
        bytes: Word::of(bytes),
        pool: Word::of(pool),
        stream: Word::of(state.handle),
    };
    let captured = client.capturing();
    let mut reply = wire::cuMemAllocFromPoolAsync::Reply::new_zeroed();
    allocate(
        client,
        number::cuMemAllocFromPoolAsync,
        &state,
        args.as_bytes(),
        reply.as_mut_bytes(),
    )?;
    let address: CUdeviceptr = reply.dptr.get();
    entered(address, bytes, pool, captured);
    write(dptr, address)
}

/// `cuMemFreeAsync`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemFreeAsync(
    default: NullStream,
    dptr: CUdeviceptr,
    stream: CUstream,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    if dptr.0 == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuMemFreeAsync::Args {
        dptr: Word::of(dptr),
        stream: Word::of(state.handle),
    };
    // Memory of the channel's heap, and the program's own, is no allocation of the driver's.
    if matches!(client.classify(dptr.0), Place::Shared | Place::Outside) {
        return Err(CUresult::INVALID_VALUE);
    }
    let Some(range) = memory::find(dptr.0).filter(|range| range.base == dptr.0) else {
        // What is not an allocation the shim knows is for the driver to judge, before we return.
        call::call_in_stream(
            client,
            number::cuMemFreeAsync,
            &state,
            &[args.as_bytes()],
            &mut [],
        )?;
        state.memory_freed();
        return Ok(());
    };
    client.sticky()?;
    // Forgotten first: once it is free, another thread may enter it anew.
    memory::leave(dptr.0);
    let held = match range.pool {
        Some(pool) if range.ctx == state.ctx => held::hold(client, &state, dptr, range.len, pool)?,
        _ => false,
    };
    if !held {
        call::post(
            client,
            number::cuMemFreeAsync,
            &state,
            &[args.as_bytes()],
            Completion::Lazy,
        )?;
    }
    state.memory_freed();
    Ok(())
}

/// Properties as they travel: the device translated to the host's numbering.
pub(crate) fn translate(
    client: &client::Client,
    location: CUmemLocation,
) -> Result<CUmemLocation, CUresult> {
    const DEVICE: u32 = 1;
    if location.kind != DEVICE {
        return Ok(location);
    }
    let device = client.backend_ordinal(CUdevice(location.id))?;
    Ok(CUmemLocation {
        id: device.0,
        ..location
    })
}

/// `cuMemPoolCreate`.
///
/// # Safety
/// `props` is null or valid, `pool` null or valid.
pub unsafe fn cuMemPoolCreate(
    pool: *mut CUmemoryPool,
    props: *const CUmemPoolProps,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let mut props = unsafe { *props.as_ref().ok_or(CUresult::INVALID_VALUE)? };
    if pool.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if props.handle_types != 0 {
        // Sharing between processes is not supported yet.
        return Err(CUresult::NOT_SUPPORTED);
    }
    props.location = translate(client, props.location)?;
    let mut reply = wire::cuMemPoolCreate::Reply::new_zeroed();
    call::call(
        client,
        number::cuMemPoolCreate,
        &[props.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(pool, reply.pool.get())
}

/// Bytes of a pool attribute: the reuse policies are 32-bit, thresholds and figures 64-bit.
fn width(attribute: u32) -> usize {
    if attribute <= 3 { 4 } else { 8 }
}

/// `cuMemPoolGetAttribute`.
///
/// # Safety
/// `value` is null or has room for the attribute.
pub unsafe fn cuMemPoolGetAttribute(
    pool: CUmemoryPool,
    attribute: u32,
    value: *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if value.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = AttributeRequest {
        object: pool.0,
        attribute,
        len: width(attribute) as u32,
        value: [0; 8],
    };
    let mut reply = AttributeReply::default();
    call::call(
        client,
        number::cuMemPoolGetAttribute,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    // SAFETY: the caller's contract; little-endian, so the low bytes come first.
    unsafe {
        core::ptr::copy_nonoverlapping(
            reply.value.as_bytes().as_ptr(),
            value.cast(),
            width(attribute),
        )
    };
    Ok(())
}

/// `cuMemPoolSetAttribute`.
///
/// # Safety
/// `value` is null or has the attribute's bytes.
pub unsafe fn cuMemPoolSetAttribute(
    pool: CUmemoryPool,
    attribute: u32,
    value: *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if value.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut args = AttributeRequest {
        object: pool.0,
        attribute,
        len: width(attribute) as u32,
        value: [0; 8],
    };
    // SAFETY: the caller's contract.
    unsafe {
        core::ptr::copy_nonoverlapping(
            value.cast(),
            args.value.as_mut_bytes().as_mut_ptr(),
            width(attribute),
        )
    };
    call::call(
        client,
        number::cuMemPoolSetAttribute,
        &[args.as_bytes()],
        &mut [],
    )
}

/// Reads `count` access descriptors, translated.
///
/// # Safety
/// `map` is null or has `count` entries.
pub unsafe fn descriptors(
    client: &client::Client,
    map: *const CUmemAccessDesc,
    count: usize,
) -> Result<Vec<CUmemAccessDesc>, CUresult> {
    const MOST: usize = 64;
    if map.is_null() || count == 0 || count > MOST {
        return Err(CUresult::INVALID_VALUE);
    }
    (0..count)
        .map(|at| {
            // SAFETY: the caller's contract.
            let descriptor = unsafe { *map.add(at) };
            Ok(CUmemAccessDesc {
                location: translate(client, descriptor.location)?,
                ..descriptor
            })
        })
        .collect()
}

/// `cuMemPoolSetAccess`.
///
/// # Safety
/// `map` is null or has `count` entries.
pub unsafe fn cuMemPoolSetAccess(
    pool: CUmemoryPool,
    map: *const CUmemAccessDesc,
    count: usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let descriptors = unsafe { descriptors(client, map, count)? };
    let args = AttributeRequest {
        object: pool.0,
        attribute: descriptors.len() as u32,
        len: 0,
        value: [0; 8],
    };
    call::call(
        client,
        number::cuMemPoolSetAccess,
        &[args.as_bytes(), descriptors.as_bytes()],
        &mut [],
    )
}

/// `cuMemPoolGetAccess`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuMemPoolGetAccess(
    flags: *mut u32,
    pool: CUmemoryPool,
    location: *mut CUmemLocation,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let location = translate(client, unsafe {
        *location.as_ref().ok_or(CUresult::INVALID_VALUE)?
    })?;
    let word = u64::from(location.kind) | u64::from(location.id.cast_unsigned()) << 32;
    let args = AttributeRequest {
        object: pool.0,
        attribute: 0,
        len: 8,
        value: [word, 0, 0, 0, 0, 0, 0, 0],
    };
    let mut reply = AttributeReply::default();
    call::call(
        client,
        number::cuMemPoolGetAccess,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(flags, reply.value[0] as u32)
}

// --- virtual memory ---

/// `cuMemAddressReserve`.
///
/// # Safety
/// `ptr` is null or valid.
pub unsafe fn cuMemAddressReserve(
    ptr: *mut CUdeviceptr,
    size: usize,
    alignment: usize,
    addr: CUdeviceptr,
    flags: u64,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if ptr.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuMemAddressReserve::Args {
        ptr: [],
        size: Word::of(size),
        alignment: Word::of(alignment),
        addr: Word::of(addr),
        flags: Word::of(flags),
    };
    let mut reply = wire::cuMemAddressReserve::Reply::new_zeroed();
    call::call(
        client,
        number::cuMemAddressReserve,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let address: CUdeviceptr = reply.ptr.get();
    write(ptr, address)
}

/// `cuMemAddressFree`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemAddressFree(ptr: CUdeviceptr, size: usize) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuMemAddressFree::Args {
        ptr: Word::of(ptr),
        size: Word::of(size),
    };
    call::call(
        client,
        number::cuMemAddressFree,
        &[args.as_bytes()],
        &mut [],
    )
}

/// `cuMemCreate`.
///
/// # Safety
/// `prop` is null or valid, `handle` null or valid.
pub unsafe fn cuMemCreate(
    handle: *mut u64,
    size: usize,
    prop: *const CUmemAllocationProp,
    flags: u64,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let mut prop = unsafe { *prop.as_ref().ok_or(CUresult::INVALID_VALUE)? };
    if handle.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if prop.handle_types != 0 {
        // Sharing between processes is not supported yet.
        return Err(CUresult::NOT_SUPPORTED);
    }
    prop.location = translate(client, prop.location)?;
    let args = wire::cuMemCreate::Args {
        handle: [],
        size: Word::of(size),
        prop,
        flags: Word::of(flags),
    };
    let mut reply = wire::cuMemCreate::Reply::new_zeroed();
    call::call(
        client,
        number::cuMemCreate,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(handle, reply.handle.get())
}

/// `cuMemRelease`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuMemRelease(handle: u64) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuMemRelease::Args {
        handle: Word::of(handle),
    };
    call::call(client, number::cuMemRelease, &[args.as_bytes()], &mut [])
}

/// `cuMemMap`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemMap(
    ptr: CUdeviceptr,
    size: usize,
    offset: usize,
    handle: u64,
    flags: u64,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuMemMap::Args {
        ptr: Word::of(ptr),
        size: Word::of(size),
        offset: Word::of(offset),
        handle: Word::of(handle),
        flags: Word::of(flags),
    };
    call::call(client, number::cuMemMap, &[args.as_bytes()], &mut [])
}

/// `cuMemSetAccess`.
///
/// # Safety
/// `desc` is null or has `count` entries.
pub unsafe fn cuMemSetAccess(
    ptr: CUdeviceptr,
    size: usize,
    desc: *const CUmemAccessDesc,
    count: usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let descriptors = unsafe { descriptors(client, desc, count)? };
    let args = wire::cuMemSetAccess::Args {
        ptr: Word::of(ptr),
        size: Word::of(size),
        desc: [],
        count: Word::of(count),
    };
    call::call(
        client,
        number::cuMemSetAccess,
        &[args.as_bytes(), descriptors.as_bytes()],
        &mut [],
    )
}

/// The device that a pool is asked for by. Pools of host and managed memory are not served: the driver
/// would place them in the worker.
///
/// # Errors
/// `INVALID_VALUE`, `NOT_SUPPORTED`.
fn pool_device(location: *const CUmemLocation, kind: u32) -> Result<CUdevice, CUresult> {
    const PINNED: u32 = 1;
    const DEVICE: u32 = 1;
    let location = crate::read(location)?;
    if location.kind == 0 || kind == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if location.kind != DEVICE || kind != PINNED {
        return Err(CUresult::NOT_SUPPORTED);
    }
    Ok(CUdevice(location.id))
}

/// `cuMemGetDefaultMemPool`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuMemGetDefaultMemPool(
    pool: *mut CUmemoryPool,
    location: *mut CUmemLocation,
    kind: u32,
) -> Result<(), CUresult> {
    let device = pool_device(location, kind)?;
    // SAFETY: the caller's contract.
    unsafe { exports::cuDeviceGetDefaultMemPool(pool, device) }.ok()
}

/// `cuMemGetMemPool`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuMemGetMemPool(
    pool: *mut CUmemoryPool,
    location: *mut CUmemLocation,
    kind: u32,
) -> Result<(), CUresult> {
    let device = pool_device(location, kind)?;
    // SAFETY: the caller's contract.
    unsafe { exports::cuDeviceGetMemPool(pool, device) }.ok()
}

/// `cuMemSetMemPool`.
///
/// # Safety
/// `location` is null or valid.
pub unsafe fn cuMemSetMemPool(
    location: *mut CUmemLocation,
    kind: u32,
    pool: CUmemoryPool,
) -> Result<(), CUresult> {
    let device = pool_device(location, kind)?;
    // SAFETY: takes no pointers.
    unsafe { exports::cuDeviceSetMemPool(device, pool) }.ok()
}

/// `cuMemGetAccess`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuMemGetAccess(
    flags: *mut u64,
    location: *const CUmemLocation,
    ptr: CUdeviceptr,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuMemGetAccess::Args {
        flags: [],
        location: translate(client, crate::read(location)?)?,
        ptr: wire::Word::of(ptr),
    };
    let mut reply = wire::cuMemGetAccess::Reply::new_zeroed();
    let number = number::cuMemGetAccess;
    call::call(client, number, &[args.as_bytes()], reply.as_mut_bytes())?;
    write(flags, reply.flags.get())
}
