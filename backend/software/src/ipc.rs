//! Memory and events that other processes open.
//!
//! A handle of this device comes with a descriptor, which only the embedder can carry to another process: it
//! [takes](take_descriptor) it from a handle that the device gave, and [puts](put_descriptor) it into the handle that the
//! device is to open there. Each descriptor goes with one handle, once.

use crate::context::Core;
use crate::device;
use crate::event::{self, Event};
use crate::foreign::Outcome;
use crate::interprocess::Shared;
use crate::memory::{File, Origin, Range};
use crate::table::unique;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};
use vgpu_protocol::cuda::{
    CU_EVENT_DISABLE_TIMING, CU_EVENT_INTERPROCESS, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS,
    CUdeviceptr, CUevent, CUresult,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a handle.
const BYTES: usize = 64;
/// "vgpusoft", little-endian.
const MAGIC: u64 = u64::from_le_bytes(*b"vgpusoft");
const MEMORY: u32 = 1;
const EVENT: u32 = 2;

/// What a handle says.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Handle {
    magic: u64,
    kind: u32,
    /// The process that gave it.
    process: u32,
    /// Names its descriptor in the process that holds it.
    descriptor: u64,
    /// Names the object in the process that gave it.
    object: u64,
    /// Where memory begins in the file.
    offset: u64,
    /// Bytes of memory.
    size: u64,
    reserved: [u64; 2],
}
const _: () = assert!(size_of::<Handle>() == BYTES);

/// Descriptors on their way, by [`Handle::descriptor`].
static DESCRIPTORS: LazyLock<Mutex<HashMap<u64, OwnedFd>>> = LazyLock::new(Mutex::default);

/// Memory of other processes that is open.
struct Opened {
    process: u32,
    object: u64,
    range: Range,
    times: u64,
}

static OPENED: Mutex<Vec<Opened>> = Mutex::new(Vec::new());

/// Takes the descriptor that goes with a handle which this device gave.
#[must_use]
pub fn take_descriptor(handle: &[u8; BYTES]) -> Option<OwnedFd> {
    let handle = Handle::read_from_bytes(handle).ok()?;
    DESCRIPTORS.lock().remove(&handle.descriptor)
}

/// Puts a descriptor into a handle which this device is to open next.
pub fn put_descriptor(handle: &mut [u8; BYTES], descriptor: OwnedFd) {
    if let Ok(handle) = Handle::mut_from_bytes(handle) {
        handle.descriptor = give(descriptor);
    }
}

fn give(descriptor: OwnedFd) -> u64 {
    let number = unique();
    DESCRIPTORS.lock().insert(number, descriptor);
    number
}

fn handle(kind: u32, object: u64, place: (u64, u64), descriptor: OwnedFd) -> [u8; BYTES] {
    let handle = Handle {
        magic: MAGIC,
        kind,
        process: std::process::id(),
        descriptor: give(descriptor),
        object,
        offset: place.0,
        size: place.1,
        reserved: [0; 2],
    };
    zerocopy::transmute!(handle)
}

/// What another process's handle says, and its descriptor.
///
/// # Errors
/// `malformed` for what is none, `INVALID_CONTEXT` for one of this very process, as CUDA has it.
fn read(kind: u32, bytes: &[u8; BYTES], malformed: CUresult) -> Outcome<(Handle, OwnedFd)> {
    // Taken first, so that no handle leaves one behind.
    let descriptor = take_descriptor(bytes);
    let handle = Handle::read_from_bytes(bytes).map_err(|_| malformed)?;
    if handle.magic != MAGIC || handle.kind != kind {
        return Err(malformed);
    }
    if handle.process == std::process::id() {
        return Err(CUresult::INVALID_CONTEXT);
    }
    Ok((handle, descriptor.ok_or(malformed)?))
}

/// A handle for the whole allocation that holds an address.
///
/// # Errors
/// `INVALID_VALUE` for what `cuMemAlloc` did not give.
pub(crate) fn export_memory(address: CUdeviceptr) -> Outcome<[u8; BYTES]> {
    let memory = device::memory();
    let range = memory.find(address.0);
    let range = range.filter(|range| range.origin == Origin::Device);
    let range = range.ok_or(CUresult::INVALID_VALUE)?;
    let (descriptor, offset) = memory.export(&range)?;
    Ok(handle(MEMORY, range.id, (offset, range.size), descriptor))
}

/// Opens memory of another process in a context; what is open there already is counted once more.
///
/// # Errors
/// `INVALID_VALUE` for other flags than the one there is, and as [`read`].
pub(crate) fn open_memory(core: &Core, bytes: &[u8; BYTES], flags: u32) -> Outcome<CUdeviceptr> {
    let (handle, descriptor) = read(MEMORY, bytes, CUresult::INVALID_VALUE)?;
    if flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || handle.size == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let memory = device::memory();
    let mut opened = OPENED.lock();
    // A context that ended took its memory along.
    opened.retain(|open| {
        memory
            .find(open.range.start)
            .is_some_and(|now| now.id == open.range.id)
    });
    let again = opened.iter_mut().find(|open| {
        (open.process, open.object, open.range.owner) == (handle.process, handle.object, core.id)
    });
    if let Some(open) = again {
        open.times += 1;
        return Ok(CUdeviceptr(open.range.start));
    }
    let end = handle.offset.checked_add(handle.size);
    let file = end.and_then(|end| File::receive(descriptor, end));
    let file = file.ok_or(CUresult::INVALID_VALUE)?;
    let range = memory.import(&file, handle.offset, handle.size, core.id)?;
    opened.push(Opened {
        process: handle.process,
        object: handle.object,
        range,
        times: 1,
    });
    Ok(CUdeviceptr(range.start))
}

/// Closes memory of another process once; the last time ends it, after the work of its context.
///
/// # Errors
/// `INVALID_VALUE` for what is not open, the fault of the context.
pub(crate) fn close_memory(address: CUdeviceptr) -> Outcome {
    let mut opened = OPENED.lock();
    let at = opened.iter().position(|open| open.range.start == address.0);
    let open = at.and_then(|at| opened.get_mut(at));
    let open = open.ok_or(CUresult::INVALID_VALUE)?;
    open.times -= 1;
    if open.times > 0 {
        return Ok(());
    }
    let range = open.range;
    opened.retain(|open| open.range != range);
    drop(opened);
    // Natively closing waits, too; a fault is told, and the memory is gone all the same.
    let settled = crate::context::synchronize_owner(range.owner);
    device::memory()
        .end(range.start, |now| now.id == range.id)
        .ok_or(CUresult::INVALID_VALUE)?;
    settled
}

/// A handle for an event made to be shared.
///
/// # Errors
/// `INVALID_HANDLE` for any other event.
pub(crate) fn export_event(event: &Event, name: CUevent) -> Outcome<[u8; BYTES]> {
    let shared = event.shared.as_ref().ok_or(CUresult::INVALID_HANDLE)?;
    Ok(handle(EVENT, name.0, (0, 0), shared.share()?))
}

/// Opens an event of another process in a context.
///
/// # Errors
/// `INVALID_HANDLE` for what is none, and as [`read`].
pub(crate) fn open_event(core: &Arc<Core>, bytes: &[u8; BYTES]) -> Outcome<CUevent> {
    let (_, descriptor) = read(EVENT, bytes, CUresult::INVALID_HANDLE)?;
    let shared = Shared::open(descriptor).map_err(|_| CUresult::INVALID_HANDLE)?;
    let flags = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;
    Ok(event::enter(core, flags, Some(shared)))
}
