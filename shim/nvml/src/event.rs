//! Sets of events. The host tells clients of no event, so `nvmlDeviceRegisterEvents` is refused and every set stays what
//! `nvmlEventSetCreate` makes it: empty. `nvidia-smi` makes one before it prints its table and gives up without.

use crate::error::{Error, Outcome};
use crate::{give, state};
use core::ffi::c_uint;
use core::ptr;
use nvml_wrapper_sys::bindings::{nvmlEventData_t, nvmlEventSet_t};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The sets of one initialisation: handles are numbers that are not used again. `nvmlShutdown` ends them all.
#[derive(Debug, Default)]
pub struct Sets(Mutex<Handles>);

#[derive(Debug, Default)]
struct Handles {
    last: usize,
    live: BTreeSet<usize>,
}

impl Sets {
    fn make(&self) -> usize {
        let mut handles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handles.last += 1;
        let handle = handles.last;
        handles.live.insert(handle);
        handle
    }

    fn has(&self, handle: usize) -> bool {
        let handles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handles.live.contains(&handle)
    }

    fn end(&self, handle: usize) -> bool {
        let mut handles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handles.live.remove(&handle)
    }
}

/// `nvmlEventSetCreate`.
pub fn create(set: *mut nvmlEventSet_t) -> Outcome {
    let session = state::session()?;
    if set.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    give::value(set, ptr::without_provenance_mut(session.event_sets.make()))
}

/// `nvmlEventSetFree`.
pub fn free(set: nvmlEventSet_t) -> Outcome {
    let session = state::session()?;
    let ended = session.event_sets.end(set.addr());
    ended.then_some(()).ok_or(Error::INVALID_ARGUMENT)
}

/// `nvmlEventSetWait`, `…_v2`: no event arrives, so it lasts as long as the program says, in milliseconds, or until a signal
/// is handled; then it is [`Error::TIMEOUT`], which NVML documents for both.
pub fn wait(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout: c_uint) -> Outcome {
    let session = state::session()?;
    if data.is_null() || !session.event_sets.has(set.addr()) {
        return Err(Error::INVALID_ARGUMENT);
    }
    drop(session);
    let time = libc::timespec {
        tv_sec: libc::time_t::from(timeout / 1000),
        tv_nsec: libc::c_long::from(timeout % 1000) * 1_000_000,
    };
    // SAFETY: the time is a valid one; what is left of it is not asked for.
    unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
    Err(Error::TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_set_lives_until_it_is_freed() {
        let sets = Sets::default();
        let (first, second) = (sets.make(), sets.make());
        assert_ne!(first, 0);
        assert_ne!(first, second);
        assert!(sets.has(first) && sets.has(second) && !sets.has(0));
        assert!(sets.end(first));
        assert!(!sets.end(first) && !sets.has(first) && sets.has(second));
        assert_ne!(sets.make(), first);
    }

    #[test]
    fn no_event_set_before_initialisation() {
        let mut set = ptr::null_mut();
        assert_eq!(create(&raw mut set), Err(Error::UNINITIALIZED));
        assert!(set.is_null());
        assert_eq!(free(set), Err(Error::UNINITIALIZED));
        assert_eq!(wait(set, ptr::null_mut(), 0), Err(Error::UNINITIALIZED));
    }
}
