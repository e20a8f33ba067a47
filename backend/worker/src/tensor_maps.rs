//! Tensor maps. The driver encodes them and touches no memory but the map itself, so the address in
//! it is a plain number: what a kernel reaches through a map is what it reaches by itself.

use crate::call::{Call, Outcome};
use std::ffi::c_void;
use vgpu_protocol::cuda::{CUresult, CUtensorMap};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{
    TENSOR_NO_BOX, TENSOR_NO_DIMS, TENSOR_NO_LOWER, TENSOR_NO_STEPS, TENSOR_NO_STRIDES,
    TENSOR_NO_UPPER, TensorMap,
};
use zerocopy::IntoBytes;

/// Alignment of a map in C.
const ALIGN: usize = 64;

/// Room for a map at every distance from an aligned address.
#[repr(C, align(64))]
struct Room([u8; ALIGN + size_of::<CUtensorMap>()]);

impl Room {
    /// Room that holds `map`, as far from an aligned address as the program's own map.
    fn holding(map: &CUtensorMap, misaligned: u64) -> Result<(Self, usize), CUresult> {
        let at = usize::try_from(misaligned)
            .ok()
            .filter(|at| *at < ALIGN)
            .ok_or(CUresult::INVALID_VALUE)?;
        let mut room = Self([0; ALIGN + size_of::<CUtensorMap>()]);
        if let Some(to) = room.0.get_mut(at..at + size_of::<CUtensorMap>()) {
            to.copy_from_slice(map.as_bytes());
        }
        Ok((room, at))
    }

    fn pointer(&mut self, at: usize) -> *mut CUtensorMap {
        self.0
            .get_mut(at..)
            .map_or(std::ptr::null_mut(), |rest| rest.as_mut_ptr().cast())
    }

    fn map(&self, at: usize) -> CUtensorMap {
        let mut map = CUtensorMap::default();
        if let Some(from) = self.0.get(at..at + size_of::<CUtensorMap>()) {
            map.as_mut_bytes().copy_from_slice(from);
        }
        map
    }
}

/// `cuTensorMapEncodeTiled`, `cuTensorMapEncodeIm2col`, `cuTensorMapEncodeIm2colWide`.
///
/// # Errors
/// What the client gets.
pub fn encode(call: &mut Call<'_>) -> Outcome {
    let map = call.decode::<TensorMap>()?;
    if map.rank == 0 || map.rank as usize > map.dims.len() {
        return Err(CUresult::INVALID_VALUE);
    }
    let (mut room, at) = Room::holding(&CUtensorMap::default(), u64::from(map.misaligned))?;
    let to = room.pointer(at);
    let address = map.address as *mut c_void;
    let dims = given(&map, TENSOR_NO_DIMS, &map.dims);
    let strides = given(&map, TENSOR_NO_STRIDES, &map.strides);
    let box_dims = given(&map, TENSOR_NO_BOX, &map.box_dims);
    let steps = given(&map, TENSOR_NO_STEPS, &map.element_strides);
    let lower = given(&map, TENSOR_NO_LOWER, &map.lower);
    let upper = given(&map, TENSOR_NO_UPPER, &map.upper);
    let driver = call.driver();
    // SAFETY: the map has room; the arrays have as many entries as the greatest rank needs, or are
    // null; the address is stored and not followed.
    let result = unsafe {
        match call.number() {
            number::cuTensorMapEncodeTiled => vgpu_driver::call!(
                driver,
                cuTensorMapEncodeTiled(
                    to,
                    map.data_type,
                    map.rank,
                    address,
                    dims,
                    strides,
                    box_dims,
                    steps,
                    map.interleave,
                    map.swizzle,
                    map.promotion,
                    map.fill
                )
            ),
            number::cuTensorMapEncodeIm2col => vgpu_driver::call!(
                driver,
                cuTensorMapEncodeIm2col(
                    to,
                    map.data_type,
                    map.rank,
                    address,
                    dims,
                    strides,
                    lower,
                    upper,
                    map.channels,
                    map.pixels,
                    steps,
                    map.interleave,
                    map.swizzle,
                    map.promotion,
                    map.fill
                )
            ),
            _ => vgpu_driver::call!(
                driver,
                cuTensorMapEncodeIm2colWide(
                    to,
                    map.data_type,
                    map.rank,
                    address,
                    dims,
                    strides,
                    map.lower[0],
                    map.upper[0],
                    map.channels,
                    map.pixels,
                    steps,
                    map.interleave,
                    map.mode,
                    map.swizzle,
                    map.promotion,
                    map.fill
                )
            ),
        }
    };
    call.result(result)?;
    call.reply(&room.map(at))
}

/// The array, or null where the program gave none.
fn given<T, const N: usize>(map: &TensorMap, bit: u32, array: &[T; N]) -> *const T {
    if map.absent & bit == 0 {
        array.as_ptr()
    } else {
        std::ptr::null()
    }
}

/// `cuTensorMapReplaceAddress`.
///
/// # Errors
/// What the client gets.
pub fn replace_address(call: &mut Call<'_>) -> Outcome {
    let map = call.take::<CUtensorMap>()?;
    let [address, misaligned] = call.take::<[u64; 2]>()?;
    call.done()?;
    let replace = call
        .driver()
        .cuTensorMapReplaceAddress
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let (mut room, at) = Room::holding(&map, misaligned)?;
    // SAFETY: the map lies here; the address is stored and not followed.
    call.result(unsafe { replace(room.pointer(at), address as *mut c_void) })?;
    call.reply(&room.map(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_keeps_its_distance_from_an_aligned_address() {
        let mut map = CUtensorMap::default();
        map.words[15] = 7;
        for misaligned in [0, 1, 16, 63] {
            let (mut room, at) = Room::holding(&map, misaligned).expect("below 64");
            assert_eq!(room.pointer(at) as usize % ALIGN, at);
            assert_eq!(room.map(at), map);
        }
        assert!(Room::holding(&map, 64).is_err());
        assert!(Room::holding(&map, u64::MAX).is_err());
    }
}
