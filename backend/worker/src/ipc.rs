//! Memory and events shared with other processes: the program holds tokens of the daemon's, the driver's handles stay in the
//! backend ([`exchange`](crate::exchange)).

use crate::call::{Call, Outcome};
use crate::exchange::{Carried, EVENT, Exchange, HANDLE_BYTES, MEMORY, Token};
use crate::live::{Entry, Kind, lock};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use vgpu_protocol::cuda::{CUdeviceptr, CUevent, CUipcEventHandle, CUipcMemHandle, CUresult};
use vgpu_protocol::wire::{Lookup, OpenShared, OpenedMemory, SharedToken, Word};

#[derive(Debug)]
struct Export {
    token: Token,
    ctx: u64,
}

/// Memory of another process.
#[derive(Debug)]
struct Import {
    /// How often it is open. The driver counts, too; it does not tell.
    opens: u64,
    ctx: u64,
}

/// How the descriptor that goes with a handle is taken from it, and put into it elsewhere: for a driver that shares by
/// descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Carrier {
    /// Takes it from a handle that the driver gave.
    pub take: fn(&[u8; HANDLE_BYTES]) -> Option<OwnedFd>,
    /// Puts it into a handle that the driver is to open.
    pub put: fn(&mut [u8; HANDLE_BYTES], OwnedFd),
}

/// What this client shares, and what of others it has open.
#[derive(Debug)]
pub struct Sharing {
    exchange: Exchange,
    /// For handles that come with a descriptor.
    carrier: Option<Carrier>,
    /// Whether anything was ever shared: most programs share nothing, and then ends are not looked up.
    any: AtomicBool,
    exports: Mutex<HashMap<(u32, u64), Export>>,
    imports: Mutex<HashMap<u64, Import>>,
}

impl Sharing {
    /// Over an exchange.
    #[must_use]
    pub fn new(exchange: Exchange, carrier: Option<Carrier>) -> Sharing {
        Sharing {
            exchange,
            carrier,
            any: AtomicBool::new(false),
            exports: Mutex::default(),
            imports: Mutex::default(),
        }
    }

    /// The token of an object, the same one as long as it lives; `export` gives the driver's handle.
    fn token(
        &self,
        kind: u32,
        object: u64,
        ctx: u64,
        export: impl FnOnce() -> Result<Carried, CUresult>,
    ) -> Result<Token, CUresult> {
        if let Some(export) = lock(&self.exports).get(&(kind, object)) {
            return Ok(export.token);
        }
        // Without the lock, which the issuer takes: the daemon may be slow.
        let token = self.exchange.leave(kind, export()?)?;
        self.any.store(true, Ordering::Release);
        let export = Export { token, ctx };
        let first = lock(&self.exports)
            .entry((kind, object))
            .or_insert(export)
            .token;
        if first != token {
            // Another thread shared the same object meanwhile.
            self.exchange.withdraw(token);
        }
        Ok(first)
    }

    /// What the driver needs to open an object by a token.
    fn fetch(&self, kind: u32, token: Token) -> Result<Option<[u8; HANDLE_BYTES]>, CUresult> {
        let Some((mut handle, descriptor)) = self.exchange.fetch(kind, token)? else {
            return Ok(None);
        };
        if let (Some(descriptor), Some(carrier)) = (descriptor, self.carrier) {
            (carrier.put)(&mut handle, descriptor);
        }
        Ok(Some(handle))
    }

    fn descriptor_of(&self, handle: &[u8; HANDLE_BYTES]) -> Option<OwnedFd> {
        (self.carrier?.take)(handle)
    }

    /// An object is about to end, if it is one that is shared: nobody can open it any more.
    fn ends(&self, kind: u32, object: u64) {
        if self.any.load(Ordering::Acquire)
            && let Some(export) = lock(&self.exports).remove(&(kind, object))
        {
            self.exchange.withdraw(export.token);
        }
    }

    /// Memory is about to be freed. Before the driver frees it: afterwards the same address may already be another's.
    pub fn memory_ends(&self, address: u64) {
        self.ends(MEMORY, address);
    }

    /// An event is about to be destroyed.
    pub fn event_ends(&self, event: u64) {
        self.ends(EVENT, event);
    }

    /// A context is gone, and what belonged to it.
    pub fn context_died(&self, ctx: u64) {
        lock(&self.exports).retain(|_, export| {
            if export.ctx == ctx {
                self.exchange.withdraw(export.token);
            }
            export.ctx != ctx
        });
        lock(&self.imports).retain(|_, import| import.ctx != ctx);
    }

    fn opened(&self, address: u64, ctx: u64) {
        let mut imports = lock(&self.imports);
        imports
            .entry(address)
            .or_insert(Import { opens: 0, ctx })
            .opens += 1;
    }

    /// How often memory stays open after it was closed once more.
    fn closed(&self, address: u64) -> u64 {
        let mut imports = lock(&self.imports);
        let Some(import) = imports.get_mut(&address) else {
            return 0;
        };
        import.opens = import.opens.saturating_sub(1);
        let left = import.opens;
        if left == 0 {
            imports.remove(&address);
        }
        left
    }
}

