//! Quotas: how much device memory the client may hold, and what of it is held.
//!
//! Sizes are charged before the driver is asked and given back if it refuses, so that two threads
//! together cannot exceed the limit. A refusal looks like CUDA's own: `OUT_OF_MEMORY`.

use crate::figures::{Counts, Word};
use crate::live::{FastMap, lock};
use std::sync::Mutex;
use vgpu_protocol::cuda::CUresult;

#[derive(Debug, Default)]
struct Held {
    used: u64,
    /// Bytes of each allocation, and the context it dies with.
    sizes: FastMap<(u64, u64)>,
}

/// Device memory of one client.
#[derive(Debug)]
pub struct Quota {
    limit: u64,
    figures: Counts,
    held: Mutex<Held>,
}

impl Quota {
    /// At most `limit` bytes; 0 means no limit but the device's own. What is held is shown in `figures`.
    pub fn new(limit: u64, figures: Counts) -> Self {
        figures.set(Word::MemoryLimit, limit);
        Self {
            figures,
            limit: if limit == 0 { u64::MAX } else { limit },
            held: Mutex::new(Held::default()),
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
                held.used = used;
                self.show(&held);
                Ok(())
            }
            _ => Err(CUresult::OUT_OF_MEMORY),
        }
    }

    /// Takes a charge back whose allocation failed.
    pub fn give_back(&self, bytes: u64) {
        let mut held = lock(&self.held);
        held.used = held.used.saturating_sub(bytes);
        self.show(&held);
    }

    /// Remembers that a charge belongs to the allocation `key` of context `ctx`.
    pub fn keep(&self, key: u64, bytes: u64, ctx: u64) {
        lock(&self.held).sizes.insert(key, (bytes, ctx));
    }

    /// The context that the allocation `key` belongs to, if it is charged.
    pub fn context_of(&self, key: u64) -> Option<u64> {
        lock(&self.held).sizes.get(&key).map(|(_, ctx)| *ctx)
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
        held.used = held.used.saturating_sub(freed);
        self.show(&held);
    }

    /// Forgets an allocation and gives its charge back; its size, if it was known.
    pub fn release(&self, key: u64) -> Option<u64> {
        let mut held = lock(&self.held);
        let (bytes, _) = held.sizes.remove(&key)?;
        held.used = held.used.saturating_sub(bytes);
        self.show(&held);
        Some(bytes)
    }

    /// Takes an allocation's charge out for somebody who answers for it from now on: its bytes, which stay charged.
    pub fn hand_over(&self, key: u64) -> Option<u64> {
        lock(&self.held).sizes.remove(&key).map(|(bytes, _)| bytes)
    }

    /// Has `free` end the allocation `key`, and gives its charge back if that succeeds. Meanwhile the charge has no key: the
    /// driver may hand the same one out to another thread before `free` returns.
    ///
    /// # Errors
    /// Those of `free`; the allocation is charged then as before.
    pub fn freeing<E>(&self, key: u64, free: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let charge = lock(&self.held).sizes.remove(&key);
        let freed = free();
        if let Some((bytes, ctx)) = charge {
            match freed {
                Ok(()) => self.give_back(bytes),
                Err(_) => self.keep(key, bytes, ctx),
            }
        }
        freed
    }

    fn show(&self, held: &Held) {
        self.figures.set(Word::MemoryUsed, held.used);
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
        let quota = Quota::new(100, Counts::private());
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
    fn a_key_that_is_given_out_again_while_it_is_freed_keeps_its_new_charge() {
        let quota = Quota::new(100, Counts::private());
        assert_eq!(quota.charge(60), Ok(()));
        quota.keep(7, 60, 1);
        let freed = quota.freeing(7, || {
            assert_eq!(quota.charge(30), Ok(()));
            quota.keep(7, 30, 1);
            Ok::<_, CUresult>(())
        });
        assert_eq!(freed, Ok(()));
        assert_eq!(quota.clip_free(100), 70);
        let refused = quota.freeing(7, || Err(CUresult::INVALID_VALUE));
        assert_eq!(refused, Err(CUresult::INVALID_VALUE));
        assert_eq!(quota.clip_free(100), 70);
        assert_eq!(quota.release(7), Some(30));
    }

    #[test]
    fn charges_up_to_the_limit_and_gives_back() {
        let quota = Quota::new(100, Counts::private());
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
        let quota = Quota::new(0, Counts::private());
        assert_eq!(quota.charge(u64::MAX), Ok(()));
        assert_eq!(quota.charge(1), Err(CUresult::OUT_OF_MEMORY));
    }
}
