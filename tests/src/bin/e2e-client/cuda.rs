//! The few driver functions the client calls, found by name in `libcuda.so.1`.

use std::ffi::{c_char, c_int, c_uint, c_void};

use libloading::Library;

/// A driver handle: context, module, function, stream or event.
pub type Handle = *mut c_void;

/// A host function, as `cuLaunchHostFunc` takes it.
pub type HostFunction = extern "C" fn(*mut c_void);

macro_rules! driver_functions {
    ($($field:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The driver's entry points.
        pub struct Cuda {
            $(pub $field: unsafe extern "C" fn($($argument),*) -> c_int,)*
            // The functions above point into it.
            _library: Library,
        }

        impl Cuda {
            /// Loads the library called `name` and looks the functions up.
            pub fn load(name: &str) -> Result<Self, libloading::Error> {
                // SAFETY: loading a driver runs its initialisers, which is what every CUDA program does.
                let library = unsafe { Library::new(name)? };
                $(
                    // SAFETY: the signature is that of the exported symbol in NVIDIA's cuda.h.
                    let $field = unsafe {
                        *library.get::<unsafe extern "C" fn($($argument),*) -> c_int>($symbol)?
                    };
                )*
                Ok(Self { $($field,)* _library: library })
            }
        }
    };
}

driver_functions! {
    cu_init = b"cuInit" (c_uint);
    primary_retain = b"cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    set_current = b"cuCtxSetCurrent" (Handle);
    module_load = b"cuModuleLoadData" (*mut Handle, *const c_void);
    module_unload = b"cuModuleUnload" (Handle);
    get_function = b"cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    alloc = b"cuMemAlloc_v2" (*mut u64, usize);
    free = b"cuMemFree_v2" (u64);
    alloc_host = b"cuMemAllocHost_v2" (*mut *mut c_void, usize);
    free_host = b"cuMemFreeHost" (*mut c_void);
    to_device = b"cuMemcpyHtoD_v2" (u64, *const c_void, usize);
    to_host = b"cuMemcpyDtoH_v2" (*mut c_void, u64, usize);
    to_device_async = b"cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
    to_host_async = b"cuMemcpyDtoHAsync_v2" (*mut c_void, u64, usize, Handle);
    set_words_async = b"cuMemsetD32Async" (u64, c_uint, usize, Handle);
    stream_create = b"cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy = b"cuStreamDestroy_v2" (Handle);
    stream_synchronize = b"cuStreamSynchronize" (Handle);
    stream_wait_event = b"cuStreamWaitEvent" (Handle, Handle, c_uint);
    event_create = b"cuEventCreate" (*mut Handle, c_uint);
    event_destroy = b"cuEventDestroy_v2" (Handle);
    event_record = b"cuEventRecord" (Handle, Handle);
    launch_host = b"cuLaunchHostFunc" (Handle, HostFunction, *mut c_void);
    launch_kernel = b"cuLaunchKernel" (
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
}

impl Cuda {
    /// `cuInit(0)`.
    pub fn init(&self) -> c_int {
        // SAFETY: cuInit takes a number and has no preconditions.
        unsafe { (self.cu_init)(0) }
    }
}
