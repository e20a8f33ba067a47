//! Images of code as callers pass them: a bare address, whose length is in what lies there.

use crate::foreign::Outcome;
use std::ffi::{CStr, c_char, c_void};
use vgpu_protocol::cuda::CUresult;

/// First word of the struct that programs built by nvcc carry around a fatbin.
const WRAPPER: [u8; 4] = 0x4662_43b1_u32.to_le_bytes();
/// First word of a fatbin.
const FATBIN: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();
const ELF: [u8; 4] = *b"\x7fELF";
/// Where the wrapper has the fatbin's address.
const WRAPPED_AT: usize = 8;
/// Bytes of a fatbin's header that say how long it is.
const HEADER: usize = 16;
/// Longer than any fatbin of one module.
const MAX_FATBIN: u64 = 1 << 30;

/// Copies an image out of the caller's memory. Of machine code only the first bytes: there is
/// nothing in it for this device.
///
/// # Errors
/// `INVALID_VALUE` for null, `INVALID_IMAGE` for a fatbin of impossible size.
///
/// # Safety
/// `image` is null, or points to a whole image: a fatbin wrapper, a fatbin, an ELF file, or
/// NUL-terminated text.
pub(crate) unsafe fn read(image: *const c_void) -> Outcome<Vec<u8>> {
    let bytes: *const u8 = image.cast();
    if bytes.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let begins = |magic: [u8; 4]| {
        let mut places = magic.into_iter().enumerate();
        places.all(|(at, byte)| {
            // SAFETY: the image has all four bytes, or is text that ends where they do not match:
            // each byte is looked at only after those before it matched.
            unsafe { bytes.add(at).read() == byte }
        })
    };
    if begins(WRAPPER) {
        // SAFETY: a wrapper is longer than this, and points to a fatbin.
        return unsafe {
            let inner = bytes.add(WRAPPED_AT).cast::<*const u8>().read_unaligned();
            if inner.is_null() {
                return Err(CUresult::INVALID_IMAGE);
            }
            fatbin(inner)
        };
    }
    if begins(FATBIN) {
        // SAFETY: it begins like a fatbin, so by the promise of the caller it is one.
        return unsafe { fatbin(bytes) };
    }
    if begins(ELF) {
        return Ok(ELF.to_vec());
    }
    // SAFETY: what is nothing else is NUL-terminated text.
    let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
    Ok(text.to_bytes().to_vec())
}

/// Copies a fatbin.
///
/// # Safety
/// `bytes` points to a whole fatbin.
unsafe fn fatbin(bytes: *const u8) -> Outcome<Vec<u8>> {
    // SAFETY: every fatbin has the whole header.
    let header = unsafe { std::slice::from_raw_parts(bytes, HEADER) };
    let field = |from: usize, len: usize| {
        let mut word = [0u8; 8];
        for (to, byte) in word.iter_mut().zip(header.iter().skip(from).take(len)) {
            *to = *byte;
        }
        u64::from_le_bytes(word)
    };
    let size = field(6, 2).checked_add(field(8, 8));
    let size = size.filter(|size| *size <= MAX_FATBIN);
    let size = size.ok_or(CUresult::INVALID_IMAGE)?;
    // SAFETY: the header says that the fatbin is this long.
    Ok(unsafe { std::slice::from_raw_parts(bytes, size as usize) }.to_vec())
}
