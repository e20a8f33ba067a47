//! Launches: parameters back into the form that the driver takes.

use crate::call::{Call, Outcome};
use crate::live::{Kind, Layout};
use crate::modules;
use std::ffi::c_void;
use vgpu_protocol::cuda::{
    CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CUevent, CUfunction,
    CUlaunchAttribute, CUlaunchConfig, CUresult, CUstream,
};
use vgpu_protocol::wire::{AttributeReply, Launch, LaunchReply};

/// Most bytes of kernel parameters.
const MAX_PARAMS: usize = 32_768;
/// Most attributes of a launch; CUDA knows about twenty.
const MAX_ATTRIBUTES: u32 = 64;

/// The packed parameters of a launch, in private memory.
#[derive(Debug)]
pub enum Packed<'a> {
    /// In the record.
    Inline(&'a [u8]),
    /// Copied from the heap.
    Copied(Vec<u8>),
}

impl Packed<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Packed::Inline(bytes) => bytes,
            Packed::Copied(bytes) => bytes,
        }
    }
}

/// Takes the packed parameters that a launch header announces.
///
/// # Errors
/// `INVALID_VALUE`.
#[inline]
pub fn take_params<'a>(call: &mut Call<'a>, launch: &Launch) -> Result<Packed<'a>, CUresult> {
    let len = launch.params_len as usize;
    if launch.params == 0 {
        return call.take_bytes(len).map(Packed::Inline);
    }
    if len > MAX_PARAMS {
        return Err(call.malformed());
    }
    call.worker.shared_range(launch.params, len as u64)?;
    let mut bytes = vec![0; len];
    call.worker
        .channel
        .copy_out(launch.params, &mut bytes)
        .map_err(|_| CUresult::INVALID_VALUE)?;
    Ok(Packed::Copied(bytes))
}

/// Pointers to the parameters in `packed`, in order.
///
/// # Errors
/// `INVALID_VALUE` when the layout is unknown or `packed` is too short for it.
pub fn pointers(layout: &Layout, packed: &[u8]) -> Result<Vec<*mut c_void>, CUresult> {
    if !layout.known {
        return Err(CUresult::INVALID_VALUE);
    }
    layout
        .params
        .iter()
        .map(|param| {
            let start = param.offset as usize;
            let end = start
                .checked_add(param.size as usize)
                .ok_or(CUresult::INVALID_VALUE)?;
            packed
                .get(start..end)
                .map(|bytes| bytes.as_ptr().cast_mut().cast())
                .ok_or(CUresult::INVALID_VALUE)
        })
        .collect()
}

/// `cuLaunchKernel`, `cuLaunchKernelEx`, `cuLaunchCooperativeKernel`.
///
/// # Errors
/// What the client gets.
#[inline]
pub fn launch(call: &mut Call<'_>) -> Outcome {
    let launch = call.take::<Launch>()?;
    let function = CUfunction(launch.function);
    call.live(function)?;
    let stream = call.in_stream(CUstream(launch.stream))?;
    if launch.attribute_count != 0 || launch.flags & 1 != 0 {
        return launch_special(call, &launch, stream);
    }
    let packed = take_params(call, &launch)?;
    call.done()?;
    let bytes = packed.bytes();
    let mut len = bytes.len();
    let mut extra = extra_of(bytes, &mut len);
    let launch_kernel = call
        .driver()
        .cuLaunchKernel
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let (grid, block) = (launch.grid, launch.block);
    // SAFETY: function and stream are live; the parameter buffer is private and as long as it is
    // said to be.
    let result = unsafe {
        launch_kernel(
            function,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            launch.dynamic_shared,
            stream,
            std::ptr::null_mut(),
            extra_pointer(&mut extra, bytes),
        )
    };
    call.result(result)?;
    call.reply(&LaunchReply { device_node: 0 })
}

fn extra_of(bytes: &[u8], len: &mut usize) -> [*mut c_void; 5] {
    [
        CU_LAUNCH_PARAM_BUFFER_POINTER as *mut c_void,
        bytes.as_ptr().cast_mut().cast(),
        CU_LAUNCH_PARAM_BUFFER_SIZE as *mut c_void,
        (len as *mut usize).cast(),
        std::ptr::null_mut(),
    ]
}

/// A kernel without parameters gets no `extra` at all: drivers refuse an empty buffer.
fn extra_pointer(extra: &mut [*mut c_void; 5], bytes: &[u8]) -> *mut *mut c_void {
    if bytes.is_empty() {
        std::ptr::null_mut()
    } else {
        extra.as_mut_ptr()
    }
}

/// Attributes of a launch, checked.
///
/// # Errors
/// `INVALID_VALUE`, `INVALID_HANDLE`, `NOT_SUPPORTED`.
pub fn take_attributes(
    call: &mut Call<'_>,
    count: u32,
) -> Result<Vec<CUlaunchAttribute>, CUresult> {
    if count > MAX_ATTRIBUTES {
        return Err(call.malformed());
    }
    let attributes = call.take_list::<CUlaunchAttribute>(count as usize)?;
    for attribute in &attributes {
        check_attribute(call, attribute.id, &attribute.value.words)?;
    }
    Ok(attributes)
}

