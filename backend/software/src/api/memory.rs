//! Allocation of device and host memory, and what is known about addresses.

use crate::entry::entries;
use crate::foreign::{Out, Outcome};
use crate::memory::{Origin, Range};
use crate::{context, current, device, pool};
use std::ffi::c_void;
use vgpu_protocol::cuda::{
    CU_MEMORYTYPE_DEVICE, CU_MEMORYTYPE_HOST, CUcontext, CUdeviceptr, CUmemoryPool, CUresult,
};

/// Flags of host allocations: portable, mapped, write-combined.
const HOST_ALLOC_FLAGS: u32 = 7;
/// Flags of registrations: portable, mapped, memory of an I/O device, read-only.
const HOST_REGISTER_FLAGS: u32 = 15;
/// Registering memory of an I/O device is not for us.
const HOST_REGISTER_IO: u32 = 4;

fn allocate(bytes: usize) -> Outcome<CUdeviceptr> {
    let context = current::context()?;
    let range = device::memory().allocate(bytes as u64, 1, Origin::Device, context.core.id)?;
    Ok(CUdeviceptr(range.start))
}

fn allocate_host(bytes: usize, flags: u32) -> Outcome<*mut c_void> {
    let context = current::context()?;
    if flags & !HOST_ALLOC_FLAGS != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let origin = Origin::HostAllocated(flags);
    let range = device::memory().allocate(bytes as u64, 4096, origin, context.core.id)?;
    Ok(range.start as *mut c_void)
}

/// Frees what `matches`. As natively, freeing waits for the work of the context it belongs to.
fn free(start: u64, matches: impl Fn(&Range) -> bool) -> Outcome {
    let memory = device::memory();
    let range = memory.claim(start, matches);
    let range = range.ok_or(CUresult::INVALID_VALUE)?;
    if let Err(fault) = context::synchronize_owner(range.owner) {
        memory.unclaim(&range);
        return Err(fault);
    }
    let freed = memory.end(start, |now| now.id == range.id);
    freed.map(drop).ok_or(CUresult::INVALID_VALUE)
}

