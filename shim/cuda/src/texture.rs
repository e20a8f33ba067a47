//! Texture objects: only their creation is no plain call, because the view may be left out.

use crate::call;
use crate::client;
use crate::{context, read, write};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire;
use zerocopy::{FromZeros, IntoBytes};

/// `cuTexObjectCreate`.
///
/// # Safety
/// All pointers are null or valid.
pub unsafe fn cuTexObjectCreate(
    object: *mut CUtexObject,
    resource: *const CUDA_RESOURCE_DESC,
    texture: *const CUDA_TEXTURE_DESC,
    view: *const CUDA_RESOURCE_VIEW_DESC,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    if object.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let (resource, texture) = (read(resource)?, read(texture)?);
    let given = u64::from(!view.is_null());
    let view = if view.is_null() {
        CUDA_RESOURCE_VIEW_DESC::default()
    } else {
        read(view)?
    };
    let mut reply = wire::cuTexObjectCreate::Reply::new_zeroed();
    call::call(
        client,
        number::cuTexObjectCreate,
        &[
            resource.as_bytes(),
            texture.as_bytes(),
            given.as_bytes(),
            view.as_bytes(),
        ],
        reply.as_mut_bytes(),
    )?;
    write(object, reply.object.get())
}
