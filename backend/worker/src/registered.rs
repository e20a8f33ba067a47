//! The program's own memory, registered with the driver by `cuMemHostRegister` (`semantics.md` 17).
//!
//! The program exchanges its pages for pages of the heap, which are mapped here at the program's
//! address too and registered with the driver there: so host and device address are one, as
//! natively. A registration belongs to its context and ends with it (`semantics.md` 16).

use crate::call::{Call, Outcome};
use crate::live::lock;
use crate::registration::set_current;
use crate::state::Worker;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use vgpu_channel::alias::{Alias, AliasError};
use vgpu_protocol::cuda::{CU_MEMHOST_DEVICEMAP, CU_MEMHOST_PORTABLE, CUdeviceptr, CUresult};
use vgpu_protocol::wire::RegisterHost;

/// Registrations that a client may hold: each costs up to three mappings of this process and as many
/// of the program's (`semantics.md` 15).
const MOST: usize = 4096;

/// Bytes of a page.
const PAGE: u64 = 4096;

#[derive(Debug)]
struct Range {
    bytes: u64,
    ctx: u64,
    /// Whether the driver has it: not yet, or not any more, while a call is on its way.
    usable: bool,
    alias: Option<Alias>,
}

impl Range {
    /// Addresses of all pages that the range touches.
    fn pages(&self, address: u64) -> Option<(u64, u64)> {
        pages(address, self.bytes)
    }
}

/// First address and end of the pages that a range touches.
fn pages(address: u64, bytes: u64) -> Option<(u64, u64)> {
    let end = address.checked_add(bytes).filter(|&end| end > address)?;
    Some((address & !(PAGE - 1), end.checked_next_multiple_of(PAGE)?))
}

/// What is registered, by first address.
#[derive(Debug, Default)]
pub struct Registered {
    ranges: Mutex<BTreeMap<u64, Range>>,
    /// How many there are, so that programs without any pay for nothing.
    count: AtomicUsize,
}

impl Registered {
    /// Whether all of a range is registered memory.
    #[inline]
    pub fn holds(&self, address: u64, len: u64) -> bool {
        self.count.load(Ordering::Acquire) != 0 && self.find(address, len)
    }

    #[cold]
    fn find(&self, address: u64, len: u64) -> bool {
        let ranges = lock(&self.ranges);
        ranges
            .range(..=address)
            .next_back()
            .is_some_and(|(base, range)| {
                let offset = address - base;
                range.usable && offset < range.bytes && len <= range.bytes - offset
            })
    }

