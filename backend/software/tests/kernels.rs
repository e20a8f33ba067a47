//! Modules, launches and faults through the driver's table.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "the arguments of a test's call are part of the unsafe call"
)]

#[macro_use]
mod support;

use std::ffi::{CString, c_char, c_void};
use std::ptr::null_mut;
use support::*;
use vgpu_protocol::cuda::*;

const CODE: &str = "
.version 8.0
.target sm_80
.address_size 64

.global .align 4 .u32 counter = 41;

.visible .entry add(.param .u64 data, .param .u32 value, .param .u32 count)
{
    .reg .pred %p;
    .reg .b32 %r<8>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [data];
    ld.param.u32 %r1, [value];
    ld.param.u32 %r2, [count];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.u32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p, %r6, %r2;
    @%p bra done;
    mul.wide.u32 %d2, %r6, 4;
    add.u64 %d3, %d1, %d2;
    ld.global.u32 %r7, [%d3];
    add.u32 %r7, %r7, %r1;
    st.global.u32 [%d3], %r7;
done:
    ret;
}

.visible .entry count()
{
    .reg .b32 %r<2>;
    ld.global.u32 %r1, [counter];
    add.u32 %r1, %r1, 1;
    st.global.u32 [counter], %r1;
    ret;
}

.visible .entry trapped()
{
    trap;
}

.visible .entry endless()
{
again:
    bra again;
}

.visible .entry limited() .maxntid 64, 1, 1
{
    ret;
}

.visible .entry lacking(.param .u64 data)
{
    .reg .b32 %r<10>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [data];
    wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%d1];
    ret;
}
";

fn module(text: &str) -> CUmodule {
    let text = CString::new(text).expect("no NUL inside");
    let mut module = CUmodule::NULL;
    ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
    module
}

fn function(module: CUmodule, name: &str) -> CUfunction {
    let name = CString::new(name).expect("no NUL inside");
    let mut function = CUfunction::NULL;
    ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

fn launch(function: CUfunction, grid: u32, block: u32, params: &mut [*mut c_void]) -> CUresult {
    let stream = CUstream::NULL;
    let params = params.as_mut_ptr();
    cu!(cuLaunchKernel(
        function,
        grid,
        1,
        1,
        block,
        1,
        1,
        0,
        stream,
        params,
        null_mut()
    ))
}

/// Launches `add` with pointers to its parameters.
fn add(function: CUfunction, mut data: CUdeviceptr, mut value: u32, mut count: u32) -> CUresult {
    let mut params: [*mut c_void; 3] = [
        (&raw mut data).cast(),
        (&raw mut value).cast(),
        (&raw mut count).cast(),
    ];
    launch(function, count.div_ceil(128), 128, &mut params)
}

#[test]
fn kernels_run_with_either_kind_of_parameters() {
    let _context = Context::new();
    let function = function(module(CODE), "add");
    let words: Vec<u32> = (0..1000).collect();
    let data = upload(&words);
    assert_eq!(add(function, data, 5, 1000), CUresult::SUCCESS);
    let mut block = [0u8; 16];
    block[..8].copy_from_slice(&data.0.to_le_bytes());
    block[8..12].copy_from_slice(&100u32.to_le_bytes());
    block[12..].copy_from_slice(&1000u32.to_le_bytes());
    let buffer: *mut c_void = block.as_mut_ptr().cast();
    let stream = CUstream::NULL;
    let with_extra = |mut size: usize, params: *mut *mut c_void| {
        let mut extra: [*mut c_void; 5] = [
            CU_LAUNCH_PARAM_BUFFER_POINTER as *mut c_void,
            buffer,
            CU_LAUNCH_PARAM_BUFFER_SIZE as *mut c_void,
            (&raw mut size).cast(),
            null_mut(),
        ];
        let extra = extra.as_mut_ptr();
        cu!(cuLaunchKernel(
            function, 8, 1, 1, 128, 1, 1, 0, stream, params, extra
        ))
    };
    assert_eq!(with_extra(16, null_mut()), CUresult::SUCCESS);
    assert_eq!(with_extra(15, null_mut()), CUresult::INVALID_VALUE);
    let mut both = [null_mut(); 3];
    assert_eq!(with_extra(16, both.as_mut_ptr()), CUresult::INVALID_VALUE);
    let expected: Vec<u32> = words.iter().map(|word| word + 105).collect();
    assert_eq!(download(data, 1000), expected);
}

#[test]
fn parameters_are_described() {
    let _context = Context::new();
    let function = function(module(CODE), "add");
    let (mut offset, mut size) = (0, 0);
    let mut layout = Vec::new();
    while cu!(cuFuncGetParamInfo(
        function,
        layout.len(),
        &mut offset,
        &mut size
    )) == CUresult::SUCCESS
    {
        layout.push((offset, size));
    }
    assert_eq!(layout, [(0, 8), (8, 4), (12, 4)]);
    let mut value = 0;
    ok!(cuFuncGetAttribute(&mut value, 0, function));
    assert_eq!(value, 1024);
    ok!(cuFuncSetAttribute(function, 8, 99 << 10));
    ok!(cuFuncGetAttribute(&mut value, 8, function));
    assert_eq!(value, 99 << 10);
    assert_eq!(
        cu!(cuFuncSetAttribute(function, 8, (99 << 10) + 1)),
        CUresult::INVALID_VALUE
    );
    ok!(cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &mut value, function, 1024, 0
    ));
    assert!((1..=2).contains(&value), "{value}");
    let (mut grid, mut block) = (0, 0);
    ok!(cuOccupancyMaxPotentialBlockSize(
        &mut grid, &mut block, function, None, 0, 0
    ));
    assert!(block > 0 && grid > 0);
}

