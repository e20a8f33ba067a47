//! The just-in-time linker. The driver writes logs into buffers named when the link state is made,
//! so those live here as long as the state does; the linked image belongs to the state, too.

use crate::call::{Call, Outcome};
use crate::live::{FastMap, Kind, lock};
use crate::modules::{Options, take_link_input};
use std::ffi::c_void;
use std::sync::Mutex;
use vgpu_protocol::cuda::{CUlinkState, CUresult};
use vgpu_protocol::wire::{Blob, ListReply, ListRequest, LoadReply, Lookup};

/// What is kept of a link state.
#[derive(Debug)]
struct Link {
    options: Options,
    /// The linked image, once complete: the driver gives it once.
    image: Option<Vec<u8>>,
}

/// The linker invocations of a worker.
#[derive(Debug, Default)]
pub struct Links {
    states: Mutex<FastMap<Link>>,
}

/// `cuLinkCreate_v2`.
///
/// # Errors
/// What the client gets.
pub fn create(call: &mut Call<'_>) -> Outcome {
    let (_, mut options, image) = take_link_input(call)?;
    call.done()?;
    if image.is_some() {
        return Err(call.malformed());
    }
    let function = call
        .driver()
        .cuLinkCreate_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut state = CUlinkState::NULL;
    let count = options.count();
    let (ids, values) = options.arrays();
    // SAFETY: the options' buffers are kept until the state is destroyed.
    call.result(unsafe { function(count, ids, values, &raw mut state) })?;
    call.enter(state, 0);
    let link = Link {
        options,
        image: None,
    };
    lock(&call.worker.links.states).insert(state.0, link);
    call.reply(&LoadReply {
        handle: state.0,
        ..LoadReply::default()
    })
}

fn logs(call: &Call<'_>, state: u64, info: Blob, error: Blob) -> Result<(u32, u32), CUresult> {
    match lock(&call.worker.links.states).get(&state) {
        Some(link) => link.options.deliver(call, info, error),
        None => Ok((0, 0)),
    }
}

/// `cuLinkAddData_v2`.
///
/// # Errors
/// What the client gets.
pub fn add(call: &mut Call<'_>) -> Outcome {
    let state = CUlinkState(call.take::<Lookup>()?.container);
    call.live(state)?;
    let (request, mut options, image) = take_link_input(call)?;
    let image = image.ok_or(CUresult::INVALID_VALUE)?;
    let name = call.take_name()?;
    let function = call
        .driver()
        .cuLinkAddData_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let count = options.count();
    let (ids, values) = options.arrays();
    // PTX text is counted with its terminator.
    let is_text = request.kind == 1;
    let len = image.byte_count().saturating_add(usize::from(is_text));
    // SAFETY: the image is a private copy with zero bytes behind it; the driver copies what it
    // keeps. Name and options outlive the call.
    let result = unsafe {
        function(
            state,
            request.kind,
            image.as_ptr().cast_mut().cast::<c_void>(),
            len,
            name.as_ptr(),
            count,
            ids,
            values,
        )
    };
    let (info_len, error_len) = logs(call, state.0, request.info_log, request.error_log)?;
    call.reply(&LoadReply {
        handle: state.0,
        info_len,
        error_len,
    })?;
    call.result(result)
}

/// `cuLinkComplete`.
///
/// # Errors
/// What the client gets.
pub fn complete(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let state = CUlinkState(args.object);
    call.live(state)?;
    let mut states = lock(&call.worker.links.states);
    let link = states.get_mut(&state.0).ok_or(CUresult::INVALID_HANDLE)?;
    if link.image.is_none() {
        let function = call
            .driver()
            .cuLinkComplete
            .ok_or(CUresult::NOT_SUPPORTED)?;
        let (mut image, mut len) = (std::ptr::null_mut(), 0_usize);
        // SAFETY: the state is live, results have room here.
        call.result(unsafe { function(state, &raw mut image, &raw mut len) })?;
        if image.is_null() {
            return Err(CUresult::UNKNOWN);
        }
        // SAFETY: the driver says that so many bytes lie there until the state is destroyed.
        let bytes = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), len) };
        link.image = Some(bytes.to_vec());
    }
    let image = link.image.as_deref().unwrap_or(&[]);
    let len = image.len() as u64;
    if args.out.len >= len && len > 0 {
        call.worker.shared_range(args.out.addr, len)?;
        call.worker
            .channel
            .copy_in(args.out.addr, image)
            .map_err(|_| CUresult::INVALID_VALUE)?;
    }
    drop(states);
    call.reply(&ListReply { count: len })
}

/// `cuLinkDestroy`.
///
/// # Errors
/// What the client gets.
pub fn destroy(call: &mut Call<'_>) -> Outcome {
    let state = CUlinkState(call.decode::<Lookup>()?.container);
    call.worker
        .live
        .remove(Kind::Link, state.0)
        .ok_or(CUresult::INVALID_HANDLE)?;
    let function = call.driver().cuLinkDestroy.ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the state was live until just now.
    let result = unsafe { function(state) };
    lock(&call.worker.links.states).remove(&state.0);
    call.result(result)
}
