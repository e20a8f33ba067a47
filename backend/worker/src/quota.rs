//! Quotas: how much device memory the client may hold, and what of it is held.
//!
//! Sizes are charged before the driver is asked and given back if it refuses, so that two threads
//! together cannot exceed the limit. A refusal looks like CUDA's own: `OUT_OF_MEMORY`.
//!
//! What is held is also written, as one little-endian number of 8 bytes, to a memory file that the daemon reads when a
//! monitor asks: the *meter*. The daemon believes it for display only.

use crate::live::{FastMap, lock};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use vgpu_protocol::cuda::CUresult;

#[derive(Debug, Default)]
struct Held {
    used: u64,
    /// Bytes of each allocation, and the context it dies with.
    sizes: FastMap<(u64, u64)>,
    meter: Option<OwnedFd>,
}

impl Held {
    fn set(&mut self, used: u64) {
        self.used = used;
        if let Some(meter) = &self.meter {
            // A file in memory; a failure shows an old number to a monitor.
            let _ = rustix::io::pwrite(meter, &used.to_le_bytes(), 0);
        }
    }
}

/// Device memory of one client.
#[derive(Debug)]
pub struct Quota {
    limit: u64,
    held: Mutex<Held>,
}

impl Quota {
    /// At most `limit` bytes; 0 means no limit but the device's own.
    pub fn new(limit: u64) -> Self {
        Self::metered(limit, None)
    }

    /// As [`Quota::new`], writing what is held to `meter`.
    pub fn metered(limit: u64, meter: Option<OwnedFd>) -> Self {
        let held = Held {
            meter,
            ..Held::default()
        };
        Self {
            limit: if limit == 0 { u64::MAX } else { limit },
            held: Mutex::new(held),
        }
    }

    /// Charges `bytes` and keeps them charged until [`Quota::give_back`] or [`Quota::release`].
    ///
    /// # Errors
    /// `OUT_OF_MEMORY`.
    pub fn charge(&self, bytes: u64) -> Result<(), CUresult> {
        let mut held = lock(&self.held);
        match held.used.checked_add(bytes) {
            Some(used) if used <= self.limit => {
                held.set(used);
                Ok(())
            }
            _ => Err(CUresult::OUT_OF_MEMORY),
        }
    }

    /// Takes a charge back whose allocation failed.
    pub fn give_back(&self, bytes: u64) {
        let mut held = lock(&self.held);
        let used = held.used.saturating_sub(bytes);
        held.set(used);
    }

    /// Remembers that a charge belongs to the allocation `key` of context `ctx`.
    pub fn keep(&self, key: u64, bytes: u64, ctx: u64) {
        lock(&self.held).sizes.insert(key, (bytes, ctx));
    }

    /// Gives the charges of a context that is gone back.
    pub fn context_died(&self, ctx: u64) {
        let mut held = lock(&self.held);
        let mut freed = 0_u64;
        held.sizes.retain(|_, (bytes, of)| {
            let dies = *of == ctx;
            freed = freed.saturating_add(if dies { *bytes } else { 0 });
            !dies
        });
        let used = held.used.saturating_sub(freed);
        held.set(used);
    }

    /// Forgets an allocation and gives its charge back; its size, if it was known.
    pub fn release(&self, key: u64) -> Option<u64> {
        let mut held = lock(&self.held);
        let (bytes, _) = held.sizes.remove(&key)?;
        let used = held.used.saturating_sub(bytes);
        held.set(used);
        Some(bytes)
    }

    /// A device's total memory as the client sees it.
    pub fn clip_total(&self, total: u64) -> u64 {
        total.min(self.limit)
    }

    /// Free memory as the client sees it.
    pub fn clip_free(&self, free: u64) -> u64 {
        free.min(self.limit.saturating_sub(lock(&self.held).used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_takes_its_charges_with_it() {
        let quota = Quota::new(100);
        for (key, ctx) in [(1, 5), (2, 6)] {
            quota.charge(50).expect("within the limit");
            quota.keep(key, 50, ctx);
        }
        assert_eq!(quota.charge(1), Err(CUresult::OUT_OF_MEMORY));
        quota.context_died(5);
        assert_eq!(quota.charge(50), Ok(()));
        assert_eq!(quota.release(1), None);
        assert_eq!(quota.release(2), Some(50));
    }

    #[test]
    fn the_meter_shows_what_is_held() {
        let meter =
            rustix::fs::memfd_create("meter", rustix::fs::MemfdFlags::CLOEXEC).expect("a file");
        let shown = |meter: &OwnedFd| {
            let mut bytes = [0; 8];
            rustix::io::pread(meter, &mut bytes, 0).expect("readable");
            u64::from_le_bytes(bytes)
        };
        let quota = Quota::metered(100, Some(meter.try_clone().expect("another descriptor")));
        quota.charge(60).expect("within the limit");
        assert_eq!(shown(&meter), 60);
        assert_eq!(quota.charge(41), Err(CUresult::OUT_OF_MEMORY));
        quota.keep(1, 60, 9);
        quota.charge(5).expect("within the limit");
        quota.give_back(5);
        assert_eq!(shown(&meter), 60);
        quota.context_died(9);
        assert_eq!(shown(&meter), 0);
    }

    #[test]
    fn charges_up_to_the_limit_and_gives_back() {
        let quota = Quota::new(100);
        assert_eq!(quota.charge(60), Ok(()));
        quota.keep(7, 60, 1);
        assert_eq!(quota.charge(41), Err(CUresult::OUT_OF_MEMORY));
        assert_eq!(quota.clip_free(1000), 40);
        assert_eq!(quota.release(7), Some(60));
        assert_eq!(quota.release(7), None);
        assert_eq!(quota.charge(100), Ok(()));
        assert_eq!(quota.charge(u64::MAX), Err(CUresult::OUT_OF_MEMORY));
    }

    #[test]
    fn no_limit_still_refuses_overflow() {
        let quota = Quota::new(0);
        assert_eq!(quota.charge(u64::MAX), Ok(()));
        assert_eq!(quota.charge(1), Err(CUresult::OUT_OF_MEMORY));
    }
}
