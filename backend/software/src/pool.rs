//! Memory pools. A pool is a name for accounting: freed memory goes back to the device at once, but counts as reserved until
//! the next synchronisation, as far as the pool's threshold does not keep it longer.

use crate::device;
use crate::foreign::Outcome;
use crate::memory::Origin;
use crate::table::{Kind, Table};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use vgpu_protocol::cuda::{CUmemoryPool, CUresult};

/// A pool.
pub(crate) struct Pool {
    pub(crate) handle: CUmemoryPool,
    /// Ordinal of its device.
    pub(crate) device: i32,
    /// Most bytes, or 0 for no limit.
    limit: u64,
    settings: Mutex<Settings>,
}

#[derive(Clone, Copy)]
struct Settings {
    /// Whether memory is reused following events, opportunistically, and with dependencies added.
    reuse: [i32; 3],
    /// Bytes to keep rather than give back.
    threshold: u64,
    /// Bytes in use, and those that count as kept.
    reserved: u64,
    /// Most bytes that were reserved since it was last set to 0.
    reserved_high: u64,
    /// Most bytes that were in use since it was last set to 0.
    high: u64,
}

/// The value of a pool attribute, by its C type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// An `int`.
    Int(i32),
    /// A `cuuint64_t`.
    Bytes(u64),
}

static POOLS: Table<Pool> = Table::new(Kind::Pool);
const DEVICES: usize = device::MAX_DEVICES as usize;

/// The pools that were chosen, by device.
static CURRENT: Mutex<[Option<CUmemoryPool>; DEVICES]> = Mutex::new([None; DEVICES]);

/// Creates a pool of a device's memory.
pub(crate) fn create(device: i32, limit: u64) -> Arc<Pool> {
    POOLS.insert_with(|handle| Pool {
        handle: CUmemoryPool(handle),
        device,
        limit,
        settings: Mutex::new(Settings {
            reuse: [1; 3],
            threshold: 0,
            reserved: 0,
            reserved_high: 0,
            high: 0,
        }),
    })
}

/// The default pool of a device whose ordinal was checked.
pub(crate) fn default(device: i32) -> Arc<Pool> {
    static DEFAULTS: [OnceLock<Arc<Pool>>; DEVICES] = [const { OnceLock::new() }; DEVICES];
    Arc::clone(DEFAULTS[device as usize % DEVICES].get_or_init(|| create(device, 0)))
}

/// The device of a live pool.
pub(crate) fn device_of(handle: CUmemoryPool) -> Option<i32> {
    get(handle).ok().map(|pool| pool.device)
}

/// The live pool of a handle.
pub(crate) fn get(handle: CUmemoryPool) -> Outcome<Arc<Pool>> {
    POOLS.get(handle.0).ok_or(CUresult::INVALID_VALUE)
}

/// The pool that plain stream-ordered allocations of a device use.
pub(crate) fn current(device: i32) -> Arc<Pool> {
    let chosen = CURRENT.lock()[device as usize % DEVICES];
    chosen
        .and_then(|handle| POOLS.get(handle.0))
        .unwrap_or_else(|| default(device))
}

/// Chooses the pool that plain stream-ordered allocations of its device use.
///
/// # Errors
/// `INVALID_VALUE` for a pool of another device.
pub(crate) fn set_current(device: i32, handle: CUmemoryPool) -> Outcome {
    if get(handle)?.device != device {
        return Err(CUresult::INVALID_VALUE);
    }
    CURRENT.lock()[device as usize % DEVICES] = Some(handle);
    Ok(())
}

/// Destroys a pool; its allocations live on. Default pools cannot be destroyed.
pub(crate) fn destroy(handle: CUmemoryPool) -> Outcome {
    if (0..device::count()).any(|device| handle == default(device).handle) {
        return Err(CUresult::INVALID_VALUE);
    }
    let gone = POOLS.remove(handle.0);
    gone.map(drop).ok_or(CUresult::INVALID_VALUE)
}

/// What every synchronisation does with the pools (`CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`).
pub(crate) fn synchronised() {
    POOLS.each(|pool| pool.trim(pool.threshold()));
}

impl Pool {
    fn used(&self) -> u64 {
        device::memory().usage(|range| range.origin == Origin::Pool(self.handle.0))
    }

    /// Allocates; returns the address.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` at the pool's limit or the device's.
    pub(crate) fn allocate(&self, bytes: u64, owner: u64) -> Outcome<u64> {
        let mut settings = self.settings.lock();
        let used = self.used();
        if self.limit != 0 && bytes > self.limit.saturating_sub(used) {
            return Err(CUresult::OUT_OF_MEMORY);
        }
        let origin = Origin::Pool(self.handle.0);
        let range = device::memory().allocate(bytes, 1, origin, owner)?;
        let used = self.used();
        settings.high = settings.high.max(used);
        settings.reserved = settings.reserved.max(used);
        settings.reserved_high = settings.reserved_high.max(settings.reserved);
        Ok(range.start)
    }

    /// Gives back what is not in use, except for `keep` bytes of all.
    pub(crate) fn trim(&self, keep: u64) {
        let mut settings = self.settings.lock();
        if settings.reserved > keep {
            settings.reserved = self.used().max(keep);
        }
    }

    fn threshold(&self) -> u64 {
        self.settings.lock().threshold
    }

    /// Value of an attribute (`CUmemPool_attribute`).
    ///
    /// # Errors
    /// `INVALID_VALUE` for unknown ones.
    pub(crate) fn attribute(&self, attribute: u32) -> Outcome<Value> {
        let settings = *self.settings.lock();
        Ok(match attribute {
            1 => Value::Int(settings.reuse[0]),
            2 => Value::Int(settings.reuse[1]),
            3 => Value::Int(settings.reuse[2]),
            4 => Value::Bytes(settings.threshold),
            5 => Value::Bytes(settings.reserved),
            6 => Value::Bytes(settings.reserved_high),
            7 => Value::Bytes(self.used()),
            8 => Value::Bytes(settings.high),
            _ => return Err(CUresult::INVALID_VALUE),
        })
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// `INVALID_VALUE` for unknown ones, those that only report, and high-water marks set to
    /// anything but 0.
    pub(crate) fn set_attribute(&self, attribute: u32, value: Value) -> Outcome {
        let mut settings = self.settings.lock();
        match (attribute, value) {
            (1, Value::Int(on)) => settings.reuse[0] = on,
            (2, Value::Int(on)) => settings.reuse[1] = on,
            (3, Value::Int(on)) => settings.reuse[2] = on,
            (4, Value::Bytes(bytes)) => settings.threshold = bytes,
            (6, Value::Bytes(0)) => settings.reserved_high = 0,
            (8, Value::Bytes(0)) => settings.high = 0,
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    }
}
