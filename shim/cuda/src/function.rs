//! Functions and kernels: what was learnt with the handle (parameter layout, name) and what is
//! remembered of answers (attributes, occupancy), so that a launch asks nobody.
//!
//! Handles are recycled by the driver, so everything is dropped when a module or library goes.

use crate::client::{self, Client};
use crate::{call, context, write};
use core::ffi::c_char;
use core::mem::ManuallyDrop;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, RwLock};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::{call as number, internal};
use vgpu_protocol::wire::{self, FunctionReply, Param, Word, read_prefix};
use zerocopy::{FromZeros, IntoBytes};

/// Largest number of parameters asked for: 32,764 bytes of single bytes.
const MAX_PARAMS: u32 = 32_764;

/// A function or kernel.
#[derive(Debug)]
pub struct Info {
    /// The handle, as the worker gave it.
    pub handle: u64,
    /// Whether it is a `CUkernel`.
    pub is_kernel: bool,
    /// The kernel it was made from, or null.
    pub kernel: CUkernel,
    /// Module or library it came from.
    pub container: u64,
    /// Its name, if it was looked up by name.
    pub name: Option<CString>,
    /// Its parameters, once the driver could tell them: see [`Info::parameters`].
    parameters: OnceLock<Parameters>,
    /// Attribute values asked for before.
    attributes: Mutex<HashMap<(i32, i32), i32>>,
    /// Occupancy answers, by block size, dynamic shared memory and flags.
    occupancy: Mutex<HashMap<(i32, usize, u32), i32>>,
}

/// The parameters of a function.
#[derive(Debug, Default)]
pub struct Parameters {
    /// Offset and size of each.
    pub list: Box<[Param]>,
    /// Bytes of the buffer that they are packed into.
    pub len: u32,
}

impl Info {
    /// The parameters. The driver tells those of a kernel only where a context is current, which need not be so where it was
    /// looked up: then it is asked again.
    ///
    /// # Errors
    /// `INVALID_CONTEXT` where none is current, `NOT_SUPPORTED` when the driver cannot tell.
    pub fn parameters(&self, client: &Client) -> Result<&Parameters, CUresult> {
        match self.parameters.get() {
            Some(known) => Ok(known),
            None => self.ask(client),
        }
    }

    #[cold]
    fn ask(&self, client: &Client) -> Result<&Parameters, CUresult> {
        if context::current().is_null() {
            return Err(CUresult::INVALID_CONTEXT);
        }
        let mut reply = [0; vgpu_channel::reply::PAYLOAD_BYTES];
        let len = ask_for(client, self.handle, self.is_kernel, 0, &mut reply)?;
        let (head, rest) = read_prefix::<FunctionReply>(&reply[..len]).ok_or(CUresult::UNKNOWN)?;
        let parameters =
            parameters(client, &head, rest, self.is_kernel)?.ok_or(CUresult::NOT_SUPPORTED)?;
        Ok(self.parameters.get_or_init(|| parameters))
    }
}

static FUNCTIONS: LazyLock<RwLock<HashMap<u64, Arc<Info>>>> = LazyLock::new(RwLock::default);

/// Moves whenever remembered launches or functions may be wrong.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Now-valid generation of everything threads remember of functions.
#[inline]
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Makes threads forget which launches have succeeded (`semantics.md` 10).
pub fn forget_signatures() {
    GENERATION.fetch_add(1, Ordering::Release);
}

/// A remembered look-up: the generation it holds for, and what was found.
type Remembered = Option<(u64, Arc<Info>)>;

thread_local! {
    /// The last functions of this thread, by a few bits of the handle.
    static RECENT: ManuallyDrop<RefCell<[Remembered; 16]>> =
        const { ManuallyDrop::new(RefCell::new([const { None }; 16])) };
}

/// Forgets what the calling thread remembers, when it ends.
pub fn forget_recent() {
    RECENT.with(|recent| recent.borrow_mut().fill(None));
}

