//! Arrays, and the texture and surface objects over them.

use crate::call::{Call, Outcome};
use crate::live::{Entry, Handle, Kind};
use vgpu_protocol::cuda::{
    CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_DESCRIPTOR, CUDA_RESOURCE_DESC, CUDA_RESOURCE_VIEW_DESC,
    CUDA_TEXTURE_DESC, CUarray, CUdeviceptr, CUmipmappedArray, CUresult, CUsurfObject, CUtexObject,
};
use vgpu_protocol::wire::{self, Result as _};

/// Bytes of a channel of a format, at least; unknown formats (planes, blocks) count as the widest.
fn channel_bytes(format: u32) -> u64 {
    match format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        _ => 4,
    }
}

/// Bytes that an array is charged with.
fn charge_of(array: &CUDA_ARRAY3D_DESCRIPTOR, levels: u32) -> Result<u64, CUresult> {
    let bytes = (|| {
        array
            .width
            .checked_mul(array.height.max(1))?
            .checked_mul(array.depth.max(1))?
            .checked_mul(u64::from(array.channels))?
            .checked_mul(channel_bytes(array.format))?
            // All further levels together are at most as large as the first.
            .checked_mul(if levels > 1 { 2 } else { 1 })
    })();
    bytes.ok_or(CUresult::INVALID_VALUE)
}

