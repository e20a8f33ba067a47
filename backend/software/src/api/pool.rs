//! Stream-ordered allocation and memory pools.

use super::device::check;
use crate::entry::entries;
use crate::foreign::Outcome;
use crate::memory::Origin;
use crate::pool::{self, Pool, Value};
use crate::stream::Stream;
use crate::work::Work;
use crate::{capture, current, device, stream};
use std::ffi::c_void;
use std::sync::Arc;
use vgpu_protocol::cuda::{
    CUdevice, CUdeviceptr, CUmemAccessDesc, CUmemLocation, CUmemPoolProps, CUmemoryPool, CUresult,
    CUstream,
};

/// `CU_MEM_LOCATION_TYPE_DEVICE`
const LOCATION_DEVICE: u32 = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`
const TYPE_PINNED: u32 = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`
const READ_WRITE: u32 = 3;

/// The device that a location names.
fn device_at(location: CUmemLocation) -> Outcome<i32> {
    if location.kind != LOCATION_DEVICE {
        return Err(CUresult::INVALID_VALUE);
    }
    check(CUdevice(location.id))?;
    Ok(location.id)
}

/// Memory from a pool is there at once; the stream only has to accept commands.
fn allocate(pool: &Pool, bytes: usize, stream: &Arc<Stream>) -> Outcome<CUdeviceptr> {
    // Allocation nodes are not implemented.
    if capture::is_capturing(stream) {
        return Err(CUresult::NOT_SUPPORTED);
    }
    capture::refuse_stream(stream)?;
    if bytes == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    Ok(CUdeviceptr(pool.allocate(bytes as u64, stream.core.id)?))
}

entries! {
    ready fn cuMemAllocAsync(out dptr: CUdeviceptr, val bytes: usize, val stream: CUstream) {
        dptr.require()?;
        let (context, stream) = stream::get(stream)?;
        dptr.put(allocate(&pool::current(context.device), bytes, &stream)?)
    }

    ready fn cuMemAllocFromPoolAsync(
        out dptr: CUdeviceptr, val bytes: usize, val pool: CUmemoryPool, val stream: CUstream,
    ) {
        dptr.require()?;
        let (_, stream) = stream::get(stream)?;
        dptr.put(allocate(&*pool::get(pool)?, bytes, &stream)?)
    }

    ready fn cuMemFreeAsync(val dptr: CUdeviceptr, val stream: CUstream) {
        let (_, stream) = stream::get(stream)?;
        if dptr.is_null() {
            return Ok(());
        }
        if capture::is_capturing(&stream) {
            return Err(CUresult::NOT_SUPPORTED);
        }
        capture::refuse_stream(&stream)?;
        let memory = device::memory();
        let range = memory.claim(dptr.0, |range| {
            matches!(range.origin, Origin::Pool(_) | Origin::Device)
        });
        let range = range.ok_or(CUresult::INVALID_VALUE)?;
        let freeing = stream.submit(Work::Release(range), Vec::new());
        if freeing.is_err() {
            memory.unclaim(&range);
        }
        freeing.map(drop)
    }

    ready fn cuDeviceGetDefaultMemPool(out pool: CUmemoryPool, val dev: CUdevice) {
        check(dev)?;
        pool.put(pool::default(dev.0).handle)
    }

    ready fn cuDeviceGetMemPool(out pool: CUmemoryPool, val dev: CUdevice) {
        check(dev)?;
        pool.put(pool::current(dev.0).handle)
    }

    ready fn cuDeviceSetMemPool(val dev: CUdevice, val pool: CUmemoryPool) {
        check(dev)?;
        pool::set_current(dev.0, pool)
    }

    uncaptured fn cuMemPoolCreate(out pool: CUmemoryPool, src props: CUmemPoolProps) {
        pool.require()?;
        current::context()?;
        let props = props.get()?;
        if props.alloc_type != TYPE_PINNED {
            return Err(CUresult::INVALID_VALUE);
        }
        let device = device_at(props.location)?;
        if props.handle_types != 0 {
            return Err(CUresult::NOT_SUPPORTED);
        }
        pool.put(pool::create(device, props.max_size).handle)
    }

    uncaptured fn cuMemPoolDestroy(val pool: CUmemoryPool) {
        pool::destroy(pool)
    }

    uncaptured fn cuMemPoolTrimTo(val pool: CUmemoryPool, val keep: usize) {
        pool::get(pool)?.trim(keep as u64);
        Ok(())
    }

    ready fn cuMemPoolGetAttribute(val pool: CUmemoryPool, val attribute: u32, out value: c_void) {
        value.require()?;
        match pool::get(pool)?.attribute(attribute)? {
            Value::Int(number) => value.cast().put(number),
            Value::Bytes(number) => value.cast().put(number),
        }
    }

    ready fn cuMemPoolSetAttribute(val pool: CUmemoryPool, val attribute: u32, out value: c_void) {
        let pool = pool::get(pool)?;
        let given = match pool.attribute(attribute)? {
            Value::Int(_) => Value::Int(value.cast().get()?),
            Value::Bytes(_) => Value::Bytes(value.cast().get()?),
        };
        pool.set_attribute(attribute, given)
    }

    ready fn cuMemPoolSetAccess(val pool: CUmemoryPool, src map: CUmemAccessDesc, val count: usize) {
        let own = pool::get(pool)?.device;
        for access in map.list(count)? {
            // The device that holds the memory always has access to it, and no other ever.
            let wanted = if device_at(access.location)? == own { READ_WRITE } else { 0 };
            if access.flags != wanted {
                return Err(CUresult::INVALID_VALUE);
            }
        }
        Ok(())
    }

    ready fn cuMemPoolGetAccess(out flags: u32, val pool: CUmemoryPool, out location: CUmemLocation) {
        flags.require()?;
        let own = pool::get(pool)?.device;
        flags.put(if device_at(location.get()?)? == own { READ_WRITE } else { 0 })
    }
}