/// A function or kernel by its handle.
///
/// # Errors
/// `INVALID_HANDLE` for what is neither.
pub fn find(handle: u64) -> Result<Arc<Info>, CUresult> {
    let generation = generation();
    RECENT.with(|recent| {
        let mut recent = recent.borrow_mut();
        let place = &mut recent[(handle >> 4 ^ handle >> 10) as usize % 16];
        if let Some((at, info)) = place
            && *at == generation
            && info.handle == handle
        {
            return Ok(info.clone());
        }
        let functions = FUNCTIONS.read().unwrap_or_else(PoisonError::into_inner);
        let info = functions
            .get(&handle)
            .cloned()
            .ok_or(CUresult::INVALID_HANDLE)?;
        *place = Some((generation, info.clone()));
        Ok(info)
    })
}

/// Enters a function from the worker's reply to a look-up.
///
/// # Errors
/// When more of the layout must be asked for and that fails.
pub fn enter(
    client: &Client,
    reply: &[u8],
    is_kernel: bool,
    container: u64,
    name: Option<CString>,
) -> Result<u64, CUresult> {
    enter_from(
        client,
        reply,
        if is_kernel {
            Origin::Kernel
        } else {
            Origin::Module
        },
        container,
        name,
    )
}

/// Where a function comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A module: a `CUfunction`.
    Module,
    /// A library: it is a `CUkernel` itself.
    Kernel,
    /// A `CUfunction` made from this kernel.
    Made(CUkernel),
}

/// As [`enter`], for every origin.
///
/// # Errors
/// As [`enter`].
pub fn enter_from(
    client: &Client,
    reply: &[u8],
    origin: Origin,
    container: u64,
    name: Option<CString>,
) -> Result<u64, CUresult> {
    let is_kernel = origin == Origin::Kernel;
    let (head, rest) = read_prefix::<FunctionReply>(reply).ok_or(CUresult::UNKNOWN)?;
    if let Some(known) = FUNCTIONS
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&head.handle)
        && known.container == container
        && known.is_kernel == is_kernel
        && (known.name.is_some() || name.is_none())
    {
        return Ok(head.handle);
    }
    let parameters = match parameters(client, &head, rest, is_kernel)? {
        Some(known) => OnceLock::from(known),
        None => OnceLock::new(),
    };
    let info = Arc::new(Info {
        handle: head.handle,
        is_kernel,
        kernel: match origin {
            Origin::Made(kernel) => kernel,
            Origin::Module | Origin::Kernel => CUkernel::NULL,
        },
        container,
        name,
        parameters,
        attributes: Mutex::default(),
        occupancy: Mutex::default(),
    });
    FUNCTIONS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(head.handle, info);
    forget_signatures();
    Ok(head.handle)
}

/// Asks the worker for the parameters of a function from the `first` on.
fn ask_for(
    client: &Client,
    function: u64,
    is_kernel: bool,
    first: u32,
    reply: &mut [u8],
) -> Result<usize, CUresult> {
    let args = wire::ParamLayout {
        function,
        first,
        flags: u32::from(is_kernel),
    };
    call::call_variable(client, internal::PARAM_LAYOUT, &[args.as_bytes()], reply)
}

/// The parameters that a worker's reply begins with; asks for the rest. `None` when the driver could not tell them.
fn parameters(
    client: &Client,
    head: &FunctionReply,
    mut rest: &[u8],
    is_kernel: bool,
) -> Result<Option<Parameters>, CUresult> {
    if head.flags & 1 != 0 || head.param_count > MAX_PARAMS {
        return Ok(None);
    }
    let mut params = Vec::new();
    take_params(&mut params, head.present, &mut rest);
    while params.len() < head.param_count as usize {
        let before = params.len();
        let mut more = [0; vgpu_channel::reply::PAYLOAD_BYTES];
        let len = ask_for(client, head.handle, is_kernel, before as u32, &mut more)?;
        let (head, mut rest) =
            read_prefix::<FunctionReply>(&more[..len]).ok_or(CUresult::UNKNOWN)?;
        take_params(&mut params, head.present, &mut rest);
        if params.len() == before {
            return Err(CUresult::UNKNOWN);
        }
    }
    let fits = params.iter().all(|param| {
        param
            .offset
            .checked_add(param.size)
            .is_some_and(|end| end <= head.params_len)
    });
    Ok(fits.then(|| Parameters {
        list: params.into_boxed_slice(),
        len: head.params_len,
    }))
}

