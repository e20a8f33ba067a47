//! Plain accesses to device and host memory by address.
//!
//! These are the only places that touch memory a program can see. The bytes are never behind a Rust
//! reference: programs may race on them as they may on a GPU, and get whatever bytes result.

use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Copies `len` bytes; the ranges may overlap.
///
/// # Safety
/// Both ranges are mapped, `src` readable and `dst` writable, until this returns, and no Rust
/// reference to either is alive.
pub(crate) unsafe fn copy(dst: u64, src: u64, len: u64) {
    // SAFETY: forwarded from the caller.
    unsafe { ptr::copy(src as *const u8, dst as *mut u8, len as usize) };
}

/// Fills `count` elements of 1, 2 or 4 bytes with `value`'s low bytes.
///
/// # Safety
/// The range is mapped writable and aligned to the element until this returns, and no Rust
/// reference to it is alive.
pub(crate) unsafe fn fill(dst: u64, value: u32, element: u32, count: u64) {
    let count = count as usize;
    // SAFETY: forwarded from the caller.
    unsafe {
        match element {
            1 => ptr::write_bytes(dst as *mut u8, value as u8, count),
            2 => {
                for index in 0..count {
                    (dst as *mut u16).add(index).write(value as u16);
                }
            }
            _ => {
                for index in 0..count {
                    (dst as *mut u32).add(index).write(value);
                }
            }
        }
    }
}

/// Reads a 32- or 64-bit word; everything written before it was stored is seen after.
///
/// # Safety
/// The word is mapped, readable and aligned to its size until this returns.
pub(crate) unsafe fn load(addr: u64, wide: bool) -> u64 {
    // SAFETY: forwarded from the caller; atomics may be shared with other writers. Acquire pairs
    // with the release store of whoever wrote the word (`store`, or a peer's own store).
    unsafe {
        if wide {
            AtomicU64::from_ptr(addr as *mut u64).load(Ordering::Acquire)
        } else {
            u64::from(AtomicU32::from_ptr(addr as *mut u32).load(Ordering::Acquire))
        }
    }
}

/// Stores a 32- or 64-bit word after everything written before.
///
/// # Safety
/// The word is mapped, writable and aligned to its size until this returns.
pub(crate) unsafe fn store(addr: u64, value: u64, wide: bool) {
    // SAFETY: forwarded from the caller; atomics may be shared with other readers. Release pairs
    // with the acquire load of whoever waits for the word (`load`, or a peer's own load).
    unsafe {
        if wide {
            AtomicU64::from_ptr(addr as *mut u64).store(value, Ordering::Release);
        } else {
            AtomicU32::from_ptr(addr as *mut u32).store(value as u32, Ordering::Release);
        }
    }
}
