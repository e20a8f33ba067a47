//! Stream capture and graphs through the driver's table.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "the arguments of a test's call are part of the unsafe call"
)]

#[macro_use]
mod support;

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use support::*;
use vgpu_protocol::cuda::*;

/// Captures in global mode disturb other threads of the process: these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

const GLOBAL: u32 = CU_STREAM_CAPTURE_MODE_GLOBAL;
const RELAXED: u32 = CU_STREAM_CAPTURE_MODE_RELAXED;

fn in_turn(test: impl FnOnce()) {
    let _turn = TURN.lock().unwrap_or_else(|poison| poison.into_inner());
    let _context = Context::new();
    test();
}

fn end(stream: CUstream) -> Result<CUgraph, CUresult> {
    let mut graph = CUgraph(1);
    let result = cu!(cuStreamEndCapture(stream, &mut graph));
    if result != CUresult::SUCCESS {
        assert_eq!(graph, CUgraph::NULL);
    }
    result.ok().map(|()| graph)
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut exec = CUgraphExec::NULL;
    ok!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    exec
}

fn nodes(graph: CUgraph) -> Vec<CUgraphNode> {
    let mut count = 0;
    ok!(cuGraphGetNodes(graph, null_mut(), &mut count));
    let mut nodes = vec![CUgraphNode::NULL; count];
    ok!(cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count));
    nodes
}

fn status(stream: CUstream) -> u32 {
    let mut status = 9;
    ok!(cuStreamIsCapturing(stream, &mut status));
    status
}

#[test]
fn a_capture_forks_joins_and_runs_later() {
    in_turn(|| {
        let (main, side) = (
            stream(CU_STREAM_NON_BLOCKING),
            stream(CU_STREAM_NON_BLOCKING),
        );
        let (forked, joined) = (event(), event());
        let (first, second) = (alloc(4), alloc(4));
        ok!(cuStreamBeginCapture_v2(main, GLOBAL));
        assert_eq!(status(main), 1);
        ok!(cuMemsetD32Async(first, 1, 1, main));
        ok!(cuEventRecord(forked, main));
        ok!(cuStreamWaitEvent(side, forked, 0));
        assert_eq!(status(side), 1);
        ok!(cuMemcpyDtoDAsync_v2(second, first, 4, side));
        ok!(cuEventRecord(joined, side));
        ok!(cuStreamWaitEvent(main, joined, 0));
        let (mut state, mut id, mut graph, mut count) = (0, 0, CUgraph::NULL, 0);
        let mut after = null();
        ok!(cuStreamGetCaptureInfo_v2(
            main, &mut state, &mut id, &mut graph, &mut after, &mut count
        ));
        assert_eq!((state, count), (1, 2));
        ok!(cuMemsetD32Async(first, 2, 1, main));
        assert_eq!(end(main), Ok(graph));
        assert_eq!((status(main), status(side)), (0, 0));
        assert_eq!(download(second, 1), [0], "nothing ran yet");

        let nodes = nodes(graph);
        assert_eq!(nodes.len(), 3);
        let mut edges = 0;
        ok!(cuGraphGetEdges(graph, null_mut(), null_mut(), &mut edges));
        assert_eq!(edges, 3);
        let mut kind = 9;
        ok!(cuGraphNodeGetType(nodes[1], &mut kind));
        assert_eq!(kind, 1);
        let exec = instantiate(graph);
        ok!(cuGraphDestroy(graph));
        ok!(cuGraphLaunch(exec, main));
        ok!(cuGraphLaunch(exec, side));
        ok!(cuCtxSynchronize());
        assert_eq!(
            (download(first, 1), download(second, 1)),
            (vec![2], vec![1])
        );
        ok!(cuGraphExecDestroy(exec));
        assert_eq!(cu!(cuGraphLaunch(exec, main)), CUresult::INVALID_VALUE);
    });
}

