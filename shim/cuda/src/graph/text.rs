//! A graph as text.

use crate::call::{self, Block};
use crate::client;
use core::ffi::{CStr, c_char};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{ListReply, ListRequest};
use zerocopy::IntoBytes;

/// Room for the text at first, in bytes.
const ROOM: u64 = 64 << 10;

/// `cuGraphDebugDotPrint`: the driver's text, written by the program's process.
///
/// # Safety
/// `path` is null or a text.
pub unsafe fn cuGraphDebugDotPrint(
    graph: CUgraph,
    path: *const c_char,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if path.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let path = OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes());
    let mut room = ROOM;
    // Another thread may make the graph longer meanwhile, but not for ever.
    for _ in 0..8 {
        let block = Block::new(client, room as usize)?;
        let args = ListRequest {
            object: graph.0,
            out: block.blob(),
            extra: flags.into(),
        };
        let mut reply = ListReply::default();
        call::call(
            client,
            number::cuGraphDebugDotPrint,
            &[args.as_bytes()],
            reply.as_mut_bytes(),
        )?;
        if reply.count <= room {
            let mut text = vec![0; reply.count as usize];
            block.read(&mut text)?;
            return std::fs::write(path, text).map_err(|error| {
                crate::log::line(format_args!(
                    "the text of a graph cannot be written to {}: {error}",
                    path.display()
                ));
                CUresult::OPERATING_SYSTEM
            });
        }
        room = reply.count.saturating_mul(2);
    }
    Err(CUresult::OPERATING_SYSTEM)
}