fn take_params(params: &mut Vec<Param>, present: u32, rest: &mut &[u8]) {
    for _ in 0..present {
        let Some((param, tail)) = read_prefix::<Param>(rest) else {
            return;
        };
        params.push(param);
        *rest = tail;
    }
}

/// Forgets the functions of a module or library that is gone.
pub fn container_gone(container: u64) {
    FUNCTIONS
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|_, info| info.container != container);
    forget_signatures();
}

fn param_info(
    client: &Client,
    info: &Info,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Result<(), CUresult> {
    let param = info.parameters(client)?.list.get(index);
    let param = param.ok_or(CUresult::INVALID_VALUE)?;
    write(offset, param.offset as usize)?;
    if !size.is_null() {
        write(size, param.size as usize)?;
    }
    Ok(())
}

/// `cuFuncGetParamInfo`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuFuncGetParamInfo(
    function: CUfunction,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let info = find(function.0)?;
    if info.is_kernel {
        // As measured: a kernel cast to a function is refused here.
        return Err(CUresult::INVALID_HANDLE);
    }
    param_info(client, &info, index, offset, size)
}

/// `cuKernelGetParamInfo`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuKernelGetParamInfo(
    kernel: CUkernel,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    param_info(client, &*find(kernel.0)?, index, offset, size)
}

/// The name of a function that was looked up by name.
fn name(handle: u64, text: *mut *const c_char) -> Result<(), CUresult> {
    client::entered()?;
    if text.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let info = find(handle)?;
    // The map keeps the text alive as long as the function lives.
    let found = info.name.as_ref().ok_or(CUresult::NOT_SUPPORTED)?;
    write(text, found.as_ptr())
}

/// `cuFuncGetName`.
///
/// # Safety
/// `text` is null or valid.
pub unsafe fn cuFuncGetName(
    text: *mut *const c_char,
    function: CUfunction,
) -> Result<(), CUresult> {
    name(function.0, text)
}

/// `cuKernelGetName`.
///
/// # Safety
/// `text` is null or valid.
pub unsafe fn cuKernelGetName(text: *mut *const c_char, kernel: CUkernel) -> Result<(), CUresult> {
    name(kernel.0, text)
}

/// `cuFuncGetAttribute`.
///
/// # Safety
/// `value` is null or valid.
pub unsafe fn cuFuncGetAttribute(
    value: *mut i32,
    attribute: i32,
    function: CUfunction,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let info = find(function.0)?;
    let known = info
        .attributes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&(attribute, -1))
        .copied();
    if let Some(known) = known {
        return write(value, known);
    }
    let args = wire::cuFuncGetAttribute::Args {
        value: [],
        attribute: Word::of(attribute),
        function: Word::of(function),
    };
    let mut reply = wire::cuFuncGetAttribute::Reply::new_zeroed();
    call::call(
        client,
        number::cuFuncGetAttribute,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let answer = reply.value.get();
    info.attributes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert((attribute, -1), answer);
    write(value, answer)
}

/// `cuKernelGetAttribute`.
///
/// # Safety
/// `value` is null or valid.
pub unsafe fn cuKernelGetAttribute(
    value: *mut i32,
    attribute: i32,
    kernel: CUkernel,
    dev: CUdevice,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let info = find(kernel.0)?;
    let key = (attribute, dev.0);
    let known = info
        .attributes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
        .copied();
    if let Some(known) = known {
        return write(value, known);
    }
    let args = wire::cuKernelGetAttribute::Args {
        value: [],
        attribute: Word::of(attribute),
        kernel: Word::of(kernel),
        dev: Word::of(client.backend_ordinal(dev)?),
    };
    let mut reply = wire::cuKernelGetAttribute::Reply::new_zeroed();
    call::call(
        client,
        number::cuKernelGetAttribute,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let answer = reply.value.get();
    info.attributes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, answer);
    write(value, answer)
}

