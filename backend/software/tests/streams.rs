//! Streams, events and host functions through the driver's table.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "the arguments of a test's call are part of the unsafe call"
)]

#[macro_use]
mod support;

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use support::*;
use vgpu_protocol::cuda::*;

/// Long enough for a command that is not held back to be executed.
const A_WHILE: Duration = Duration::from_millis(50);

fn is_idle(stream: CUstream) -> bool {
    match cu!(cuStreamQuery(stream)) {
        CUresult::SUCCESS => true,
        CUresult::NOT_READY => false,
        other => panic!("{other}"),
    }
}

#[test]
fn commands_are_executed_in_order_and_later() {
    let _context = Context::new();
    let stream = stream(CU_STREAM_NON_BLOCKING);
    let dptr = alloc(4);
    let gate = Gate::close(stream);
    for value in 1..=100 {
        ok!(cuMemsetD32Async(dptr, value, 1, stream));
    }
    assert!(!is_idle(stream));
    assert_eq!(download(dptr, 1), [0], "held back");
    gate.open();
    ok!(cuStreamSynchronize(stream));
    assert!(is_idle(stream));
    assert_eq!(download(dptr, 1), [100]);
    ok!(cuStreamDestroy_v2(stream));
    assert_eq!(cu!(cuStreamQuery(stream)), CUresult::INVALID_HANDLE);
    assert_eq!(cu!(cuStreamDestroy_v2(stream)), CUresult::INVALID_HANDLE);
}

#[test]
fn the_legacy_stream_is_in_order_with_blocking_streams_only() {
    let _context = Context::new();
    let blocking = stream(0);
    let free = stream(CU_STREAM_NON_BLOCKING);
    let gate = Gate::close(blocking);
    let legacy_done = event();
    let later_done = event();
    let free_done = event();
    ok!(cuEventRecord(legacy_done, CUstream::NULL));
    let other = stream(0);
    ok!(cuEventRecord(later_done, other));
    ok!(cuEventRecord(free_done, free));
    ok!(cuEventSynchronize(free_done));
    std::thread::sleep(A_WHILE);
    assert_eq!(cu!(cuEventQuery(legacy_done)), CUresult::NOT_READY);
    assert_eq!(
        cu!(cuEventQuery(later_done)),
        CUresult::NOT_READY,
        "a blocking stream waits for the legacy stream in turn"
    );
    gate.open();
    ok!(cuEventSynchronize(later_done));
    ok!(cuEventQuery(legacy_done));
}

