//! A graph as text: the driver writes it to a file of the worker's own that has no name, and the
//! client gets the bytes.

use crate::call::{Call, Outcome};
use rustix::fs::MemfdFlags;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use vgpu_protocol::cuda::{CUgraph, CUresult};
use vgpu_protocol::wire::{ListReply, ListRequest};

/// Most bytes of a text.
const MOST: u64 = 64 << 20;

/// `cuGraphDebugDotPrint`.
///
/// # Errors
/// What the client gets.
pub fn dot(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let graph = CUgraph(args.object);
    call.live(graph)?;
    let flags = u32::try_from(args.extra).map_err(|_| call.malformed())?;
    if args.out.len > 0 {
        call.worker.shared_range(args.out.addr, args.out.len)?;
    }
    let print = call
        .driver()
        .cuGraphDebugDotPrint
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let file = rustix::fs::memfd_create("vgpu-graph", MemfdFlags::CLOEXEC)
        .map_err(|_| CUresult::OPERATING_SYSTEM)?;
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|_| CUresult::UNKNOWN)?;
    // SAFETY: the graph is live; the path is a text of ours.
    call.result(unsafe { print(graph, path.as_ptr(), flags) })?;
    let mut text = Vec::new();
    File::from(file)
        .take(MOST + 1)
        .read_to_end(&mut text)
        .map_err(|_| CUresult::OPERATING_SYSTEM)?;
    let len = text.len() as u64;
    if len > MOST {
        return Err(CUresult::OUT_OF_MEMORY);
    }
    if (1..=args.out.len).contains(&len) {
        call.worker
            .channel
            .copy_in(args.out.addr, &text)
            .map_err(|_| CUresult::INVALID_VALUE)?;
    }
    call.reply(&ListReply { count: len })
}
