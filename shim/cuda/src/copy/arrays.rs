//! Copies between one-dimensional arrays and memory, and between such arrays: strided copies of a
//! single row.

use super::Mode;
use super::strided::strided;
use crate::stream::NullStream;
use core::ffi::c_void;
use vgpu_protocol::cuda::*;

/// One end of such a copy.
#[derive(Clone, Copy)]
enum End {
    Array(CUarray, usize),
    Device(CUdeviceptr),
    Host(u64),
}

/// A copy of one row of `bytes`.
fn row(dst: End, src: End, bytes: usize) -> CUDA_MEMCPY3D {
    let mut copy = CUDA_MEMCPY3D {
        width: bytes as u64,
        height: 1,
        depth: 1,
        ..CUDA_MEMCPY3D::default()
    };
    match dst {
        End::Array(array, offset) => {
            copy.dst_memory_type = CU_MEMORYTYPE_ARRAY;
            (copy.dst_array, copy.dst_x) = (array, offset as u64);
        }
        End::Device(address) => {
            (copy.dst_memory_type, copy.dst_device) = (CU_MEMORYTYPE_DEVICE, address);
        }
        End::Host(address) => {
            (copy.dst_memory_type, copy.dst_host) = (CU_MEMORYTYPE_HOST, address);
        }
    }
    match src {
        End::Array(array, offset) => {
            copy.src_memory_type = CU_MEMORYTYPE_ARRAY;
            (copy.src_array, copy.src_x) = (array, offset as u64);
        }
        End::Device(address) => {
            (copy.src_memory_type, copy.src_device) = (CU_MEMORYTYPE_DEVICE, address);
        }
        End::Host(address) => {
            (copy.src_memory_type, copy.src_host) = (CU_MEMORYTYPE_HOST, address);
        }
    }
    copy
}

/// `cuMemcpyAtoA_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuMemcpyAtoA_v2(
    default: NullStream,
    dst: CUarray,
    dst_offset: usize,
    src: CUarray,
    src_offset: usize,
    bytes: usize,
) -> Result<(), CUresult> {
    let copy = row(
        End::Array(dst, dst_offset),
        End::Array(src, src_offset),
        bytes,
    );
    // SAFETY: neither end is memory.
    unsafe { strided(default, CUstream::NULL, copy, Mode::Sync) }
}

/// `cuMemcpyDtoA_v2`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemcpyDtoA_v2(
    default: NullStream,
    dst: CUarray,
    offset: usize,
    src: CUdeviceptr,
    bytes: usize,
) -> Result<(), CUresult> {
    let copy = row(End::Array(dst, offset), End::Device(src), bytes);
    // SAFETY: the program's contract with the copy call.
    unsafe { strided(default, CUstream::NULL, copy, Mode::Sync) }
}

/// `cuMemcpyAtoD_v2`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuMemcpyAtoD_v2(
    default: NullStream,
    dst: CUdeviceptr,
    src: CUarray,
    offset: usize,
    bytes: usize,
) -> Result<(), CUresult> {
    let copy = row(End::Device(dst), End::Array(src, offset), bytes);
    // SAFETY: the program's contract with the copy call.
    unsafe { strided(default, CUstream::NULL, copy, Mode::Sync) }
}

/// `cuMemcpyHtoA_v2`.
///
/// # Safety
/// `src` has `bytes` bytes.
pub unsafe fn cuMemcpyHtoA_v2(
    default: NullStream,
    dst: CUarray,
    offset: usize,
    src: *const c_void,
    bytes: usize,
) -> Result<(), CUresult> {
    let copy = row(End::Array(dst, offset), End::Host(src as u64), bytes);
    // SAFETY: the caller's contract.
    unsafe { strided(default, CUstream::NULL, copy, Mode::Sync) }
}

/// `cuMemcpyHtoAAsync_v2`.
///
/// # Safety
/// As [`cuMemcpyHtoA_v2`].
pub unsafe fn cuMemcpyHtoAAsync_v2(
    default: NullStream,
    dst: CUarray,
    offset: usize,
    src: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    let copy = row(End::Array(dst, offset), End::Host(src as u64), bytes);
    // SAFETY: the caller's contract.
    unsafe { strided(default, stream, copy, Mode::Async) }
}

/// `cuMemcpyAtoH_v2`.
///
/// # Safety
/// `dst` has room for `bytes` bytes.
pub unsafe fn cuMemcpyAtoH_v2(
    default: NullStream,
    dst: *mut c_void,
    src: CUarray,
    offset: usize,
    bytes: usize,
) -> Result<(), CUresult> {
    let copy = row(End::Host(dst as u64), End::Array(src, offset), bytes);
    // SAFETY: the caller's contract.
    unsafe { strided(default, CUstream::NULL, copy, Mode::Sync) }
}

/// `cuMemcpyAtoHAsync_v2`.
///
/// # Safety
/// As [`cuMemcpyAtoH_v2`].
pub unsafe fn cuMemcpyAtoHAsync_v2(
    default: NullStream,
    dst: *mut c_void,
    src: CUarray,
    offset: usize,
    bytes: usize,
    stream: CUstream,
) -> Result<(), CUresult> {
    let copy = row(End::Host(dst as u64), End::Array(src, offset), bytes);
    // SAFETY: the caller's contract.
    unsafe { strided(default, stream, copy, Mode::Async) }
}
