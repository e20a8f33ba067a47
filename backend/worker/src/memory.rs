//! Device memory: allocation against the quota, pools, virtual memory.

use crate::call::{Call, Outcome};
use crate::graph_memory;
use crate::live::{Entry, Kind};
use vgpu_protocol::cuda::{
    CUdeviceptr, CUmemAccessDesc, CUmemLocation, CUmemPoolProps, CUmemoryPool, CUresult, Scalar,
};
use vgpu_protocol::wire::{self, AttributeReply, AttributeRequest, Result as _, Word};

/// Most access descriptors of one call.
const MAX_DESCRIPTORS: usize = 64;

/// Charges `bytes`, allocates, and keeps the charge with the new address.
fn allocate(
    call: &mut Call<'_>,
    bytes: u64,
    ask: impl FnOnce(&mut Call<'_>, &mut CUdeviceptr) -> Result<u64, CUresult>,
) -> Result<CUdeviceptr, CUresult> {
    call.worker.quota.charge(bytes)?;
    let mut dptr = CUdeviceptr::NULL;
    match ask(call, &mut dptr).and_then(|held| call.worker.placed(dptr.0).map(|()| held)) {
        Ok(held) => {
            call.worker
                .quota
                .keep(dptr.0, held, call.request.header.scope);
            Ok(dptr)
        }
        Err(error) => {
            call.worker.quota.give_back(bytes);
            if dptr != CUdeviceptr::NULL {
                // Outside the window: the client must not see it.
                // SAFETY: allocated just now and known to nobody.
                let _ = unsafe { vgpu_driver::call!(call.driver(), cuMemFree_v2(dptr)) };
            }
            Err(error)
        }
    }
}

/// `cuMemAlloc_v2`.
///
/// # Errors
/// What the client gets.
pub fn alloc(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMemAlloc_v2::Args>()?;
    let bytes: usize = args.bytes.get();
    let dptr = allocate(call, bytes as u64, |call, dptr| {
        let function = call.driver().cuMemAlloc_v2.ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: the result has room.
        call.result(unsafe { function(dptr, bytes) })?;
        Ok(bytes as u64)
    })?;
    call.reply(&wire::cuMemAlloc_v2::Reply {
        dptr: dptr.to_wire(),
        bytes: [],
    })
}

/// `cuMemAllocPitch_v2`. The pitch is only known afterwards: the width is charged before, the
/// padding after.
///
/// # Errors
/// What the client gets.
pub fn alloc_pitch(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMemAllocPitch_v2::Args>()?;
    let (width, height, element): (usize, usize, u32) =
        (args.width.get(), args.height.get(), args.element.get());
    let bytes = (width as u64)
        .checked_mul(height as u64)
        .ok_or(CUresult::INVALID_VALUE)?;
    let mut pitch = 0_usize;
    let dptr = allocate(call, bytes, |call, dptr| {
        let function = call
            .driver()
            .cuMemAllocPitch_v2
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: results have room.
        call.result(unsafe { function(dptr, &raw mut pitch, width, height, element) })?;
        let held = (pitch as u64).saturating_mul(height as u64).max(bytes);
        call.worker.quota.charge(held.saturating_sub(bytes))?;
        Ok(held)
    })?;
    call.reply(&wire::cuMemAllocPitch_v2::Reply {
        dptr: dptr.to_wire(),
        pitch: pitch.to_wire(),
        width: [],
        height: [],
        element: [],
    })
}

/// `cuMemFree_v2`.
///
/// # Errors
/// What the client gets.
pub fn free(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMemFree_v2::Args>()?;
    let dptr: CUdeviceptr = args.dptr.get();
    call.worker.device_address(dptr.0)?;
    let function = call.driver().cuMemFree_v2.ok_or(CUresult::NOT_SUPPORTED)?;
    call.worker.sharing.memory_ends(dptr.0);
    // SAFETY: a plain address, which the driver looks up.
    let free = || call.result(unsafe { function(dptr) });
    call.worker.quota.freeing(dptr.0, free)
}

/// `cuMemGetInfo_v2`, clipped to the quota.
///
/// # Errors
/// What the client gets.
pub fn info(call: &mut Call<'_>) -> Outcome {
    call.done()?;
    let function = call
        .driver()
        .cuMemGetInfo_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let (mut free, mut total) = (0_usize, 0_usize);
    // SAFETY: results have room.
    call.result(unsafe { function(&raw mut free, &raw mut total) })?;
    let quota = &call.worker.quota;
    let (free, total) = (quota.clip_free(free as u64), quota.clip_total(total as u64));
    call.reply(&wire::cuMemGetInfo_v2::Reply {
        free: Word(free),
        total: Word(total),
    })
}

/// `cuMemAllocAsync`.
///
/// # Errors
/// What the client gets.
pub fn alloc_async(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMemAllocAsync::Args>()?;
    let bytes: usize = args.bytes.get();
    let stream = call.in_stream(args.stream.get())?;
    let dptr = allocate(call, bytes as u64, |call, dptr| {
        let function = call
            .driver()
            .cuMemAllocAsync
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: the result has room, the stream is live.
        call.result(unsafe { function(dptr, bytes, stream) })?;
        Ok(bytes as u64)
    })?;
    graph_memory::captured(call, stream, dptr);
    call.reply(&wire::cuMemAllocAsync::Reply {
        dptr: dptr.to_wire(),
        bytes: [],
        stream: [],
    })
}

/// `cuMemAllocFromPoolAsync`.
///
/// # Errors
/// What the client gets.
pub fn alloc_from_pool(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMemAllocFromPoolAsync::Args>()?;
    let bytes: usize = args.bytes.get();
    let pool: CUmemoryPool = args.pool.get();
    call.live(pool)?;
    let stream = call.in_stream(args.stream.get())?;
    let dptr = allocate(call, bytes as u64, |call, dptr| {
        let function = call
            .driver()
            .cuMemAllocFromPoolAsync
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: the result has room, pool and stream are live.
        call.result(unsafe { function(dptr, bytes, pool, stream) })?;
        Ok(bytes as u64)
    })?;
    graph_memory::captured(call, stream, dptr);
    call.reply(&wire::cuMemAllocFromPoolAsync::Reply {
        dptr: dptr.to_wire(),
        bytes: [],
        pool: [],
        stream: [],
    })
}

/// `cuMemFreeAsync`.
///
/// # Errors
/// What the client gets.
pub fn free_async(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMemFreeAsync::Args>()?;
    let dptr: CUdeviceptr = args.dptr.get();
    call.worker.device_address(dptr.0)?;
    let stream = call.in_stream(args.stream.get())?;
    let function = call
        .driver()
        .cuMemFreeAsync
        .ok_or(CUresult::NOT_SUPPORTED)?;
    call.worker.sharing.memory_ends(dptr.0);
    // SAFETY: a plain address, which the driver looks up; the stream is live.
    let free = || call.result(unsafe { function(dptr, stream) });
    call.worker.quota.freeing(dptr.0, free)
}

/// Whether memory would be managed or the host's: pages of this process, which the client would take
/// for its own.
pub(crate) fn only_here(alloc_type: u32, location: CUmemLocation) -> bool {
    const MANAGED: u32 = 2;
    const DEVICE: u32 = 1;
    alloc_type == MANAGED || location.kind > DEVICE
}

/// `cuMemPoolCreate`. Pools whose memory other processes could open are refused: handles of that
/// kind never leave a worker.
///
/// # Errors
/// What the client gets.
pub fn pool_create(call: &mut Call<'_>) -> Outcome {
    let props = call.decode::<CUmemPoolProps>()?;
    if props.handle_types != 0
        || props.security_attributes != 0
        || only_here(props.alloc_type, props.location)
    {
        return Err(CUresult::NOT_SUPPORTED);
    }
    let function = call
        .driver()
        .cuMemPoolCreate
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut pool = CUmemoryPool::NULL;
    // SAFETY: properties and result live here; the properties hold no pointer.
    call.result(unsafe { function(&raw mut pool, &raw const props) })?;
    call.enter(pool, 0);
    call.reply(&wire::cuMemPoolCreate::Reply {
        pool: pool.to_wire(),
        props: [],
    })
}

/// `cuMemPoolGetAttribute`, `cuMemPoolSetAttribute`. Values are 4 or 8 bytes.
///
/// # Errors
/// What the client gets.
pub fn pool_attribute(call: &mut Call<'_>, set: bool) -> Outcome {
    let args = call.decode::<AttributeRequest>()?;
    let pool = CUmemoryPool(args.object);
    call.live(pool)?;
    let mut value = args.value;
    let at = value.as_mut_ptr().cast();
    let driver = call.driver();
    // SAFETY: the pool is live; the value has 64 bytes of room, more than any attribute takes.
    let result = unsafe {
        if set {
            vgpu_driver::call!(driver, cuMemPoolSetAttribute(pool, args.attribute, at))
        } else {
            vgpu_driver::call!(driver, cuMemPoolGetAttribute(pool, args.attribute, at))
        }
    };
    call.result(result)?;
    call.reply(&AttributeReply { value })
}

/// `cuMemPoolSetAccess`.
///
/// # Errors
/// What the client gets.
pub fn pool_set_access(call: &mut Call<'_>) -> Outcome {
    let args = call.take::<AttributeRequest>()?;
    let pool = CUmemoryPool(args.object);
    call.live(pool)?;
    let list = take_descriptors(call, args.attribute as usize)?;
    let function = call
        .driver()
        .cuMemPoolSetAccess
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the pool is live; the list is as long as said.
    call.result(unsafe { function(pool, list.as_ptr(), list.len()) })
}

/// `cuMemPoolGetAccess`.
///
/// # Errors
/// What the client gets.
pub fn pool_get_access(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<AttributeRequest>()?;
    let pool = CUmemoryPool(args.object);
    call.live(pool)?;
    let mut location = CUmemLocation {
        kind: args.value[0] as u32,
        id: (args.value[0] >> 32) as u32 as i32,
    };
    let function = call
        .driver()
        .cuMemPoolGetAccess
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut flags = 0_u32;
    // SAFETY: the pool is live; location and result live here.
    call.result(unsafe { function(&raw mut flags, pool, &raw mut location) })?;
    crate::launch::reply_number(call, u64::from(flags))
}

/// The rest of a payload as access descriptors.
///
/// # Errors
/// `INVALID_VALUE` for another number than said, or too many.
pub(crate) fn take_descriptors(
    call: &mut Call<'_>,
    count: usize,
) -> Result<Vec<CUmemAccessDesc>, CUresult> {
    if count > MAX_DESCRIPTORS {
        return Err(call.malformed());
    }
    let list = call.take_list::<CUmemAccessDesc>(count)?;
    call.done()?;
    Ok(list)
}

/// `cuMemCreate`. Memory that other processes could open is refused.
///
/// # Errors
/// What the client gets.
pub fn create(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMemCreate::Args>()?;
    let (size, flags): (usize, u64) = (args.size.get(), args.flags.get());
    if args.prop.handle_types != 0
        || args.prop.security_attributes != 0
        || only_here(args.prop.alloc_type, args.prop.location)
    {
        return Err(CUresult::NOT_SUPPORTED);
    }
    let function = call.driver().cuMemCreate.ok_or(CUresult::NOT_SUPPORTED)?;
    call.worker.quota.charge(size as u64)?;
    let mut handle = 0_u64;
    // SAFETY: properties and result live here.
    let result = unsafe { function(&raw mut handle, size, &raw const args.prop, flags) };
    if let Err(error) = call.result(result) {
        call.worker.quota.give_back(size as u64);
        return Err(error);
    }
    let entry = Entry {
        data: size as u64,
        ..Entry::default()
    };
    call.worker.live.enter(Kind::Memory, handle, entry);
    call.reply(&wire::cuMemCreate::Reply {
        handle: Word(handle),
        size: [],
        prop: [],
        flags: [],
    })
}

/// `cuMemRelease`. The memory itself goes when its last mapping does; the charge goes now, so the
/// quota errs in the client's favour by what it keeps mapped without a handle.
///
/// # Errors
/// What the client gets.
pub fn release(call: &mut Call<'_>) -> Outcome {
    let handle = call.decode::<wire::cuMemRelease::Args>()?.handle.0;
    let entry = call
        .worker
        .live
        .remove(Kind::Memory, handle)
        .ok_or(CUresult::INVALID_VALUE)?;
    let function = call.driver().cuMemRelease.ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the handle was live until just now.
    match call.result(unsafe { function(handle) }) {
        Ok(()) => {
            call.worker.quota.give_back(entry.data);
            Ok(())
        }
        Err(error) => {
            call.worker.live.enter(Kind::Memory, handle, entry);
            Err(error)
        }
    }
}

/// `cuMemSetAccess`.
///
/// # Errors
/// What the client gets.
pub fn set_access(call: &mut Call<'_>) -> Outcome {
    let args = call.take::<wire::cuMemSetAccess::Args>()?;
    let (ptr, size, count): (CUdeviceptr, usize, usize) =
        (args.ptr.get(), args.size.get(), args.count.get());
    call.worker.device_address(ptr.to_word())?;
    let list = take_descriptors(call, count)?;
    let function = call
        .driver()
        .cuMemSetAccess
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: a plain range, which the driver looks up; the list is as long as said.
    call.result(unsafe { function(ptr, size, list.as_ptr(), list.len()) })
}
