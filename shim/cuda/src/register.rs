//! `cuMemHostRegister` of the program's own memory (`semantics.md` 17).
//!
//! The pages are exchanged in place for pages of the channel's heap, which the worker has mapped and
//! registered at the same address by then, and on unregistering for private ones again. Writers are
//! held off meanwhile; what cannot be exchanged, or could lose a store, is `NOT_SUPPORTED`.

use crate::client::{self, Client};
use crate::memory::{self, Kind};
use crate::{call, context, log, stream};
use core::cell::RefCell;
use core::ffi::c_void;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use vgpu_channel::adopt::{self, AdoptError, ForChild};
use vgpu_channel::window::Place;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::RegisterHost;
use zerocopy::IntoBytes;

/// `CU_MEMHOSTREGISTER_IOMEMORY`: memory of another device.
const IO_MEMORY: u32 = 4;
/// `CU_MEMHOSTREGISTER_READ_ONLY`: memory that cannot be written, of a file as a rule. Devices say
/// that they cannot (attribute 113).
const READ_ONLY: u32 = 8;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Pages of the program's that are pages of the heap.
#[derive(Debug)]
struct Adopted {
    /// Bytes, whole pages.
    len: u64,
    /// The pages in the heap.
    block: u64,
    /// The registration, or `None` if it has ended and the pages could not be exchanged back.
    registration: Option<Registration>,
}

#[derive(Clone, Copy, Debug)]
struct Registration {
    /// The address that was registered.
    base: u64,
    ctx: CUcontext,
}

/// Adopted pages by the address of the first.
type Pages = BTreeMap<u64, Adopted>;

static PAGES: Mutex<Pages> = Mutex::new(BTreeMap::new());

/// Registrations there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn pages() -> MutexGuard<'static, Pages> {
    PAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether anything is registered.
#[inline]
pub fn any() -> bool {
    COUNT.load(Ordering::Relaxed) != 0
}

/// Whether this process can register memory of its own while it has other threads.
pub fn offered() -> bool {
    adopt::holds_threads()
}

/// `cuMemHostRegister_v2`.
///
/// # Safety
/// Until it is unregistered, the program treats the memory as CUDA demands: it neither unmaps nor
/// moves it.
pub unsafe fn cuMemHostRegister_v2(
    pointer: *mut c_void,
    bytes: usize,
    flags: u32,
) -> Result<(), CUresult> {
    const KNOWN: u32 = CU_MEMHOST_PORTABLE | CU_MEMHOST_DEVICEMAP | IO_MEMORY | READ_ONLY;
    let client = client::entered()?;
    let ctx = context::required()?;
    client.sticky()?;
    let (base, bytes) = (pointer as u64, bytes as u64);
    let end = base.checked_add(bytes);
    let last = end.and_then(|end| end.checked_next_multiple_of(PAGE));
    let (Some(end), Some(last)) = (end, last) else {
        return Err(CUresult::INVALID_VALUE);
    };
    if base == 0 || bytes == 0 || flags & !KNOWN != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    if client.channel().window().overlaps(base, end) {
        // Pinned already, or the device's own.
        return Err(match client.classify(base) {
            Place::Shared => CUresult::HOST_MEMORY_ALREADY_REGISTERED,
            _ => CUresult::INVALID_VALUE,
        });
    }
    if flags & (IO_MEMORY | READ_ONLY) != 0 {
        return Err(refuse(
            bytes,
            &"read-only memory and memory of devices is not served",
        ));
    }
    let at = base & !(PAGE - 1);
    let len = last - at;
    // Before the lock: a fork waits for it from now on.
    prepare_for_forks();
    let mut pages = pages();
    make_way(client, &mut pages, at, last)?;
    adopt::check(at, len).map_err(|error| refusal(bytes, &error))?;
    if !has_plain_heap(client) {
        return Err(refuse(bytes, &AdoptError::Huge));
    }
    let block = client
        .channel()
        .alloc(len, PAGE)
        .map_err(|_| CUresult::OUT_OF_MEMORY)?;
    let args = RegisterHost {
        address: base,
        bytes,
        block,
        flags,
        pad: 0,
    };
    let number = number::cuMemHostRegister_v2;
    if let Err(error) = call::call(client, number, &[args.as_bytes()], &mut []) {
        let _ = client.channel().free(block);
        return Err(error);
    }
    if let Err(error) = adopt::adopt(client.channel().segments(), at, len, block) {
        // Else the device may still reach the block, so that it is lost.
        if unregister(client, base).is_ok() {
            let _ = client.channel().free(block);
        }
        return Err(refusal(bytes, &error));
    }
    pages.insert(
        at,
        Adopted {
            len,
            block,
            registration: Some(Registration { base, ctx }),
        },
    );
    COUNT.fetch_add(1, Ordering::Relaxed);
    memory::enter(base, bytes, Kind::Registered(flags));
    Ok(())
}

/// `cuMemHostUnregister`. It waits for all that was sent, as `cuMemFreeHost` does.
///
/// # Safety
/// Takes no pointers that are followed here but to memory that was registered.
pub unsafe fn cuMemHostUnregister(pointer: *mut c_void) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    client.sticky()?;
    let base = pointer as u64;
    if base == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    // What was sent may still use it; and a fork, which waits for the lock, must not wait for the device.
    stream::settle_all(client);
    let mut pages = pages();
    let at = base & !(PAGE - 1);
    let registered = pages
        .get(&at)
        .and_then(|adopted| adopted.registration)
        .is_some_and(|registration| registration.base == base);
    if !registered {
        return Err(CUresult::HOST_MEMORY_NOT_REGISTERED);
    }
    unregister(client, base)?;
    memory::leave(base);
    ended(client, &mut pages, at);
    Ok(())
}

