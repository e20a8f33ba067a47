//! Tensor maps: descriptors for the tensor memory accelerator, encoded by the driver.
//!
//! Programs encode one per launch. The driver stores the tensor's address verbatim in the map's
//! first word and lets nothing else depend on it (`cuda-driver-facts.md` 14), so it is asked once
//! per set of parameters, and the answer is kept with an empty address.

use crate::call;
use crate::client::{self, Client};
use crate::context;
use core::ffi::c_void;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{
    TENSOR_NO_BOX, TENSOR_NO_DIMS, TENSOR_NO_LOWER, TENSOR_NO_STEPS, TENSOR_NO_STRIDES,
    TENSOR_NO_UPPER, TensorMap,
};
use zerocopy::IntoBytes;

/// Alignment of a map in C.
const ALIGN: u64 = 64;
/// Greatest rank.
const MAX_RANK: u32 = 5;
/// `CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED`.
const TENSOR_MAP_ACCESS: i32 = 127;
/// The strictest alignment of a tensor that CUDA documents. An address that has it is good for
/// every map; one that has not is for the driver to judge.
const STRICTEST: u64 = 32;
/// Sets of parameters that are kept.
const KEPT: usize = 512;
/// Addresses below this are ordinary ones; what lies above is the driver's to judge.
const ORDINARY: u64 = 1 << 47;

type Key = (u16, i32, [u8; size_of::<TensorMap>()]);

/// Maps by their parameters and device, without an address.
static ENCODED: LazyLock<Mutex<HashMap<Key, CUtensorMap>>> = LazyLock::new(Mutex::default);

/// Whether an address may be put into a map without asking.
fn is_plain(address: u64) -> bool {
    address != 0 && address < ORDINARY && address.is_multiple_of(STRICTEST)
}

/// The map for `params`, from what is kept or by the driver.
fn encode(number: u16, map: *mut CUtensorMap, params: TensorMap) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ctx = context::required()?;
    client.sticky()?;
    if map.is_null() || params.rank == 0 || params.rank > MAX_RANK {
        return Err(CUresult::INVALID_VALUE);
    }
    let address = params.address;
    let params = TensorMap {
        misaligned: (map as u64 % ALIGN) as u32,
        ..params
    };
    let key: Key = (
        number,
        context::device_of(ctx).unwrap_or_default().0,
        zerocopy::transmute!(TensorMap {
            address: 0,
            ..params
        }),
    );
    if is_plain(address) {
        let kept = ENCODED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .copied();
        if let Some(mut encoded) = kept {
            encoded.words[0] = address;
            put(map, encoded);
            return Ok(());
        }
    }
    let mut encoded = CUtensorMap::default();
    call::call(client, number, &[params.as_bytes()], encoded.as_mut_bytes())?;
    put(map, encoded);
    // A driver that stores the address otherwise is asked each time.
    if is_plain(address) && encoded.words[0] == address {
        let mut all = ENCODED.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(key, encoded);
    }
    Ok(())
}

/// Stores a map where the program wants it; not null.
fn put(to: *mut CUtensorMap, map: CUtensorMap) {
    // SAFETY: not null, and valid by the contract of the CUDA function that is being served. What
    // alignment is asked of it, the driver has judged.
    unsafe { to.write_unaligned(map) };
}

/// The first `count` entries of a program's array; where it is null, the bit that says so.
///
/// # Safety
/// `from` is null or has `count` entries.
unsafe fn array<T: Copy + Default, const N: usize>(
    from: *const T,
    count: usize,
    bit: u32,
    absent: &mut u32,
) -> [T; N] {
    let mut to = [T::default(); N];
    if from.is_null() {
        *absent |= bit;
        return to;
    }
    for (at, to) in to.iter_mut().enumerate().take(count) {
        // SAFETY: the caller's contract.
        *to = unsafe { from.add(at).read_unaligned() };
    }
    to
}

/// What all maps have: everything but boxes.
///
/// # Safety
/// The arrays are null or have as many entries as `rank` says, one less for `strides`.
unsafe fn common(
    data_type: u32,
    rank: u32,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    element_strides: *const u32,
) -> TensorMap {
    // No array is read beyond the greatest rank; `encode` refuses such a rank.
    let entries = rank.min(MAX_RANK) as usize;
    let mut absent = 0;
    // SAFETY: the caller's contract.
    unsafe {
        TensorMap {
            address: address as u64,
            dims: array(dims, entries, TENSOR_NO_DIMS, &mut absent),
            strides: array(
                strides,
                entries.saturating_sub(1),
                TENSOR_NO_STRIDES,
                &mut absent,
            ),
            element_strides: array(element_strides, entries, TENSOR_NO_STEPS, &mut absent),
            data_type,
            rank,
            absent,
            ..TensorMap::default()
        }
    }
}

