//! The backend's one table of CUDA driver functions.
//!
//! [`Driver`] has a field for every row of [the table of calls](vgpu_protocol::table), with the C
//! signature that follows from the row. It is filled from NVIDIA's `libcuda.so.1`
//! ([`Driver::load`]) or by the software device; no other code path differs between the two. A
//! field is `None` where the driver lacks the function.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use vgpu_protocol::cuda::*;
use vgpu_protocol::cuda_calls;

/// C type of a parameter, from its direction and type in the table.
macro_rules! parameter {
    (out $ty:ty) => { *mut $ty };
    (opt $ty:ty) => { *mut $ty };
    (new $ty:ty) => { *mut $ty };
    (src $ty:ty) => { *const $ty };
    ($by_value:ident $ty:ty) => { $ty };
}

macro_rules! driver_struct {
    ($($number:literal $class:ident / $place:ident / $capture:tt $shim:ident / $backend:ident
       $name:ident @ $since:literal $(| $twin:ident @ $twin_since:literal)?
       ($($arg:ident : $dir:ident $ty:ty),*);)*) => {
        /// Function pointers of a CUDA driver; see the [crate documentation](self).
        #[allow(non_snake_case, missing_docs)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Driver {
            $(pub $name: Option<unsafe extern "C" fn($($arg: parameter!($dir $ty)),*) -> CUresult>,)*
        }

        impl Driver {
            fn fill(lookup: impl Fn(&str) -> *const c_void) -> Self {
                Self { $($name: {
                    let address = lookup(stringify!($name));
                    if address.is_null() {
                        None
                    } else {
                        // SAFETY: the symbol of this name in a CUDA driver has this signature; the
                        // table's rows state the ABI of exactly this export.
                        Some(unsafe {
                            std::mem::transmute::<
                                *const c_void,
                                unsafe extern "C" fn($($arg: parameter!($dir $ty)),*) -> CUresult,
                            >(address)
                        })
                    }
                },)* }
            }

            /// Checks at compile time that functions have the signatures of the table.
            #[doc(hidden)]
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}
cuda_calls!(driver_struct);

/// Why a driver could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The library itself could not be opened.
    #[error("NVIDIA's driver library {path} cannot be loaded: {source}")]
    Open {
        /// What was asked for.
        path: String,
        /// The loader's reason.
        source: libloading::Error,
    },
    /// The library is the client side of this very project.
    #[error(
        "{path} is the vgpu client library, not NVIDIA's driver; take it out of the library path"
    )]
    OwnShim {
        /// What was asked for.
        path: String,
    },
}

impl Driver {
    /// Loads NVIDIA's driver library and fills the table from its exports. The library stays
    /// loaded for the life of the process.
    ///
    /// # Errors
    /// When the library cannot be opened, or is our own shim.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let shown = path.display().to_string();
        // SAFETY: loading runs the library's constructors; it is NVIDIA's driver, which the
        // operator of the host chose.
        let library =
            unsafe { libloading::Library::new(path) }.map_err(|source| LoadError::Open {
                path: shown.clone(),
                source,
            })?;
        let lookup = |name: &str| -> *const c_void {
            let Ok(symbol) = CString::new(name) else {
                return std::ptr::null();
            };
            // SAFETY: only the symbol's address is taken here, and the library is never unloaded.
            unsafe {
                let found = library.get::<*const c_void>(symbol.as_bytes_with_nul());
                found.map_or(std::ptr::null(), |found| {
                    found
                        .try_as_raw_ptr()
                        .map_or(std::ptr::null(), |address| address.cast_const())
                })
            }
        };
        if !lookup("vgpu_shim_marker").is_null() {
            return Err(LoadError::OwnShim { path: shown });
        }
        let driver = Self::fill(lookup);
        std::mem::forget(library);
        Ok(driver)
    }
}

/// Whether the library at `path` can be loaded and is a client side of this very project. It stays loaded.
#[must_use]
pub fn is_own_library(path: &Path) -> bool {
    // SAFETY: loading runs the library's constructors; it is a library of NVIDIA's or of ours, which
    // the operator of the host chose.
    let Ok(library) = (unsafe { libloading::Library::new(path) }) else {
        return false;
    };
    // SAFETY: the symbol is looked for, not used.
    let own = unsafe { library.get::<*const c_void>(b"vgpu_shim_marker\0") }.is_ok();
    std::mem::forget(library);
    own
}

/// Calls a driver function through the table; a missing one is `NOT_SUPPORTED`.
#[macro_export]
macro_rules! call {
    ($driver:expr, $name:ident ( $($argument:expr),* $(,)? )) => {
        match $driver.$name {
            Some(function) => function($($argument),*),
            None => vgpu_protocol::cuda::CUresult::NOT_SUPPORTED,
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named() {
        let error = Driver::load(Path::new("/nonexistent/libcuda.so.1")).expect_err("no such file");
        assert!(
            error.to_string().contains("/nonexistent/libcuda.so.1"),
            "{error}"
        );
    }

    #[test]
    fn the_table_has_a_field_per_call() {
        assert_eq!(Driver::FIELDS.len(), vgpu_protocol::number::CALLS.len());
    }
}
