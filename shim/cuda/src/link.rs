//! The just-in-time linker. Its result belongs to the link state and is kept here for the program.

use crate::call::{self, Block};
use crate::jit::Options;
use crate::{client, write};
use core::ffi::{CStr, c_char, c_void};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, ListReply, LoadReply};
use zerocopy::IntoBytes;

/// A link in progress.
#[derive(Debug, Default)]
struct Link {
    /// Options whose log buffers later steps fill.
    options: Options,
    /// The linked image, once complete.
    image: Option<Box<[u8]>>,
}

static LINKS: LazyLock<Mutex<HashMap<CUlinkState, Link>>> = LazyLock::new(Mutex::default);

/// `cuLinkCreate_v2`.
///
/// # Safety
/// The option arrays have `count` entries and stay valid until the link is destroyed.
pub unsafe fn cuLinkCreate_v2(
    count: u32,
    options: *mut u32,
    values: *mut *mut c_void,
    state: *mut CUlinkState,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if state.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let options = unsafe { Options::read(count, options, values)? };
    let head = wire::LoadImage {
        option_count: options.plain.len() as u32,
        ..wire::LoadImage::default()
    };
    let mut reply = LoadReply::default();
    call::call(
        client,
        number::cuLinkCreate_v2,
        &[head.as_bytes(), options.plain.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let handle = CUlinkState(reply.handle);
    LINKS.lock().unwrap_or_else(PoisonError::into_inner).insert(
        handle,
        Link {
            options,
            image: None,
        },
    );
    write(state, handle)
}

/// `cuLinkAddData_v2`.
///
/// # Safety
/// `data` has `size` bytes, `name` is null or a C string, the arrays have `count` entries.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuLinkAddData_v2(
    state: CUlinkState,
    kind: u32,
    data: *mut c_void,
    size: usize,
    name: *const c_char,
    count: u32,
    options: *mut u32,
    values: *mut *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if data.is_null() || size == 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let (options, bytes) = unsafe {
        (
            Options::read(count, options, values)?,
            core::slice::from_raw_parts(data.cast::<u8>(), size),
        )
    };
    let name = match name.is_null() {
        true => c"",
        // SAFETY: not null; the caller gives a C string.
        false => unsafe { CStr::from_ptr(name) },
    };
    let block = Block::holding(client, &[bytes])?;
    let links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let link = links.get(&state).ok_or(CUresult::INVALID_HANDLE)?;
    // Messages go to the buffers given at creation.
    let logs = link.options.logs(client)?;
    let head = wire::LoadImage {
        image: block.blob(),
        info_log: logs.info(),
        error_log: logs.error(),
        option_count: options.plain.len() as u32,
        kind,
    };
    let container = wire::Lookup { container: state.0 };
    let mut reply = LoadReply::default();
    let added = call::call_always(
        client,
        number::cuLinkAddData_v2,
        &[
            container.as_bytes(),
            head.as_bytes(),
            options.plain.as_bytes(),
            name.to_bytes(),
        ],
        reply.as_mut_bytes(),
    );
    // SAFETY: the contract of `cuLinkCreate_v2`.
    unsafe { link.options.deliver(&logs, &reply)? };
    added
}

/// `cuLinkAddFile_v2`: the file is the guest's own and is read here.
///
/// # Safety
/// `path` is a C string; the arrays have `count` entries.
pub unsafe fn cuLinkAddFile_v2(
    state: CUlinkState,
    kind: u32,
    path: *const c_char,
    count: u32,
    options: *mut u32,
    values: *mut *mut c_void,
) -> Result<(), CUresult> {
    client::entered()?;
    // SAFETY: the caller's contract.
    unsafe {
        let mut bytes = crate::module::read_file(path)?;
        cuLinkAddData_v2(
            state,
            kind,
            bytes.as_mut_ptr().cast(),
            bytes.len(),
            path,
            count,
            options,
            values,
        )
    }
}

/// `cuLinkComplete`.
///
/// # Safety
/// `cubin` and `size` are null or valid.
pub unsafe fn cuLinkComplete(
    state: CUlinkState,
    cubin: *mut *mut c_void,
    size: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if cubin.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let ask = |out: wire::Blob| {
        let head = wire::ListRequest {
            object: state.0,
            out,
            extra: 0,
        };
        let mut reply = ListReply::default();
        call::call(
            client,
            number::cuLinkComplete,
            &[head.as_bytes()],
            reply.as_mut_bytes(),
        )?;
        usize::try_from(reply.count).map_err(|_| CUresult::UNKNOWN)
    };
    let len = ask(wire::Blob::default())?;
    let block = Block::new(client, len)?;
    ask(block.blob())?;
    let mut image = vec![0; len].into_boxed_slice();
    block.read(&mut image)?;
    let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let link = links.get_mut(&state).ok_or(CUresult::INVALID_HANDLE)?;
    let image = link.image.insert(image);
    write(cubin, image.as_mut_ptr().cast())?;
    if !size.is_null() {
        write(size, len)?;
    }
    Ok(())
}

/// `cuLinkDestroy`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuLinkDestroy(state: CUlinkState) -> Result<(), CUresult> {
    let client = client::entered()?;
    let head = wire::Lookup { container: state.0 };
    call::call(client, number::cuLinkDestroy, &[head.as_bytes()], &mut [])?;
    LINKS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&state);
    Ok(())
}
