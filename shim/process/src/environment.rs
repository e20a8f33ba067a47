//! Environment variables, read so that a privileged program is not steered by its caller
//! (`isolation.md` 6).

use core::ffi::CStr;
use std::ffi::CString;

unsafe extern "C" {
    fn secure_getenv(name: *const libc::c_char) -> *mut libc::c_char;
}

/// A variable of ours, absent in set-user-id and file-capability programs. Text that is no UTF-8
/// counts as absent.
#[must_use]
pub fn var(name: &str) -> Option<String> {
    let name = CString::new(name).ok()?;
    // SAFETY: a terminated name; the result is a terminated string or null. The program may change
    // its environment from another thread: that race is the C library's own and the value is copied
    // at once.
    unsafe {
        let value = secure_getenv(name.as_ptr());
        if value.is_null() {
            None
        } else {
            CStr::from_ptr(value).to_str().ok().map(str::to_owned)
        }
    }
}

/// Whether a variable is set to something other than `0` or nothing.
#[must_use]
pub fn flag(name: &str) -> bool {
    var(name).is_some_and(|value| !value.is_empty() && value != "0")
}
