//! Options of loading and linking: only the logs matter here.

use crate::foreign::{In, Out, Outcome};
use std::ffi::{c_char, c_void};
use vgpu_protocol::cuda::CUresult;

/// `CU_JIT_INFO_LOG_BUFFER` and its size; the error log's numbers follow.
const INFO_LOG: u32 = 3;
const INFO_LOG_SIZE: u32 = 4;
const ERROR_LOG: u32 = 5;
const ERROR_LOG_SIZE: u32 = 6;
/// More options than there are kinds of.
const MAX_OPTIONS: u32 = 64;

/// A log buffer of the caller's.
struct Log {
    buffer: usize,
    room: usize,
    /// Where the caller reads how much was written.
    written: Option<usize>,
}

/// The log buffers that a call was given.
pub(crate) struct Logs {
    info: Log,
    error: Log,
}

impl Logs {
    /// Finds the logs among options. Values sit in pointer-sized words: a pointer or a number.
    ///
    /// # Errors
    /// `INVALID_VALUE` for missing arrays or an absurd count.
    ///
    /// # Safety
    /// `values` is null or points to `count` words that stay valid, like the buffers among them, as
    /// long as the result is used.
    pub(crate) unsafe fn new(
        count: u32,
        options: &In<u32>,
        values: *mut *mut c_void,
    ) -> Outcome<Self> {
        if count > MAX_OPTIONS {
            return Err(CUresult::INVALID_VALUE);
        }
        let options = options.list(count as usize)?;
        // SAFETY: null or an array of `count` words, by the promise of the caller.
        let words = unsafe { In::new(values.cast::<usize>()) }.list(count as usize)?;
        let log = |buffer_option: u32, size_option: u32| {
            let place = |wanted: u32| options.iter().position(|option| *option == wanted);
            let value = |wanted: u32| {
                place(wanted)
                    .and_then(|at| words.get(at).copied())
                    .unwrap_or(0)
            };
            Log {
                buffer: value(buffer_option),
                room: value(size_option),
                written: place(size_option).map(|at| values.wrapping_add(at) as usize),
            }
        };
        Ok(Self {
            info: log(INFO_LOG, INFO_LOG_SIZE),
            error: log(ERROR_LOG, ERROR_LOG_SIZE),
        })
    }

    /// Writes the outcome into the logs: an error's text, or nothing.
    pub(crate) fn tell(&self, error: Option<&str>) {
        self.info.write("");
        self.error.write(error.unwrap_or_default());
    }
}

impl Log {
    fn write(&self, text: &str) {
        let mut length = 0;
        if self.buffer != 0 && self.room > 0 {
            let letters = text.bytes().take(self.room - 1);
            length = letters.len();
            let bytes = letters.chain(std::iter::once(0)).map(|byte| byte as c_char);
            // SAFETY: the caller passed the buffer with this much room.
            let buffer = unsafe { Out::new(self.buffer as *mut c_char) };
            let _ = buffer.put_all(bytes, self.room);
        }
        if let Some(written) = self.written {
            // SAFETY: the word is one of the values the caller passed, which this option updates.
            unsafe { Out::new(written as *mut usize) }.put_optional(length);
        }
    }
}