#[test]
fn prohibited_calls_invalidate() {
    in_turn(|| {
        let main = stream(CU_STREAM_NON_BLOCKING);
        let mut dptr = CUdeviceptr::NULL;
        ok!(cuStreamBeginCapture_v2(main, GLOBAL));
        assert_eq!(
            cu!(cuMemAlloc_v2(&mut dptr, 4)),
            CUresult::STREAM_CAPTURE_UNSUPPORTED
        );
        assert_eq!(status(main), 2);
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
        assert_eq!(end(main), Err(CUresult::ILLEGAL_STATE));

        let mut mode = RELAXED;
        ok!(cuThreadExchangeStreamCaptureMode(&mut mode));
        assert_eq!(mode, GLOBAL);
        ok!(cuStreamBeginCapture_v2(main, GLOBAL));
        ok!(cuMemAlloc_v2(&mut dptr, 4));
        assert!(end(main).is_ok());
        ok!(cuThreadExchangeStreamCaptureMode(&mut mode));

        ok!(cuStreamBeginCapture_v2(main, RELAXED));
        ok!(cuMemAlloc_v2(&mut dptr, 4));
        assert_eq!(
            cu!(cuStreamSynchronize(main)),
            CUresult::STREAM_CAPTURE_UNSUPPORTED
        );
        assert_eq!(
            cu!(cuMemsetD32Async(dptr, 0, 1, main)),
            CUresult::STREAM_CAPTURE_INVALIDATED
        );
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
        assert_eq!(
            cu!(cuStreamBeginCapture_v2(CUstream::NULL, GLOBAL)),
            CUresult::STREAM_CAPTURE_UNSUPPORTED
        );
    });
}

#[test]
fn other_threads_are_disturbed_by_global_captures_only() {
    in_turn(|| {
        let mut ctx = CUcontext::NULL;
        ok!(cuCtxGetCurrent(&mut ctx));
        let allocate_elsewhere = move || {
            std::thread::spawn(move || {
                ok!(cuCtxSetCurrent(ctx));
                let mut dptr = CUdeviceptr::NULL;
                cu!(cuMemAlloc_v2(&mut dptr, 4))
            })
            .join()
            .expect("no panic")
        };
        let main = stream(CU_STREAM_NON_BLOCKING);
        ok!(cuStreamBeginCapture_v2(
            main,
            CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        ));
        assert_eq!(allocate_elsewhere(), CUresult::SUCCESS);
        let elsewhere = std::thread::spawn(move || {
            ok!(cuCtxSetCurrent(ctx));
            end(main)
        });
        assert_eq!(
            elsewhere.join().expect("no panic"),
            Err(CUresult::STREAM_CAPTURE_WRONG_THREAD)
        );
        // As measured on a driver: the attempt has ended the capture.
        assert_eq!(end(main), Err(CUresult::ILLEGAL_STATE));
        ok!(cuStreamBeginCapture_v2(main, GLOBAL));
        assert_eq!(allocate_elsewhere(), CUresult::STREAM_CAPTURE_UNSUPPORTED);
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
    });
}

#[test]
fn wrong_ends_and_crossings() {
    in_turn(|| {
        let (main, side) = (
            stream(CU_STREAM_NON_BLOCKING),
            stream(CU_STREAM_NON_BLOCKING),
        );
        let forked = event();
        let data = alloc(4);
        // A stream that was not joined.
        ok!(cuStreamBeginCapture_v2(main, RELAXED));
        ok!(cuEventRecord(forked, main));
        ok!(cuStreamWaitEvent(side, forked, 0));
        ok!(cuMemsetD32Async(data, 1, 1, side));
        assert_eq!(end(side), Err(CUresult::STREAM_CAPTURE_UNMATCHED));
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
        ok!(cuStreamBeginCapture_v2(main, RELAXED));
        assert_eq!(
            cu!(cuStreamBeginCapture_v2(main, RELAXED)),
            CUresult::ILLEGAL_STATE
        );
        ok!(cuEventRecord(forked, main));
        assert_eq!(cu!(cuEventQuery(forked)), CUresult::CAPTURED_EVENT);
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
        ok!(cuStreamBeginCapture_v2(main, RELAXED));
        ok!(cuEventRecord(forked, main));
        ok!(cuStreamWaitEvent(side, forked, 0));
        ok!(cuMemsetD32Async(data, 1, 1, side));
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_UNJOINED));
        // An event recorded outside.
        ok!(cuEventRecord(forked, side));
        ok!(cuStreamBeginCapture_v2(main, RELAXED));
        assert_eq!(
            cu!(cuStreamWaitEvent(main, forked, 0)),
            CUresult::STREAM_CAPTURE_ISOLATION
        );
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
        // Two captures.
        ok!(cuStreamBeginCapture_v2(main, RELAXED));
        ok!(cuStreamBeginCapture_v2(side, RELAXED));
        ok!(cuEventRecord(forked, side));
        assert_eq!(
            cu!(cuStreamWaitEvent(main, forked, 0)),
            CUresult::STREAM_CAPTURE_MERGE
        );
        assert_eq!(end(main), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
        assert_eq!(end(side), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
    });
}