/// Checks what an attribute of a launch or stream points to.
///
/// # Errors
/// `INVALID_VALUE`, `INVALID_HANDLE`, `NOT_SUPPORTED`.
pub fn check_attribute(call: &mut Call<'_>, id: u32, value: &[u64; 8]) -> Outcome {
    match id {
        // Access policy window: base address first.
        1 => call.worker.device_address(value[0]),
        // Programmatic event (7) and launch completion event (12): event first.
        7 | 12 if value[0] != 0 => call.live(CUevent(value[0])),
        // Device-updatable node: its result belongs to a graph that this worker does not follow.
        13 => Err(CUresult::NOT_SUPPORTED),
        _ => Ok(()),
    }
}

#[cold]
fn launch_special(call: &mut Call<'_>, launch: &Launch, stream: CUstream) -> Outcome {
    let mut attributes = take_attributes(call, launch.attribute_count)?;
    let packed = take_params(call, launch)?;
    call.done()?;
    let bytes = packed.bytes();
    let function = CUfunction(launch.function);
    let (grid, block) = (launch.grid, launch.block);
    let result = if attributes.is_empty() {
        let layout = modules::layout_of(call, launch.function)?;
        let mut params = pointers(&layout, bytes)?;
        let cooperative = call
            .driver()
            .cuLaunchCooperativeKernel
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: function and stream are live; each pointer leads to as many private bytes as the
        // driver says that parameter has.
        unsafe {
            cooperative(
                function,
                grid[0],
                grid[1],
                grid[2],
                block[0],
                block[1],
                block[2],
                launch.dynamic_shared,
                stream,
                params.as_mut_ptr(),
            )
        }
    } else {
        let mut len = bytes.len();
        let mut extra = extra_of(bytes, &mut len);
        let config = config_of(launch, stream, &mut attributes);
        let launch_ex = call
            .driver()
            .cuLaunchKernelEx
            .ok_or(CUresult::NOT_SUPPORTED)?;
        // SAFETY: as for a plain launch; attributes were checked and outlive the call.
        unsafe {
            launch_ex(
                &raw const config,
                function,
                std::ptr::null_mut(),
                extra_pointer(&mut extra, bytes),
            )
        }
    };
    call.result(result)?;
    call.reply(&LaunchReply { device_node: 0 })
}

fn config_of(
    launch: &Launch,
    stream: CUstream,
    attributes: &mut [CUlaunchAttribute],
) -> CUlaunchConfig {
    CUlaunchConfig {
        grid: launch.grid,
        block: launch.block,
        dynamic_shared: launch.dynamic_shared,
        stream,
        attributes: attributes.as_mut_ptr(),
        attribute_count: attributes.len() as u32,
    }
}

type ClusterOccupancy =
    unsafe extern "C" fn(*mut i32, CUfunction, *const CUlaunchConfig) -> CUresult;

/// `cuOccupancyMaxActiveClusters`, `cuOccupancyMaxPotentialClusterSize`.
///
/// # Errors
/// What the client gets.
pub fn cluster_occupancy(call: &mut Call<'_>, ask: Option<ClusterOccupancy>) -> Outcome {
    let launch = call.take::<Launch>()?;
    let function = CUfunction(launch.function);
    call.live(function)?;
    let stream = call.in_stream(CUstream(launch.stream))?;
    let mut attributes = take_attributes(call, launch.attribute_count)?;
    call.done()?;
    let ask = ask.ok_or(CUresult::NOT_SUPPORTED)?;
    let config = config_of(&launch, stream, &mut attributes);
    let mut number = 0;
    // SAFETY: function and stream are live; the configuration outlives the call.
    call.result(unsafe { ask(&raw mut number, function, &raw const config) })?;
    reply_number(call, i64::from(number).cast_unsigned())
}

/// Answers with one number.
///
/// # Errors
/// Never for an empty answer.
pub fn reply_number(call: &mut Call<'_>, number: u64) -> Outcome {
    call.reply(&AttributeReply {
        value: [number, 0, 0, 0, 0, 0, 0, 0],
    })
}

/// Whether a handle is a kernel rather than a function.
pub fn is_kernel(call: &Call<'_>, handle: u64) -> bool {
    !call.worker.live.contains(Kind::Function, handle)
        && call.worker.live.contains(Kind::Kernel, handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::wire::Param;

    #[test]
    fn pointers_stay_inside_the_packed_bytes() {
        let layout = Layout {
            params: vec![Param { offset: 0, size: 8 }, Param { offset: 8, size: 4 }],
            len: 12,
            known: true,
        };
        let packed = [0; 12];
        let found = pointers(&layout, &packed).unwrap();
        assert_eq!(found[1] as usize - packed.as_ptr() as usize, 8);
        assert_eq!(
            pointers(&layout, &packed[..11]).err(),
            Some(CUresult::INVALID_VALUE)
        );
    }
}
