//! Kernel launches.
//!
//! Parameters are packed by the layout learnt with the function, never guessed. The first launch of
//! each signature is a call, because a bad configuration or a failed lazy load is an immediate,
//! harmless error natively; after it succeeded, launches of that signature are posted
//! (`semantics.md` 10).

use crate::call::{self, Completion, INLINE_BYTES};
use crate::client::{self, Client};
use crate::function::{self, Info};
use crate::stream::{self, NullStream, State};
use crate::{context, write};
use core::cell::RefCell;
use core::ffi::c_void;
use core::hash::{Hash, Hasher};
use std::collections::hash_map::DefaultHasher;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{AttributeReply, Launch, LaunchReply};
use zerocopy::IntoBytes;

/// Flag of [`Launch`]: cooperative.
const COOPERATIVE: u32 = 1;
/// Flag of [`Launch`]: the function is a `CUkernel`.
pub const IS_KERNEL: u32 = 2;

/// Largest grid extents; x may be larger than y and z.
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// Largest parameter buffer, in bytes, that CUDA knows.
const MAX_PARAMS: usize = 32_764;

/// Most attributes of a launch that are looked at; CUDA knows fewer than twenty.
const MAX_ATTRIBUTES: u32 = 64;

/// Bytes of attributes that travel in a posted record; launches with more are calls.
const MAX_POSTED_ATTRIBUTES: usize = 4 * size_of::<CUlaunchAttribute>();

/// `CU_LAUNCH_ATTRIBUTE_*` with consequences here.
mod attribute {
    pub const COOPERATIVE: u32 = 2;
    pub const PROGRAMMATIC_EVENT: u32 = 7;
    pub const LAUNCH_COMPLETION_EVENT: u32 = 12;
    pub const DEVICE_UPDATABLE_KERNEL_NODE: u32 = 13;
}

/// What a launch asks for, apart from parameters.
#[derive(Clone, Copy, Debug)]
struct Request<'a> {
    function: CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    attributes: &'a [CUlaunchAttribute],
    cooperative: bool,
}

thread_local! {
    /// Signatures of launches that have succeeded on this thread, with the generation they hold for.
    static SUCCEEDED: RefCell<[(u64, u64); 64]> = const { RefCell::new([(0, 0); 64]) };
}

impl Request<'_> {
    fn header(&self, info: &Info, stream: CUstream, params_len: usize) -> Launch {
        Launch {
            function: self.function.0,
            stream: stream.0,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            attribute_count: self.attributes.len() as u32,
            params_len: params_len as u32,
            flags: u32::from(self.cooperative) * COOPERATIVE
                + u32::from(info.is_kernel) * IS_KERNEL,
            params: 0,
        }
    }

    /// Everything a launch's success depends on but grid, stream and parameters.
    fn signature(&self, ctx: CUcontext) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.word(self.function.0);
        hash.word(ctx.0);
        hash.word(u64::from(self.block[0]) << 32 | u64::from(self.block[1]));
        hash.word(u64::from(self.block[2]) << 32 | u64::from(self.dynamic_shared));
        if !self.attributes.is_empty() {
            let mut rest = DefaultHasher::new();
            self.attributes.as_bytes().hash(&mut rest);
            hash.word(rest.finish());
        }
        hash.0 | 1
    }
}

/// A hash of a few words that costs next to nothing.
struct Fnv(u64);

impl Fnv {
    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

/// The packed parameters of one launch.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "short parameters must not cost an allocation"
)]
enum Params<'a> {
    /// Few enough to be copied on the stack.
    Short {
        bytes: [u8; INLINE_BYTES],
        len: usize,
    },
    /// Packed on the heap.
    Long(Vec<u8>),
    /// As the program packed them.
    Given(&'a [u8]),
}

impl Params<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Params::Short { bytes, len } => &bytes[..*len],
            Params::Long(bytes) => bytes,
            Params::Given(bytes) => bytes,
        }
    }
}

/// Packs `params` by the layout of `info`, or finds the program's own buffer in `extra`.
///
/// # Safety
/// `params` has a pointer for each parameter, each to as many bytes as the parameter has; `extra` is
/// a list as `cuLaunchKernel` takes it. Either may be null.
unsafe fn pack<'a>(
    client: &Client,
    info: &Info,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Params<'a>, CUresult> {
    if !extra.is_null() {
        if !params.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the caller's contract.
        return unsafe { given(extra) };
    }
    let layout = info.parameters(client)?;
    if !layout.list.is_empty() && params.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let len = layout.len as usize;
    let mut packed = if len <= INLINE_BYTES {
        Params::Short {
            bytes: [0; INLINE_BYTES],
            len,
        }
    } else if len <= MAX_PARAMS {
        Params::Long(vec![0; len])
    } else {
        return Err(CUresult::INVALID_VALUE);
    };
    let to: &mut [u8] = match &mut packed {
        Params::Short { bytes, .. } => &mut bytes[..],
        Params::Long(bytes) => bytes,
        Params::Given(_) => &mut [],
    };
    for (at, param) in layout.list.iter().enumerate() {
        // SAFETY: the caller's contract: one pointer per parameter.
        let from = unsafe { *params.add(at) };
        let (offset, size) = (param.offset as usize, param.size as usize);
        let Some(slot) = to.get_mut(offset..offset + size) else {
            return Err(CUresult::INVALID_VALUE);
        };
        if from.is_null() {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the caller's contract: `size` bytes lie there.
        unsafe { core::ptr::copy_nonoverlapping(from.cast::<u8>(), slot.as_mut_ptr(), size) };
    }
    Ok(packed)
}

