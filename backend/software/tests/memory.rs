//! Memory, copies and fills through the driver's table.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "the arguments of a test's call are part of the unsafe call"
)]

#[macro_use]
mod support;

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard};
use support::*;
use vgpu_protocol::cuda::*;

/// Contexts share the device's addresses: what one test frees another one may be given, so tests
/// that look at freed addresses take turns with those that allocate.
static TURN: Mutex<()> = Mutex::new(());

fn alone() -> (MutexGuard<'static, ()>, Context) {
    let turn = TURN.lock().unwrap_or_else(|poison| poison.into_inner());
    (turn, Context::new())
}

#[test]
fn calls_check_their_context() {
    std::thread::spawn(|| {
        let mut dptr = CUdeviceptr::NULL;
        let _ = &*CUDA;
        assert_eq!(cu!(cuMemAlloc_v2(&mut dptr, 4)), CUresult::INVALID_CONTEXT);
        let (_turn, context) = alone();
        assert_eq!(
            cu!(cuMemAlloc_v2(std::ptr::null_mut(), 4)),
            CUresult::INVALID_VALUE
        );
        assert_eq!(cu!(cuMemAlloc_v2(&mut dptr, 0)), CUresult::INVALID_VALUE);
        let other = context.0;
        std::thread::spawn(move || ok!(cuCtxDestroy_v2(other)))
            .join()
            .expect("no panic");
        assert_eq!(
            cu!(cuMemAlloc_v2(&mut dptr, 4)),
            CUresult::CONTEXT_IS_DESTROYED
        );
    })
    .join()
    .expect("no panic");
}

#[test]
fn bytes_survive_the_way_there_and_back() {
    let _alone = alone();
    let words: Vec<u32> = (0..100_000).collect();
    let first = upload(&words);
    assert_eq!(first.0 % 512, 0);
    let second = alloc(400_000);
    ok!(cuMemcpyDtoD_v2(second, first, 400_000));
    assert_eq!(download(second, words.len()), words);
    let mut third = vec![0u32; words.len()];
    let host = CUdeviceptr(third.as_mut_ptr() as u64);
    ok!(cuMemcpy(host, second, 400_000));
    assert_eq!(third, words);
}

#[test]
fn ranges_are_checked() {
    let _alone = alone();
    let dptr = alloc(1000);
    let host = [0u8; 2000];
    let src: *const c_void = host.as_ptr().cast();
    assert_eq!(
        cu!(cuMemcpyHtoD_v2(dptr, src, 1001)),
        CUresult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemcpyHtoD_v2(CUdeviceptr(dptr.0 + 8), src, usize::MAX)),
        CUresult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemcpyHtoDAsync_v2(
            CUdeviceptr(0x10),
            src,
            4,
            CUstream::NULL
        )),
        CUresult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuMemsetD32_v2(CUdeviceptr(dptr.0 + 2), 0, 1)),
        CUresult::INVALID_VALUE
    );
    assert_eq!(cu!(cuMemsetD8_v2(dptr, 0, 1001)), CUresult::INVALID_VALUE);
    ok!(cuMemcpyHtoD_v2(dptr, src, 1000));
    assert_eq!(
        cu!(cuMemFree_v2(CUdeviceptr(dptr.0 + 512))),
        CUresult::INVALID_VALUE
    );
    ok!(cuMemFree_v2(dptr));
    assert_eq!(cu!(cuMemFree_v2(dptr)), CUresult::INVALID_VALUE);
    assert_eq!(
        cu!(cuMemcpyHtoD_v2(dptr, src, 1000)),
        CUresult::INVALID_VALUE
    );
}

#[test]
fn memory_starts_out_zeroed_and_is_finite() {
    let _alone = alone();
    let dptr = alloc(4096);
    ok!(cuMemsetD8_v2(dptr, 0xff, 4096));
    ok!(cuMemFree_v2(dptr));
    let again = alloc(4096);
    assert_eq!(download(again, 1024), vec![0; 1024]);
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    assert_eq!(total, 256 << 20);
    assert!(free < total);
    let mut big = CUdeviceptr::NULL;
    assert_eq!(cu!(cuMemAlloc_v2(&mut big, total)), CUresult::OUT_OF_MEMORY);
}