/// After a change of a function's settings: nothing remembered of it holds.
fn changed(handle: u64) {
    if let Ok(info) = find(handle) {
        info.attributes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        info.occupancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
    forget_signatures();
}

/// `cuKernelSetAttribute`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuKernelSetAttribute(
    attribute: i32,
    value: i32,
    kernel: CUkernel,
    dev: CUdevice,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuKernelSetAttribute::Args {
        attribute: Word::of(attribute),
        value: Word::of(value),
        kernel: Word::of(kernel),
        dev: Word::of(client.backend_ordinal(dev)?),
    };
    call::call(
        client,
        number::cuKernelSetAttribute,
        &[args.as_bytes()],
        &mut [],
    )?;
    changed(kernel.0);
    Ok(())
}

/// `cuFuncSetAttribute`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuFuncSetAttribute(
    function: CUfunction,
    attribute: i32,
    value: i32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuFuncSetAttribute::Args {
        function: Word::of(function),
        attribute: Word::of(attribute),
        value: Word::of(value),
    };
    call::call(
        client,
        number::cuFuncSetAttribute,
        &[args.as_bytes()],
        &mut [],
    )?;
    changed(function.0);
    Ok(())
}

/// `cuFuncSetCacheConfig`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuFuncSetCacheConfig(function: CUfunction, config: u32) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuFuncSetCacheConfig::Args {
        function: Word::of(function),
        config: Word::of(config),
    };
    call::call(
        client,
        number::cuFuncSetCacheConfig,
        &[args.as_bytes()],
        &mut [],
    )?;
    changed(function.0);
    Ok(())
}

/// `cuKernelSetCacheConfig`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuKernelSetCacheConfig(
    kernel: CUkernel,
    config: u32,
    dev: CUdevice,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuKernelSetCacheConfig::Args {
        kernel: Word::of(kernel),
        config: Word::of(config),
        dev: Word::of(client.backend_ordinal(dev)?),
    };
    call::call(
        client,
        number::cuKernelSetCacheConfig,
        &[args.as_bytes()],
        &mut [],
    )?;
    changed(kernel.0);
    Ok(())
}

/// `cuFuncSetSharedMemConfig`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuFuncSetSharedMemConfig(function: CUfunction, config: u32) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuFuncSetSharedMemConfig::Args {
        function: Word::of(function),
        config: Word::of(config),
    };
    call::call(
        client,
        number::cuFuncSetSharedMemConfig,
        &[args.as_bytes()],
        &mut [],
    )?;
    changed(function.0);
    Ok(())
}

/// A question about occupancy of a function or kernel.
#[derive(Clone, Copy, Debug)]
struct Occupancy {
    function: CUfunction,
    block: i32,
    dynamic_shared: usize,
    flags: u32,
}

fn occupancy(question: Occupancy) -> Result<i32, CUresult> {
    let client = client::entered()?;
    let info = find(question.function.0)?;
    let key = (question.block, question.dynamic_shared, question.flags);
    let known = info
        .occupancy
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
        .copied();
    if let Some(known) = known {
        return Ok(known);
    }
    let args = wire::AttributeRequest {
        object: question.function.0,
        attribute: question.flags,
        len: u32::from(info.is_kernel),
        value: [
            question.block as u64,
            question.dynamic_shared as u64,
            0,
            0,
            0,
            0,
            0,
            0,
        ],
    };
    let mut reply = wire::AttributeReply::default();
    call::call(
        client,
        number::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let blocks = reply.value[0] as i32;
    info.occupancy
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, blocks);
    Ok(blocks)
}

/// `cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags`.
///
/// # Safety
/// `blocks` is null or valid.
pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut i32,
    function: CUfunction,
    block: i32,
    dynamic_shared: usize,
    flags: u32,
) -> Result<(), CUresult> {
    write(
        blocks,
        occupancy(Occupancy {
            function,
            block,
            dynamic_shared,
            flags,
        })?,
    )
}

