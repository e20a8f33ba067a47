//! Objects of the program whose end graphs put off.

use crate::call;
use crate::callback;
use crate::client;
use crate::write;
use core::ffi::c_void;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, UserObject};
use zerocopy::{FromZeros, IntoBytes};

/// `cuUserObjectCreate`. The program's function runs in the program, when the last reference is gone.
///
/// # Safety
/// `object` is null or valid; `destroy` is null or a function of its signature.
pub unsafe fn cuUserObjectCreate(
    object: *mut CUuserObject,
    pointer: *mut c_void,
    destroy: CUhostFn,
    count: u32,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let destroy = destroy.ok_or(CUresult::INVALID_VALUE)?;
    if object.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    callback::start_dispatcher(client)?;
    let args = UserObject {
        destroy: destroy as usize as u64,
        pointer: pointer as u64,
        count,
        flags,
    };
    let mut reply = wire::cuUserObjectCreate::Reply::new_zeroed();
    call::call(
        client,
        number::cuUserObjectCreate,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(object, reply.object.get())
}
