//! The device and its contexts through the driver's table.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "the arguments of a test's call are part of the unsafe call"
)]

#[macro_use]
mod support;

use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;
use support::*;
use vgpu_protocol::cuda::*;

/// There is one primary context: tests that use it take turns.
static PRIMARY: Mutex<()> = Mutex::new(());

const CUDART: CUuuid = CUuuid {
    bytes: [
        0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d,
        0xf9,
    ],
};

#[test]
fn the_device_says_what_it_is() {
    let mut count = 0;
    ok!(cuDeviceGetCount(&mut count));
    assert_eq!(count, 2);
    let mut device = CUdevice(9);
    ok!(cuDeviceGet(&mut device, 0));
    for ordinal in [-1, 2] {
        assert_eq!(
            cu!(cuDeviceGet(&mut device, ordinal)),
            CUresult::INVALID_DEVICE
        );
    }
    let mut name = [0 as c_char; 64];
    ok!(cuDeviceGetName(name.as_mut_ptr(), 64, device));
    // SAFETY: the call has written a text with its terminator.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    assert_eq!(name.to_str(), Ok("vgpu software device"));
    let mut bytes = 0;
    ok!(cuDeviceTotalMem_v2(&mut bytes, device));
    assert_eq!(bytes, 256 << 20);
    let (mut major, mut minor) = (0, 0);
    ok!(cuDeviceComputeCapability(&mut major, &mut minor, device));
    assert_eq!((major, minor), (8, 0));
    let mut value = 0;
    ok!(cuDeviceGetAttribute(&mut value, 16, device));
    assert_eq!(value, 2);
    assert_eq!(
        cu!(cuDeviceGetAttribute(&mut value, 1000, device)),
        CUresult::INVALID_VALUE
    );
    let mut id = [0 as c_char; 16];
    ok!(cuDeviceGetPCIBusId(id.as_mut_ptr(), 16, device));
    let mut found = CUdevice(9);
    ok!(cuDeviceGetByPCIBusId(&mut found, id.as_ptr()));
    assert_eq!(found, device);
    let mut text = std::ptr::null();
    ok!(cuGetErrorName(CUresult(700), &mut text));
    // SAFETY: error texts are static.
    let text = unsafe { CStr::from_ptr(text) };
    assert_eq!(text, c"CUDA_ERROR_ILLEGAL_ADDRESS");
}

#[test]
fn two_devices_have_contexts_pools_and_names_of_their_own() {
    let _turn = PRIMARY.lock().expect("no panic");
    std::thread::spawn(|| {
        let mut seen = Vec::new();
        for ordinal in 0..2 {
            let device = CUdevice(ordinal);
            let (mut uuid, mut ctx) = (CUuuid::default(), CUcontext::NULL);
            ok!(cuDeviceGetUuid(&mut uuid, device));
            ok!(cuDevicePrimaryCtxRetain(&mut ctx, device));
            ok!(cuCtxSetCurrent(ctx));
            let mut found = CUdevice(9);
            ok!(cuCtxGetDevice(&mut found));
            assert_eq!(found, device);
            let mut pool = CUmemoryPool::NULL;
            ok!(cuDeviceGetMemPool(&mut pool, device));
            let mut other = CUmemoryPool::NULL;
            ok!(cuDeviceGetMemPool(&mut other, CUdevice(1 - ordinal)));
            assert_ne!(pool, other);
            assert_eq!(
                cu!(cuDeviceSetMemPool(device, other)),
                CUresult::INVALID_VALUE
            );
            let mut ptr = CUdeviceptr(0);
            ok!(cuMemAllocAsync(&mut ptr, 64, CUstream::NULL));
            let mut owner = 9_i32;
            ok!(cuPointerGetAttribute((&raw mut owner).cast(), 9, ptr));
            assert_eq!(owner, ordinal);
            ok!(cuMemFreeAsync(ptr, CUstream::NULL));
            ok!(cuDevicePrimaryCtxRelease_v2(device));
            seen.push((uuid.bytes, ctx));
        }
        assert!(seen[0].0 != seen[1].0 && seen[0].1 != seen[1].1);
        let mut can = 9;
        ok!(cuDeviceCanAccessPeer(&mut can, CUdevice(0), CUdevice(1)));
        assert_eq!(can, 0);
    })
    .join()
    .unwrap();
}

