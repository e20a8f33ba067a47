//! Modules and libraries: loading code, and finding functions, kernels and variables in it.

use crate::call::{self, Block};
use crate::client::{self, Client};
use crate::jit::Options;
use crate::{context, environment, function, image, log, memory, write};
use core::ffi::{CStr, c_char, c_void};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{LazyLock, Mutex, PoisonError};
use vgpu_channel::reply::PAYLOAD_BYTES;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::{call as number, internal};
use vgpu_protocol::wire::{self, GlobalReply, ListReply, LoadReply, Word};
use zerocopy::{FromZeros, IntoBytes};

/// Modules by the context they were loaded into; libraries live until unloaded.
static MODULES: LazyLock<Mutex<HashMap<CUmodule, CUcontext>>> = LazyLock::new(Mutex::default);

/// Sends an image for loading and delivers the compiler's logs.
///
/// # Safety
/// `image` is an image as CUDA's load functions take it, and the option arrays are valid.
unsafe fn load(
    client: &Client,
    number: u16,
    image: *const c_void,
    options: &Options,
) -> Result<u64, CUresult> {
    let image = image::locate(image)?;
    // SAFETY: the caller's contract.
    let block = Block::holding(client, &[unsafe { image.bytes() }])?;
    let logs = options.logs(client)?;
    let head = wire::LoadImage {
        image: block.blob(),
        info_log: logs.info(),
        error_log: logs.error(),
        option_count: options.plain.len() as u32,
        kind: 0,
    };
    let mut reply = LoadReply::default();
    let loaded = call::call_always(
        client,
        number,
        &[head.as_bytes(), options.plain.as_bytes()],
        reply.as_mut_bytes(),
    );
    // SAFETY: the caller's contract.
    unsafe { options.deliver(&logs, &reply)? };
    loaded?;
    function::forget_signatures();
    Ok(reply.handle)
}

/// `cuModuleLoadData`.
///
/// # Safety
/// `image` is an image.
pub unsafe fn cuModuleLoadData(
    module: *mut CUmodule,
    image: *const c_void,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract, without options.
    unsafe {
        cuModuleLoadDataEx(
            module,
            image,
            0,
            core::ptr::null_mut(),
            core::ptr::null_mut(),
        )
    }
}

/// `cuModuleLoadFatBinary`.
///
/// # Safety
/// `image` is an image.
pub unsafe fn cuModuleLoadFatBinary(
    module: *mut CUmodule,
    image: *const c_void,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { cuModuleLoadData(module, image) }
}

/// `cuModuleLoadDataEx`.
///
/// # Safety
/// `image` is an image; the option arrays have `count` entries.
pub unsafe fn cuModuleLoadDataEx(
    module: *mut CUmodule,
    image: *const c_void,
    count: u32,
    options: *mut u32,
    values: *mut *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ctx = context::required()?;
    if module.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let handle = unsafe {
        let options = Options::read(count, options, values)?;
        CUmodule(load(client, number::cuModuleLoadDataEx, image, &options)?)
    };
    MODULES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(handle, ctx);
    write(module, handle)
}

/// The content of a file the program names, with a terminator behind it.
///
/// # Safety
/// `path` is null or a C string.
pub(crate) unsafe fn read_file(path: *const c_char) -> Result<Vec<u8>, CUresult> {
    if path.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let path = unsafe { CStr::from_ptr(path) };
    let path = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path.to_bytes());
    let mut bytes = std::fs::read(path).map_err(|error| {
        log::line(format_args!("{}: {error}", path.display()));
        CUresult::FILE_NOT_FOUND
    })?;
    bytes.push(0);
    Ok(bytes)
}

/// `cuModuleLoad`: the file is the guest's own and is read here.
///
/// # Safety
/// `path` is null or a C string.
pub unsafe fn cuModuleLoad(module: *mut CUmodule, path: *const c_char) -> Result<(), CUresult> {
    client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        let image = read_file(path)?;
        cuModuleLoadData(module, image.as_ptr().cast())
    }
}

/// `cuModuleUnload`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuModuleUnload(module: CUmodule) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuModuleUnload::Args {
        module: Word::of(module),
    };
    call::call(client, number::cuModuleUnload, &[args.as_bytes()], &mut [])?;
    MODULES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&module);
    gone(module.0);
    Ok(())
}

fn gone(container: u64) {
    function::container_gone(container);
    memory::container_gone(container);
}

/// Forgets the modules of a context that is gone.
pub fn context_died(ctx: CUcontext) {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let dead: Vec<_> = modules
        .iter()
        .filter(|(_, of)| **of == ctx)
        .map(|(module, _)| *module)
        .collect();
    for module in dead {
        modules.remove(&module);
        gone(module.0);
    }
}

