//! Host functions and stream callbacks: the program's code, run by one dispatcher thread of ours in
//! stream order while the worker's stream waits. CUDA calls are not permitted in it, as natively:
//! [`guard::call`] refuses all but look-ups on that thread.

use crate::call;
use crate::client::{self, Client};
use crate::stream::{self, NullStream};
use crate::{guard, log, thread};
use core::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, HOST_FUNC, STREAM_CALLBACK};
use zerocopy::IntoBytes;

/// Whether the dispatcher runs.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Starts the dispatcher thread, once.
///
/// # Errors
/// `OUT_OF_MEMORY` when no thread can be made.
pub fn start_dispatcher(client: &'static Client) -> Result<(), CUresult> {
    if RUNNING.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    thread::spawn_quiet("vgpu-callbacks", move || dispatch(client)).map_err(|error| {
        RUNNING.store(false, Ordering::Release);
        log::line(format_args!("no thread for host functions: {error}"));
        CUresult::OUT_OF_MEMORY
    })
}

fn dispatch(client: &'static Client) {
    let _ = thread::with(|thread| {
        thread.in_host_function.set(true);
        Ok(())
    });
    while client.channel().wait_dispatch(|| false, None).is_ok() {
        client.drain_output();
        while let Some((position, callback)) = client.channel().callbacks().pop() {
            // A panic of ours must not end the thread; the program's code is C.
            let _ = guard::value(|| {
                run(&callback);
                Ok(())
            });
            client.channel().acknowledge(position);
        }
    }
}

/// Runs one of the program's functions.
fn run(callback: &vgpu_channel::callback::Callback) {
    if callback.function == 0 {
        return;
    }
    let function = callback.function as *const c_void;
    let user = callback.user as *mut c_void;
    // SAFETY: the address and argument are those the program gave, as they came back from the
    // worker. A worker that gives others could already run anything in this process's place: it
    // owns the device memory, and the client trusts its host (`isolation.md`).
    unsafe {
        match callback.kind {
            HOST_FUNC => {
                core::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut c_void)>(function)(
                    user,
                );
            }
            STREAM_CALLBACK => {
                core::mem::transmute::<
                    *const c_void,
                    unsafe extern "C" fn(CUstream, CUresult, *mut c_void),
                >(function)(
                    CUstream(callback.args[0]), CUresult(callback.status), user
                );
            }
            other => log::line(format_args!("a host function of unknown kind {other}")),
        }
    }
}

/// `cuLaunchHostFunc`.
///
/// # Safety
/// `function` is null or a function of its signature.
pub unsafe fn cuLaunchHostFunc(
    default: NullStream,
    stream: CUstream,
    function: CUhostFn,
    user: *mut c_void,
) -> Result<(), CUresult> {
    let Some(function) = function else {
        return Err(CUresult::INVALID_VALUE);
    };
    enqueue(
        default,
        stream,
        number::cuLaunchHostFunc,
        function as usize as u64,
        user,
        HOST_FUNC,
    )
}

/// `cuStreamAddCallback`.
///
/// # Safety
/// `callback` is null or a function of its signature.
pub unsafe fn cuStreamAddCallback(
    default: NullStream,
    stream: CUstream,
    callback: CUstreamCallback,
    user: *mut c_void,
    flags: u32,
) -> Result<(), CUresult> {
    let Some(callback) = callback else {
        return Err(CUresult::INVALID_VALUE);
    };
    if flags != 0 {
        return Err(CUresult::INVALID_VALUE);
    }
    enqueue(
        default,
        stream,
        number::cuStreamAddCallback,
        callback as usize as u64,
        user,
        STREAM_CALLBACK,
    )
}

fn enqueue(
    default: NullStream,
    stream: CUstream,
    number: u16,
    function: u64,
    user: *mut c_void,
    kind: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    start_dispatcher(client)?;
    let args = wire::HostFunc {
        stream: state.handle.0,
        function,
        user: user as u64,
        kind,
        pad: 0,
    };
    call::call_in_stream(client, number, &state, &[args.as_bytes()], &mut []).map(|_| ())
}