#[test]
fn contexts_are_current_per_thread() {
    std::thread::spawn(|| {
        let first = Context::new();
        let second = Context::new();
        let mut ctx = CUcontext::NULL;
        ok!(cuCtxGetCurrent(&mut ctx));
        assert_eq!(ctx, second.0);
        ok!(cuCtxPopCurrent_v2(&mut ctx));
        assert_eq!(ctx, second.0);
        ok!(cuCtxGetCurrent(&mut ctx));
        assert_eq!(ctx, first.0);
        ok!(cuCtxSetCurrent(second.0));
        let mut version = 0;
        ok!(cuCtxGetApiVersion(CUcontext::NULL, &mut version));
        assert_eq!(version, 3020);
        ok!(cuCtxSetCurrent(CUcontext::NULL));
        ok!(cuCtxGetCurrent(&mut ctx));
        assert_eq!(ctx, CUcontext::NULL);
        assert_eq!(cu!(cuCtxPopCurrent_v2(&mut ctx)), CUresult::INVALID_CONTEXT);
        assert_eq!(
            cu!(cuCtxSetCurrent(CUcontext(0xdead_0000))),
            CUresult::INVALID_CONTEXT
        );
        let (mut one, mut other) = (0, 0);
        ok!(cuCtxGetId(first.0, &mut one));
        ok!(cuCtxGetId(second.0, &mut other));
        assert_ne!(one, other);
    })
    .join()
    .expect("no panic");
}

#[test]
fn limits_and_flags() {
    let _context = Context::new();
    let mut value = 0;
    ok!(cuCtxGetLimit(&mut value, 0));
    assert_eq!(value, 1024);
    ok!(cuCtxSetLimit(1, 4 << 20));
    ok!(cuCtxGetLimit(&mut value, 1));
    assert_eq!(value, 4 << 20);
    assert_eq!(
        cu!(cuCtxGetLimit(&mut value, 3)),
        CUresult::UNSUPPORTED_LIMIT
    );
    assert_eq!(cu!(cuCtxGetLimit(&mut value, 99)), CUresult::INVALID_VALUE);
    ok!(cuCtxSetFlags(4));
    let mut flags = 0;
    ok!(cuCtxGetFlags(&mut flags));
    assert_eq!(flags, 4);
}

#[test]
fn the_primary_context_is_named_before_it_is_there() {
    let _turn = PRIMARY.lock().expect("no panic");
    std::thread::spawn(|| {
        let mut table: *const c_void = std::ptr::null();
        ok!(cuGetExportTable(&mut table, &CUDART));
        assert_eq!(
            cu!(cuGetExportTable(&mut table.clone(), &CUuuid::default())),
            CUresult::INVALID_VALUE
        );
        type Slot = unsafe extern "C" fn(*mut CUcontext, CUdevice) -> CUresult;
        // SAFETY: the table is words: its size, then functions; slot 2 has this signature.
        let slot = unsafe { table.cast::<Slot>().add(2).read() };
        let mut named = CUcontext::NULL;
        // SAFETY: the pointer is good for a context.
        assert_eq!(unsafe { slot(&mut named, CUdevice(0)) }, CUresult::SUCCESS);
        let (mut flags, mut active) = (0, 9);
        ok!(cuDevicePrimaryCtxGetState(
            CUdevice(0),
            &mut flags,
            &mut active
        ));
        assert_eq!(active, 0);
        ok!(cuCtxSetCurrent(named));
        let mut device = CUdevice(7);
        ok!(cuCtxGetDevice(&mut device));
        let mut dptr = CUdeviceptr::NULL;
        assert_eq!(
            cu!(cuMemAlloc_v2(&mut dptr, 4)),
            CUresult::CONTEXT_IS_DESTROYED
        );
        let mut retained = CUcontext::NULL;
        ok!(cuDevicePrimaryCtxRetain(&mut retained, CUdevice(0)));
        assert_eq!(retained, named);
        ok!(cuMemAlloc_v2(&mut dptr, 4));
        ok!(cuDevicePrimaryCtxRelease_v2(CUdevice(0)));
        assert_eq!(
            cu!(cuDevicePrimaryCtxRelease_v2(CUdevice(0))),
            CUresult::INVALID_CONTEXT
        );
        ok!(cuDevicePrimaryCtxRetain(&mut retained, CUdevice(0)));
        assert_eq!(cu!(cuMemFree_v2(dptr)), CUresult::INVALID_VALUE, "gone");
        ok!(cuDevicePrimaryCtxReset_v2(CUdevice(0)));
        assert_eq!(
            cu!(cuMemAlloc_v2(&mut dptr, 4)),
            CUresult::CONTEXT_IS_DESTROYED
        );
        assert_eq!(cu!(cuCtxDestroy_v2(named)), CUresult::INVALID_CONTEXT);
    })
    .join()
    .expect("no panic");
}

#[test]
fn functions_it_lacks_are_absent() {
    assert!(CUDA.cuLaunchCooperativeKernel.is_none());
    assert!(CUDA.cuMemAllocManaged.is_none());
    assert!(CUDA.cuMemCreate.is_none());
    // SAFETY: the function is absent, so nothing is called.
    let lacking = unsafe {
        vgpu_driver::call!(
            CUDA,
            cuGetProcAddress(c"cuInit".as_ptr(), std::ptr::null_mut(), 13000, 0)
        )
    };
    assert_eq!(lacking, CUresult::NOT_SUPPORTED);
}
