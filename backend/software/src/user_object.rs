//! Objects of the program whose end graphs put off.
//!
//! Every reference, of the program or of a graph, keeps the object's [`Token`] alive; when the last
//! one is gone, the program's function is called on a thread of its own.

use crate::foreign::Outcome;
use crate::table::Kind;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;
use vgpu_protocol::cuda::CUresult;

/// What is left to be done at the end.
pub(crate) struct Token {
    destroy: unsafe extern "C" fn(*mut c_void),
    pointer: usize,
}

impl Drop for Token {
    fn drop(&mut self) {
        let (destroy, pointer) = (self.destroy, self.pointer);
        let end = move || {
            crate::current::mark_host_function_thread();
            // SAFETY: the program gave the function to be called with this argument once, on a
            // thread of the driver's choice.
            unsafe { destroy(pointer as *mut c_void) }
        };
        // Without a thread the object is leaked: its function must not run on the caller's.
        let _ = std::thread::Builder::new()
            .name("vgpu-object".into())
            .spawn(end);
    }
}

/// References to objects, by handle.
pub(crate) type References = BTreeMap<u64, (Arc<Token>, u32)>;

/// References that the program has.
static OWN: Mutex<References> = Mutex::new(BTreeMap::new());

/// Adds `count` references.
fn add(to: &mut References, object: u64, token: &Arc<Token>, count: u32) -> Outcome {
    let (_, held) = to.entry(object).or_insert_with(|| (Arc::clone(token), 0));
    *held = held.checked_add(count).ok_or(CUresult::INVALID_VALUE)?;
    Ok(())
}

/// Takes `count` references away. What is returned may be the last one.
fn take(from: &mut References, object: u64, count: u32) -> Outcome<Arc<Token>> {
    let (token, held) = from.get_mut(&object).ok_or(CUresult::INVALID_VALUE)?;
    let token = Arc::clone(token);
    *held = held
        .checked_sub(count)
        .filter(|_| count > 0)
        .ok_or(CUresult::INVALID_VALUE)?;
    if *held == 0 {
        from.remove(&object);
    }
    Ok(token)
}

/// Makes an object with `count` references of the program.
pub(crate) fn create(
    destroy: unsafe extern "C" fn(*mut c_void),
    pointer: usize,
    count: u32,
) -> u64 {
    let handle = Kind::UserObject.mint();
    let token = Arc::new(Token { destroy, pointer });
    OWN.lock().insert(handle, (token, count));
    handle
}

/// Gives the program `count` more references.
///
/// # Errors
/// `INVALID_VALUE` if it has none.
pub(crate) fn retain(object: u64, count: u32) -> Outcome {
    let mut own = OWN.lock();
    let (token, _) = own.get(&object).ok_or(CUresult::INVALID_VALUE)?;
    let token = Arc::clone(token);
    add(&mut own, object, &token, count)
}

/// Takes `count` references of the program.
///
/// # Errors
/// `INVALID_VALUE` if it has fewer.
pub(crate) fn release(object: u64, count: u32) -> Outcome {
    let last = take(&mut OWN.lock(), object, count)?;
    drop(last);
    Ok(())
}

/// Gives a graph `count` references: new ones, or the program's own.
///
/// # Errors
/// `INVALID_VALUE` for an object that the program has no, or not as many, references to.
pub(crate) fn give(graph: &mut References, object: u64, count: u32, moved: bool) -> Outcome {
    if count == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut own = OWN.lock();
    let token = match moved {
        true => take(&mut own, object, count)?,
        false => Arc::clone(&own.get(&object).ok_or(CUresult::INVALID_VALUE)?.0),
    };
    add(graph, object, &token, count)
}

/// Takes `count` references of a graph.
///
/// # Errors
/// `INVALID_VALUE` if it has fewer.
pub(crate) fn take_back(graph: &mut References, object: u64, count: u32) -> Outcome<Arc<Token>> {
    take(graph, object, count)
}
