//! The CUDA driver API as far as the benchmark needs it, found by name in a library that is loaded
//! at run time.
//!
//! All `unsafe` of this program lives in this folder. Every wrapper names its function in the error,
//! does nothing else around the call, and is inlined, so that timing the wrapper times the call.

mod kernels;
mod object;

pub use kernels::Kernels;
pub use object::{DeviceBuffer, Event, PinnedBuffer, Stream};

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr;

use libloading::Library;
use vgpu_protocol::cuda::*;

/// Why a measurement has no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A driver function returned an error.
    #[error("{function}: {result}")]
    Cuda {
        /// The function.
        function: &'static str,
        /// What it returned.
        result: CUresult,
    },
    /// The library does not export a function.
    #[error("the library exports no {0}")]
    Missing(&'static str),
    /// Everything returned success, but the data is wrong.
    #[error("wrong content: {0}")]
    Content(String),
    /// This machine lacks something the measurement needs.
    #[error("{0}")]
    NotRun(String),
}

impl Failure {
    /// Whether the library says that it does not offer this function at all.
    pub fn is_not_supported(&self) -> bool {
        match self {
            Self::Missing(_) => true,
            Self::Cuda { result, .. } => *result == CUresult::NOT_SUPPORTED,
            Self::Content(_) | Self::NotRun(_) => false,
        }
    }
}

macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        /// The functions' addresses; `None` where the library lacks one.
        #[allow(non_snake_case, reason = "fields bear CUDA's names")]
        #[derive(Clone, Copy, Debug)]
        struct Functions {
            $($name: Option<unsafe extern "C" fn($($argument: $type),*) -> CUresult>,)*
        }

        impl Functions {
            fn find(library: &Library) -> Self {
                Self {$(
                    // SAFETY: the signature is the one that cuda.h gives the symbol of this name.
                    $name: unsafe {
                        library
                            .get::<unsafe extern "C" fn($($argument: $type),*) -> CUresult>(
                                concat!(stringify!($name), "\0"),
                            )
                            .ok()
                            .map(|symbol| *symbol)
                    },
                )*}
            }
        }
    };
}

functions! {
    cuInit(flags: u32);
    cuDriverGetVersion(version: *mut i32);
    cuDeviceGet(device: *mut CUdevice, ordinal: i32);
    cuDeviceGetCount(count: *mut i32);
    cuDeviceGetName(name: *mut c_char, len: i32, device: CUdevice);
    cuDeviceGetAttribute(value: *mut i32, attribute: u32, device: CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuCtxSetCurrent(context: CUcontext);
    cuCtxGetCurrent(context: *mut CUcontext);
    cuCtxSynchronize();
    cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuLaunchKernel(
        function: CUfunction, grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32, dynamic_shared: u32, stream: CUstream,
        params: *mut *mut c_void, extra: *mut *mut c_void
    );
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    cuMemFree_v2(address: CUdeviceptr);
    cuMemAllocAsync(address: *mut CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemFreeAsync(address: CUdeviceptr, stream: CUstream);
    cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: u32);
    cuMemFreeHost(address: *mut c_void);
    cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: u32);
    cuMemHostUnregister(address: *mut c_void);
    cuPointerGetAttribute(data: *mut c_void, attribute: u32, address: CUdeviceptr);
    cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize);
    cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemsetD8Async(to: CUdeviceptr, value: u8, count: usize, stream: CUstream);
    cuStreamCreate(stream: *mut CUstream, flags: u32);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuStreamQuery(stream: CUstream);
    cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: u32);
    cuStreamBeginCapture_v2(stream: CUstream, mode: u32);
    cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    cuEventCreate(event: *mut CUevent, flags: u32);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventQuery(event: CUevent);
    cuEventSynchronize(event: CUevent);
    cuGraphInstantiateWithFlags(exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
    cuGraphLaunch(exec: CUgraphExec, stream: CUstream);
    cuGraphExecDestroy(exec: CUgraphExec);
    cuGraphDestroy(graph: CUgraph);
}