#[test]
fn impossible_launches_are_refused_at_once() {
    let _context = Context::new();
    let module = module(CODE);
    let counting = function(module, "count");
    for (grid, block) in [(0, 1), (1, 0), (0x8000_0000, 1), (1, 1025)] {
        assert_eq!(
            launch(counting, grid, block, &mut []),
            CUresult::INVALID_VALUE,
            "{grid} blocks of {block}"
        );
    }
    let big = 49 << 10;
    let stream = CUstream::NULL;
    let shared = |bytes| {
        cu!(cuLaunchKernel(
            counting,
            1,
            1,
            1,
            1,
            1,
            1,
            bytes,
            stream,
            null_mut(),
            null_mut()
        ))
    };
    assert_eq!(shared(big), CUresult::INVALID_VALUE);
    ok!(cuFuncSetAttribute(counting, 8, big as i32));
    assert_eq!(shared(big), CUresult::SUCCESS);
    let limited = function(module, "limited");
    assert_eq!(
        launch(limited, 1, 128, &mut []),
        CUresult::LAUNCH_OUT_OF_RESOURCES
    );
    assert_eq!(
        launch(CUfunction(0x1234), 1, 1, &mut []),
        CUresult::INVALID_HANDLE
    );
    let other = Context::new();
    assert_eq!(
        launch(counting, 1, 1, &mut []),
        CUresult::INVALID_HANDLE,
        "of another context"
    );
    drop(other);
    ok!(cuModuleUnload(module));
    assert_eq!(launch(counting, 1, 1, &mut []), CUresult::INVALID_HANDLE);
    assert_eq!(cu!(cuModuleUnload(module)), CUresult::INVALID_HANDLE);
}

#[test]
fn attributes_it_cannot_honour_are_refused() {
    let _context = Context::new();
    let counting = function(module(CODE), "count");
    let mut attribute = CUlaunchAttribute {
        id: 4,
        ..CUlaunchAttribute::default()
    };
    attribute.value.words = [1 << 32 | 1, 1, 0, 0, 0, 0, 0, 0];
    let mut config = CUlaunchConfig {
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
        stream: CUstream::NULL,
        attributes: &mut attribute,
        attribute_count: 1,
    };
    ok!(cuLaunchKernelEx(&config, counting, null_mut(), null_mut()));
    attribute.value.words[0] = 1 << 32 | 2;
    config.attributes = &mut attribute;
    assert_eq!(
        cu!(cuLaunchKernelEx(&config, counting, null_mut(), null_mut())),
        CUresult::NOT_SUPPORTED
    );
}