/// Creates against the quota, and enters the handle.
fn create<T: Handle + Default>(
    call: &mut Call<'_>,
    bytes: u64,
    ask: impl FnOnce(&Call<'_>, &mut T) -> CUresult,
) -> Result<T, CUresult> {
    call.worker.quota.charge(bytes)?;
    let mut handle = T::default();
    let result = ask(call, &mut handle);
    if let Err(error) = call.result(result) {
        call.worker.quota.give_back(bytes);
        return Err(error);
    }
    let word = handle.to_word();
    let ctx = call.request.header.scope;
    call.worker.quota.keep(word, bytes, ctx);
    call.enter(handle, 0);
    Ok(handle)
}

/// `cuArrayCreate_v2`.
///
/// # Errors
/// What the client gets.
pub fn create_array(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuArrayCreate_v2::Args>()?;
    let flat = args.descriptor;
    let bytes = charge_of(
        &CUDA_ARRAY3D_DESCRIPTOR {
            width: flat.width,
            height: flat.height,
            format: flat.format,
            channels: flat.channels,
            ..CUDA_ARRAY3D_DESCRIPTOR::default()
        },
        1,
    )?;
    let array: CUarray = create(call, bytes, |call, array| {
        // SAFETY: descriptor and result live here.
        unsafe {
            vgpu_driver::call!(
                call.driver(),
                cuArrayCreate_v2(&raw mut *array, &raw const flat)
            )
        }
    })?;
    call.reply(&array.to_wire())
}

/// `cuArray3DCreate_v2`.
///
/// # Errors
/// What the client gets.
pub fn create_array_3d(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuArray3DCreate_v2::Args>()?;
    let descriptor = args.descriptor;
    let bytes = charge_of(&descriptor, 1)?;
    let array: CUarray = create(call, bytes, |call, array| {
        // SAFETY: descriptor and result live here.
        unsafe {
            vgpu_driver::call!(
                call.driver(),
                cuArray3DCreate_v2(&raw mut *array, &raw const descriptor)
            )
        }
    })?;
    call.reply(&array.to_wire())
}

/// `cuMipmappedArrayCreate`.
///
/// # Errors
/// What the client gets.
pub fn create_mipmapped(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMipmappedArrayCreate::Args>()?;
    let (descriptor, levels): (_, u32) = (args.descriptor, args.levels.get());
    let bytes = charge_of(&descriptor, levels)?;
    let array: CUmipmappedArray = create(call, bytes, |call, array| {
        // SAFETY: descriptor and result live here.
        unsafe {
            vgpu_driver::call!(
                call.driver(),
                cuMipmappedArrayCreate(&raw mut *array, &raw const descriptor, levels)
            )
        }
    })?;
    call.reply(&array.to_wire())
}

/// `cuMipmappedArrayGetLevel`. The level goes with the whole.
///
/// # Errors
/// What the client gets.
pub fn level(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMipmappedArrayGetLevel::Args>()?;
    let whole: CUmipmappedArray = args.mipmapped.get();
    call.live(whole)?;
    let get = call
        .driver()
        .cuMipmappedArrayGetLevel
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut array = CUarray::NULL;
    // SAFETY: the mipmapped array is live, the result has room.
    call.result(unsafe { get(&raw mut array, whole, args.level.get()) })?;
    call.enter(array, whole.0);
    call.reply(&array.to_wire())
}

/// `cuArrayGetPlane`: an array that ends with the one it is a plane of.
///
/// # Errors
/// What the client gets.
pub fn plane(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuArrayGetPlane::Args>()?;
    let whole: CUarray = args.array.get();
    call.live(whole)?;
    let get = call
        .driver()
        .cuArrayGetPlane
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut array = CUarray::NULL;
    // SAFETY: the array is live, the result has room.
    call.result(unsafe { get(&raw mut array, whole, args.index.get()) })?;
    call.enter(array, whole.0);
    call.reply(&array.to_wire())
}

/// `cuArrayDestroy`.
///
/// # Errors
/// What the client gets.
pub fn destroy_array(call: &mut Call<'_>) -> Outcome {
    let array: CUarray = call.decode::<wire::cuArrayDestroy::Args>()?.array.get();
    let destroy = call
        .driver()
        .cuArrayDestroy
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the array was live until just now.
    end(call, array, |array| unsafe { destroy(array) }).map(|_| ())
}

/// `cuMipmappedArrayDestroy`.
///
/// # Errors
/// What the client gets.
pub fn destroy_mipmapped(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuMipmappedArrayDestroy::Args>()?;
    let array: CUmipmappedArray = args.mipmapped.get();
    let destroy = call
        .driver()
        .cuMipmappedArrayDestroy
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the array was live until just now.
    end(call, array, |array| unsafe { destroy(array) })?;
    call.worker
        .live
        .remove_where(Kind::Array, |entry| entry.owner == array.0);
    Ok(())
}

/// Takes a handle out, has it destroyed, and puts it back if that fails.
fn end<T: Handle>(
    call: &mut Call<'_>,
    handle: T,
    destroy: impl FnOnce(T) -> CUresult,
) -> Result<Entry, CUresult> {
    let word = handle.to_word();
    let entry = call.worker.live.remove(T::KIND, word).ok_or(T::UNKNOWN)?;
    let destroy = || call.result(destroy(handle));
    if let Err(error) = call.worker.quota.freeing(word, destroy) {
        call.worker.live.enter(T::KIND, word, entry);
        return Err(error);
    }
    Ok(entry)
}

/// `cuArrayGetDescriptor_v2`.
///
/// # Errors
/// What the client gets.
pub fn descriptor(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuArrayGetDescriptor_v2::Args>()?;
    let array: CUarray = args.array.get();
    call.live(array)?;
    let get = call
        .driver()
        .cuArrayGetDescriptor_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut descriptor = CUDA_ARRAY_DESCRIPTOR::default();
    // SAFETY: the array is live, the result has room.
    call.result(unsafe { get(&raw mut descriptor, array) })?;
    call.reply(&descriptor)
}

/// `cuArray3DGetDescriptor_v2`.
///
/// # Errors
/// What the client gets.
pub fn descriptor_3d(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuArray3DGetDescriptor_v2::Args>()?;
    let array: CUarray = args.array.get();
    call.live(array)?;
    let get = call
        .driver()
        .cuArray3DGetDescriptor_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut descriptor = CUDA_ARRAY3D_DESCRIPTOR::default();
    // SAFETY: the array is live, the result has room.
    call.result(unsafe { get(&raw mut descriptor, array) })?;
    call.reply(&descriptor)
}

/// Checks what a resource names: arrays must be live, memory must lie where the client's does.
fn check_resource(call: &mut Call<'_>, resource: &CUDA_RESOURCE_DESC) -> Outcome {
    const ARRAY: u32 = 0;
    const MIPMAPPED: u32 = 1;
    const LINEAR: u32 = 2;
    const PITCHED: u32 = 3;
    let words = &resource.words;
    match resource.kind {
        ARRAY => call.live(CUarray(words[0])),
        MIPMAPPED => call.live(CUmipmappedArray(words[0])),
        // Address, format and channels, bytes.
        LINEAR => call.worker.device_range(words[0], words[2]),
        // Address, format and channels, width, height, pitch.
        PITCHED => {
            let bytes = words[3]
                .checked_mul(words[4])
                .ok_or(CUresult::INVALID_VALUE)?;
            call.worker.device_range(words[0], bytes)
        }
        _ => Err(CUresult::INVALID_VALUE),
    }
}

/// `cuTexObjectCreate`.
///
/// # Errors
/// What the client gets.
pub fn create_texture(call: &mut Call<'_>) -> Outcome {
    let resource = call.take::<CUDA_RESOURCE_DESC>()?;
    let texture = call.take::<CUDA_TEXTURE_DESC>()?;
    let has_view = call.take::<u64>()? != 0;
    let view = call.take::<CUDA_RESOURCE_VIEW_DESC>()?;
    call.done()?;
    let create = call
        .driver()
        .cuTexObjectCreate
        .ok_or(CUresult::NOT_SUPPORTED)?;
    check_resource(call, &resource)?;
    let view = if has_view {
        &raw const view
    } else {
        std::ptr::null()
    };
    let mut object = CUtexObject::NULL;
    // SAFETY: what the resource names was checked; descriptors and result live here.
    call.result(unsafe {
        create(
            &raw mut object,
            &raw const resource,
            &raw const texture,
            view,
        )
    })?;
    call.enter(object, 0);
    call.reply(&object.to_wire())
}

/// `cuSurfObjectCreate`.
///
/// # Errors
/// What the client gets.
pub fn create_surface(call: &mut Call<'_>) -> Outcome {
    let resource = call.decode::<wire::cuSurfObjectCreate::Args>()?.resource;
    let create = call
        .driver()
        .cuSurfObjectCreate
        .ok_or(CUresult::NOT_SUPPORTED)?;
    check_resource(call, &resource)?;
    let mut object = CUsurfObject::NULL;
    // SAFETY: what the resource names was checked; descriptor and result live here.
    call.result(unsafe { create(&raw mut object, &raw const resource) })?;
    call.enter(object, 0);
    call.reply(&object.to_wire())
}

/// `cuTexObjectGetResourceDesc`.
///
/// # Errors
/// What the client gets.
pub fn texture_resource(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuTexObjectGetResourceDesc::Args>()?;
    let object: CUtexObject = args.object.get();
    call.live(object)?;
    let get = call
        .driver()
        .cuTexObjectGetResourceDesc
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut resource = CUDA_RESOURCE_DESC::default();
    // SAFETY: the object is live, the result has room.
    call.result(unsafe { get(&raw mut resource, object) })?;
    reply_resource(call, &resource)
}

/// `cuSurfObjectGetResourceDesc`.
///
/// # Errors
/// What the client gets.
pub fn surface_resource(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuSurfObjectGetResourceDesc::Args>()?;
    let object: CUsurfObject = args.object.get();
    call.live(object)?;
    let get = call
        .driver()
        .cuSurfObjectGetResourceDesc
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut resource = CUDA_RESOURCE_DESC::default();
    // SAFETY: the object is live, the result has room.
    call.result(unsafe { get(&raw mut resource, object) })?;
    reply_resource(call, &resource)
}

/// What the client itself put into the descriptor, and nothing behind it.
fn reply_resource(call: &mut Call<'_>, resource: &CUDA_RESOURCE_DESC) -> Outcome {
    let mut shown = CUDA_RESOURCE_DESC {
        kind: resource.kind,
        flags: resource.flags,
        ..CUDA_RESOURCE_DESC::default()
    };
    let meant = match resource.kind {
        0 | 1 => 1,
        2 => 3,
        _ => 5,
    };
    for (to, from) in shown.words.iter_mut().zip(&resource.words).take(meant) {
        *to = *from;
    }
    if resource.kind > 1 {
        call.worker.placed(CUdeviceptr(shown.words[0]).0)?;
    }
    call.reply(&shown)
}

/// `cuTexObjectGetTextureDesc`.
///
/// # Errors
/// What the client gets.
pub fn texture_descriptor(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuTexObjectGetTextureDesc::Args>()?;
    let object: CUtexObject = args.object.get();
    call.live(object)?;
    let get = call
        .driver()
        .cuTexObjectGetTextureDesc
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut texture = CUDA_TEXTURE_DESC::default();
    // SAFETY: the object is live, the result has room.
    call.result(unsafe { get(&raw mut texture, object) })?;
    call.reply(&texture)
}

/// `cuTexObjectGetResourceViewDesc`.
///
/// # Errors
/// What the client gets.
pub fn texture_view(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuTexObjectGetResourceViewDesc::Args>()?;
    let object: CUtexObject = args.object.get();
    call.live(object)?;
    let get = call
        .driver()
        .cuTexObjectGetResourceViewDesc
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut view = CUDA_RESOURCE_VIEW_DESC::default();
    // SAFETY: the object is live, the result has room.
    call.result(unsafe { get(&raw mut view, object) })?;
    call.reply(&view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_charged_with_what_they_hold() {
        let array = CUDA_ARRAY3D_DESCRIPTOR {
            width: 10,
            height: 0,
            depth: 0,
            format: 0x20,
            channels: 4,
            ..CUDA_ARRAY3D_DESCRIPTOR::default()
        };
        assert_eq!(charge_of(&array, 1), Ok(160));
        assert_eq!(charge_of(&array, 3), Ok(320));
        let huge = CUDA_ARRAY3D_DESCRIPTOR {
            width: u64::MAX,
            height: 2,
            ..array
        };
        assert_eq!(charge_of(&huge, 1), Err(CUresult::INVALID_VALUE));
    }
}