#[test]
fn fills_of_all_widths() {
    let _alone = alone();
    let dptr = alloc(64);
    ok!(cuMemsetD32_v2(dptr, 0x0102_0304, 16));
    ok!(cuMemsetD16_v2(CUdeviceptr(dptr.0 + 4), 0xabcd, 3));
    ok!(cuMemsetD8_v2(CUdeviceptr(dptr.0 + 10), 0x77, 2));
    ok!(cuMemsetD2D8_v2(CUdeviceptr(dptr.0 + 16), 16, 0x11, 4, 3));
    ok!(cuMemsetD2D32_v2(CUdeviceptr(dptr.0 + 20), 16, 0x22, 1, 2));
    let words = download(dptr, 16);
    assert_eq!(
        words[..4],
        [0x0102_0304, 0xabcd_abcd, 0x7777_abcd, 0x0102_0304]
    );
    assert_eq!(words[4..6], [0x1111_1111, 0x22]);
    assert_eq!(words[8..10], [0x1111_1111, 0x22]);
    assert_eq!(words[12..14], [0x1111_1111, 0x0102_0304]);
    assert_eq!(
        cu!(cuMemsetD2D32_v2(dptr, 15, 0, 1, 2)),
        CUresult::INVALID_VALUE
    );
}

#[test]
fn planes_and_boxes() {
    let _alone = alone();
    let (mut dptr, mut pitch) = (CUdeviceptr::NULL, 0);
    ok!(cuMemAllocPitch_v2(&mut dptr, &mut pitch, 12, 6, 4));
    assert_eq!(pitch, 512);
    let source: Vec<u32> = (0..18).collect();
    // Six rows of three words, into the pitched memory.
    let mut copy = CUDA_MEMCPY2D {
        src_memory_type: CU_MEMORYTYPE_HOST,
        src_host: source.as_ptr() as u64,
        src_pitch: 12,
        dst_memory_type: CU_MEMORYTYPE_DEVICE,
        dst_device: dptr,
        dst_pitch: 512,
        width: 12,
        height: 6,
        ..CUDA_MEMCPY2D::default()
    };
    ok!(cuMemcpy2D_v2(&copy));
    copy.dst_pitch = 8;
    assert_eq!(cu!(cuMemcpy2D_v2(&copy)), CUresult::INVALID_VALUE);
    // As two slices of three rows: the last two words of the middle rows.
    let mut out = [0u32; 4];
    let block = CUDA_MEMCPY3D {
        src_memory_type: CU_MEMORYTYPE_DEVICE,
        src_device: dptr,
        src_pitch: 512,
        src_height: 3,
        src_x: 4,
        src_y: 1,
        dst_memory_type: CU_MEMORYTYPE_HOST,
        dst_host: out.as_mut_ptr() as u64,
        dst_pitch: 8,
        dst_height: 1,
        width: 8,
        height: 1,
        depth: 2,
        ..CUDA_MEMCPY3D::default()
    };
    ok!(cuMemcpy3D_v2(&block));
    assert_eq!(out, [4, 5, 13, 14]);
    let beyond = CUDA_MEMCPY3D { depth: 3, ..block };
    assert_eq!(cu!(cuMemcpy3D_v2(&beyond)), CUresult::INVALID_VALUE);
    let array = CUDA_MEMCPY3D {
        src_memory_type: CU_MEMORYTYPE_ARRAY,
        ..block
    };
    assert_eq!(cu!(cuMemcpy3D_v2(&array)), CUresult::NOT_SUPPORTED);
}

#[test]
fn pageable_sources_may_change_at_once() {
    let _alone = alone();
    let stream = stream(CU_STREAM_NON_BLOCKING);
    let dptr = alloc(4);
    let gate = Gate::close(stream);
    let mut source = 7u32;
    ok!(cuMemcpyHtoDAsync_v2(
        dptr,
        (&raw const source).cast(),
        4,
        stream
    ));
    source = 8;
    gate.open();
    ok!(cuStreamSynchronize(stream));
    assert_eq!(download(dptr, 1), [7]);
    assert_eq!(source, 8);
}

#[test]
fn host_memory_is_known_by_its_own_address() {
    let _alone = alone();
    let mut bytes = vec![0u32; 2048];
    let pointer: *mut c_void = bytes.as_mut_ptr().cast();
    ok!(cuMemHostRegister_v2(pointer, 8192, 3));
    assert_eq!(
        cu!(cuMemHostRegister_v2(pointer, 4, 0)),
        CUresult::HOST_MEMORY_ALREADY_REGISTERED
    );
    let mut dptr = CUdeviceptr::NULL;
    ok!(cuMemHostGetDevicePointer_v2(&mut dptr, pointer, 0));
    assert_eq!(dptr.0, pointer as u64);
    let mut kind = 0u32;
    ok!(cuPointerGetAttribute((&raw mut kind).cast(), 2, dptr));
    assert_eq!(kind, CU_MEMORYTYPE_HOST);
    ok!(cuMemsetD32_v2(dptr, 5, 2048));
    ok!(cuCtxSynchronize());
    ok!(cuMemHostUnregister(pointer));
    assert_eq!(
        cu!(cuMemHostUnregister(pointer)),
        CUresult::HOST_MEMORY_NOT_REGISTERED
    );
    assert!(bytes.iter().all(|word| *word == 5));
    assert_eq!(
        cu!(cuMemHostGetDevicePointer_v2(&mut dptr, pointer, 0)),
        CUresult::INVALID_VALUE
    );
    let mut ours: *mut c_void = std::ptr::null_mut();
    ok!(cuMemHostAlloc(&mut ours, 100, 1));
    let mut flags = 0;
    ok!(cuMemHostGetFlags(&mut flags, ours));
    assert_eq!(flags, 1);
    ok!(cuMemFreeHost(ours));
    assert_eq!(cu!(cuMemFreeHost(ours)), CUresult::INVALID_VALUE);
}

