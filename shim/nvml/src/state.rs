//! Whether NVML is initialised, and what was learnt then.
//!
//! The state is this very process's: a forked child finds none and must initialise anew, also if another thread of its
//! parent held the lock at that moment.

use crate::ask::{self, NoAnswer};
use crate::error::{Error, Outcome};
use crate::event;
use core::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vgpu_protocol::facts::{DeviceFacts, QUERY_DEVICE, QUERY_SYSTEM, SystemFacts};

/// Devices that are shown, at most.
pub const MAX_DEVICES: usize = 64;

/// What lasts from initialisation to shutdown; the facts do not change.
#[derive(Debug)]
pub struct Session {
    /// The host.
    pub system: SystemFacts,
    /// Its devices, in the order of their PCI addresses. Their memory is that of the beginning.
    pub devices: Vec<DeviceFacts>,
    /// The program's own.
    pub event_sets: event::Sets,
}

#[derive(Debug, Default)]
struct Initialised {
    count: u64,
    session: Option<Arc<Session>>,
}

#[derive(Debug)]
struct Process {
    id: u32,
    initialised: Mutex<Initialised>,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());

/// This process's state.
fn process() -> &'static Process {
    let id = std::process::id();
    loop {
        let found = PROCESS.load(Ordering::Acquire);
        // SAFETY: null, or leaked below, by this process or by one that it was forked from.
        if let Some(process) = unsafe { found.as_ref() }
            && process.id == id
        {
            return process;
        }
        let fresh = Box::into_raw(Box::new(Process {
            id,
            initialised: Mutex::default(),
        }));
        // The parent's stays where it is: another thread of the parent may have held its lock.
        if PROCESS
            .compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // SAFETY: made above and given to nobody.
            drop(unsafe { Box::from_raw(fresh) });
        }
    }
}

/// `nvmlInit`: asks the backend the first time, counts after that.
///
/// # Errors
/// [`Error::DRIVER_NOT_LOADED`] when nobody answers; the log says why.
pub fn initialise() -> Outcome {
    let process = process();
    let mut state = process
        .initialised
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if state.session.is_none() {
        let session = learn().map_err(|NoAnswer| Error::DRIVER_NOT_LOADED)?;
        state.session = Some(Arc::new(session));
    }
    state.count += 1;
    Ok(())
}

fn learn() -> Result<Session, NoAnswer> {
    let system: SystemFacts = ask::facts(QUERY_SYSTEM, 0, 0)?;
    let count = (system.devices as usize).min(MAX_DEVICES) as u32;
    let devices = (0..count)
        .map(|index| ask::facts(QUERY_DEVICE, index, 0))
        .collect::<Result<_, _>>()?;
    Ok(Session {
        system,
        devices,
        event_sets: event::Sets::default(),
    })
}

/// `nvmlShutdown`: undoes one [`initialise`].
///
/// # Errors
/// [`Error::UNINITIALIZED`].
pub fn shut_down() -> Outcome {
    let process = process();
    let mut state = process
        .initialised
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    state.count = state.count.checked_sub(1).ok_or(Error::UNINITIALIZED)?;
    if state.count == 0 {
        state.session = None;
    }
    Ok(())
}

/// What was learnt.
///
/// # Errors
/// [`Error::UNINITIALIZED`].
pub fn session() -> Result<Arc<Session>, Error> {
    let state = process()
        .initialised
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    state.session.clone().ok_or(Error::UNINITIALIZED)
}

/// The host's facts, for those few functions that work without `nvmlInit`.
///
/// # Errors
/// [`Error::DRIVER_NOT_LOADED`].
pub fn system() -> Result<SystemFacts, Error> {
    match session() {
        Ok(session) => Ok(session.system),
        Err(_) => ask::facts(QUERY_SYSTEM, 0, 0).map_err(|NoAnswer| Error::DRIVER_NOT_LOADED),
    }
}
