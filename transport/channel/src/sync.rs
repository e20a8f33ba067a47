//! The one place where atomics, fences and locks come from: `core` and `std`, or `loom` when a model is checked
//! (`RUSTFLAGS="--cfg loom"`).
//!
//! Each acquire/release pair is named `SYNC POINT` in a comment on both of its sides.

#[cfg(not(loom))]
pub use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(loom))]
pub use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(loom)]
pub use loom::sync::atomic::{
    AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub use loom::sync::{Condvar, Mutex, MutexGuard};

/// Locks `mutex`, taking over the data of a thread that panicked while it held the lock.
///
/// Everything this crate guards by a mutex is consistent after every single assignment, so poisoning adds nothing.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Tells the CPU (or loom's scheduler) that the caller is spinning.
pub fn spin_loop() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