/// The parameter buffer named by an `extra` list.
///
/// # Safety
/// `extra` ends with the end key.
unsafe fn given<'a>(extra: *mut *mut c_void) -> Result<Params<'a>, CUresult> {
    let (mut buffer, mut len) = (core::ptr::null::<u8>(), 0_usize);
    let mut at = 0;
    loop {
        // SAFETY: the caller's contract: keys and values alternate up to the end key.
        let key = unsafe { *extra.add(at) } as usize;
        match key {
            0 => break,
            // SAFETY: as above.
            CU_LAUNCH_PARAM_BUFFER_POINTER => buffer = unsafe { *extra.add(at + 1) }.cast(),
            CU_LAUNCH_PARAM_BUFFER_SIZE => {
                // SAFETY: as above.
                let size: *const usize = unsafe { *extra.add(at + 1) }.cast();
                if size.is_null() {
                    return Err(CUresult::INVALID_VALUE);
                }
                // SAFETY: as above: the value is a pointer to the size.
                len = unsafe { *size };
            }
            _ => return Err(CUresult::INVALID_VALUE),
        }
        at += 2;
    }
    if len > MAX_PARAMS || (buffer.is_null() && len > 0) {
        return Err(CUresult::INVALID_VALUE);
    }
    if len == 0 {
        return Ok(Params::Given(&[]));
    }
    // SAFETY: the caller's contract: the buffer has the size that came with it.
    Ok(Params::Given(unsafe {
        core::slice::from_raw_parts(buffer, len)
    }))
}

/// Sends a launch; gives the updatable node, if an attribute asked for one.
fn launch(
    client: &Client,
    request: &Request<'_>,
    info: &Info,
    stream: &State,
    params: &[u8],
) -> Result<u64, CUresult> {
    if request.grid.contains(&0)
        || request.block.contains(&0)
        || request
            .grid
            .iter()
            .zip(MAX_GRID)
            .any(|(extent, most)| *extent > most)
    {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut head = request.header(info, stream.handle, params.len());
    let attributes = request.attributes.as_bytes();
    let needs_answer = request.cooperative
        || attributes.len() > MAX_POSTED_ATTRIBUTES
        || request.attributes.iter().any(|attribute| {
            matches!(
                attribute.id,
                attribute::COOPERATIVE | attribute::DEVICE_UPDATABLE_KERNEL_NODE
            )
        });
    let generation = function::generation();
    let signature = request.signature(context::current());
    let known = !needs_answer
        && SUCCEEDED
            .with_borrow(|known| known[signature as usize >> 1 & 63] == (signature, generation));
    let number = if request.attributes.is_empty() {
        number::cuLaunchKernel
    } else {
        number::cuLaunchKernelEx
    };
    if !known {
        let mut reply = LaunchReply::default();
        call::call_in_stream(
            client,
            number,
            stream,
            &[head.as_bytes(), attributes, params],
            reply.as_mut_bytes(),
        )?;
        SUCCEEDED
            .with_borrow_mut(|known| known[signature as usize >> 1 & 63] = (signature, generation));
        return Ok(reply.device_node);
    }
    if size_of::<Launch>() + attributes.len() + params.len() <= INLINE_BYTES {
        call::post(
            client,
            number,
            stream,
            &[head.as_bytes(), attributes, params],
            Completion::Lazy,
        )?;
        return Ok(0);
    }
    // A long parameter block goes ahead through staging; it is free again once the launch is done.
    let chunk = stream::stage(client, params.len() as u64)?;
    client
        .channel()
        .copy_in(chunk.address, params)
        .map_err(|_| CUresult::UNKNOWN)?;
    head.params = chunk.address;
    let sent = call::post(
        client,
        number,
        stream,
        &[head.as_bytes(), attributes],
        Completion::Lazy,
    );
    stream::unstage(client, &chunk, stream, sent, stream::Until::Issued)?;
    Ok(0)
}

/// `cuLaunchKernel`.
///
/// # Safety
/// `params` and `extra` as the CUDA driver API says.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuLaunchKernel(
    default: NullStream,
    function: CUfunction,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: CUstream,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let info = function::find(function.0)?;
    let stream = stream::find(client, stream, default)?;
    let request = Request {
        function,
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared,
        attributes: &[],
        cooperative: false,
    };
    // SAFETY: the caller's contract.
    let params = unsafe { pack(client, &info, params, extra)? };
    launch(client, &request, &info, &stream, params.bytes()).map(|_| ())
}

