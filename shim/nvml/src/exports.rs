//! The C symbols of `libnvidia-ml.so.1`, generated from [the one table](crate::table).

use crate::{device, error, event, figures, guard, memory, pci, private, process, system};
use core::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use nvml_wrapper_sys::bindings::{
    nvmlBrandType_t, nvmlClockId_t, nvmlClockType_t, nvmlComputeMode_t, nvmlDevice_t,
    nvmlDeviceArchitecture_t, nvmlEccCounterType_t, nvmlEnableState_t, nvmlEventData_t,
    nvmlEventSet_t, nvmlFieldValue_t, nvmlGpuP2PCapsIndex_t, nvmlGpuP2PStatus_t, nvmlMemory_t,
    nvmlMemory_v2_t, nvmlMemoryErrorType_t, nvmlPciInfo_t, nvmlPciInfoExt_t, nvmlPcieUtilCounter_t,
    nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t, nvmlPstates_t, nvmlReturn_t, nvmlTemperature_t,
    nvmlTemperatureSensors_t, nvmlTemperatureThresholds_t, nvmlUUID_t, nvmlUtilization_t,
};
use std::sync::atomic::AtomicBool;

macro_rules! exports {
    (answered { $($name:ident = $module:ident::$function:ident($($arg:ident: $ty:ty),*);)* }
     refused { $($refused:ident)* }) => {
        $(
            #[doc = concat!("`", stringify!($name), "`")]
            ///
            /// # Safety
            /// As in NVML's documentation.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> nvmlReturn_t {
                static SAID: AtomicBool = AtomicBool::new(false);
                guard::call(stringify!($name), &SAID, || $module::$function($($arg),*))
            }
        )*
        $(
            #[doc = concat!("`", stringify!($refused), "` is not served, whatever its arguments are.")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $refused() -> nvmlReturn_t {
                static SAID: AtomicBool = AtomicBool::new(false);
                guard::refuse(stringify!($refused), &SAID)
            }
        )*

        /// Names of the functions that are answered.
        pub const ANSWERED: &[&str] = &[$(stringify!($name)),*];
        /// Names of those that are refused.
        pub const REFUSED: &[&str] = &[$(stringify!($refused)),*];
    };
}
nvml_functions!(exports);

/// `nvmlErrorString`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    error::text(result)
}

/// How the backend knows this library from NVIDIA's.
#[unsafe(no_mangle)]
pub static vgpu_shim_marker: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn every_function_is_in_the_table_once() {
        let mut names = [ANSWERED, REFUSED, &["nvmlErrorString"]].concat();
        names.sort_unstable();
        // What NVIDIA's library of the 580 series exports.
        let mut census: Vec<&str> = include_str!("../exports.txt").lines().collect();
        census.sort_unstable();
        assert_eq!(names, census);
    }

    #[test]
    fn errors_have_texts_before_anything_else() {
        for (number, expected) in [
            (0, c"Success"),
            (9, c"Driver Not Loaded"),
            (999, c"Unknown Error"),
            (12345, c"Unknown Error"),
        ] {
            // SAFETY: the texts are constants.
            let text = unsafe { CStr::from_ptr(nvmlErrorString(number)) };
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn nothing_is_answered_before_initialisation() {
        let mut count = 7;
        // SAFETY: the result has room.
        let result = unsafe { nvmlDeviceGetCount_v2(&raw mut count) };
        assert_eq!((result, count), (1, 7));
        assert_eq!(nvmlDeviceGetSerial(), 1);
        // SAFETY: no arguments.
        assert_eq!(unsafe { nvmlShutdown() }, 1);
    }
}
