//! Modules, libraries, variables.

use crate::entry::entries;
use crate::foreign::{In, Out, Outcome};
use crate::jit::Logs;
use crate::module::{self, Refusal};
use crate::{current, image};
use std::ffi::{c_char, c_void};
use std::ptr;
use vgpu_protocol::cuda::{CUdeviceptr, CUfunction, CUkernel, CUlibrary, CUmodule, CUresult};

/// `CU_MODULE_LAZY_LOADING`: kernels are prepared when they are first asked for.
const LAZY: u32 = 2;

/// Reads the PTX of an image and hands it on, telling the logs of failure.
fn load<T>(
    logs: &Logs,
    image: *const c_void,
    use_text: impl FnOnce(String) -> Result<T, Refusal>,
) -> Outcome<T> {
    // SAFETY: the C contract of all loading functions: the image is whole.
    let image = unsafe { image::read(image)? };
    let loaded = module::ptx_of(&image).and_then(use_text);
    logs.tell(loaded.as_ref().err().map(|refusal| refusal.text.as_str()));
    Ok(loaded?)
}

fn logs(count: u32, options: &In<u32>, values: *mut *mut c_void) -> Outcome<Logs> {
    // SAFETY: the C contract of the functions with options: the arrays and the buffers they name
    // are valid until the call returns, and the logs are used no longer.
    unsafe { Logs::new(count, options, values) }
}

fn load_module(out: &Out<CUmodule>, image: *const c_void, logs: &Logs) -> Outcome {
    out.require()?;
    let context = current::context()?;
    let module = load(logs, image, |text| module::load(&context, &text))?;
    out.put(module.handle)
}

/// The logs of calls without options.
fn no_logs() -> Outcome<Logs> {
    // SAFETY: an empty list of options.
    logs(0, &unsafe { In::new(ptr::null()) }, ptr::null_mut())
}