#[test]
fn pointers_are_described() {
    let (_turn, context) = alone();
    let dptr = alloc(100);
    let inside = CUdeviceptr(dptr.0 + 10);
    let (mut base, mut size) = (CUdeviceptr::NULL, 0);
    ok!(cuMemGetAddressRange_v2(&mut base, &mut size, inside));
    assert_eq!((base, size), (dptr, 100));
    let (mut owner, mut kind, mut ordinal) = (CUcontext::NULL, 0u32, 7i32);
    let mut attributes = [1u32, 2, 9];
    let mut places: [*mut c_void; 3] = [
        (&raw mut owner).cast(),
        (&raw mut kind).cast(),
        (&raw mut ordinal).cast(),
    ];
    let describe = |places: &mut [*mut c_void; 3], attributes: &mut [u32; 3], ptr| {
        cu!(cuPointerGetAttributes(
            3,
            attributes.as_mut_ptr(),
            places.as_mut_ptr(),
            ptr
        ))
    };
    assert_eq!(
        describe(&mut places, &mut attributes, inside),
        CUresult::SUCCESS
    );
    assert_eq!((owner, kind, ordinal), (context.0, CU_MEMORYTYPE_DEVICE, 0));
    let unknown = CUdeviceptr((&raw const size) as u64);
    assert_eq!(
        describe(&mut places, &mut attributes, unknown),
        CUresult::SUCCESS
    );
    assert_eq!((owner, kind, ordinal), (CUcontext::NULL, 0, -2));
    assert_eq!(
        cu!(cuPointerGetAttribute((&raw mut kind).cast(), 2, unknown)),
        CUresult::INVALID_VALUE
    );
}

#[test]
fn pools_account_for_what_is_theirs() {
    let _alone = alone();
    let stream = stream(0);
    let props = CUmemPoolProps {
        alloc_type: 1,
        location: CUmemLocation { kind: 1, id: 0 },
        max_size: 4096,
        ..CUmemPoolProps::default()
    };
    let mut pool = CUmemoryPool::NULL;
    ok!(cuMemPoolCreate(&mut pool, &props));
    let (mut first, mut second) = (CUdeviceptr::NULL, CUdeviceptr::NULL);
    ok!(cuMemAllocFromPoolAsync(&mut first, 4096, pool, stream));
    assert_eq!(
        cu!(cuMemAllocFromPoolAsync(&mut second, 1, pool, stream)),
        CUresult::OUT_OF_MEMORY
    );
    let mut used = 0u64;
    ok!(cuMemPoolGetAttribute(pool, 7, (&raw mut used).cast()));
    assert_eq!(used, 4096);
    ok!(cuMemsetD8Async(first, 1, 4096, stream));
    ok!(cuMemFreeAsync(first, stream));
    ok!(cuStreamSynchronize(stream));
    ok!(cuMemPoolGetAttribute(pool, 7, (&raw mut used).cast()));
    assert_eq!(used, 0);
    ok!(cuMemPoolGetAttribute(pool, 8, (&raw mut used).cast()));
    assert_eq!(used, 4096);
    ok!(cuMemPoolGetAttribute(pool, 5, (&raw mut used).cast()));
    assert_eq!(used, 0, "given back by the synchronisation");
    assert_eq!(cu!(cuMemFreeAsync(first, stream)), CUresult::INVALID_VALUE);
    ok!(cuMemPoolDestroy(pool));
    assert_eq!(
        cu!(cuMemAllocFromPoolAsync(&mut first, 1, pool, stream)),
        CUresult::INVALID_VALUE
    );
    ok!(cuDeviceGetDefaultMemPool(&mut pool, CUdevice(0)));
    assert_eq!(cu!(cuMemPoolDestroy(pool)), CUresult::INVALID_VALUE);
    ok!(cuMemAllocAsync(&mut first, 64, stream));
    ok!(cuMemFree_v2(first));
}
