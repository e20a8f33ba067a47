//! Pointers that callers of the C functions pass.
//!
//! Each is wrapped once, where the call enters (`entry.rs`), under the promise of that function's C
//! contract: null, or valid for what the function documents, until it returns. Behind the wrapper
//! the accesses are safe to write, check for null, and never assume alignment.

use std::ffi::{CStr, c_char};
use vgpu_protocol::cuda::CUresult;

/// What the body of an entry point yields.
pub(crate) type Outcome<T = ()> = Result<T, CUresult>;

/// A pointer to where results go.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Wraps a caller's pointer.
    ///
    /// # Safety
    /// `pointer` is null, or valid for writing (and, for [`Out::get`], reading) as many `T` as the
    /// C function documents until it returns.
    pub(crate) unsafe fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    /// Whether the caller passed null.
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Refuses null with `INVALID_VALUE`: done before anything that could not be undone.
    pub(crate) fn require(&self) -> Outcome {
        if self.0.is_null() {
            Err(CUresult::INVALID_VALUE)
        } else {
            Ok(())
        }
    }

    /// Stores the result; null is `INVALID_VALUE`.
    pub(crate) fn put(&self, value: T) -> Outcome {
        self.require()?;
        // SAFETY: not null, so by the promise of `new` valid for writing one T.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Stores the result unless the caller does not want it.
    pub(crate) fn put_optional(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: not null, so by the promise of `new` valid for writing one T.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Stores the first `limit` of `values` as an array.
    pub(crate) fn put_all(&self, values: impl IntoIterator<Item = T>, limit: usize) -> Outcome {
        self.require()?;
        for (index, value) in values.into_iter().take(limit).enumerate() {
            // SAFETY: not null, and `limit` is the element count the caller gave for this array.
            unsafe { self.0.add(index).write_unaligned(value) };
        }
        Ok(())
    }
}

impl Out<std::ffi::c_void> {
    /// The same place for a value whose type another argument told: the promise of `new` is then
    /// about that type.
    pub(crate) fn cast<T>(&self) -> Out<T> {
        Out(self.0.cast())
    }
}

impl<T: Copy> Out<T> {
    /// Reads an argument that is both given and returned.
    pub(crate) fn get(&self) -> Outcome<T> {
        self.require()?;
        // SAFETY: not null; in/out arguments are valid for reading by the promise of `new`.
        Ok(unsafe { self.0.read_unaligned() })
    }
}

/// A pointer to what a call reads.
pub(crate) struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Wraps a caller's pointer.
    ///
    /// # Safety
    /// `pointer` is null, or valid for reading as many `T` as the C function documents until it
    /// returns.
    pub(crate) unsafe fn new(pointer: *const T) -> Self {
        Self(pointer)
    }

    /// The value; null is `INVALID_VALUE`.
    pub(crate) fn get(&self) -> Outcome<T> {
        if self.0.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: not null, so by the promise of `new` valid for reading one T.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The first `count` values; null is `INVALID_VALUE` unless `count` is 0.
    pub(crate) fn list(&self, count: usize) -> Outcome<Vec<T>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.0.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: not null, and `count` is the element count the caller gave for this array.
        Ok((0..count)
            .map(|index| unsafe { self.0.add(index).read_unaligned() })
            .collect())
    }
}

/// A NUL-terminated text.
pub(crate) struct Text(*const c_char);

impl Text {
    /// Wraps a caller's pointer.
    ///
    /// # Safety
    /// `pointer` is null or points to a NUL-terminated text that stays unchanged until the C
    /// function returns.
    pub(crate) unsafe fn new(pointer: *const c_char) -> Self {
        Self(pointer)
    }

    /// The text; null is `INVALID_VALUE`. Bytes that are not UTF-8 are replaced: nothing is named
    /// like that.
    pub(crate) fn get(&self) -> Outcome<String> {
        if self.0.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: not null, so by the promise of `new` NUL-terminated.
        Ok(unsafe { CStr::from_ptr(self.0) }
            .to_string_lossy()
            .into_owned())
    }
}

/// Copies `text` and a NUL into the caller's buffer of `room` bytes, cutting it where it must.
pub(crate) fn put_text(buffer: &Out<c_char>, room: i32, text: &str) -> Outcome {
    let room = usize::try_from(room).map_err(|_| CUresult::INVALID_VALUE)?;
    let Some(letters) = room.checked_sub(1) else {
        return Err(CUresult::INVALID_VALUE);
    };
    let bytes = text.bytes().take(letters).chain(std::iter::once(0));
    buffer.put_all(bytes.map(|byte| byte as c_char), room)
}