#[test]
fn the_legacy_stream_may_not_meet_a_capturing_blocking_stream() {
    in_turn(|| {
        let blocking = stream(0);
        let data = alloc(4);
        ok!(cuStreamBeginCapture_v2(blocking, RELAXED));
        assert_eq!(
            cu!(cuMemsetD32Async(data, 1, 1, CUstream::NULL)),
            CUresult::STREAM_CAPTURE_IMPLICIT
        );
        assert_eq!(end(blocking), Err(CUresult::STREAM_CAPTURE_INVALIDATED));
        ok!(cuMemsetD32Async(data, 1, 1, CUstream::NULL));
        let free = stream(CU_STREAM_NON_BLOCKING);
        ok!(cuStreamBeginCapture_v2(free, RELAXED));
        ok!(cuMemsetD32Async(data, 2, 1, CUstream::NULL));
        assert!(end(free).is_ok());
        assert_eq!(download(data, 1), [2]);
    });
}

static CALLED: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count_call(user: *mut c_void) {
    CALLED.fetch_add(user as u32, Ordering::SeqCst);
}

const ADD: &std::ffi::CStr = c"
.version 8.0
.target sm_80
.address_size 64
.visible .entry add(.param .u64 data, .param .u32 value)
{
    .reg .b32 %r<3>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [data];
    ld.param.u32 %r1, [value];
    ld.global.u32 %r2, [%d1];
    add.u32 %r2, %r2, %r1;
    st.global.u32 [%d1], %r2;
    ret;
}
";