entries! {
    // Loading code is no work of any stream: drivers allow it during captures.
    ready fn cuModuleLoadData(out module: CUmodule, val image: *const c_void) {
        load_module(&module, image, &no_logs()?)
    }

    ready fn cuModuleLoadFatBinary(out module: CUmodule, val image: *const c_void) {
        load_module(&module, image, &no_logs()?)
    }

    ready fn cuModuleLoadDataEx(
        out module: CUmodule, val image: *const c_void, val count: u32, list options: u32,
        val values: *mut *mut c_void,
    ) {
        load_module(&module, image, &logs(count, &options, values)?)
    }

    uncaptured fn cuModuleUnload(val module: CUmodule) {
        current::context()?;
        module::unload(module)
    }

    ready fn cuModuleGetLoadingMode(out mode: u32) {
        mode.put(LAZY)
    }

    ready fn cuModuleGetFunction(out function: CUfunction, val module: CUmodule, text name: c_char) {
        function.require()?;
        current::context()?;
        let module = module::get(module)?;
        function.put(module.function(&name.get()?)?.handle)
    }

    ready fn cuModuleGetGlobal_v2(
        out dptr: CUdeviceptr, out bytes: usize, val module: CUmodule, text name: c_char,
    ) {
        current::context()?;
        let range = module::get(module)?.variable(&name.get()?)?;
        dptr.put_optional(CUdeviceptr(range.start));
        bytes.put_optional(range.size as usize);
        Ok(())
    }

    ready fn cuModuleGetFunctionCount(out count: u32, val module: CUmodule) {
        count.put(module::get(module)?.function_names().len() as u32)
    }

    ready fn cuModuleEnumerateFunctions(
        out functions: CUfunction, val count: u32, val module: CUmodule,
    ) {
        functions.require()?;
        let module = module::get(module)?;
        let names = module.function_names();
        let names = names.iter().take(count as usize);
        let found: Result<Vec<_>, Refusal> = names.map(|name| module.function(name)).collect();
        let handles = found?.into_iter().map(|function| function.handle);
        functions.put_all(handles, count as usize)
    }

    ready fn cuLibraryLoadData(
        out library: CUlibrary, val code: *const c_void, list jit_options: u32,
        val jit_values: *mut *mut c_void, val jit_count: u32, list options: u32,
        val values: *mut *mut c_void, val count: u32,
    ) {
        library.require()?;
        // Library options only allow savings that are not made here.
        let _ = (options, values, count);
        let logs = logs(jit_count, &jit_options, jit_values)?;
        library.put(load(&logs, code, module::load_library)?.handle)
    }

    uncaptured fn cuLibraryUnload(val library: CUlibrary) {
        module::unload_library(library)
    }

    ready fn cuLibraryGetKernel(out kernel: CUkernel, val library: CUlibrary, text name: c_char) {
        kernel.require()?;
        let library = module::library(library)?;
        kernel.put(library.kernel(&name.get()?)?.handle)
    }

    ready fn cuLibraryGetModule(out module: CUmodule, val library: CUlibrary) {
        module.require()?;
        let library = module::library(library)?;
        let context = current::context()?;
        module.put(library.module_in(&context)?.handle)
    }

    ready fn cuLibraryGetGlobal(
        out dptr: CUdeviceptr, out bytes: usize, val library: CUlibrary, text name: c_char,
    ) {
        let library = module::library(library)?;
        let context = current::context()?;
        let range = library.module_in(&context)?.variable(&name.get()?)?;
        dptr.put_optional(CUdeviceptr(range.start));
        bytes.put_optional(range.size as usize);
        Ok(())
    }

    ready fn cuLibraryGetKernelCount(out count: u32, val library: CUlibrary) {
        count.put(module::library(library)?.kernel_names().len() as u32)
    }

    ready fn cuLibraryEnumerateKernels(out kernels: CUkernel, val count: u32, val library: CUlibrary) {
        kernels.require()?;
        let library = module::library(library)?;
        let names = library.kernel_names();
        let names = names.iter().take(count as usize);
        let found: Result<Vec<_>, Refusal> = names.map(|name| library.kernel(name)).collect();
        let handles = found?.into_iter().map(|kernel| kernel.handle);
        kernels.put_all(handles, count as usize)
    }

    ready fn cuLibraryGetManaged(
        out dptr: CUdeviceptr, out bytes: usize, val library: CUlibrary, text name: c_char,
    ) {
        let _ = (dptr, bytes);
        module::library(library)?;
        name.get()?;
        // The device has no managed memory, so there are no managed variables to find.
        Err(CUresult::NOT_FOUND)
    }

    ready fn cuKernelGetFunction(out function: CUfunction, val kernel: CUkernel) {
        function.require()?;
        let kernel = module::kernel(kernel)?;
        let context = current::context()?;
        function.put(module::kernel_in(&kernel, &context)?.handle)
    }

    ready fn cuKernelGetLibrary(out library: CUlibrary, val kernel: CUkernel) {
        library.require()?;
        library.put(module::kernel(kernel)?.library)
    }

    ready fn cuFuncGetModule(out module: CUmodule, val function: CUfunction) {
        module.require()?;
        module.put(module::plain_function(function)?.module)
    }

    ready fn cuFuncIsLoaded(out state: u32, val function: CUfunction) {
        state.require()?;
        module::plain_function(function)?;
        // Every function that has a handle is loaded.
        state.put(1)
    }

    ready fn cuFuncLoad(val function: CUfunction) {
        module::plain_function(function).map(drop)
    }

    ready fn cuFuncGetName(out name: *const c_char, val function: CUfunction) {
        name.require()?;
        let function = module::plain_function(function)?;
        // The text lives as long as the function.
        name.put(function.name.as_ptr())
    }

    ready fn cuKernelGetName(out name: *const c_char, val kernel: CUkernel) {
        name.require()?;
        let kernel = module::kernel(kernel)?;
        name.put(kernel.name.as_ptr())
    }
}