entries! {
    uncaptured fn cuMemAlloc_v2(out dptr: CUdeviceptr, val bytes: usize) {
        dptr.require()?;
        dptr.put(allocate(bytes)?)
    }

    uncaptured fn cuMemAllocPitch_v2(
        out dptr: CUdeviceptr, out pitch: usize, val width: usize, val height: usize,
        val element: u32,
    ) {
        dptr.require()?;
        pitch.require()?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(device::ALIGNMENT as usize);
        let row = row.filter(|row| *row <= device::MAX_PITCH as usize);
        let row = row.ok_or(CUresult::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(CUresult::OUT_OF_MEMORY)?;
        dptr.put(allocate(bytes)?)?;
        pitch.put(row)
    }

    uncaptured fn cuMemFree_v2(val dptr: CUdeviceptr) {
        if dptr.is_null() {
            return Ok(());
        }
        current::context()?;
        free(dptr.0, |range| matches!(range.origin, Origin::Device | Origin::Pool(_)))
    }

    ready fn cuMemGetInfo_v2(out free: usize, out total: usize) {
        current::context()?;
        free.require()?;
        let memory = device::memory();
        total.put(memory.total() as usize)?;
        free.put(memory.free_bytes() as usize)
    }

    ready fn cuMemGetAddressRange_v2(out base: CUdeviceptr, out size: usize, val dptr: CUdeviceptr) {
        current::context()?;
        let range = device::memory().find(dptr.0).ok_or(CUresult::NOT_FOUND)?;
        base.put_optional(CUdeviceptr(range.start));
        size.put_optional(range.size as usize);
        Ok(())
    }

    uncaptured fn cuMemAllocHost_v2(out pointer: *mut c_void, val bytes: usize) {
        pointer.require()?;
        pointer.put(allocate_host(bytes, 0)?)
    }

    uncaptured fn cuMemHostAlloc(out pointer: *mut c_void, val bytes: usize, val flags: u32) {
        pointer.require()?;
        pointer.put(allocate_host(bytes, flags)?)
    }

    uncaptured fn cuMemFreeHost(val pointer: *mut c_void) {
        if pointer.is_null() {
            return Ok(());
        }
        current::context()?;
        free(pointer as u64, |range| matches!(range.origin, Origin::HostAllocated(_)))
    }

    uncaptured fn cuMemHostRegister_v2(val pointer: *mut c_void, val bytes: usize, val flags: u32) {
        let context = current::context()?;
        if flags & !HOST_REGISTER_FLAGS != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        if flags & HOST_REGISTER_IO != 0 {
            return Err(CUresult::NOT_SUPPORTED);
        }
        let memory = device::memory();
        memory.register(pointer as u64, bytes as u64, flags, context.core.id).map(drop)
    }

    uncaptured fn cuMemHostUnregister(val pointer: *mut c_void) {
        current::context()?;
        if pointer.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // Waits for accesses under way, not for streams: one of them may be waiting for a word in
        // this very memory.
        let ended = device::memory().end(pointer as u64, |range| {
            matches!(range.origin, Origin::HostRegistered(_))
        });
        ended.map(drop).ok_or(CUresult::HOST_MEMORY_NOT_REGISTERED)
    }

    ready fn cuMemHostGetDevicePointer_v2(
        out dptr: CUdeviceptr, val pointer: *mut c_void, val flags: u32,
    ) {
        dptr.require()?;
        current::context()?;
        if flags != 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        host_range(pointer)?;
        dptr.put(CUdeviceptr(pointer as u64))
    }

    ready fn cuMemHostGetFlags(out flags: u32, val pointer: *mut c_void) {
        flags.require()?;
        current::context()?;
        match host_range(pointer)?.origin {
            Origin::HostAllocated(set) | Origin::HostRegistered(set) => flags.put(set),
            _ => Err(CUresult::INVALID_VALUE),
        }
    }

    ready fn cuPointerGetAttribute(out data: c_void, val attribute: u32, val ptr: CUdeviceptr) {
        data.require()?;
        current::context()?;
        let range = device::memory().find(ptr.0).ok_or(CUresult::INVALID_VALUE)?;
        let value = PointerValue::of(attribute, ptr, Some(&range))?;
        value.ok_or(CUresult::INVALID_VALUE)?.put(&data)
    }

    ready fn cuPointerGetAttributes(
        val count: u32, list attributes: u32, list data: *mut c_void, val ptr: CUdeviceptr,
    ) {
        current::context()?;
        let range = device::memory().find(ptr.0);
        let attributes = attributes.list(count as usize)?;
        let places = data.list(count as usize)?;
        for (attribute, place) in attributes.into_iter().zip(places) {
            // SAFETY: the C contract of the function: each pointer is valid for its attribute.
            let place = unsafe { Out::new(place) };
            let value = PointerValue::of(attribute, ptr, range.as_ref())?;
            let value = value.unwrap_or_else(|| PointerValue::absent(attribute));
            value.put(&place)?;
        }
        Ok(())
    }
}

fn host_range(pointer: *mut c_void) -> Outcome<Range> {
    let range = device::memory().find(pointer as u64);
    range
        .filter(|range| range.origin.is_host())
        .ok_or(CUresult::INVALID_VALUE)
}

/// The value of a pointer attribute, by its C type.
enum PointerValue {
    Word(u64),
    Int(i32),
    Flag(bool),
    Pair(u64, u64),
}

impl PointerValue {
    /// The attribute's value for an address in `range`; `None` where it has none.
    ///
    /// # Errors
    /// `INVALID_VALUE` for unknown attributes.
    fn of(attribute: u32, ptr: CUdeviceptr, range: Option<&Range>) -> Outcome<Option<Self>> {
        if !matches!(attribute, 1..=20) {
            return Err(CUresult::INVALID_VALUE);
        }
        let Some(range) = range else {
            return Ok(None);
        };
        let host = range.origin.is_host();
        Ok(Some(match attribute {
            // Context. Pool memory belongs to none.
            1 if matches!(range.origin, Origin::Pool(_)) => Self::Word(0),
            1 => Self::Word(context::handle_of(range.owner).unwrap_or(CUcontext::NULL).0),
            2 if host => Self::Int(CU_MEMORYTYPE_HOST as i32),
            2 => Self::Int(CU_MEMORYTYPE_DEVICE as i32),
            // Device pointer.
            3 => Self::Word(ptr.0),
            // Host pointer.
            4 if host => Self::Word(ptr.0),
            4 => return Ok(None),
            // Peer-to-peer tokens.
            5 => return Ok(None),
            // Synchronous memory operations.
            6 => Self::Flag(false),
            // Buffer id.
            7 => Self::Word(range.id),
            // Managed.
            8 => Self::Flag(false),
            // Device ordinal.
            9 => Self::Int(match range.origin {
                Origin::Pool(pool) => pool::device_of(CUmemoryPool(pool)).unwrap_or(0),
                _ => context::device_of(range.owner).unwrap_or(0),
            }),
            // Can be shared by the old IPC calls.
            10 => Self::Flag(range.origin == Origin::Device),
            // Start and size of the range.
            11 => Self::Word(range.start),
            12 => Self::Word(range.size),
            // Mapped.
            13 => Self::Flag(true),
            // Handle types that may be exported.
            14 => Self::Word(0),
            // GPUDirect RDMA.
            15 => Self::Flag(false),
            // Access: read and write.
            16 => Self::Int(3),
            17 => match range.origin {
                Origin::Pool(pool) => Self::Word(pool),
                _ => Self::Word(0),
            },
            // Mapping size, mapping base, memory block id.
            18 => Self::Word(range.size),
            19 => Self::Word(range.start),
            _ => Self::Word(range.id),
        }))
    }

    /// What the plural form stores where there is no value.
    fn absent(attribute: u32) -> Self {
        match attribute {
            5 => Self::Pair(0, 0),
            2 | 16 => Self::Int(0),
            // No device: the runtime reads this as an unregistered host pointer.
            9 => Self::Int(-2),
            6 | 8 | 10 | 13 | 15 => Self::Flag(false),
            _ => Self::Word(0),
        }
    }

    fn put(self, place: &Out<c_void>) -> Outcome {
        match self {
            Self::Word(value) => place.cast().put(value),
            Self::Int(value) => place.cast().put(value),
            Self::Flag(value) => place.cast().put(value),
            Self::Pair(first, second) => place.cast().put([first, second]),
        }
    }
}