/// `cuOccupancyMaxActiveBlocksPerMultiprocessor`.
///
/// # Safety
/// `blocks` is null or valid.
pub unsafe fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut i32,
    function: CUfunction,
    block: i32,
    dynamic_shared: usize,
) -> Result<(), CUresult> {
    write(
        blocks,
        occupancy(Occupancy {
            function,
            block,
            dynamic_shared,
            flags: 0,
        })?,
    )
}

/// `cuOccupancyMaxPotentialBlockSize`.
///
/// # Safety
/// As [`cuOccupancyMaxPotentialBlockSizeWithFlags`].
pub unsafe fn cuOccupancyMaxPotentialBlockSize(
    min_grid: *mut i32,
    block: *mut i32,
    function: CUfunction,
    shared_of_block: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: i32,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        cuOccupancyMaxPotentialBlockSizeWithFlags(
            min_grid,
            block,
            function,
            shared_of_block,
            dynamic_shared,
            limit,
            0,
        )
    }
}

/// `cuOccupancyMaxPotentialBlockSizeWithFlags`: the search is done here, because the callback is the
/// program's.
///
/// # Safety
/// The pointers are null or valid, the callback null or a function of its signature.
pub unsafe fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    min_grid: *mut i32,
    block: *mut i32,
    function: CUfunction,
    shared_of_block: CUoccupancyB2DSize,
    dynamic_shared: usize,
    limit: i32,
    flags: u32,
) -> Result<(), CUresult> {
    const MAX_THREADS_PER_BLOCK: i32 = 0;
    const WARP_SIZE: i32 = 10;
    const MULTIPROCESSOR_COUNT: i32 = 16;
    let client = client::entered()?;
    let device = client.device(crate::context::device()?)?;
    let mut most = 0;
    if find(function.0)?.is_kernel {
        let dev = crate::context::device()?;
        // SAFETY: a pointer to a local.
        unsafe {
            cuKernelGetAttribute(
                &raw mut most,
                MAX_THREADS_PER_BLOCK,
                CUkernel(function.0),
                dev,
            )?
        };
    } else {
        // SAFETY: a pointer to a local.
        unsafe { cuFuncGetAttribute(&raw mut most, MAX_THREADS_PER_BLOCK, function)? };
    }
    let warp = device.attribute(WARP_SIZE)?.max(1);
    let most = if limit > 0 { most.min(limit) } else { most };
    let mut best = (0, 0, 0);
    let mut size = (most + warp - 1) / warp * warp;
    while size > 0 {
        let threads = size.min(most);
        let shared = match shared_of_block {
            // SAFETY: the program's own function.
            Some(shared_of_block) => unsafe { shared_of_block(threads) },
            None => dynamic_shared,
        };
        let blocks = occupancy(Occupancy {
            function,
            block: threads,
            dynamic_shared: shared,
            flags,
        })?;
        if threads.saturating_mul(blocks) > best.0 {
            best = (threads.saturating_mul(blocks), threads, blocks);
        }
        size -= warp;
    }
    write(
        min_grid,
        best.2
            .saturating_mul(device.attribute(MULTIPROCESSOR_COUNT)?),
    )?;
    write(block, best.1)
}

/// `cuOccupancyAvailableDynamicSMemPerBlock`.
///
/// # Safety
/// `bytes` is null or valid.
pub unsafe fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: *mut usize,
    function: CUfunction,
    blocks: i32,
    block: i32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let info = find(function.0)?;
    let args = wire::AttributeRequest {
        object: function.0,
        attribute: 0,
        len: u32::from(info.is_kernel),
        value: [blocks as u64, block as u64, 0, 0, 0, 0, 0, 0],
    };
    let mut reply = wire::AttributeReply::default();
    call::call(
        client,
        number::cuOccupancyAvailableDynamicSMemPerBlock,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(bytes, reply.value[0] as usize)
}