#[test]
fn graphs_are_built_updated_and_run() {
    in_turn(|| {
        let stream = stream(CU_STREAM_NON_BLOCKING);
        let mut module = CUmodule::NULL;
        ok!(cuModuleLoadData(&mut module, ADD.as_ptr().cast()));
        let mut function = CUfunction::NULL;
        ok!(cuModuleGetFunction(&mut function, module, c"add".as_ptr()));
        let mut data = alloc(4);
        let value = AtomicU32::new(10);
        let mut pointers: [*mut c_void; 2] = [(&raw mut data).cast(), value.as_ptr().cast()];
        let mut kernel = CUDA_KERNEL_NODE_PARAMS {
            function,
            grid: [1; 3],
            block: [1; 3],
            dynamic_shared: 0,
            params: pointers.as_mut_ptr(),
            extra: null_mut(),
            kernel: CUkernel::NULL,
            ctx: CUcontext::NULL,
        };
        let fill = CUDA_MEMSET_NODE_PARAMS {
            dst: data,
            value: 5,
            element_size: 4,
            width: 1,
            height: 1,
            ..CUDA_MEMSET_NODE_PARAMS::default()
        };
        let host = CUDA_HOST_NODE_PARAMS {
            function: Some(count_call),
            user: 3 as *mut c_void,
        };
        let (mut graph, mut child) = (CUgraph::NULL, CUgraph::NULL);
        ok!(cuGraphCreate(&mut graph, 0));
        ok!(cuGraphCreate(&mut child, 0));
        let mut called = CUgraphNode::NULL;
        ok!(cuGraphAddHostNode(&mut called, child, null(), 0, &host));
        let (mut filled, mut added, mut nested) =
            (CUgraphNode::NULL, CUgraphNode::NULL, CUgraphNode::NULL);
        ok!(cuGraphAddMemsetNode(
            &mut filled,
            graph,
            null(),
            0,
            &fill,
            CUcontext::NULL
        ));
        ok!(cuGraphAddKernelNode_v2(
            &mut added, graph, &filled, 1, &kernel
        ));
        ok!(cuGraphAddChildGraphNode(
            &mut nested,
            graph,
            null(),
            0,
            child
        ));
        ok!(cuGraphAddDependencies(graph, &added, &nested, 1));
        assert_eq!(
            cu!(cuGraphAddDependencies(graph, &nested, &filled, 1)),
            CUresult::INVALID_VALUE,
            "a circle"
        );
        let exec = instantiate(graph);
        ok!(cuGraphLaunch(exec, stream));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(download(data, 1), [15]);
        assert_eq!(CALLED.load(Ordering::SeqCst), 3);

        value.store(20, Ordering::Relaxed);
        ok!(cuGraphExecKernelNodeSetParams_v2(exec, added, &kernel));
        ok!(cuGraphLaunch(exec, stream));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(download(data, 1), [25]);

        value.store(30, Ordering::Relaxed);
        ok!(cuGraphKernelNodeSetParams_v2(added, &kernel));
        kernel.params = null_mut();
        ok!(cuGraphKernelNodeGetParams_v2(added, &mut kernel));
        // SAFETY: the node's parameters are a pointer and a word.
        let told = unsafe { kernel.params.add(1).read().cast::<u32>().read_unaligned() };
        assert_eq!(told, 30);
        let mut info = CUgraphExecUpdateResultInfo::default();
        ok!(cuGraphExecUpdate_v2(exec, graph, &mut info));
        ok!(cuGraphLaunch(exec, stream));
        ok!(cuStreamSynchronize(stream));
        assert_eq!(download(data, 1), [35]);

        let mut clone = CUgraph::NULL;
        ok!(cuGraphClone(&mut clone, graph));
        ok!(cuGraphExecUpdate_v2(exec, clone, &mut info));
        let mut extra = CUgraphNode::NULL;
        ok!(cuGraphAddEmptyNode(&mut extra, clone, null(), 0));
        assert_eq!(
            cu!(cuGraphExecUpdate_v2(exec, clone, &mut info)),
            CUresult::GRAPH_EXEC_UPDATE_FAILURE
        );
        assert_eq!(info.result, 2);
        ok!(cuGraphDestroyNode(extra));
        assert_eq!(cu!(cuGraphDestroyNode(extra)), CUresult::INVALID_VALUE);
        let mut roots = 0;
        ok!(cuGraphGetRootNodes(clone, null_mut(), &mut roots));
        assert_eq!(roots, 1);
    });
}

#[test]
fn external_events_of_graphs_are_recorded_by_each_launch() {
    in_turn(|| {
        let (main, side) = (
            stream(CU_STREAM_NON_BLOCKING),
            stream(CU_STREAM_NON_BLOCKING),
        );
        let done = event();
        let data = alloc(4);
        ok!(cuStreamBeginCapture_v2(main, RELAXED));
        ok!(cuMemsetD32Async(data, 4, 1, main));
        ok!(cuEventRecordWithFlags(done, main, CU_EVENT_RECORD_EXTERNAL));
        let exec = instantiate(end(main).expect("a valid capture"));
        ok!(cuEventQuery(done));
        let gate = Gate::close(main);
        ok!(cuGraphLaunch(exec, main));
        assert_eq!(cu!(cuEventQuery(done)), CUresult::NOT_READY);
        ok!(cuStreamWaitEvent(side, done, 0));
        gate.open();
        ok!(cuStreamSynchronize(side));
        assert_eq!(download(data, 1), [4]);
    });
}
