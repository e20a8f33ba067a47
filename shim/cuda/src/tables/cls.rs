//! CLS: context-local storage. libcudart keeps its per-context state here and asks for it in every
//! call, so a look-up is one read lock and one hash.
//!
//! Behaviour as measured on the real driver (`cuda-driver-facts.md` §14): a missing key is 400, no
//! current context 201, putting an existing key 400 (the old value stays), deleting runs no
//! destructor; a context's end runs the destructors with that context current.

use crate::{context, guard};
use core::ffi::c_void;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};
use vgpu_protocol::cuda::{CUcontext, CUresult};

/// Called when the context of an entry dies.
type Destructor = unsafe extern "C" fn(ctx: CUcontext, key: *mut c_void, value: *mut c_void);

#[derive(Clone, Copy)]
struct Entry {
    /// Address of the caller's value.
    value: usize,
    destructor: Option<Destructor>,
}

static STORE: LazyLock<RwLock<HashMap<(CUcontext, usize), Entry>>> = LazyLock::new(RwLock::default);

/// `ctx`, or the current context if it is null or all ones.
fn resolve(ctx: CUcontext) -> Result<CUcontext, CUresult> {
    let ctx = if ctx.is_null() || ctx.0 == u64::MAX {
        context::current()
    } else {
        ctx
    };
    if ctx.is_null() {
        Err(CUresult::INVALID_CONTEXT)
    } else {
        Ok(ctx)
    }
}

/// CLS\[0\].
///
/// # Safety
/// `destructor` is a function of this signature or null.
pub unsafe extern "C" fn put(
    ctx: CUcontext,
    key: *mut c_void,
    value: *mut c_void,
    destructor: Option<Destructor>,
) -> CUresult {
    guard::result(|| {
        let ctx = resolve(ctx)?;
        let mut store = STORE.write().unwrap_or_else(PoisonError::into_inner);
        match store.entry((ctx, key as usize)) {
            std::collections::hash_map::Entry::Occupied(_) => Err(CUresult::INVALID_HANDLE),
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(Entry {
                    value: value as usize,
                    destructor,
                });
                Ok(())
            }
        }
    })
}

/// CLS\[1\].
pub extern "C" fn delete(ctx: CUcontext, key: *mut c_void) -> CUresult {
    guard::result(|| {
        let ctx = resolve(ctx)?;
        let mut store = STORE.write().unwrap_or_else(PoisonError::into_inner);
        store
            .remove(&(ctx, key as usize))
            .map(|_| ())
            .ok_or(CUresult::INVALID_HANDLE)
    })
}

/// CLS\[2\].
///
/// # Safety
/// `value` is null or valid.
pub unsafe extern "C" fn get(
    value: *mut *mut c_void,
    ctx: CUcontext,
    key: *mut c_void,
) -> CUresult {
    guard::result(|| {
        if value.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        let ctx = resolve(ctx)?;
        let store = STORE.read().unwrap_or_else(PoisonError::into_inner);
        let entry = store
            .get(&(ctx, key as usize))
            .ok_or(CUresult::INVALID_HANDLE)?;
        // SAFETY: checked for null.
        unsafe { *value = entry.value as *mut c_void };
        Ok(())
    })
}

/// Runs and removes the destructors of a dying context, with it current.
pub fn context_died(ctx: CUcontext) {
    let dead: Vec<(usize, Entry)> = {
        let mut store = STORE.write().unwrap_or_else(PoisonError::into_inner);
        let keys: Vec<_> = store
            .keys()
            .filter(|(owner, _)| *owner == ctx)
            .copied()
            .collect();
        keys.into_iter()
            .filter_map(|key| store.remove(&key).map(|entry| (key.1, entry)))
            .collect()
    };
    if dead.is_empty() {
        return;
    }
    context::with_current(ctx, || {
        for (key, entry) in dead {
            if let Some(destructor) = entry.destructor {
                // SAFETY: the function and arguments that were put together.
                unsafe { destructor(ctx, key as *mut c_void, entry.value as *mut c_void) };
            }
        }
    });
}