/// `cuModuleGetLoadingMode`: 1 eager, 2 lazy, as `CUDA_MODULE_LOADING` says.
///
/// # Safety
/// `mode` is null or valid.
pub unsafe fn cuModuleGetLoadingMode(mode: *mut u32) -> Result<(), CUresult> {
    client::entered()?;
    let eager = environment::var("CUDA_MODULE_LOADING").is_some_and(|value| value == "EAGER");
    write(mode, if eager { 1 } else { 2 })
}

/// A look-up by name: handle of the container, then the name.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn look_up<'a>(
    client: &Client,
    number: u16,
    container: u64,
    name: *const c_char,
    reply: &'a mut [u8],
) -> Result<(&'a [u8], CString), CUresult> {
    if name.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let name = unsafe { CStr::from_ptr(name) };
    let head = wire::Lookup { container };
    let len = call::call_variable(client, number, &[head.as_bytes(), name.to_bytes()], reply)?;
    Ok((&reply[..len], name.to_owned()))
}

/// `cuModuleGetFunction`.
///
/// # Safety
/// `name` is null or a C string.
pub unsafe fn cuModuleGetFunction(
    out: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if out.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut buffer = [0; PAYLOAD_BYTES];
    // SAFETY: the caller's contract.
    let (reply, name) = unsafe {
        look_up(
            client,
            number::cuModuleGetFunction,
            module.0,
            name,
            &mut buffer,
        )?
    };
    write(
        out,
        CUfunction(function::enter(client, reply, false, module.0, Some(name))?),
    )
}

/// `cuLibraryGetKernel`.
///
/// # Safety
/// `name` is null or a C string.
pub unsafe fn cuLibraryGetKernel(
    out: *mut CUkernel,
    library: CUlibrary,
    name: *const c_char,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if out.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut buffer = [0; PAYLOAD_BYTES];
    // SAFETY: the caller's contract.
    let (reply, name) = unsafe {
        look_up(
            client,
            number::cuLibraryGetKernel,
            library.0,
            name,
            &mut buffer,
        )?
    };
    write(
        out,
        CUkernel(function::enter(client, reply, true, library.0, Some(name))?),
    )
}

/// `cuKernelGetFunction`.
///
/// # Safety
/// `out` is null or valid.
pub unsafe fn cuKernelGetFunction(out: *mut CUfunction, kernel: CUkernel) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    let info = function::find(kernel.0)?;
    let args = wire::cuKernelGetFunction::Args {
        function: [],
        kernel: Word::of(kernel),
    };
    let mut buffer = [0; PAYLOAD_BYTES];
    let len = call::call_variable(
        client,
        number::cuKernelGetFunction,
        &[args.as_bytes()],
        &mut buffer,
    )?;
    let origin = function::Origin::Made(kernel);
    let handle = function::enter_from(
        client,
        &buffer[..len],
        origin,
        info.container,
        info.name.clone(),
    )?;
    write(out, CUfunction(handle))
}

/// Looks up a variable, enters it as device memory and stores what the caller wants of it.
///
/// # Safety
/// `name` is null or a C string; the other pointers are null or valid.
unsafe fn global(
    number: u16,
    container: u64,
    name: *const c_char,
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let mut reply = GlobalReply::default();
    // SAFETY: the caller's contract.
    let (found, _) = unsafe { look_up(client, number, container, name, reply.as_mut_bytes())? };
    if found.len() < size_of::<GlobalReply>() {
        return Err(CUresult::UNKNOWN);
    }
    memory::enter_global(container, reply.dptr, reply.bytes);
    if !dptr.is_null() {
        write(dptr, CUdeviceptr(reply.dptr))?;
    }
    if !bytes.is_null() {
        write(bytes, reply.bytes as usize)?;
    }
    Ok(())
}

/// `cuModuleGetGlobal_v2`.
///
/// # Safety
/// `name` is null or a C string; the other pointers are null or valid.
pub unsafe fn cuModuleGetGlobal_v2(
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    module: CUmodule,
    name: *const c_char,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { global(number::cuModuleGetGlobal_v2, module.0, name, dptr, bytes) }
}

/// `cuLibraryGetGlobal`.
///
/// # Safety
/// As [`cuModuleGetGlobal_v2`].
pub unsafe fn cuLibraryGetGlobal(
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    library: CUlibrary,
    name: *const c_char,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { global(number::cuLibraryGetGlobal, library.0, name, dptr, bytes) }
}

/// `cuLibraryGetManaged`.
///
/// # Safety
/// As [`cuModuleGetGlobal_v2`].
pub unsafe fn cuLibraryGetManaged(
    dptr: *mut CUdeviceptr,
    bytes: *mut usize,
    library: CUlibrary,
    name: *const c_char,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { global(number::cuLibraryGetManaged, library.0, name, dptr, bytes) }
}

