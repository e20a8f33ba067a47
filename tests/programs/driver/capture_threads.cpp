// Capture modes across threads: in global mode an unsafe call of any thread fails and spoils the capture; in thread-local
// mode only the capturing thread's; in relaxed mode nobody's. Ending on another thread; what may not be done to a capturing
// stream; and that the driver-side work of ordinary calls never ends up in a graph.
// rules: 2 3
#include <thread>

#include "../common/driver.h"

TEST("capture_threads");

static Gpu gpu;
static CUfunction chain;
static CUdeviceptr words;

template <typename F>
static void on_another_thread(F body) {
    std::thread([&] {
        CU(cuCtxSetCurrent(gpu.context));
        body();
    }).join();
}

static CUresult unsafe_call() {
    CUdeviceptr p = 0;
    CUresult status = cuMemAlloc(&p, 4096);
    if (status == CUDA_SUCCESS) CU(cuMemFree(p));
    return status;
}

static size_t node_count(CUgraph graph) {
    size_t nodes = 0;
    CU(cuGraphGetNodes(graph, nullptr, &nodes));
    return nodes;
}

int main() {
    gpu = open_gpu(test_name);
    chain = gpu.function("chain", test_name);
    CUstream stream, other, blocking;
    CUgraph graph = nullptr;
    CUstreamCaptureStatus state;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    CU(cuMemAlloc(&words, 4096));
    CU(cuMemsetD8(words, 0, 4096));
    CU(cuStreamSynchronize(nullptr));
    // The first launch of a function may load it; do that outside captures.
    CU(launch(chain, stream, 1, words + 2048, 0u, 1));
    CU(cuStreamSynchronize(stream));

    // Global mode: this thread's unsafe call fails and invalidates.
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CU(launch(chain, stream, 1, words, 1u, 1));
    CU_IS(unsafe_call(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CU(cuStreamIsCapturing(stream, &state));
    REQUIRE(state == CU_STREAM_CAPTURE_STATUS_INVALIDATED, "global mode: the capture's state is %d", int(state));
    CU_IS(launch(chain, stream, 1, words, 1u, 1), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CU_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    REQUIRE(graph == nullptr, "an invalidated capture gave a graph");
    CU(cuStreamIsCapturing(stream, &state));
    REQUIRE(state == CU_STREAM_CAPTURE_STATUS_NONE, "the stream still captures");

    // Global mode: another thread's unsafe call fails too, unless that thread chose the relaxed mode.
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    on_another_thread([] {
        CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        CU(cuThreadExchangeStreamCaptureMode(&mode));
        REQUIRE(mode == CU_STREAM_CAPTURE_MODE_GLOBAL, "a thread starts in mode %d", int(mode));
        CU(unsafe_call());
    });
    CU(launch(chain, stream, 1, words, 1u, 1));
    on_another_thread([] { CU_IS(unsafe_call(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED); });
    CU_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    // A long capture, with copies and fills between: the graph has what was captured and nothing else.
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    for (unsigned i = 0; i < 300; ++i) {
        CU(launch(chain, stream, 1, words, i, 1));
        if (i % 100 == 99) CU(cuMemcpyDtoDAsync(words + 512, words, 4, stream));
    }
    CU(cuStreamEndCapture(stream, &graph));
    REQUIRE(node_count(graph) == 303, "a capture of 303 commands has %zu nodes", node_count(graph));
    CU(cuGraphDestroy(graph));

    // Thread-local mode: other threads do as they please, even work on other streams and wait for it.
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CU(launch(chain, stream, 1, words, 1u, 1));
    on_another_thread([&] {
        CU(unsafe_call());
        unsigned host = 1;
        CU(launch(chain, other, 1, words + 1024, 5u, 1));
        CU(cuStreamSynchronize(other));
        CU(cuMemcpyDtoHAsync(&host, words + 1024, 4, other));
        CU(cuStreamSynchronize(other));
        REQUIRE(host == 5, "another thread's work gave %u", host);
    });
    CU(launch(chain, stream, 1, words, 2u, 1));
    CU(cuStreamEndCapture(stream, &graph));
    REQUIRE(node_count(graph) == 2, "thread-local mode captured %zu nodes, not 2", node_count(graph));
    CU(cuGraphDestroy(graph));
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CU_IS(unsafe_call(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CU_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    // Relaxed mode: the same thread may allocate and wait for other streams in between.
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU(launch(chain, stream, 1, words, 1u, 1));
    CU(unsafe_call());
    CU(launch(chain, other, 1, words + 1024, 6u, 1));
    CU(cuStreamSynchronize(other));
    CU(launch(chain, stream, 1, words, 2u, 1));
    CU(cuStreamEndCapture(stream, &graph));
    REQUIRE(node_count(graph) == 2, "relaxed mode captured %zu nodes, not 2", node_count(graph));

    // Nothing ran while capturing; one launch of the graph runs both.
    unsigned host = 9;
    CU(cuMemcpyDtoH(&host, words, 4));
    REQUIRE(host == 0, "captured work ran: %u", host);
    CUgraphExec exec;
    CU(cuGraphInstantiate(&exec, graph, 0));
    CU(cuGraphLaunch(exec, stream));
    CU(cuStreamSynchronize(stream));
    CU(cuMemcpyDtoH(&host, words, 4));
    REQUIRE(host == 5, "the graph gave %u, not 5", host);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));

    // Ending from another thread: 908 in the strict modes, and that ends the capture without a graph; the thread that began
    // it finds nothing left to end. In the relaxed mode any thread may end it.
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    on_another_thread([&] {
        CUgraph stolen = nullptr;
        CU_IS(cuStreamEndCapture(stream, &stolen), CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        REQUIRE(stolen == nullptr, "ending on the wrong thread gave a graph");
    });
    CU_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_ILLEGAL_STATE);
    CU(cuStreamIsCapturing(stream, &state));
    REQUIRE(state == CU_STREAM_CAPTURE_STATUS_NONE, "after ending on the wrong thread the capture's state is %d", int(state));
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU(launch(chain, stream, 1, words, 3u, 1));
    on_another_thread([&] {
        CU(launch(chain, stream, 1, words, 4u, 1));
        CU(cuStreamEndCapture(stream, &graph));
    });
    REQUIRE(node_count(graph) == 2, "a capture by two threads has %zu nodes, not 2", node_count(graph));
    CU(cuGraphDestroy(graph));

    // A capturing stream cannot be waited for or asked; an event recorded in it cannot either.
    CUevent event;
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU(cuEventRecord(event, stream));
    CU_IS(cuEventQuery(event), CUDA_ERROR_CAPTURED_EVENT);
    (void)cuStreamEndCapture(stream, &graph);
    // Nor afterwards, whatever the stream does meanwhile, until it is recorded again.
    CU(launch(chain, stream, 1, words + 1024, 1u, 1));
    CU(cuStreamSynchronize(stream));
    CU_IS(cuEventQuery(event), CUDA_ERROR_INVALID_VALUE);
    CU(cuEventRecord(event, stream));
    CU(cuEventSynchronize(event));
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU_IS(cuStreamSynchronize(stream), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    CU_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    CU_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_ILLEGAL_STATE);

    // The legacy stream would wait for a capturing blocking stream, which is impossible.
    CU(cuStreamBeginCapture(blocking, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU_IS(launch(chain, nullptr, 1, words, 1u, 1), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    CU_IS(cuStreamEndCapture(blocking, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    // A fork that is never joined.
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    CU(cuEventRecord(event, stream));
    CU(cuStreamWaitEvent(other, event, 0));
    CU(launch(chain, other, 1, words, 1u, 1));
    CU_IS(cuStreamEndCapture(stream, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    CU(cuStreamIsCapturing(other, &state));
    REQUIRE(state == CU_STREAM_CAPTURE_STATUS_NONE, "the forked stream still captures");

    // Everything is usable afterwards. A memset of device memory may return before it is over, and the first stream does not
    // wait for the legacy stream.
    CU(cuMemsetD32(words, 1, 1));
    CU(cuStreamSynchronize(nullptr));
    for (CUstream s : {stream, other, blocking, CUstream(nullptr)}) {
        CU(launch(chain, s, 1, words, 1u, 1));
        CU(cuStreamSynchronize(s));
    }
    CU(cuMemcpyDtoH(&host, words, 4));
    REQUIRE(host == 121, "afterwards: %u, not 121", host);
    return PASS();
}