/// Tells the worker that a registration ends.
fn unregister(client: &Client, base: u64) -> Result<(), CUresult> {
    let number = number::cuMemHostUnregister;
    call::call(client, number, &[base.as_bytes()], &mut []).map(|_| ())
}

/// What was registered in a context that is gone is the program's own memory again.
pub fn context_died(client: &Client, ctx: CUcontext) {
    if !any() {
        return;
    }
    let mut pages = pages();
    let of_context: Vec<u64> = pages
        .iter()
        .filter(|(_, adopted)| adopted.registration.is_some_and(|of| of.ctx == ctx))
        .map(|(at, _)| *at)
        .collect();
    for at in of_context {
        ended(client, &mut pages, at);
    }
}

/// A registration has ended: exchanges its pages back.
fn ended(client: &Client, pages: &mut Pages, at: u64) {
    if let Some(adopted) = pages.get_mut(&at)
        && adopted.registration.take().is_some()
    {
        COUNT.fetch_sub(1, Ordering::Relaxed);
        let _ = give_back(client, pages, at);
    }
}

/// Exchanges pages back whose registration has ended. If that fails they stay the heap's, which the
/// program sees no difference by, and it is tried again when they are to be registered again.
fn give_back(client: &Client, pages: &mut Pages, at: u64) -> Result<(), AdoptError> {
    let Some(adopted) = pages.get(&at) else {
        return Ok(());
    };
    let segments = client.channel().segments();
    let given = adopt::give_back(segments, at, adopted.len, adopted.block);
    match &given {
        Ok(()) => {
            let _ = client.channel().free(adopted.block);
            pages.remove(&at);
        }
        // The block is lost: what the program moved may still be used.
        Err(AdoptError::Moved) => {
            pages.remove(&at);
        }
        Err(_) => {}
    }
    if let Err(error) = &given {
        log::line(format_args!(
            "memory at {at:#x} is not private again: {error}"
        ));
    }
    given
}

/// Sees to it that none of the pages is adopted already.
///
/// # Errors
/// `HOST_MEMORY_ALREADY_REGISTERED`, also for a page that two registrations would share;
/// `NOT_SUPPORTED` for pages that could not be exchanged back.
fn make_way(client: &Client, pages: &mut Pages, at: u64, end: u64) -> Result<(), CUresult> {
    let overlapping = |pages: &Pages| {
        let (first, adopted) = pages.range(..end).next_back()?;
        (first + adopted.len > at).then_some((*first, adopted.registration.is_some()))
    };
    while let Some((first, registered)) = overlapping(pages) {
        if registered {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        match give_back(client, pages, first) {
            Ok(()) | Err(AdoptError::Moved) => {}
            Err(_) => return Err(CUresult::NOT_SUPPORTED),
        }
    }
    Ok(())
}

/// Whether the heap's pages can be mapped anywhere; not so in a virtual machine, and not on a host that
/// gives the channel huge pages.
fn has_plain_heap(client: &Client) -> bool {
    let segments = client.channel().segments();
    segments
        .list()
        .get(1)
        .is_some_and(|heap| segments.is_plain(heap.address, heap.len))
}

fn refuse(bytes: u64, reason: &dyn core::fmt::Display) -> CUresult {
    log::line(format_args!(
        "cuMemHostRegister of {bytes} bytes is refused: {reason}"
    ));
    CUresult::NOT_SUPPORTED
}

fn refusal(bytes: u64, error: &AdoptError) -> CUresult {
    let refused = refuse(bytes, error);
    match error {
        AdoptError::Unmapped { .. } => CUresult::INVALID_VALUE,
        _ => refused,
    }
}

/// Locked from before a fork until after it, and what the child gets.
type Fork = (MutexGuard<'static, Pages>, Vec<ForChild>);

thread_local! {
    static FORK: RefCell<Option<Fork>> = const { RefCell::new(None) };
}

/// From now on children get private copies of adopted pages, as they do of all other private memory.
fn prepare_for_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handlers live as long as the library, which is never unloaded.
        let set = unsafe {
            libc::pthread_atfork(
                Some(before_fork),
                Some(after_fork),
                Some(after_fork_in_child),
            )
        };
        if set != 0 {
            log::line(format_args!(
                "forked children will have registered memory in common with their parent"
            ));
        }
    });
}

extern "C" fn before_fork() {
    let pages = pages();
    let mut copies = Vec::new();
    if let Some(client) = client::connected() {
        let segments = client.channel().segments();
        for (&at, adopted) in pages.iter() {
            match ForChild::copy(segments, at, adopted.len, adopted.block) {
                Ok(copy) => copies.push(copy),
                Err(error) => log::line(format_args!(
                    "a forked child has no copy of the memory at {at:#x}: {error}"
                )),
            }
        }
    }
    let _ = FORK.try_with(|fork| fork.replace(Some((pages, copies))));
}

extern "C" fn after_fork() {
    let _ = FORK.try_with(RefCell::take);
}

extern "C" fn after_fork_in_child() {
    if let Ok(Some((mut pages, copies))) = FORK.try_with(RefCell::take) {
        // First of all, since anything may lie on these pages.
        for copy in copies {
            copy.put();
        }
        pages.clear();
        COUNT.store(0, Ordering::Relaxed);
    }
}
