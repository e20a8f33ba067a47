//! Host functions: the guest's code runs in the guest, in stream order, while the stream waits.
//!
//! The driver gets a function of ours, which asks the client's dispatcher to run the guest's and
//! blocks until that is acknowledged. Drivers run host functions of a context one after the other
//! on a thread of their own and forbid CUDA calls in them, so blocking there is legal.

use crate::call::{Call, Outcome};
use crate::rules;
use crate::state::Worker;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vgpu_channel::callback::Callback;
use vgpu_channel::wait::{SpinBudget, WaitError};
use vgpu_protocol::cuda::{CUDA_HOST_NODE_PARAMS, CUgraphExec, CUgraphNode, CUresult, CUstream};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, HOST_FUNC, HostFunc, STREAM_CALLBACK};

/// How long to spin for an acknowledgement before sleeping.
const SPIN: Duration = Duration::from_micros(50);
/// How often a blocked host function looks whether the worker ends.
const LOOK: Duration = Duration::from_millis(100);

static NEXT: AtomicU64 = AtomicU64::new(1);

/// What our function needs to find the guest's.
struct Data {
    worker: Arc<Worker>,
    function: HostFunc,
    /// Run once and freed then, or part of a graph and kept until the worker ends.
    once: bool,
}

/// `cuLaunchHostFunc`, `cuStreamAddCallback`.
///
/// # Errors
/// What the client gets.
pub fn enqueue(call: &mut Call<'_>) -> Outcome {
    let function = call.decode::<HostFunc>()?;
    let stream = call.in_stream(CUstream(function.stream))?;
    let data = Box::new(Data {
        worker: Arc::clone(call.worker),
        function,
        once: rules::may_touch(call, stream),
    });
    let driver = call.driver();
    let user = Box::into_raw(data);
    // SAFETY: the stream is live; `user` stays valid until our function frees it.
    let result = unsafe {
        match function.kind {
            HOST_FUNC => vgpu_driver::call!(
                driver,
                cuLaunchHostFunc(stream, Some(host_function), user.cast())
            ),
            STREAM_CALLBACK => vgpu_driver::call!(
                driver,
                cuStreamAddCallback(stream, Some(stream_callback), user.cast(), 0)
            ),
            _ => CUresult::INVALID_VALUE,
        }
    };
    if result != CUresult::SUCCESS {
        // SAFETY: the driver did not take it.
        drop(unsafe { Box::from_raw(user) });
    }
    call.result(result)
}

/// Parameters of a host node that runs a guest's function. What they point to is never freed: the
/// driver does not say when the last copy of a graph is gone.
pub fn node_params(worker: &Arc<Worker>, function: HostFunc) -> CUDA_HOST_NODE_PARAMS {
    let data = Box::new(Data {
        worker: Arc::clone(worker),
        function,
        once: false,
    });
    CUDA_HOST_NODE_PARAMS {
        function: Some(host_function),
        user: Box::into_raw(data).cast(),
    }
}

/// Has the driver take a function of ours that runs a guest's one time. `take` gets the function and its argument, and says
/// whether the driver took them.
pub fn once(
    worker: &Arc<Worker>,
    function: HostFunc,
    take: impl FnOnce(CUDA_HOST_NODE_PARAMS) -> CUresult,
) -> CUresult {
    let user = Box::into_raw(Box::new(Data {
        worker: Arc::clone(worker),
        function,
        once: true,
    }));
    let result = take(CUDA_HOST_NODE_PARAMS {
        function: Some(host_function),
        user: user.cast(),
    });
    if result != CUresult::SUCCESS {
        // SAFETY: the driver did not take it.
        drop(unsafe { Box::from_raw(user) });
    }
    result
}

/// The guest's function that a host node runs, if the node's function is ours.
fn guests(params: &CUDA_HOST_NODE_PARAMS) -> Option<HostFunc> {
    let ours: unsafe extern "C" fn(*mut c_void) = host_function;
    let is_ours = params
        .function
        .is_some_and(|function| std::ptr::fn_addr_eq(function, ours));
    if !is_ours || params.user.is_null() {
        return None;
    }
    // SAFETY: our function's argument in a node is a `Data` of ours that is never freed.
    Some(unsafe { (*params.user.cast::<Data>()).function })
}

