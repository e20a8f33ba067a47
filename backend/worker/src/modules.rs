//! Modules, libraries, functions, kernels, globals.

use crate::call::{Call, Outcome};
use crate::image::{Image, MAX_IMAGE, PADDING};
use crate::live::{Entry, Handle, Kind, Layout};
use crate::printing;
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use vgpu_protocol::cuda::{CUdeviceptr, CUfunction, CUkernel, CUlibrary, CUmodule, CUresult};
use vgpu_protocol::wire::{
    self, Blob, FunctionReply, GlobalReply, JitOption, ListReply, ListRequest, LoadImage,
    LoadReply, Lookup, Param, ParamLayout,
};
use zerocopy::IntoBytes;

/// Most options of one load.
const MAX_OPTIONS: u32 = 64;
/// Longest log that is brought back.
const MAX_LOG: u64 = 1 << 20;
/// Most parameters of a kernel: 32,764 bytes of them are allowed, each at least one byte.
const MAX_PARAMS: usize = 32_764;

const INFO_LOG: u32 = 3;
const INFO_LOG_BYTES: u32 = 4;
const ERROR_LOG: u32 = 5;
const ERROR_LOG_BYTES: u32 = 6;

/// JIT options for the driver, with private log buffers. Must stay in place as long as the driver
/// may write the logs.
#[derive(Debug)]
pub struct Options {
    ids: Vec<u32>,
    values: Vec<*mut c_void>,
    info: Vec<u8>,
    error: Vec<u8>,
}

// SAFETY: the pointers among the values lead into the vectors beside them.
unsafe impl Send for Options {}

impl Options {
    /// Options that carry plain numbers are passed on; those that the driver would take for
    /// pointers never are. Room for the logs is as asked for, within limits.
    pub fn new(given: &[JitOption], info_len: u64, error_len: u64) -> Self {
        let mut options = Self {
            ids: Vec::new(),
            values: Vec::new(),
            info: vec![0; info_len.min(MAX_LOG) as usize],
            error: vec![0; error_len.min(MAX_LOG) as usize],
        };
        for option in given {
            if is_plain(option.option) {
                options.push(option.option, option.value as *mut c_void);
            }
        }
        if !options.info.is_empty() {
            let (at, len) = (options.info.as_mut_ptr().cast(), options.info.len());
            options.push(INFO_LOG, at);
            options.push(INFO_LOG_BYTES, len as *mut c_void);
        }
        if !options.error.is_empty() {
            let (at, len) = (options.error.as_mut_ptr().cast(), options.error.len());
            options.push(ERROR_LOG, at);
            options.push(ERROR_LOG_BYTES, len as *mut c_void);
        }
        options
    }

    fn push(&mut self, id: u32, value: *mut c_void) {
        self.ids.push(id);
        self.values.push(value);
    }