/// `cuIpcGetMemHandle`.
///
/// # Errors
/// What the client gets.
pub fn get_memory(call: &mut Call<'_>) -> Outcome {
    let dptr = CUdeviceptr(call.decode::<Lookup>()?.container);
    call.worker.device_address(dptr.0)?;
    let driver = call.driver();
    let range = driver
        .cuMemGetAddressRange_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let get = driver.cuIpcGetMemHandle.ok_or(CUresult::NOT_SUPPORTED)?;
    let (mut base, mut size) = (CUdeviceptr::NULL, 0);
    // SAFETY: results have room; a plain address, which the driver looks up.
    let found = unsafe { range(&raw mut base, &raw mut size, dptr) };
    // CUDA knows one code for what is no allocation.
    call.result(found).map_err(|error| match error {
        CUresult::NOT_FOUND => CUresult::INVALID_VALUE,
        other => other,
    })?;
    let sharing = &call.worker.sharing;
    // It ends with its own context, whichever is current.
    let of = call.worker.quota.context_of(base.0);
    let ctx = of.unwrap_or(call.request.header.scope);
    let token = sharing.token(MEMORY, base.0, ctx, || {
        let mut handle = CUipcMemHandle::default();
        // SAFETY: the result has room; a plain address, which the driver looks up.
        call.result(unsafe { get(&raw mut handle, dptr) })?;
        Ok((handle.bytes, sharing.descriptor_of(&handle.bytes)))
    })?;
    call.reply(&SharedToken { bytes: token })
}

/// `cuIpcOpenMemHandle_v2`. The memory is charged to the client that allocated it.
///
/// # Errors
/// What the client gets.
pub fn open_memory(call: &mut Call<'_>) -> Outcome {
    let request = call.decode::<OpenShared>()?;
    let flags = u32::try_from(request.flags).map_err(|_| CUresult::INVALID_VALUE)?;
    let driver = call.driver();
    let open = driver
        .cuIpcOpenMemHandle_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let sharing = &call.worker.sharing;
    let bytes = sharing
        .fetch(MEMORY, request.token)?
        .ok_or(CUresult::INVALID_VALUE)?;
    let mut dptr = CUdeviceptr::NULL;
    // SAFETY: the result has room; the handle is one that a driver gave to a worker of this user or machine.
    call.result(unsafe { open(&raw mut dptr, CUipcMemHandle { bytes }, flags) })?;
    if let Err(error) = call.worker.placed(dptr.0) {
        // SAFETY: opened just now and known to nobody.
        let _ = unsafe { vgpu_driver::call!(driver, cuIpcCloseMemHandle(dptr)) };
        return Err(error);
    }
    sharing.opened(dptr.0, call.request.header.scope);
    let mut size = 0;
    // SAFETY: the result has room, the base is not wanted; a plain address, which the driver looks up.
    let known = unsafe {
        vgpu_driver::call!(
            driver,
            cuMemGetAddressRange_v2(std::ptr::null_mut(), &raw mut size, dptr)
        )
    };
    call.reply(&OpenedMemory {
        base: dptr.0,
        size: if known == CUresult::SUCCESS {
            size as u64
        } else {
            0
        },
    })
}

/// `cuIpcCloseMemHandle`.
///
/// # Errors
/// What the client gets.
pub fn close_memory(call: &mut Call<'_>) -> Outcome {
    let dptr = CUdeviceptr(call.decode::<Lookup>()?.container);
    call.worker.device_address(dptr.0)?;
    let close = call
        .driver()
        .cuIpcCloseMemHandle
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: a plain address, which the driver looks up.
    call.result(unsafe { close(dptr) })?;
    let left = call.worker.sharing.closed(dptr.0);
    call.reply(&Word(left))
}

/// `cuIpcGetEventHandle`.
///
/// # Errors
/// What the client gets.
pub fn get_event(call: &mut Call<'_>) -> Outcome {
    let event = CUevent(call.decode::<Lookup>()?.container);
    call.live(event)?;
    let ctx = call.entry(event)?.ctx;
    let get = call
        .driver()
        .cuIpcGetEventHandle
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let sharing = &call.worker.sharing;
    let token = sharing.token(EVENT, event.0, ctx, || {
        let mut handle = CUipcEventHandle::default();
        // SAFETY: the result has room, the event is live.
        call.result(unsafe { get(&raw mut handle, event) })?;
        Ok((handle.bytes, sharing.descriptor_of(&handle.bytes)))
    })?;
    call.reply(&SharedToken { bytes: token })
}

/// `cuIpcOpenEventHandle`.
///
/// # Errors
/// What the client gets.
pub fn open_event(call: &mut Call<'_>) -> Outcome {
    let request = call.decode::<OpenShared>()?;
    let open = call
        .driver()
        .cuIpcOpenEventHandle
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let bytes = call
        .worker
        .sharing
        .fetch(EVENT, request.token)?
        .ok_or(CUresult::INVALID_HANDLE)?;
    let mut event = CUevent::NULL;
    // SAFETY: the result has room; the handle is one that a driver gave to a worker of this user or machine.
    call.result(unsafe { open(&raw mut event, CUipcEventHandle { bytes }) })?;
    let entry = Entry {
        ctx: call.request.header.scope,
        ..Entry::default()
    };
    call.worker.live.enter(Kind::Event, event.0, entry);
    call.reply(&Word(event.0))
}