/// Calls a function of the table; `unsafe` because the function may be.
macro_rules! call {
    ($cuda:expr, $name:ident($($argument:expr),* $(,)?)) => {
        match $cuda.functions.$name {
            Some(function) => match function($($argument),*) {
                vgpu_protocol::cuda::CUresult::SUCCESS => Ok(()),
                result => Err($crate::cuda::Failure::Cuda { function: stringify!($name), result }),
            },
            None => Err($crate::cuda::Failure::Missing(stringify!($name))),
        }
    };
}
use call;

/// A loaded CUDA driver library.
#[derive(Debug)]
pub struct Cuda {
    functions: Functions,
    is_shim: bool,
}

impl Cuda {
    /// Loads the library; it stays loaded for the life of the process.
    ///
    /// # Errors
    /// The loader's own, when it cannot be loaded.
    pub fn load(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: runs the initialisers of a CUDA driver, as every CUDA program does.
        let library = unsafe { Library::new(path)? };
        // SAFETY: only the symbol's presence is looked at.
        let is_shim = unsafe { library.get::<*const u32>("vgpu_shim_marker\0").is_ok() };
        let functions = Functions::find(&library);
        // Drivers have threads and exit handlers of their own: they cannot be unloaded.
        std::mem::forget(library);
        Ok(Self { functions, is_shim })
    }

    /// Whether this is the vgpu client library.
    pub fn is_shim(&self) -> bool {
        self.is_shim
    }

    /// `cuInit(0)`.
    ///
    /// # Errors
    /// The driver's.
    pub fn init(&self) -> Result<(), Failure> {
        // SAFETY: takes a number and has no preconditions.
        unsafe { call!(self, cuInit(0)) }
    }

    /// The CUDA version the library claims: 1000 × major + 10 × minor.
    ///
    /// # Errors
    /// The driver's.
    pub fn version(&self) -> Result<i32, Failure> {
        let mut version = 0;
        // SAFETY: the pointer is to a local.
        unsafe { call!(self, cuDriverGetVersion(&mut version))? };
        Ok(version)
    }

    /// Number of devices.
    ///
    /// # Errors
    /// The driver's.
    pub fn device_count(&self) -> Result<i32, Failure> {
        let mut count = 0;
        // SAFETY: the pointer is to a local.
        unsafe { call!(self, cuDeviceGetCount(&mut count))? };
        Ok(count)
    }

    /// The device of an ordinal.
    ///
    /// # Errors
    /// The driver's.
    pub fn device(&self, ordinal: i32) -> Result<CUdevice, Failure> {
        let mut device = CUdevice::default();
        // SAFETY: the pointer is to a local.
        unsafe { call!(self, cuDeviceGet(&mut device, ordinal))? };
        Ok(device)
    }

    /// A device's name.
    ///
    /// # Errors
    /// The driver's.
    pub fn device_name(&self, device: CUdevice) -> Result<String, Failure> {
        let mut name = [0_u8; 256];
        // SAFETY: the buffer has the length given beside it.
        unsafe { call!(self, cuDeviceGetName(name.as_mut_ptr().cast(), 256, device))? };
        let text = name.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// A device attribute (`CUdevice_attribute`).
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn device_attribute(&self, attribute: u32, device: CUdevice) -> Result<i32, Failure> {
        let mut value = 0;
        // SAFETY: the pointer is to a local.
        unsafe { call!(self, cuDeviceGetAttribute(&mut value, attribute, device))? };
        Ok(value)
    }

    /// The device's primary context, retained until the process ends.
    ///
    /// # Errors
    /// The driver's.
    pub fn primary_context(&self, device: CUdevice) -> Result<CUcontext, Failure> {
        let mut context = CUcontext::NULL;
        // SAFETY: the pointer is to a local.
        unsafe { call!(self, cuDevicePrimaryCtxRetain(&mut context, device))? };
        Ok(context)
    }

    /// Makes a context current to this thread.
    ///
    /// # Errors
    /// The driver's.
    pub fn set_current(&self, context: CUcontext) -> Result<(), Failure> {
        // SAFETY: contexts here are primary contexts, which live until the process ends.
        unsafe { call!(self, cuCtxSetCurrent(context)) }
    }

    /// This thread's current context.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn current(&self) -> Result<CUcontext, Failure> {
        let mut context = CUcontext::NULL;
        // SAFETY: the pointer is to a local.
        unsafe { call!(self, cuCtxGetCurrent(&mut context))? };
        Ok(context)
    }

