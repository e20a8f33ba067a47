//! Storing results where the program wants them.
//!
//! Every pointer here is one that NVML's contract demands to be valid for what is stored or read.

use crate::error::{Error, Outcome};
use core::ffi::{CStr, c_char, c_uint};
use vgpu_protocol::facts::UNKNOWN;

/// Stores a value.
///
/// # Errors
/// [`Error::INVALID_ARGUMENT`] for null.
pub fn value<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    // SAFETY: not null, and valid by the contract of the function that is being served. Programs align structs as C does.
    unsafe { to.write(value) };
    Ok(())
}

/// Stores a number that may not be known.
///
/// # Errors
/// [`Error::NOT_SUPPORTED`] then.
pub fn known(to: *mut c_uint, number: u32) -> Outcome {
    if to.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    match number {
        UNKNOWN => Err(Error::NOT_SUPPORTED),
        number => value(to, number),
    }
}

/// Reads a value.
///
/// # Errors
/// [`Error::INVALID_ARGUMENT`] for null.
pub fn read<T: Copy>(from: *const T) -> Result<T, Error> {
    if from.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    // SAFETY: as for `value`.
    Ok(unsafe { from.read() })
}

/// Stores a text of a fact in a buffer of `length` bytes.
///
/// # Errors
/// [`Error::NOT_SUPPORTED`] for an empty one, which is not known; [`Error::INSUFFICIENT_SIZE`].
pub fn text(to: *mut c_char, length: c_uint, text: &[u8]) -> Outcome {
    if to.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    if text.is_empty() {
        return Err(Error::NOT_SUPPORTED);
    }
    if text.len() >= length as usize {
        return Err(Error::INSUFFICIENT_SIZE);
    }
    // SAFETY: the program's buffer has `length` bytes, which are more than the text has.
    unsafe {
        to.cast::<u8>()
            .copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(())
}

/// Reads a terminated text.
///
/// # Errors
/// [`Error::INVALID_ARGUMENT`] for null and for what is no text.
pub fn read_text<'a>(from: *const c_char) -> Result<&'a str, Error> {
    if from.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    // SAFETY: a terminated text by the contract of the function that is being served, which lasts for the call.
    unsafe { CStr::from_ptr(from) }
        .to_str()
        .map_err(|_| Error::INVALID_ARGUMENT)
}

/// A text in an array of C characters, cut so that it ends.
pub fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (to, from) in array.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *to = from.cast_signed();
    }
    array
}
