//! Registration of the heap with the driver, so that the device reaches it and copies are fast.
//!
//! A registration belongs to one context and dies with it (`semantics.md` 16): the heap is
//! registered in the first context that comes alive, and again in another one when that ends.

use crate::call::Outcome;
use crate::live::lock;
use crate::state::Worker;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;
use vgpu_channel::segment::Segment;
use vgpu_protocol::cuda::{CU_MEMHOST_DEVICEMAP, CU_MEMHOST_PORTABLE, CUcontext, CUresult};

#[derive(Debug, Default)]
struct State {
    /// The context that the heap is registered in.
    home: Option<u64>,
    registered: Vec<Segment>,
    /// Contexts that are alive, in the order in which they came.
    alive: Vec<u64>,
    /// How often each primary context is retained.
    retained: HashMap<i32, u32>,
}

/// Which contexts are alive and where the heap is registered.
#[derive(Debug, Default)]
pub struct Registrar {
    state: Mutex<State>,
}

impl Registrar {
    /// Contexts that are alive.
    pub fn alive(&self) -> Vec<u64> {
        lock(&self.state).alive.clone()
    }

    /// A context came alive or was retained again: registers the heap in it if it is registered
    /// nowhere. The context becomes current on the calling thread.
    ///
    /// # Errors
    /// What the driver says.
    pub fn came_alive(&self, worker: &Worker, ctx: u64) -> Outcome {
        let mut state = lock(&self.state);
        if state.home.is_none() {
            register_all(worker, &mut state, ctx)?;
        }
        if !state.alive.contains(&ctx) {
            state.alive.push(ctx);
        }
        Ok(())
    }

    /// Counts a retain of a device's primary context.
    pub fn retain(&self, device: i32) {
        let mut state = lock(&self.state);
        let count = state.retained.entry(device).or_default();
        *count = count.saturating_add(1);
    }

    /// Whether a release of a device's primary context would be the last one.
    pub fn is_last(&self, device: i32) -> bool {
        lock(&self.state).retained.get(&device) == Some(&1)
    }

    /// Counts a release of a device's primary context. A reset is none: the references stay, as
    /// measured on the driver.
    pub fn release(&self, device: i32) {
        let mut state = lock(&self.state);
        if let Some(count) = state.retained.get_mut(&device) {
            *count = count.saturating_sub(1);
        }
    }

    /// A context is about to die: takes the registrations out of it.
    pub fn about_to_die(&self, worker: &Worker, ctx: u64) {
        let mut state = lock(&self.state);
        state.alive.retain(|alive| *alive != ctx);
        if state.home != Some(ctx) {
            return;
        }
        state.home = None;
        let registered = std::mem::take(&mut state.registered);
        let Some(unregister) = worker.driver.cuMemHostUnregister else {
            return;
        };
        if set_current(worker, ctx).is_err() {
            return;
        }
        for segment in registered {
            // SAFETY: registered by us and unregistered once; the segment stays mapped.
            let result = unsafe { unregister(segment.address as *mut c_void) };
            if result != CUresult::SUCCESS {
                worker.note(result);
                tracing::debug!("a heap segment stays registered: {result}");
            }
        }
    }

    /// A context is gone: registers the heap in another one, if any is alive. That one becomes
    /// current on the calling thread.
    pub fn died(&self, worker: &Worker) {
        let mut state = lock(&self.state);
        if state.home.is_some() {
            return;
        }
        if let Some(next) = state.alive.first().copied()
            && let Err(error) = register_all(worker, &mut state, next)
        {
            tracing::error!("the heap could not be registered again: {error}");
        }
    }

    /// Registers a segment that was just mapped, if the heap is registered anywhere. The calling
    /// thread's current context changes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn grew(&self, worker: &Worker, segment: Segment) -> Outcome {
        let mut state = lock(&self.state);
        let Some(home) = state.home else {
            return Ok(());
        };
        if state.registered.contains(&segment) {
            return Ok(());
        }
        set_current(worker, home)?;
        register(worker, segment)?;
        state.registered.push(segment);
        Ok(())
    }
}

pub(crate) fn set_current(worker: &Worker, ctx: u64) -> Outcome {
    let set = worker
        .driver
        .cuCtxSetCurrent
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: a context that is alive, by this module's own books.
    worker.result(unsafe { set(CUcontext(ctx)) })
}

fn register_all(worker: &Worker, state: &mut State, ctx: u64) -> Outcome {
    set_current(worker, ctx)?;
    let mut registered: Vec<Segment> = Vec::new();
    for segment in worker.channel.heap_segments() {
        if let Err(error) = register(worker, segment) {
            if let Some(unregister) = worker.driver.cuMemHostUnregister {
                for segment in registered {
                    // SAFETY: registered just above.
                    let _ = unsafe { unregister(segment.address as *mut c_void) };
                }
            }
            return Err(error);
        }
        registered.push(segment);
    }
    state.home = Some(ctx);
    state.registered = registered;
    Ok(())
}

fn register(worker: &Worker, segment: Segment) -> Outcome {
    let register = worker
        .driver
        .cuMemHostRegister_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let len = usize::try_from(segment.len).map_err(|_| CUresult::INVALID_VALUE)?;
    let flags = CU_MEMHOST_PORTABLE | CU_MEMHOST_DEVICEMAP;
    // SAFETY: the segment is mapped for the life of the channel, which outlives every context.
    worker.result(unsafe { register(segment.address as *mut c_void, len, flags) })
}