    /// Waits for all work of the current context.
    ///
    /// # Errors
    /// The driver's, also for work done before.
    #[inline]
    pub fn synchronize(&self) -> Result<(), Failure> {
        // SAFETY: takes nothing.
        unsafe { call!(self, cuCtxSynchronize()) }
    }

    /// Free and total device memory in bytes.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn memory_info(&self) -> Result<(usize, usize), Failure> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to locals.
        unsafe { call!(self, cuMemGetInfo_v2(&mut free, &mut total))? };
        Ok((free, total))
    }

    /// `CU_POINTER_ATTRIBUTE_MEMORY_TYPE` of a buffer's address.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn memory_type(&self, buffer: &DeviceBuffer) -> Result<u32, Failure> {
        const MEMORY_TYPE: u32 = 2;
        let mut kind = 0_u32;
        let data = ptr::from_mut(&mut kind).cast();
        // SAFETY: the attribute is an unsigned int, and the pointer is to a local one.
        unsafe {
            call!(
                self,
                cuPointerGetAttribute(data, MEMORY_TYPE, buffer.address())
            )?
        };
        Ok(kind)
    }

    /// `cuMemHostRegister` and `cuMemHostUnregister` of memory of the program's own.
    ///
    /// # Errors
    /// The driver's.
    pub fn register_and_unregister(&self, memory: &mut [u8]) -> Result<(), Failure> {
        let address = memory.as_mut_ptr().cast();
        // SAFETY: the memory is exclusively ours and outlives the registration, which ends here.
        unsafe {
            call!(self, cuMemHostRegister_v2(address, memory.len(), 0))?;
            call!(self, cuMemHostUnregister(address))
        }
    }

    /// `cuMemAllocAsync` and `cuMemFreeAsync` on one stream.
    ///
    /// # Errors
    /// The driver's.
    #[inline]
    pub fn alloc_and_free_async(&self, bytes: usize, stream: &Stream) -> Result<(), Failure> {
        let mut address = CUdeviceptr::NULL;
        // SAFETY: the pointer is to a local; nothing uses the memory between the two calls.
        unsafe {
            call!(self, cuMemAllocAsync(&mut address, bytes, stream.handle()))?;
            call!(self, cuMemFreeAsync(address, stream.handle()))
        }
    }

    fn module(&self, image: &str) -> Result<CUmodule, Failure> {
        let image = CString::new(image).map_err(|_| Failure::Content("a zero in PTX".into()))?;
        let mut module = CUmodule::NULL;
        // SAFETY: the image is text that ends in a zero, which is how a module's end is found.
        unsafe { call!(self, cuModuleLoadData(&mut module, image.as_ptr().cast()))? };
        Ok(module)
    }

    fn function(&self, module: CUmodule, name: &std::ffi::CStr) -> Result<CUfunction, Failure> {
        let mut function = CUfunction::NULL;
        // SAFETY: modules are never unloaded here, and the name ends in a zero.
        unsafe {
            call!(
                self,
                cuModuleGetFunction(&mut function, module, name.as_ptr())
            )?
        };
        Ok(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_function_counts_as_not_supported() {
        assert!(Failure::Missing("cuInit").is_not_supported());
        let refused = Failure::Cuda {
            function: "cuMemHostRegister_v2",
            result: CUresult::NOT_SUPPORTED,
        };
        assert!(refused.is_not_supported());
        assert!(!Failure::Content("x".into()).is_not_supported());
    }

    #[test]
    fn errors_name_the_function_and_the_code() {
        let failure = Failure::Cuda {
            function: "cuMemAlloc_v2",
            result: CUresult::OUT_OF_MEMORY,
        };
        assert_eq!(
            failure.to_string(),
            "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2)"
        );
    }

    #[test]
    fn a_library_without_cuda_is_loaded_and_lacks_everything() {
        let cuda = Cuda::load(Path::new("libc.so.6")).expect("every Linux has it");
        assert_eq!(cuda.init(), Err(Failure::Missing("cuInit")));
        assert!(!cuda.is_shim());
    }
}