/// `cuGraphHostNodeGetParams`.
///
/// # Errors
/// What the client gets.
pub fn get_node(call: &mut Call<'_>) -> Outcome {
    let node: CUgraphNode = call
        .decode::<wire::cuGraphHostNodeGetParams::Args>()?
        .node
        .get();
    call.live(node)?;
    let get = call
        .driver()
        .cuGraphHostNodeGetParams
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut params = CUDA_HOST_NODE_PARAMS {
        function: None,
        user: std::ptr::null_mut(),
    };
    // SAFETY: the node is live, the result has room.
    call.result(unsafe { get(node, &raw mut params) })?;
    let function = guests(&params).ok_or(CUresult::NOT_SUPPORTED)?;
    call.reply(&function)
}

/// `cuGraphHostNodeSetParams`, `cuGraphExecHostNodeSetParams`.
///
/// # Errors
/// What the client gets.
pub fn set_node(call: &mut Call<'_>) -> Outcome {
    let exec = CUgraphExec(call.take::<u64>()?);
    let node = CUgraphNode(call.take::<u64>()?);
    let function = call.take::<HostFunc>()?;
    call.done()?;
    call.live(node)?;
    let driver = call.driver();
    let params = node_params(call.worker, function);
    let result = if call.number() == number::cuGraphExecHostNodeSetParams {
        call.live(exec)?;
        // SAFETY: both handles are live; the function's data is never freed.
        unsafe {
            vgpu_driver::call!(
                driver,
                cuGraphExecHostNodeSetParams(exec, node, &raw const params)
            )
        }
    } else {
        // SAFETY: as above.
        unsafe { vgpu_driver::call!(driver, cuGraphHostNodeSetParams(node, &raw const params)) }
    };
    call.result(result)
}

/// Our host function.
///
/// # Safety
/// `user` is a [`Data`] of ours, and if it is to run once, this is that time.
unsafe extern "C" fn host_function(user: *mut c_void) {
    // SAFETY: the contract of this function.
    unsafe { run(user, CUresult::SUCCESS) }
}

/// Our stream callback.
///
/// # Safety
/// As for [`host_function`].
unsafe extern "C" fn stream_callback(_: CUstream, status: CUresult, user: *mut c_void) {
    // SAFETY: the contract of this function.
    unsafe { run(user, status) }
}

/// # Safety
/// As for [`host_function`].
unsafe fn run(user: *mut c_void, status: CUresult) {
    let data = user.cast::<Data>();
    // SAFETY: `user` is ours and alive, by this function's contract.
    let (worker, function, once) =
        unsafe { (Arc::clone(&(*data).worker), (*data).function, (*data).once) };
    if once {
        // SAFETY: made by `Box::into_raw` in `enqueue`, and this is its only use.
        drop(unsafe { Box::from_raw(data) });
    }
    ask(&worker, &function, status);
}

/// Has the client run a function and waits until it did, or is gone.
fn ask(worker: &Worker, function: &HostFunc, status: CUresult) {
    worker.note(status);
    let callback = Callback {
        function: function.function,
        user: function.user,
        kind: function.kind,
        status: status.0,
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        args: [function.stream, 0, 0],
    };
    let channel = &worker.channel;
    let position = loop {
        if let Some(position) = channel.call_back(&callback) {
            break position;
        }
        if worker.stopping() || channel.is_gone() {
            return;
        }
        std::thread::sleep(Duration::from_micros(50));
    };
    if worker.spin(&SpinBudget::new(SPIN), || channel.acknowledged(position)) {
        return;
    }
    while let Err(WaitError::TimedOut) = channel.wait_acknowledged(position, Some(LOOK)) {
        if worker.stopping() {
            return;
        }
    }
}