    /// Number of options.
    pub fn count(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The arrays as the driver takes them.
    pub fn arrays(&mut self) -> (*mut u32, *mut *mut c_void) {
        (self.ids.as_mut_ptr(), self.values.as_mut_ptr())
    }

    /// Copies the logs to where the client wants them and gives their lengths.
    ///
    /// # Errors
    /// `INVALID_VALUE` for places outside shared memory.
    pub fn deliver(
        &self,
        call: &Call<'_>,
        info: Blob,
        error: Blob,
    ) -> Result<(u32, u32), CUresult> {
        Ok((
            deliver_log(call, &self.info, info)?,
            deliver_log(call, &self.error, error)?,
        ))
    }
}

fn deliver_log(call: &Call<'_>, log: &[u8], place: Blob) -> Result<u32, CUresult> {
    let len = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let len = len.min(usize::try_from(place.len).unwrap_or(usize::MAX));
    if len == 0 {
        return Ok(0);
    }
    call.worker.shared_range(place.addr, len as u64)?;
    let text = log.get(..len).unwrap_or(&[]);
    call.worker
        .channel
        .copy_in(place.addr, text)
        .map_err(|_| CUresult::INVALID_VALUE)?;
    Ok(len as u32)
}

/// `CUjit_option`s whose value is a number. The others are pointers, results, or unknown.
fn is_plain(option: u32) -> bool {
    // 0 registers, 1 threads, 7 level, 8 target from context, 9 target, 10 fallback, 11 debug
    // info, 12 verbose, 13 line info, 14 cache mode, 20-23 LTO and maths, 28 referenced variables
    // only, 30 position-independent code, 31 cluster blocks, 32-34 threads and split compile.
    matches!(option, 0 | 1 | 7..=14 | 20..=23 | 28 | 30..=34)
}

/// What all loads have in common: the request, its options, a private copy of the image.
struct Load {
    request: LoadImage,
    options: Options,
    image: Option<Arc<Image>>,
}

fn take_options(call: &mut Call<'_>, request: &LoadImage) -> Result<Options, CUresult> {
    if request.option_count > MAX_OPTIONS {
        return Err(call.malformed());
    }
    let given = call.take_list::<JitOption>(request.option_count as usize)?;
    Ok(Options::new(
        &given,
        request.info_log.len,
        request.error_log.len,
    ))
}

fn take_load(call: &mut Call<'_>) -> Result<Load, CUresult> {
    let request = call.take::<LoadImage>()?;
    let options = take_options(call, &request)?;
    let image = if request.image == Blob::default() {
        None
    } else {
        Some(fetch(call, request.image)?)
    };
    Ok(Load {
        request,
        options,
        image,
    })
}

/// A private copy of an image: the only one on this side, the driver reads it where it is.
fn fetch(call: &Call<'_>, place: Blob) -> Result<Arc<Image>, CUresult> {
    if place.len > MAX_IMAGE {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    call.worker.shared_range(place.addr, place.len)?;
    let len = usize::try_from(place.len).map_err(|_| call.malformed())?;
    let mut bytes = vec![0; len.saturating_add(PADDING)];
    bytes.truncate(len);
    call.worker
        .channel
        .copy_out(place.addr, &mut bytes)
        .map_err(|_| CUresult::INVALID_VALUE)?;
    let image = Arc::new(Image::new(bytes)?);
    printing::look(call.worker, &image);
    Ok(image)
}

fn finish_load(call: &mut Call<'_>, load: &Load, result: CUresult, handle: u64) -> Outcome {
    // Logs come back with failures too: that is what they are for.
    let (info_len, error_len) =
        load.options
            .deliver(call, load.request.info_log, load.request.error_log)?;
    call.reply(&LoadReply {
        handle,
        info_len,
        error_len,
    })?;
    call.result(result)
}

/// `cuModuleLoadData`, `cuModuleLoadDataEx`.
///
/// # Errors
/// What the client gets.
pub fn load_module(call: &mut Call<'_>) -> Outcome {
    let mut load = take_load(call)?;
    call.done()?;
    let image = load.image.as_ref().ok_or(CUresult::INVALID_VALUE)?.as_ptr();
    let function = call
        .driver()
        .cuModuleLoadDataEx
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut module = CUmodule::NULL;
    let count = load.options.count();
    let (ids, values) = load.options.arrays();
    // SAFETY: the image is a private copy that is as long as it says; options and log buffers
    // outlive the call.
    let result = unsafe { function(&raw mut module, image.cast(), count, ids, values) };
    if result == CUresult::SUCCESS {
        call.enter(module, 0);
    }
    finish_load(call, &load, result, module.0)
}

/// `cuLibraryLoadData`. Library options are not passed on: they speak of memory of the caller's.
///
/// # Errors
/// What the client gets.
pub fn load_library(call: &mut Call<'_>) -> Outcome {
    let mut load = take_load(call)?;
    call.done()?;
    let image = load.image.as_ref().ok_or(CUresult::INVALID_VALUE)?.as_ptr();
    let function = call
        .driver()
        .cuLibraryLoadData
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut library = CUlibrary::NULL;
    let count = load.options.count();
    let (ids, values) = load.options.arrays();
    let none = std::ptr::null_mut();
    // SAFETY: as for a module; without library options the driver copies the code.
    let result = unsafe {
        function(
            &raw mut library,
            image.cast(),
            ids,
            values,
            count,
            none,
            none.cast(),
            0,
        )
    };
    if result == CUresult::SUCCESS {
        call.worker
            .live
            .enter(Kind::Library, library.0, Entry::default());
    }
    finish_load(call, &load, result, library.0)
}

/// `cuModuleUnload`.
///
/// # Errors
/// What the client gets.
pub fn unload_module(call: &mut Call<'_>) -> Outcome {
    let module: CUmodule = call.decode::<wire::cuModuleUnload::Args>()?.module.get();
    unload(call, module, |call| {
        let function = call
            .driver()
            .cuModuleUnload
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: the module was live until just now, and nobody else can unload it any more.
        call.result(unsafe { function(module) })
    })?;
    call.worker.live.module_died(module.0);
    Ok(())
}

/// `cuLibraryUnload`.
///
/// # Errors
/// What the client gets.
pub fn unload_library(call: &mut Call<'_>) -> Outcome {
    let library: CUlibrary = call.decode::<wire::cuLibraryUnload::Args>()?.library.get();
    unload(call, library, |call| {
        let function = call
            .driver()
            .cuLibraryUnload
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: as for modules.
        call.result(unsafe { function(library) })
    })?;
    call.worker.live.library_died(library.0);
    Ok(())
}

fn unload<T: Handle>(
    call: &mut Call<'_>,
    handle: T,
    end: impl FnOnce(&mut Call<'_>) -> Outcome,
) -> Outcome {
    let entry = call
        .worker
        .live
        .remove(T::KIND, handle.to_word())
        .ok_or(T::UNKNOWN)?;
    end(call).inspect_err(|_| {
        call.worker.live.enter(T::KIND, handle.to_word(), entry);
    })
}

/// Learns the parameters of a function or kernel.
fn learn(call: &Call<'_>, handle: u64, is_kernel: bool) -> Layout {
    let mut layout = Layout::default();
    let driver = call.driver();
    for index in 0..MAX_PARAMS {
        let (mut offset, mut size) = (0_usize, 0_usize);
        // SAFETY: the handle is live and of the kind asked for; results have room here.
        let result = unsafe {
            if is_kernel {
                vgpu_driver::call!(
                    driver,
                    cuKernelGetParamInfo(CUkernel(handle), index, &raw mut offset, &raw mut size)
                )
            } else {
                vgpu_driver::call!(
                    driver,
                    cuFuncGetParamInfo(CUfunction(handle), index, &raw mut offset, &raw mut size)
                )
            }
        };
        match result {
            CUresult::SUCCESS => {}
            // The end of the list.
            CUresult::INVALID_VALUE => {
                layout.known = true;
                break;
            }
            _ => break,
        }
        let (Ok(offset), Ok(size)) = (u32::try_from(offset), u32::try_from(size)) else {
            break;
        };
        let Some(end) = offset.checked_add(size) else {
            break;
        };
        layout.len = layout.len.max(end);
        layout.params.push(Param { offset, size });
    }
    if !layout.known {
        layout.params.clear();
        layout.len = 0;
    }
    layout
}

/// Enters a function or kernel with its parameters and answers with both.
fn reply_function(call: &mut Call<'_>, kind: Kind, handle: u64, owner: u64) -> Outcome {
    let layout = enter_function(call, kind, handle, owner);
    reply_layout(call, handle, &layout, 0)
}

/// Enters a function or kernel; gives its parameters, learnt once.
pub fn enter_function(call: &Call<'_>, kind: Kind, handle: u64, owner: u64) -> Arc<Layout> {
    if let Some(layout) = call
        .worker
        .live
        .get(kind, handle)
        .filter(|entry| entry.owner == owner || owner == 0)
        .and_then(|entry| entry.layout)
    {
        return layout;
    }
    let layout = Arc::new(learn(call, handle, kind == Kind::Kernel));
    // A kernel belongs to no context.
    let ctx = if kind == Kind::Kernel {
        0
    } else {
        call.request.header.scope
    };
    let entry = Entry {
        ctx,
        owner,
        // What the driver could not tell now, without a current context say, it is asked again.
        layout: layout.known.then(|| Arc::clone(&layout)),
        ..Entry::default()
    };
    call.worker.live.enter(kind, handle, entry);
    layout
}

fn reply_layout(call: &mut Call<'_>, handle: u64, layout: &Layout, first: usize) -> Outcome {
    let wanted = layout.params.get(first..).unwrap_or(&[]);
    let room = call.reply_room().saturating_sub(size_of::<FunctionReply>()) / size_of::<Param>();
    let present = wanted.get(..room).unwrap_or(wanted);
    call.reply(&FunctionReply {
        handle,
        param_count: layout.params.len() as u32,
        present: present.len() as u32,
        params_len: layout.len,
        flags: u32::from(!layout.known),
    })?;
    call.reply_bytes(present.as_bytes())
}

/// [`PARAM_LAYOUT`](vgpu_protocol::number::internal::PARAM_LAYOUT).
///
/// # Errors
/// What the client gets.
pub fn param_layout(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ParamLayout>()?;
    let layout = layout_of(call, args.function)?;
    reply_layout(call, args.function, &layout, args.first as usize)
}

/// Parameters of a live function or kernel.
///
/// # Errors
/// `INVALID_HANDLE`.
pub fn layout_of(call: &Call<'_>, handle: u64) -> Result<Arc<Layout>, CUresult> {
    let live = &call.worker.live;
    let (kind, entry) = match live.get(Kind::Function, handle) {
        Some(entry) => (Kind::Function, entry),
        None => (
            Kind::Kernel,
            live.get(Kind::Kernel, handle)
                .ok_or(CUresult::INVALID_HANDLE)?,
        ),
    };
    Ok(entry
        .layout
        .unwrap_or_else(|| enter_function(call, kind, handle, entry.owner)))
}

/// `cuModuleGetFunction`.
///
/// # Errors
/// What the client gets.
pub fn module_function(call: &mut Call<'_>) -> Outcome {
    let module = CUmodule(call.take::<Lookup>()?.container);
    call.live(module)?;
    let name = call.take_name()?;
    call.worker.printing.kernel_is_taken(name.as_bytes());
    let lookup = call
        .driver()
        .cuModuleGetFunction
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut function = CUfunction::NULL;
    // SAFETY: the module is live, the name is terminated.
    call.result(unsafe { lookup(&raw mut function, module, name.as_ptr()) })?;
    reply_function(call, Kind::Function, function.0, module.0)
}

/// `cuLibraryGetKernel`.
///
/// # Errors
/// What the client gets.
pub fn library_kernel(call: &mut Call<'_>) -> Outcome {
    let library = CUlibrary(call.take::<Lookup>()?.container);
    call.live(library)?;
    let name = call.take_name()?;
    call.worker.printing.kernel_is_taken(name.as_bytes());
    let lookup = call
        .driver()
        .cuLibraryGetKernel
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut kernel = CUkernel::NULL;
    // SAFETY: the library is live, the name is terminated.
    call.result(unsafe { lookup(&raw mut kernel, library, name.as_ptr()) })?;
    reply_function(call, Kind::Kernel, kernel.0, library.0)
}

/// `cuKernelGetFunction`.
///
/// # Errors
/// What the client gets.
pub fn kernel_function(call: &mut Call<'_>) -> Outcome {
    let kernel: CUkernel = call
        .decode::<wire::cuKernelGetFunction::Args>()?
        .kernel
        .get();
    let library = call.entry(kernel)?.owner;
    let get = call
        .driver()
        .cuKernelGetFunction
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut function = CUfunction::NULL;
    // SAFETY: the kernel is live.
    call.result(unsafe { get(&raw mut function, kernel) })?;
    reply_function(call, Kind::Function, function.0, library)
}

type GetGlobal<T> =
    unsafe extern "C" fn(*mut CUdeviceptr, *mut usize, T, *const c_char) -> CUresult;

fn global<T: Handle>(
    call: &mut Call<'_>,
    wrap: impl FnOnce(u64) -> T,
    get: Option<GetGlobal<T>>,
) -> Outcome {
    let container = wrap(call.take::<Lookup>()?.container);
    call.live(container)?;
    let name = call.take_name()?;
    let get = get.ok_or(CUresult::NOT_SUPPORTED)?;
    let (mut dptr, mut bytes) = (CUdeviceptr::NULL, 0_usize);
    // SAFETY: the container is live, the name is terminated.
    call.result(unsafe { get(&raw mut dptr, &raw mut bytes, container, name.as_ptr()) })?;
    call.worker.placed(dptr.0)?;
    if is_managed(call, dptr) {
        // Its pages are this process's own: the client would find nothing at the address.
        return Err(CUresult::NOT_SUPPORTED);
    }
    call.reply(&GlobalReply {
        dptr: dptr.0,
        bytes: bytes as u64,
    })
}

/// Whether the driver says that an address is managed memory.
fn is_managed(call: &Call<'_>, dptr: CUdeviceptr) -> bool {
    const IS_MANAGED: u32 = 8;
    let mut managed = 0_u32;
    let to = (&raw mut managed).cast();
    // SAFETY: the result has room; the address is the driver's own.
    let asked =
        unsafe { vgpu_driver::call!(call.driver(), cuPointerGetAttribute(to, IS_MANAGED, dptr)) };
    asked == CUresult::SUCCESS && managed != 0
}

/// `cuModuleGetGlobal_v2`.
///
/// # Errors
/// What the client gets.
pub fn module_global(call: &mut Call<'_>) -> Outcome {
    let get = call.driver().cuModuleGetGlobal_v2;
    global(call, CUmodule, get)
}

/// `cuLibraryGetGlobal`.
///
/// # Errors
/// What the client gets.
pub fn library_global(call: &mut Call<'_>) -> Outcome {
    let get = call.driver().cuLibraryGetGlobal;
    global(call, CUlibrary, get)
}

/// `cuLibraryGetManaged`: finds nothing that could be given. A variable that is there is refused.
///
/// # Errors
/// What the client gets.
pub fn library_managed(call: &mut Call<'_>) -> Outcome {
    let library = CUlibrary(call.take::<Lookup>()?.container);
    call.live(library)?;
    let name = call.take_name()?;
    let get = call
        .driver()
        .cuLibraryGetManaged
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let (mut dptr, mut bytes) = (CUdeviceptr::NULL, 0_usize);
    // SAFETY: the library is live, the name is terminated.
    call.result(unsafe { get(&raw mut dptr, &raw mut bytes, library, name.as_ptr()) })?;
    Err(CUresult::NOT_SUPPORTED)
}

/// Entries that fit the room a client names, at most.
///
/// # Errors
/// `INVALID_VALUE` for room outside shared memory.
pub fn list_room(call: &Call<'_>, room: Blob) -> Result<usize, CUresult> {
    const MOST: usize = 1 << 20;
    if room.len == 0 {
        return Ok(0);
    }
    call.worker.shared_range(room.addr, room.len)?;
    Ok(usize::try_from(room.len / 8).unwrap_or(MOST).min(MOST))
}

/// Writes a list to where the client wants it.
///
/// # Errors
/// `INVALID_VALUE` for places outside shared memory.
pub fn deliver_list(call: &Call<'_>, address: u64, list: &[u64]) -> Outcome {
    if list.is_empty() {
        return Ok(());
    }
    let bytes = list.as_bytes();
    call.worker.shared_range(address, bytes.len() as u64)?;
    call.worker
        .channel
        .copy_in(address, bytes)
        .map_err(|_| CUresult::INVALID_VALUE)
}

/// `cuModuleEnumerateFunctions`.
///
/// # Errors
/// What the client gets.
pub fn module_functions(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let module = CUmodule(args.object);
    call.live(module)?;
    let (count, list) = (
        call.driver().cuModuleGetFunctionCount,
        call.driver().cuModuleEnumerateFunctions,
    );
    enumerate(
        call,
        &args,
        Kind::Function,
        // SAFETY: the module is live, results have room.
        |out| unsafe { count.map(|count| count(out, module)) },
        // SAFETY: as above; the buffer holds as many handles as it is said to.
        |out, room| unsafe { list.map(|list| list(out.cast(), room, module)) },
    )
}

/// `cuLibraryEnumerateKernels`.
///
/// # Errors
/// What the client gets.
pub fn library_kernels(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let library = CUlibrary(args.object);
    call.live(library)?;
    let (count, list) = (
        call.driver().cuLibraryGetKernelCount,
        call.driver().cuLibraryEnumerateKernels,
    );
    enumerate(
        call,
        &args,
        Kind::Kernel,
        // SAFETY: the library is live, results have room.
        |out| unsafe { count.map(|count| count(out, library)) },
        // SAFETY: as above; the buffer holds as many handles as it is said to.
        |out, room| unsafe { list.map(|list| list(out.cast(), room, library)) },
    )
}

fn enumerate(
    call: &mut Call<'_>,
    args: &ListRequest,
    kind: Kind,
    count: impl FnOnce(*mut u32) -> Option<CUresult>,
    list: impl FnOnce(*mut u64, u32) -> Option<CUresult>,
) -> Outcome {
    let room = list_room(call, args.out)?;
    let mut there = 0_u32;
    call.result(count(&raw mut there).ok_or(CUresult::NOT_SUPPORTED)?)?;
    let wanted = room.min(there as usize);
    let mut handles = vec![0_u64; wanted];
    if wanted > 0 {
        call.worker.printing.kernels_are_taken();
        let result = list(handles.as_mut_ptr(), wanted as u32);
        call.result(result.ok_or(CUresult::NOT_SUPPORTED)?)?;
        for handle in &handles {
            enter_function(call, kind, *handle, args.object);
        }
        deliver_list(call, args.out.addr, &handles)?;
    }
    let shown = if room == 0 { there as usize } else { wanted };
    call.reply(&ListReply {
        count: shown as u64,
    })
}

/// The linker's input: request, options, image, name.
///
/// # Errors
/// `INVALID_VALUE`, `INVALID_IMAGE`.
pub fn take_link_input(
    call: &mut Call<'_>,
) -> Result<(LoadImage, Options, Option<Arc<Image>>), CUresult> {
    let load = take_load(call)?;
    Ok((load.request, load.options, load.image))
}