/// Up to `count` handles of a list kept by the worker.
pub(crate) fn list(
    client: &Client,
    number: u16,
    object: u64,
    count: usize,
) -> Result<Vec<u64>, CUresult> {
    let block = Block::new(client, count.max(1) * 8)?;
    let head = wire::ListRequest {
        object,
        out: wire::Blob {
            len: count as u64 * 8,
            ..block.blob()
        },
        extra: 0,
    };
    let mut reply = ListReply::default();
    call::call(client, number, &[head.as_bytes()], reply.as_mut_bytes())?;
    let mut handles = vec![0_u64; count.min(usize::try_from(reply.count).unwrap_or(0))];
    block.read(handles.as_mut_bytes())?;
    Ok(handles)
}

/// All functions of a module, with their layouts.
///
/// # Errors
/// The driver's.
pub fn functions(module: CUmodule) -> Result<Vec<CUfunction>, CUresult> {
    let client = client::entered()?;
    let args = wire::cuModuleGetFunctionCount::Args {
        count: [],
        module: Word::of(module),
    };
    let mut reply = wire::cuModuleGetFunctionCount::Reply::new_zeroed();
    call::call(
        client,
        number::cuModuleGetFunctionCount,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let count: u32 = reply.count.get();
    let handles = list(
        client,
        number::cuModuleEnumerateFunctions,
        module.0,
        count as usize,
    )?;
    handles
        .into_iter()
        .map(|handle| enumerated(client, handle, false, module.0).map(CUfunction))
        .collect()
}

/// Learns the layout of an enumerated function or kernel.
pub(crate) fn enumerated(
    client: &Client,
    handle: u64,
    is_kernel: bool,
    container: u64,
) -> Result<u64, CUresult> {
    if function::find(handle).is_ok() {
        return Ok(handle);
    }
    let args = wire::ParamLayout {
        function: handle,
        first: 0,
        flags: u32::from(is_kernel),
    };
    let mut buffer = [0; PAYLOAD_BYTES];
    let len = call::call_variable(
        client,
        internal::PARAM_LAYOUT,
        &[args.as_bytes()],
        &mut buffer,
    )?;
    function::enter(client, &buffer[..len], is_kernel, container, None)
}

/// `cuModuleEnumerateFunctions`.
///
/// # Safety
/// `out` has `count` entries.
pub unsafe fn cuModuleEnumerateFunctions(
    out: *mut CUfunction,
    count: u32,
    module: CUmodule,
) -> Result<(), CUresult> {
    if out.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    for (at, found) in functions(module)?
        .into_iter()
        .take(count as usize)
        .enumerate()
    {
        // SAFETY: within the caller's `count`.
        unsafe { out.add(at).write(found) };
    }
    Ok(())
}

/// `cuLibraryEnumerateKernels`.
///
/// # Safety
/// `out` has `count` entries.
pub unsafe fn cuLibraryEnumerateKernels(
    out: *mut CUkernel,
    count: u32,
    library: CUlibrary,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if out.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let handles = list(
        client,
        number::cuLibraryEnumerateKernels,
        library.0,
        count as usize,
    )?;
    for (at, handle) in handles.into_iter().enumerate() {
        let kernel = CUkernel(enumerated(client, handle, true, library.0)?);
        // SAFETY: `list` gives at most `count` handles.
        unsafe { out.add(at).write(kernel) };
    }
    Ok(())
}

/// `cuLibraryLoadData`. The library options only promise things about the image's memory, which is
/// copied here.
///
/// # Safety
/// `code` is an image; the arrays have the given numbers of entries.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuLibraryLoadData(
    library: *mut CUlibrary,
    code: *const c_void,
    jit_options: *mut u32,
    jit_values: *mut *mut c_void,
    jit_count: u32,
    _options: *mut u32,
    _values: *mut *mut c_void,
    _count: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if library.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let handle = unsafe {
        let options = Options::read(jit_count, jit_options, jit_values)?;
        load(client, number::cuLibraryLoadData, code, &options)?
    };
    write(library, CUlibrary(handle))
}

/// `cuLibraryLoadFromFile`: the file is the guest's own and is read here.
///
/// # Safety
/// `path` is null or a C string; the arrays have the given numbers of entries.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuLibraryLoadFromFile(
    library: *mut CUlibrary,
    path: *const c_char,
    jit_options: *mut u32,
    jit_values: *mut *mut c_void,
    jit_count: u32,
    options: *mut u32,
    values: *mut *mut c_void,
    count: u32,
) -> Result<(), CUresult> {
    client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        let image = read_file(path)?;
        cuLibraryLoadData(
            library,
            image.as_ptr().cast(),
            jit_options,
            jit_values,
            jit_count,
            options,
            values,
            count,
        )
    }
}

/// `cuLibraryUnload`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuLibraryUnload(library: CUlibrary) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuLibraryUnload::Args {
        library: Word::of(library),
    };
    call::call(client, number::cuLibraryUnload, &[args.as_bytes()], &mut [])?;
    gone(library.0);
    Ok(())
}
