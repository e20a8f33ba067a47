//! What programs ask and set of functions and kernels: parameters, names, attributes, preferences.

use super::{Info, find, forget_signatures};
use crate::client::{self, Client};
use crate::{call, write};
use core::ffi::c_char;
use std::sync::PoisonError;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, Word};
use zerocopy::{FromZeros, IntoBytes};

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

/// Has the driver change settings of a function or kernel.
fn change(client: &Client, number: u16, handle: u64, args: &[u8]) -> Result<(), CUresult> {
    call::call(client, number, &[args], &mut [])?;
    changed(handle);
    Ok(())
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
    change(
        client,
        number::cuKernelSetAttribute,
        kernel.0,
        args.as_bytes(),
    )
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
    change(
        client,
        number::cuFuncSetAttribute,
        function.0,
        args.as_bytes(),
    )
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
    change(
        client,
        number::cuFuncSetCacheConfig,
        function.0,
        args.as_bytes(),
    )
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
    change(
        client,
        number::cuKernelSetCacheConfig,
        kernel.0,
        args.as_bytes(),
    )
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
    change(
        client,
        number::cuFuncSetSharedMemConfig,
        function.0,
        args.as_bytes(),
    )
}