/// `cuLaunchCooperativeKernel`.
///
/// # Safety
/// `params` as the CUDA driver API says.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuLaunchCooperativeKernel(
    default: NullStream,
    function: CUfunction,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: CUstream,
    params: *mut *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let info = function::find(function.0)?;
    let stream = stream::find(client, stream, default)?;
    let request = Request {
        function,
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared,
        attributes: &[],
        cooperative: true,
    };
    // SAFETY: the caller's contract.
    let params = unsafe { pack(client, &info, params, core::ptr::null_mut())? };
    launch(client, &request, &info, &stream, params.bytes()).map(|_| ())
}

/// The attributes of a launch configuration.
///
/// # Safety
/// The configuration's attribute array has as many entries as it says.
unsafe fn attributes<'a>(config: CUlaunchConfig) -> Result<&'a mut [CUlaunchAttribute], CUresult> {
    match config.attribute_count {
        0 => Ok(&mut []),
        count if count <= MAX_ATTRIBUTES && !config.attributes.is_null() => {
            // SAFETY: the caller's contract.
            Ok(unsafe { core::slice::from_raw_parts_mut(config.attributes, count as usize) })
        }
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// `cuLaunchKernelEx`.
///
/// # Safety
/// `config`, `params` and `extra` as the CUDA driver API says.
pub unsafe fn cuLaunchKernelEx(
    default: NullStream,
    config: *const CUlaunchConfig,
    function: CUfunction,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller gives a configuration or null.
    let config = unsafe { config.as_ref() }.ok_or(CUresult::INVALID_VALUE)?;
    let info = function::find(function.0)?;
    let stream = stream::find(client, config.stream, default)?;
    // SAFETY: the caller's contract.
    let attributes = unsafe { attributes(*config)? };
    for attribute in attributes.iter() {
        if matches!(
            attribute.id,
            attribute::PROGRAMMATIC_EVENT | attribute::LAUNCH_COMPLETION_EVENT
        ) {
            crate::event::recorded_elsewhere(CUevent(attribute.value.words[0]));
        }
    }
    let request = Request {
        function,
        grid: config.grid,
        block: config.block,
        dynamic_shared: config.dynamic_shared,
        attributes,
        cooperative: false,
    };
    // SAFETY: the caller's contract.
    let params = unsafe { pack(client, &info, params, extra)? };
    let node = launch(client, &request, &info, &stream, params.bytes())?;
    if node != 0 {
        for attribute in attributes {
            if attribute.id == attribute::DEVICE_UPDATABLE_KERNEL_NODE {
                // The second word is the node, an output.
                attribute.value.words[1] = node;
            }
        }
    }
    Ok(())
}

/// The wire form of a kernel node's launch: header and packed parameters.
///
/// # Safety
/// `node.params` and `node.extra` as the CUDA driver API says.
pub unsafe fn for_node(
    client: &Client,
    node: &CUDA_KERNEL_NODE_PARAMS,
) -> Result<(Launch, Vec<u8>), CUresult> {
    let handle = if node.function.is_null() {
        node.kernel.0
    } else {
        node.function.0
    };
    let info = function::find(handle)?;
    // SAFETY: the caller's contract.
    let params = unsafe { pack(client, &info, node.params, node.extra)? };
    let request = Request {
        function: CUfunction(handle),
        grid: node.grid,
        block: node.block,
        dynamic_shared: node.dynamic_shared,
        attributes: &[],
        cooperative: false,
    };
    let bytes = params.bytes().to_vec();
    Ok((request.header(&info, CUstream::NULL, bytes.len()), bytes))
}

/// Asks how many clusters fit, by a launch configuration.
///
/// # Safety
/// `config` is null or a configuration.
unsafe fn clusters(
    number: u16,
    out: *mut i32,
    function: CUfunction,
    config: *const CUlaunchConfig,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let config = unsafe { config.as_ref() }.ok_or(CUresult::INVALID_VALUE)?;
    let info = function::find(function.0)?;
    // SAFETY: the caller's contract.
    let attributes = unsafe { attributes(*config)? };
    let stream = stream::handle(client, config.stream, NullStream::Legacy)?;
    let request = Request {
        function,
        grid: config.grid,
        block: config.block,
        dynamic_shared: config.dynamic_shared,
        attributes,
        cooperative: false,
    };
    let head = request.header(&info, stream, 0);
    let mut reply = AttributeReply::default();
    call::call(
        client,
        number,
        &[head.as_bytes(), request.attributes.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(out, reply.value[0] as i32)
}

/// `cuOccupancyMaxActiveClusters`.
///
/// # Safety
/// `config` is null or a configuration.
pub unsafe fn cuOccupancyMaxActiveClusters(
    out: *mut i32,
    function: CUfunction,
    config: *const CUlaunchConfig,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { clusters(number::cuOccupancyMaxActiveClusters, out, function, config) }
}

/// `cuOccupancyMaxPotentialClusterSize`.
///
/// # Safety
/// `config` is null or a configuration.
pub unsafe fn cuOccupancyMaxPotentialClusterSize(
    out: *mut i32,
    function: CUfunction,
    config: *const CUlaunchConfig,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        clusters(
            number::cuOccupancyMaxPotentialClusterSize,
            out,
            function,
            config,
        )
    }
}