    /// Enters a range that is not usable yet.
    fn enter(&self, address: u64, range: Range) -> Outcome {
        let (start, end) = range.pages(address).ok_or(CUresult::INVALID_VALUE)?;
        let mut ranges = lock(&self.ranges);
        let taken = ranges
            .range(..end)
            .next_back()
            .is_some_and(|(base, other)| {
                other
                    .pages(*base)
                    .is_none_or(|(_, other_end)| other_end > start)
            });
        if taken {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if ranges.len() >= MOST {
            return Err(CUresult::OUT_OF_MEMORY);
        }
        ranges.insert(address, range);
        self.count.store(ranges.len(), Ordering::Release);
        Ok(())
    }

    fn leave(&self, address: u64) {
        let mut ranges = lock(&self.ranges);
        let range = ranges.remove(&address);
        self.count.store(ranges.len(), Ordering::Release);
        drop(ranges);
        // Unmapped without the lock.
        drop(range);
    }

    /// Changes whether a range can be used, if it could not, or could, before.
    fn set_usable(&self, address: u64, usable: bool) -> Outcome {
        match lock(&self.ranges).get_mut(&address) {
            Some(range) if range.usable != usable => {
                range.usable = usable;
                Ok(())
            }
            _ => Err(CUresult::HOST_MEMORY_NOT_REGISTERED),
        }
    }

    /// Addresses of what is registered in a context.
    fn of_context(&self, ctx: u64) -> Vec<u64> {
        let ranges = lock(&self.ranges);
        let of_context = ranges.iter().filter(|(_, range)| range.ctx == ctx);
        of_context.map(|(address, _)| *address).collect()
    }

    /// A context is about to die: takes its registrations out of it. It becomes current on the calling
    /// thread if it has any.
    pub fn about_to_die(&self, worker: &Worker, ctx: u64) {
        let addresses = self.of_context(ctx);
        let Some(unregister) = worker.driver.cuMemHostUnregister else {
            return;
        };
        if addresses.is_empty() || set_current(worker, ctx).is_err() {
            return;
        }
        for address in addresses {
            if self.set_usable(address, false).is_ok() {
                // SAFETY: registered by us and unregistered once; the pages stay mapped until the
                // context is gone.
                let result = unsafe { unregister(address as *mut c_void) };
                if result != CUresult::SUCCESS {
                    worker.note(result);
                    tracing::debug!("the program's memory stays registered: {result}");
                }
            }
        }
    }

    /// A context is gone, and what was registered in it.
    pub fn context_died(&self, ctx: u64) {
        for address in self.of_context(ctx) {
            self.leave(address);
        }
    }
}

/// `cuMemHostRegister_v2`.
///
/// # Errors
/// What the client gets: `NOT_SUPPORTED` when the program's address is taken in this process.
pub fn register(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<RegisterHost>()?;
    let worker = call.worker;
    if args.flags & !(CU_MEMHOST_PORTABLE | CU_MEMHOST_DEVICEMAP) != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let function = call
        .driver()
        .cuMemHostRegister_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let (start, end) = pages(args.address, args.bytes).ok_or(CUresult::INVALID_VALUE)?;
    let len = end - start;
    // Never the control segment.
    worker.shared_range(args.block, len)?;
    let bytes = usize::try_from(args.bytes).map_err(|_| CUresult::INVALID_VALUE)?;
    let range = Range {
        bytes: args.bytes,
        ctx: call.request.header.scope,
        usable: false,
        alias: None,
    };
    worker.registered.enter(args.address, range)?;
    let registered = Alias::map(worker.channel.segments(), start, len, args.block)
        .map_err(|error| {
            tracing::info!("memory of the program cannot be registered: {error}");
            match error {
                AliasError::Place { .. } | AliasError::Memory(_) => CUresult::INVALID_VALUE,
                AliasError::Taken(_) => CUresult::NOT_SUPPORTED,
                AliasError::System(_) => CUresult::OUT_OF_MEMORY,
            }
        })
        .and_then(|alias| {
            // SAFETY: mapped just above, and until the driver has given the registration up.
            let result = unsafe { function(args.address as *mut c_void, bytes, args.flags) };
            call.result(result)?;
            same_address(call, args.address).map(|()| alias)
        });
    match registered {
        Ok(alias) => match lock(&worker.registered.ranges).get_mut(&args.address) {
            Some(range) => {
                range.alias = Some(alias);
                range.usable = true;
                Ok(())
            }
            // The context died meanwhile, and the registration with it.
            None => Err(CUresult::INVALID_CONTEXT),
        },
        Err(error) => {
            worker.registered.leave(args.address);
            Err(error)
        }
    }
}

/// That the device reaches registered memory at its own address, which the client takes for granted; else
/// gives the registration up.
fn same_address(call: &Call<'_>, address: u64) -> Outcome {
    let mut dptr = CUdeviceptr::NULL;
    let pointer = address as *mut c_void;
    // SAFETY: the result has room; the address is registered.
    let result = unsafe {
        vgpu_driver::call!(
            call.driver(),
            cuMemHostGetDevicePointer_v2(&raw mut dptr, pointer, 0)
        )
    };
    if result == CUresult::SUCCESS && dptr.0 == address {
        return Ok(());
    }
    tracing::warn!(
        "the device reaches registered memory at {:#x}, not {address:#x}: {result}",
        dptr.0
    );
    // SAFETY: registered by the caller.
    let _ = unsafe { vgpu_driver::call!(call.driver(), cuMemHostUnregister(pointer)) };
    Err(CUresult::NOT_SUPPORTED)
}

/// `cuMemHostUnregister`.
///
/// # Errors
/// What the client gets; the memory stays registered then.
pub fn unregister(call: &mut Call<'_>) -> Outcome {
    let address = call.decode::<u64>()?;
    let function = call
        .driver()
        .cuMemHostUnregister
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let registered = &call.worker.registered;
    registered.set_usable(address, false)?;
    // SAFETY: registered by `register`, and by `set_usable` nobody else unregisters it.
    match call.result(unsafe { function(address as *mut c_void) }) {
        Ok(()) => registered.leave(address),
        Err(error) => {
            let _ = registered.set_usable(address, true);
            return Err(error);
        }
    }
    Ok(())
}