#[test]
fn bad_code_is_refused_with_a_reason() {
    let _context = Context::new();
    let mut module = CUmodule::NULL;
    let elf = b"\x7fELF\x02\x01\x01\0";
    assert_eq!(
        cu!(cuModuleLoadData(&mut module, elf.as_ptr().cast())),
        CUresult::NO_BINARY_FOR_GPU
    );
    let text = CString::new(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k( {")
        .expect("no NUL inside");
    let mut log = [0x55 as c_char; 200];
    let mut options = [5u32, 6];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), 200 as *mut c_void];
    assert_eq!(
        cu!(cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr()
        )),
        CUresult::INVALID_PTX
    );
    let bytes: Vec<u8> = log.iter().map(|letter| *letter as u8).collect();
    let length = bytes
        .iter()
        .position(|byte| *byte == 0)
        .expect("terminated");
    assert_eq!(length, values[1] as usize);
    let message = String::from_utf8_lossy(&bytes[..length]);
    assert!(message.contains("line 4"), "{message}");
}

#[test]
fn what_it_lacks_is_refused_by_kernel() {
    let _context = Context::new();
    let module = module(CODE);
    let mut found = CUfunction::NULL;
    assert_eq!(
        cu!(cuModuleGetFunction(&mut found, module, c"lacking".as_ptr())),
        CUresult::NOT_SUPPORTED
    );
    assert_eq!(
        cu!(cuModuleGetFunction(&mut found, module, c"absent".as_ptr())),
        CUresult::NOT_FOUND
    );
    assert_ne!(function(module, "add"), CUfunction::NULL);
}

#[test]
fn libraries_have_variables_in_each_context() {
    let first = Context::new();
    let text = CString::new(CODE).expect("no NUL inside");
    let mut library = CUlibrary::NULL;
    ok!(cuLibraryLoadData(
        &mut library,
        text.as_ptr().cast(),
        null_mut(),
        null_mut(),
        0,
        null_mut(),
        null_mut(),
        0
    ));
    let (mut kernel, mut again) = (CUkernel::NULL, CUkernel::NULL);
    ok!(cuLibraryGetKernel(&mut kernel, library, c"count".as_ptr()));
    ok!(cuLibraryGetKernel(&mut again, library, c"count".as_ptr()));
    assert_eq!(kernel, again);
    let counter = || {
        let (mut dptr, mut bytes) = (CUdeviceptr::NULL, 0);
        ok!(cuLibraryGetGlobal(
            &mut dptr,
            &mut bytes,
            library,
            c"counter".as_ptr()
        ));
        assert_eq!(bytes, 4);
        dptr
    };
    assert_eq!(
        launch(CUfunction(kernel.0), 1, 1, &mut []),
        CUresult::SUCCESS
    );
    assert_eq!(
        launch(CUfunction(kernel.0), 1, 1, &mut []),
        CUresult::SUCCESS
    );
    assert_eq!(download(counter(), 1), [43]);
    let second = Context::new();
    assert_eq!(
        launch(CUfunction(kernel.0), 1, 1, &mut []),
        CUresult::SUCCESS
    );
    assert_eq!(download(counter(), 1), [42], "its own instance");
    drop(second);
    let mut in_first = CUfunction::NULL;
    ok!(cuKernelGetFunction(&mut in_first, kernel));
    assert_eq!(launch(in_first, 1, 1, &mut []), CUresult::SUCCESS);
    assert_eq!(download(counter(), 1), [44]);
    let (mut offset, mut size) = (0, 0);
    assert_eq!(
        cu!(cuFuncGetParamInfo(
            CUfunction(kernel.0),
            0,
            &mut offset,
            &mut size
        )),
        CUresult::INVALID_HANDLE
    );
    ok!(cuLibraryGetKernel(&mut again, library, c"add".as_ptr()));
    ok!(cuKernelGetParamInfo(again, 1, &mut offset, &mut size));
    assert_eq!((offset, size), (8, 4));
    ok!(cuLibraryUnload(library));
    assert_eq!(
        cu!(cuKernelGetFunction(&mut in_first, kernel)),
        CUresult::INVALID_HANDLE
    );
    drop(first);
}