#[test]
fn a_full_stream_holds_its_submitter_back() {
    let context = Context::new();
    let stream = stream(CU_STREAM_NON_BLOCKING);
    let dptr = alloc(4);
    let gate = Gate::close(stream);
    let submitted = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&submitted);
    let ctx = context.0;
    let submitter = std::thread::spawn(move || {
        ok!(cuCtxSetCurrent(ctx));
        for value in 0..1100 {
            ok!(cuMemsetD32Async(dptr, value, 1, stream));
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // The gate is one of the 1024.
    while submitted.load(Ordering::Relaxed) < 1023 {
        std::thread::yield_now();
    }
    std::thread::sleep(A_WHILE);
    assert_eq!(submitted.load(Ordering::Relaxed), 1023);
    // Other streams go on.
    let other = alloc(4);
    ok!(cuMemsetD32Async(other, 3, 1, CUstream::NULL));
    assert_eq!(download(other, 1), [3]);
    gate.open();
    submitter.join().expect("no panic");
    ok!(cuStreamSynchronize(stream));
    assert_eq!(download(dptr, 1), [1099]);
}

#[test]
fn streams_wait_for_events_of_other_streams() {
    let _context = Context::new();
    let first = stream(CU_STREAM_NON_BLOCKING);
    let second = stream(CU_STREAM_NON_BLOCKING);
    let dptr = alloc(4);
    let done = event();
    ok!(cuStreamWaitEvent(second, done, 0));
    let gate = Gate::close(first);
    ok!(cuMemsetD32Async(dptr, 1, 1, first));
    ok!(cuEventRecord(done, first));
    ok!(cuStreamWaitEvent(second, done, 0));
    ok!(cuMemsetD32Async(dptr, 2, 1, second));
    ok!(cuEventDestroy_v2(done));
    std::thread::sleep(A_WHILE);
    assert!(!is_idle(second));
    gate.open();
    ok!(cuStreamSynchronize(second));
    assert_eq!(download(dptr, 1), [2]);
    assert_eq!(cu!(cuEventQuery(done)), CUresult::INVALID_HANDLE);
}

#[test]
fn events_measure_time_in_order() {
    let _context = Context::new();
    let stream = stream(CU_STREAM_NON_BLOCKING);
    let (start, end) = (event(), event());
    let mut ms = 0.0f32;
    assert_eq!(
        cu!(cuEventElapsedTime(&mut ms, start, end)),
        CUresult::INVALID_HANDLE,
        "never recorded"
    );
    ok!(cuEventQuery(start));
    ok!(cuEventRecord(start, stream));
    let gate = Gate::close(stream);
    ok!(cuEventRecord(end, stream));
    assert_eq!(
        cu!(cuEventElapsedTime(&mut ms, start, end)),
        CUresult::NOT_READY
    );
    ok!(cuEventSynchronize(start));
    std::thread::sleep(Duration::from_millis(5));
    gate.open();
    ok!(cuEventSynchronize(end));
    ok!(cuEventElapsedTime(&mut ms, start, end));
    assert!(ms >= 4.0, "{ms}");
    ok!(cuEventElapsedTime_v2(&mut ms, end, start));
    assert!(ms <= -4.0, "{ms}");
    let mut untimed = CUevent::NULL;
    ok!(cuEventCreate(&mut untimed, CU_EVENT_DISABLE_TIMING));
    ok!(cuEventRecord(untimed, stream));
    ok!(cuEventSynchronize(untimed));
    assert_eq!(
        cu!(cuEventElapsedTime(&mut ms, start, untimed)),
        CUresult::INVALID_HANDLE
    );
}

#[test]
fn words_are_written_and_waited_for() {
    let _context = Context::new();
    let (first, second) = (
        stream(CU_STREAM_NON_BLOCKING),
        stream(CU_STREAM_NON_BLOCKING),
    );
    let words = upload(&[0; 4]);
    let wide = CUdeviceptr(words.0 + 8);
    ok!(cuStreamWaitValue64_v2(second, wide, 5, 0));
    ok!(cuStreamWriteValue32_v2(second, words, 9, 0));
    std::thread::sleep(A_WHILE);
    assert!(!is_idle(second));
    ok!(cuStreamWriteValue64_v2(first, wide, 1 << 40, 0));
    ok!(cuStreamSynchronize(second));
    assert_eq!(download(words, 4), [9, 0, 0, 1 << 8]);
    assert_eq!(
        cu!(cuStreamWriteValue32_v2(
            first,
            CUdeviceptr(words.0 + 2),
            0,
            0
        )),
        CUresult::INVALID_VALUE
    );
    assert_eq!(
        cu!(cuStreamWaitValue32_v2(first, CUdeviceptr(64), 0, 0)),
        CUresult::INVALID_VALUE
    );
}

struct Calls {
    order: Mutex<Vec<u32>>,
    running: AtomicBool,
    refused: AtomicUsize,
    stream: AtomicUsize,
}

static CALLS: Calls = Calls {
    order: Mutex::new(Vec::new()),
    running: AtomicBool::new(false),
    refused: AtomicUsize::new(0),
    stream: AtomicUsize::new(0),
};

unsafe extern "C" fn host_function(user: *mut c_void) {
    assert!(!CALLS.running.swap(true, Ordering::SeqCst), "one at a time");
    let mut dptr = CUdeviceptr::NULL;
    if cu!(cuMemAlloc_v2(&mut dptr, 4)) == CUresult::NOT_PERMITTED {
        CALLS.refused.fetch_add(1, Ordering::SeqCst);
    }
    std::thread::sleep(Duration::from_millis(2));
    CALLS.order.lock().expect("no panic").push(user as u32);
    CALLS.running.store(false, Ordering::SeqCst);
}

unsafe extern "C" fn stream_callback(stream: CUstream, status: CUresult, user: *mut c_void) {
    assert_eq!(status, CUresult::SUCCESS);
    CALLS.stream.store(stream.0 as usize, Ordering::SeqCst);
    CALLS.order.lock().expect("no panic").push(user as u32);
}

#[test]
fn host_functions_are_called_in_order_one_at_a_time() {
    let _context = Context::new();
    let (first, second) = (
        stream(CU_STREAM_NON_BLOCKING),
        stream(CU_STREAM_NON_BLOCKING),
    );
    for number in 0..5 {
        ok!(cuLaunchHostFunc(
            first,
            Some(host_function),
            number as *mut c_void
        ));
        ok!(cuLaunchHostFunc(
            second,
            Some(host_function),
            100 as *mut c_void
        ));
    }
    ok!(cuStreamAddCallback(
        first,
        Some(stream_callback),
        5 as *mut c_void,
        0
    ));
    ok!(cuCtxSynchronize());
    let order = CALLS.order.lock().expect("no panic");
    let of_first: Vec<u32> = order.iter().copied().filter(|n| *n < 100).collect();
    assert_eq!(of_first, [0, 1, 2, 3, 4, 5]);
    assert_eq!(order.len(), 11);
    assert_eq!(CALLS.refused.load(Ordering::SeqCst), 10);
    assert_eq!(CALLS.stream.load(Ordering::SeqCst) as u64, first.0);
    assert_eq!(
        cu!(cuLaunchHostFunc(first, None, std::ptr::null_mut())),
        CUresult::INVALID_VALUE
    );
}

#[test]
fn streams_say_what_they_are() {
    let context = Context::new();
    let mut low = CUstream::NULL;
    ok!(cuStreamCreateWithPriority(
        &mut low,
        CU_STREAM_NON_BLOCKING,
        -100
    ));
    let (mut flags, mut priority, mut id, mut other) = (0, 0, 0, 0);
    let mut ctx = CUcontext::NULL;
    ok!(cuStreamGetFlags(low, &mut flags));
    ok!(cuStreamGetPriority(low, &mut priority));
    ok!(cuStreamGetId(low, &mut id));
    ok!(cuStreamGetCtx(low, &mut ctx));
    assert_eq!((flags, priority, ctx), (1, -5, context.0));
    ok!(cuStreamGetId(CUstream::NULL, &mut other));
    assert_eq!(other, 7);
    ok!(cuStreamGetId(CUstream::PER_THREAD, &mut other));
    assert_eq!(other, 15);
    assert!(id > 15);
    assert_eq!(
        cu!(cuStreamGetId(CUstream(0x1234_5678), &mut other)),
        CUresult::INVALID_HANDLE
    );
    assert_eq!(cu!(cuStreamCreate(&mut low, 2)), CUresult::INVALID_VALUE);
}

#[test]
fn destroying_a_context_ends_what_waits_in_it() {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let context = Context::new();
        let stream = stream(0);
        let _gate = Gate::close(stream);
        for _ in 0..10 {
            ok!(cuMemsetD32_v2(alloc(4), 1, 1));
        }
        drop(context);
        let mut id = 0;
        assert_eq!(
            cu!(cuStreamGetId(stream, &mut id)),
            CUresult::INVALID_CONTEXT,
            "the context was popped"
        );
        let _context = Context::new();
        assert_eq!(
            cu!(cuStreamGetId(stream, &mut id)),
            CUresult::INVALID_HANDLE
        );
        done.send(()).expect("the test waits");
    });
    wait.recv_timeout(Duration::from_secs(60))
        .expect("destruction does not wait for a word that never comes");
}

