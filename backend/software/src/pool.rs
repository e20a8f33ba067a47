//! Memory pools. A pool is a name for accounting: freed memory goes back to the device at once.

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
    /// Most bytes, or 0 for no limit.
    limit: u64,
    settings: Mutex<Settings>,
}

#[derive(Clone, Copy)]
struct Settings {
    /// Whether memory is reused following events, opportunistically, and with dependencies added.
    reuse: [i32; 3],
    /// Bytes to keep rather than give back: kept as a number only.
    threshold: u64,
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
static CURRENT: Mutex<Option<CUmemoryPool>> = Mutex::new(None);

/// Creates a pool.
pub(crate) fn create(limit: u64) -> Arc<Pool> {
    POOLS.insert_with(|handle| Pool {
        handle: CUmemoryPool(handle),
        limit,
        settings: Mutex::new(Settings {
            reuse: [1; 3],
            threshold: 0,
            high: 0,
        }),
    })
}

/// The device's default pool.
pub(crate) fn default() -> Arc<Pool> {
    static DEFAULT: OnceLock<Arc<Pool>> = OnceLock::new();
    Arc::clone(DEFAULT.get_or_init(|| create(0)))
}

/// The live pool of a handle.
pub(crate) fn get(handle: CUmemoryPool) -> Outcome<Arc<Pool>> {
    POOLS.get(handle.0).ok_or(CUresult::INVALID_VALUE)
}

/// The pool that plain stream-ordered allocations use.
pub(crate) fn current() -> Arc<Pool> {
    let chosen = *CURRENT.lock();
    chosen
        .and_then(|handle| POOLS.get(handle.0))
        .unwrap_or_else(default)
}

/// Chooses the pool that plain stream-ordered allocations use.
pub(crate) fn set_current(handle: CUmemoryPool) -> Outcome {
    get(handle)?;
    *CURRENT.lock() = Some(handle);
    Ok(())
}

/// Destroys a pool; its allocations live on. The default pool cannot be destroyed.
pub(crate) fn destroy(handle: CUmemoryPool) -> Outcome {
    if handle == default().handle {
        return Err(CUresult::INVALID_VALUE);
    }
    let gone = POOLS.remove(handle.0);
    gone.map(drop).ok_or(CUresult::INVALID_VALUE)
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
        settings.high = settings.high.max(self.used());
        Ok(range.start)
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
            // Reserved memory is what is used: nothing is kept beyond.
            5 | 7 => Value::Bytes(self.used()),
            6 | 8 => Value::Bytes(settings.high),
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
            (6 | 8, Value::Bytes(0)) => settings.high = 0,
            _ => return Err(CUresult::INVALID_VALUE),
        }
        Ok(())
    }
}
