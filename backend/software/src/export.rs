//! The one private table this driver serves: NVIDIA's runtime asks it for the primary context's
//! handle before retaining it, and the worker does the same to tell its clients.

use crate::context;
use crate::entry::entries;
use std::ffi::c_void;
use std::mem::size_of;
use vgpu_protocol::cuda::{CUcontext, CUdevice, CUresult, CUuuid};

/// Identifies the table.
pub(crate) const CUDART: CUuuid = CUuuid {
    bytes: [
        0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d,
        0xf9,
    ],
};

entries! {
    ready fn primary_context(out ctx: CUcontext, val device: CUdevice) {
        crate::api::device::check(device)?;
        ctx.put(context::primary_handle(device.0))
    }
}

/// The function of every slot that is not served. It is called with arguments it does not look at,
/// which the C calling convention allows.
unsafe extern "C" fn refused() -> CUresult {
    CUresult::NOT_SUPPORTED
}

/// Laid out as callers read it: its size in bytes, then functions. Slot n is the nth word.
#[repr(C)]
struct CudartTable {
    size: usize,
    slot_1: unsafe extern "C" fn() -> CUresult,
    primary_context: unsafe extern "C" fn(*mut CUcontext, CUdevice) -> CUresult,
    rest: [unsafe extern "C" fn() -> CUresult; 10],
}

static TABLE: CudartTable = CudartTable {
    size: size_of::<CudartTable>(),
    slot_1: refused,
    primary_context,
    rest: [refused; 10],
};

/// Address of the table of this identity, if it is served.
pub(crate) fn table(id: CUuuid) -> Option<*const c_void> {
    (id == CUDART).then_some((&raw const TABLE).cast())
}
