//! Records against a worker in this process.

use std::ffi::c_void;
use std::sync::Mutex;
use std::time::Duration;
use vgpu_channel::link::Hello;
use vgpu_channel::loopback;
use vgpu_channel::ring::RecordHeader;
use vgpu_channel::server::Config;
use vgpu_driver::Driver;
use vgpu_protocol::cuda::{CUfunction, CUmodule, CUresult, CUstream};
use vgpu_protocol::number::{call, internal};
use vgpu_protocol::wire::{FunctionReply, Launch, LoadImage, LoadReply, Lookup, RECORD_REPLY};
use vgpu_worker::fuzz::fuzz_record;
use vgpu_worker::issuer::Ended;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn any_bytes_may_come_as_a_record() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    for round in 0..20_000_u64 {
        let len = 22 + random() as usize % 300;
        let mut bytes: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        // Half of the records are made of small numbers: handles that are live, lengths that fit.
        if round % 2 == 0 {
            for (at, byte) in bytes.iter_mut().enumerate().skip(6) {
                *byte = if (at - 6) % 8 == 0 { *byte % 10 } else { 0 };
            }
        }
        // Every number of the table many times, with the valid slot.
        bytes[..2].copy_from_slice(&((round % 260) as u16).to_le_bytes());
        if round % 3 != 0 {
            bytes[14..22].fill(0);
        }
        fuzz_record(&bytes);
    }
    fuzz_record(&[]);
    fuzz_record(&[0xff; 21]);
}

const FUNCTION: CUfunction = CUfunction(0x7000);
static LAUNCHED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

unsafe extern "C" fn load(
    module: *mut CUmodule,
    _: *const c_void,
    _: u32,
    _: *mut u32,
    _: *mut *mut c_void,
) -> CUresult {
    // SAFETY: the worker gives room for the result.
    unsafe { *module = CUmodule(0x6000) };
    CUresult::SUCCESS
}

unsafe extern "C" fn get_function(
    function: *mut CUfunction,
    _: CUmodule,
    _: *const std::ffi::c_char,
) -> CUresult {
    // SAFETY: the worker gives room for the result.
    unsafe { *function = FUNCTION };
    CUresult::SUCCESS
}

unsafe extern "C" fn param_info(
    _: CUfunction,
    index: usize,
    offset: *mut usize,
    size: *mut usize,
) -> CUresult {
    if index >= 2 {
        return CUresult::INVALID_VALUE;
    }
    // SAFETY: the worker gives room for the results.
    unsafe { (*offset, *size) = (index * 8, 8) };
    CUresult::SUCCESS
}

#[allow(clippy::too_many_arguments)]
unsafe extern "C" fn launch(
    function: CUfunction,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: CUstream,
    _: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    assert_eq!(function, FUNCTION);
    // SAFETY: a parameter buffer with its size, as CUDA's `extra` says.
    let bytes = unsafe {
        let buffer = (*extra.add(1)).cast::<u8>();
        let len = *(*extra.add(3)).cast::<usize>();
        std::slice::from_raw_parts(buffer, len).to_vec()
    };
    LAUNCHED.lock().unwrap().push(bytes);
    CUresult::SUCCESS
}

unsafe extern "C" fn set_current(_: vgpu_protocol::cuda::CUcontext) -> CUresult {
    CUresult::SUCCESS
}

#[test]
fn launches_bring_their_parameters_in_order() {
    let driver = Driver {
        cuModuleLoadDataEx: Some(load),
        cuModuleGetFunction: Some(get_function),
        cuFuncGetParamInfo: Some(param_info),
        cuLaunchKernel: Some(launch),
        cuCtxSetCurrent: Some(set_current),
        ..Driver::default()
    };
    let pair = loopback::pair(&Config::default(), Hello::new(0, 0), &[]).unwrap();
    let (client, consumer) = (pair.client, pair.consumer);
    drop(pair.server);
    let server =
        std::thread::spawn(move || vgpu_worker::start::serve_in_process(driver, 1, consumer));

    let slot = client.alloc_reply().unwrap();
    let mut sequence = 0;
    let mut ask = |number: u16, parts: &[&[u8]]| {
        sequence += 1;
        let header = RecordHeader {
            call: number,
            flags: RECORD_REPLY,
            thread: 0,
            reply_sequence: sequence,
            reply_address: slot,
            scope: 0,
        };
        client.post(&header, parts).unwrap();
        let reply = client.reply(slot).unwrap();
        let (status, len) = client
            .wait_reply(reply, sequence, Some(Duration::from_secs(60)))
            .unwrap();
        assert_eq!(status, 0, "call {number}");
        let mut bytes = vec![0; len];
        client.copy_out(slot + 64, &mut bytes).unwrap();
        bytes
    };
    let image = client.alloc(64, 64).unwrap();
    client.copy_in(image, b".version 8.0").unwrap();
    let mut request = LoadImage::default();
    (request.image.addr, request.image.len) = (image, 12);
    let bytes = ask(call::cuModuleLoadDataEx, &[request.as_bytes()]);
    let module = LoadReply::read_from_bytes(&bytes).unwrap().handle;
    let lookup = Lookup { container: module };
    let bytes = ask(call::cuModuleGetFunction, &[lookup.as_bytes(), b"kernel"]);
    let (function, _) = FunctionReply::read_from_prefix(&bytes).unwrap();
    assert_eq!((function.param_count, function.params_len), (2, 16));

    let mut record = Launch {
        function: function.handle,
        params_len: 16,
        ..Launch::default()
    };
    for number in 0..1000_u64 {
        let params = [number, !number];
        let header = RecordHeader {
            call: call::cuLaunchKernel,
            reply_address: slot,
            ..RecordHeader::default()
        };
        if number % 2 == 0 {
            client
                .post(&header, &[record.as_bytes(), params.as_bytes()])
                .unwrap();
        } else {
            // Through the heap, which must not be reused before the launch: one place each.
            record.params = client.alloc(64, 64).unwrap();
            client.copy_in(record.params, params.as_bytes()).unwrap();
            client.post(&header, &[record.as_bytes()]).unwrap();
            record.params = 0;
        }
    }
    ask(internal::PING, &[]);
    let launched = LAUNCHED.lock().unwrap();
    assert_eq!(launched.len(), 1000);
    for (number, bytes) in launched.iter().enumerate() {
        let number = number as u64;
        assert_eq!(bytes.as_slice(), [number, !number].as_bytes());
    }
    drop(client);
    assert_eq!(server.join().unwrap(), Ended::Gone);
}