#[test]
fn faults_stay_until_the_context_ends() {
    let context = Context::new();
    let loaded = module(CODE);
    let adding = function(loaded, "add");
    let data = upload(&[1, 2, 3, 4]);
    assert_eq!(
        add(adding, data, 1, 5),
        CUresult::SUCCESS,
        "found out later"
    );
    assert_eq!(cu!(cuCtxSynchronize()), CUresult::ILLEGAL_ADDRESS);
    let mut dptr = CUdeviceptr::NULL;
    assert_eq!(cu!(cuMemAlloc_v2(&mut dptr, 4)), CUresult::ILLEGAL_ADDRESS);
    assert_eq!(add(adding, data, 1, 4), CUresult::ILLEGAL_ADDRESS);
    let healthy = Context::new();
    let adding = function(module(CODE), "add");
    let fresh = upload(&[1]);
    assert_eq!(add(adding, fresh, 1, 1), CUresult::SUCCESS);
    assert_eq!(download(fresh, 1), [2], "another context is untouched");
    drop(healthy);
    ok!(cuCtxDestroy_v2(context.0));
    std::mem::forget(context);
    let _context = Context::new();
    let fresh = upload(&[1]);
    assert_eq!(download(fresh, 1), [1]);
}

#[test]
fn memory_of_other_contexts_and_freed_memory_is_out_of_reach() {
    let owner = Context::new();
    let foreign = upload(&[7]);
    let user = Context::new();
    let adding = function(module(CODE), "add");
    assert_eq!(add(adding, foreign, 1, 1), CUresult::SUCCESS);
    assert_eq!(cu!(cuCtxSynchronize()), CUresult::ILLEGAL_ADDRESS);
    drop(user);
    assert_eq!(download(foreign, 1), [7]);
    let adding = function(module(CODE), "add");
    ok!(cuMemFree_v2(foreign));
    assert_eq!(add(adding, foreign, 1, 1), CUresult::SUCCESS);
    assert_eq!(cu!(cuCtxSynchronize()), CUresult::ILLEGAL_ADDRESS);
    drop(owner);
}

#[test]
fn traps_are_launch_failures() {
    let _context = Context::new();
    let trapped = function(module(CODE), "trapped");
    assert_eq!(launch(trapped, 1, 1, &mut []), CUresult::SUCCESS);
    assert_eq!(
        cu!(cuStreamSynchronize(CUstream::NULL)),
        CUresult::LAUNCH_FAILED
    );
    assert_eq!(cu!(cuStreamQuery(CUstream::NULL)), CUresult::LAUNCH_FAILED);
}

#[test]
fn an_endless_kernel_ends_with_its_context() {
    let context = Context::new();
    let endless = function(module(CODE), "endless");
    assert_eq!(launch(endless, 1, 32, &mut []), CUresult::SUCCESS);
    assert_eq!(cu!(cuStreamQuery(CUstream::NULL)), CUresult::NOT_READY);
    drop(context);
}

#[test]
fn the_linker_joins_texts() {
    let _context = Context::new();
    let mut state = CUlinkState::NULL;
    ok!(cuLinkCreate_v2(0, null_mut(), null_mut(), &mut state));
    let second = CODE
        .replace("counter", "other_counter")
        .replace(".entry ", ".entry second_");
    for text in [CODE, &second] {
        let name = c"text".as_ptr();
        ok!(cuLinkAddData_v2(
            state,
            1,
            text.as_ptr().cast_mut().cast(),
            text.len(),
            name,
            0,
            null_mut(),
            null_mut()
        ));
    }
    let (mut image, mut size) = (null_mut(), 0);
    ok!(cuLinkComplete(state, &mut image, &mut size));
    assert!(size > CODE.len());
    let mut module = CUmodule::NULL;
    ok!(cuModuleLoadData(&mut module, image));
    ok!(cuLinkDestroy(state));
    assert_eq!(cu!(cuLinkDestroy(state)), CUresult::INVALID_HANDLE);
    assert_ne!(function(module, "add"), CUfunction::NULL);
    assert_ne!(function(module, "second_add"), CUfunction::NULL);
}