/// `cuTensorMapEncodeTiled`.
///
/// # Safety
/// `map` is null or valid; the arrays are null or have as many entries as `rank` says, one less for
/// `strides`.
#[allow(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuTensorMapEncodeTiled(
    map: *mut CUtensorMap,
    data_type: u32,
    rank: u32,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    box_dims: *const u32,
    element_strides: *const u32,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    let mut params = unsafe { common(data_type, rank, address, dims, strides, element_strides) };
    let entries = rank.min(MAX_RANK) as usize;
    // SAFETY: the caller's contract.
    params.box_dims = unsafe { array(box_dims, entries, TENSOR_NO_BOX, &mut params.absent) };
    let params = TensorMap {
        interleave,
        swizzle,
        promotion,
        fill,
        ..params
    };
    encode(number::cuTensorMapEncodeTiled, map, params)
}

/// `cuTensorMapEncodeIm2col`.
///
/// # Safety
/// As [`cuTensorMapEncodeTiled`]; the corners have two entries less than the rank.
#[allow(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuTensorMapEncodeIm2col(
    map: *mut CUtensorMap,
    data_type: u32,
    rank: u32,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    lower: *const i32,
    upper: *const i32,
    channels: u32,
    pixels: u32,
    element_strides: *const u32,
    interleave: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    let mut params = unsafe { common(data_type, rank, address, dims, strides, element_strides) };
    let corners = rank.clamp(2, MAX_RANK) as usize - 2;
    // SAFETY: the caller's contract.
    unsafe {
        params.lower = array(lower, corners, TENSOR_NO_LOWER, &mut params.absent);
        params.upper = array(upper, corners, TENSOR_NO_UPPER, &mut params.absent);
    }
    let params = TensorMap {
        channels,
        pixels,
        interleave,
        swizzle,
        promotion,
        fill,
        ..params
    };
    encode(number::cuTensorMapEncodeIm2col, map, params)
}

/// `cuTensorMapEncodeIm2colWide`.
///
/// # Safety
/// As [`cuTensorMapEncodeTiled`].
#[allow(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuTensorMapEncodeIm2colWide(
    map: *mut CUtensorMap,
    data_type: u32,
    rank: u32,
    address: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    lower_width: i32,
    upper_width: i32,
    channels: u32,
    pixels: u32,
    element_strides: *const u32,
    interleave: u32,
    mode: u32,
    swizzle: u32,
    promotion: u32,
    fill: u32,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    let params = unsafe { common(data_type, rank, address, dims, strides, element_strides) };
    let params = TensorMap {
        lower: [lower_width, 0, 0],
        upper: [upper_width, 0, 0],
        channels,
        pixels,
        interleave,
        mode,
        swizzle,
        promotion,
        fill,
        ..params
    };
    encode(number::cuTensorMapEncodeIm2colWide, map, params)
}

/// `cuTensorMapReplaceAddress`: here where nothing can be wrong with the address, else by the
/// driver, which knows what alignment the map asks for.
///
/// # Safety
/// `map` is null or a tensor map.
pub unsafe fn cuTensorMapReplaceAddress(
    map: *mut CUtensorMap,
    address: *mut c_void,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ctx = context::required()?;
    client.sticky()?;
    if map.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null; the caller gives a valid map.
    let mut changed = unsafe { map.read_unaligned() };
    let misaligned = map as u64 % ALIGN;
    let address = address as u64;
    if is_plain(address) && misaligned == 0 && has_tensor_maps(client, ctx) {
        changed.words[0] = address;
        put(map, changed);
        return Ok(());
    }
    let given = changed;
    call::call(
        client,
        number::cuTensorMapReplaceAddress,
        &[given.as_bytes(), [address, misaligned].as_bytes()],
        changed.as_mut_bytes(),
    )?;
    put(map, changed);
    Ok(())
}

/// Whether the context's device knows tensor maps.
fn has_tensor_maps(client: &Client, ctx: CUcontext) -> bool {
    context::device_of(ctx)
        .and_then(|dev| client.device(dev).ok())
        .is_some_and(|device| device.attribute_or_zero(TENSOR_MAP_ACCESS) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_suit_every_map_are_patched_in() {
        assert!(is_plain(0x7f00_0000_0020));
        for address in [0, 16, 0x7f00_0000_0008, 1 << 63] {
            assert!(!is_plain(address), "{address:#x}");
        }
    }

    #[test]
    fn arrays_are_read_as_far_as_the_rank_says_and_null_is_noted() {
        let mut absent = 0;
        let given = [1_u64, 2];
        // SAFETY: the array has two entries.
        let read: [u64; 5] = unsafe { array(given.as_ptr(), 2, TENSOR_NO_DIMS, &mut absent) };
        assert_eq!((read, absent), ([1, 2, 0, 0, 0], 0));
        // SAFETY: null is not followed.
        let none: [u64; 4] = unsafe { array(core::ptr::null(), 4, TENSOR_NO_STRIDES, &mut absent) };
        assert_eq!((none, absent), ([0; 4], TENSOR_NO_STRIDES));
    }
}