#[test]
fn freeing_waits_for_the_context() {
    let context = Context::new();
    let stream = stream(CU_STREAM_NON_BLOCKING);
    let dptr = alloc(4);
    let gate = Gate::close(stream);
    ok!(cuMemsetD32Async(dptr, 1, 1, stream));
    let freed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&freed);
    let ctx = context.0;
    let freeing = std::thread::spawn(move || {
        ok!(cuCtxSetCurrent(ctx));
        ok!(cuMemFree_v2(dptr));
        flag.store(true, Ordering::SeqCst);
    });
    std::thread::sleep(A_WHILE);
    assert!(!freed.load(Ordering::SeqCst));
    gate.open();
    freeing.join().expect("no panic");
    ok!(cuCtxSynchronize());
}

#[test]
fn many_threads_use_one_context() {
    let context = Context::new();
    let ctx = context.0;
    let threads: Vec<_> = (0..8u32)
        .map(|number| {
            std::thread::spawn(move || {
                ok!(cuCtxSetCurrent(ctx));
                let flags = if number % 2 == 0 {
                    0
                } else {
                    CU_STREAM_NON_BLOCKING
                };
                let (first, second) = (stream(flags), stream(flags));
                let done = event();
                for round in 0..50 {
                    let data = alloc(4096);
                    let copy = alloc(4096);
                    let value = number << 16 | round;
                    ok!(cuMemsetD32Async(data, value, 1024, first));
                    ok!(cuEventRecord(done, first));
                    ok!(cuStreamWaitEvent(second, done, 0));
                    ok!(cuMemcpyDtoDAsync_v2(copy, data, 4096, second));
                    let mut words = vec![0u32; 1024];
                    let place = words.as_mut_ptr().cast();
                    ok!(cuMemcpyDtoHAsync_v2(place, copy, 4096, second));
                    assert!(words.iter().all(|word| *word == value));
                    if round % 10 == 0 {
                        ok!(cuMemsetD32_v2(data, 0, 1024));
                    }
                    ok!(cuMemFree_v2(data));
                    ok!(cuMemFree_v2(copy));
                }
                ok!(cuStreamDestroy_v2(first));
                ok!(cuStreamDestroy_v2(second));
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    ok!(cuCtxSynchronize());
}
