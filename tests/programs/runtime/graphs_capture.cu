// Stream capture: linear, forked and joined by events, replayed, and its parameters changed by ExecUpdate.
// variants: 13-static 12-shared 11-shared
// rules: 2 3 4
#include <vector>

#include "../common/runtime.h"

TEST("graphs_capture");

__global__ void chain(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 3u + value;
}

__global__ void sum(const unsigned *a, const unsigned *b, unsigned *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}

constexpr int kCount = 1000, kBlocks = (kCount + 127) / 128;

struct Buffers {
    unsigned *a, *b, *out, *host;
};

static cudaGraph_t capture_fork_join(cudaStream_t main, cudaStream_t side, cudaEvent_t fork, cudaEvent_t join, Buffers m, unsigned value) {
    cudaGraph_t graph = nullptr;
    cudaStreamCaptureStatus state;
    RT(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal));
    RT(cudaStreamIsCapturing(main, &state));
    REQUIRE(state == cudaStreamCaptureStatusActive, "the capture is not active");
    RT(cudaMemsetAsync(m.a, 0, kCount * sizeof(unsigned), main));
    RT(cudaEventRecord(fork, main));
    RT(cudaStreamWaitEvent(side, fork, 0));
    RT(cudaStreamIsCapturing(side, &state));
    REQUIRE(state == cudaStreamCaptureStatusActive, "the forked stream is not capturing");
    for (unsigned r = 0; r < 4; ++r) chain<<<kBlocks, 128, 0, main>>>(m.a, value + r, kCount);
    RT(cudaMemsetAsync(m.b, 0, kCount * sizeof(unsigned), side));
    chain<<<kBlocks, 128, 0, side>>>(m.b, 100u, kCount);
    RT(cudaEventRecord(join, side));
    RT(cudaStreamWaitEvent(main, join, 0));
    sum<<<kBlocks, 128, 0, main>>>(m.a, m.b, m.out, kCount);
    RT(cudaMemcpyAsync(m.host, m.out, kCount * sizeof(unsigned), cudaMemcpyDeviceToHost, main));
    RT(cudaStreamEndCapture(main, &graph));
    REQUIRE(graph != nullptr, "no graph");
    return graph;
}

static unsigned expected(unsigned value) {
    unsigned a = 0;
    for (unsigned r = 0; r < 4; ++r) a = a * 3u + value + r;
    return a + 100u;
}

static void check(const Buffers &m, unsigned want, const char *when) {
    for (int i = 0; i < kCount; ++i) REQUIRE(m.host[i] == want, "%s: element %d is %u, not %u", when, i, m.host[i], want);
}

int main() {
    Buffers m;
    const size_t bytes = kCount * sizeof(unsigned);
    RT(cudaMalloc(&m.a, bytes));
    RT(cudaMalloc(&m.b, bytes));
    RT(cudaMalloc(&m.out, bytes));
    RT(cudaMallocHost(&m.host, bytes));
    cudaStream_t main_stream, side;
    cudaEvent_t fork, join, done;
    RT(cudaStreamCreateWithFlags(&main_stream, cudaStreamNonBlocking));
    RT(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    RT(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    RT(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    RT(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
    // Capturing must run nothing: the buffers keep what they held.
    std::memset(m.host, 0xab, bytes);
    RT(cudaMemset(m.a, 0xcd, bytes));
    cudaGraph_t graph = capture_fork_join(main_stream, side, fork, join, m, 7u);
    RT(cudaDeviceSynchronize());
    check(m, 0xababababu, "after capture, before any launch");
    unsigned word = 0;
    RT(cudaMemcpy(&word, m.a, sizeof word, cudaMemcpyDeviceToHost));
    REQUIRE(word == 0xcdcdcdcdu, "capturing ran the work: %#x", word);

    size_t nodes = 0;
    RT(cudaGraphGetNodes(graph, nullptr, &nodes));
    REQUIRE(nodes == 9, "%zu nodes, not 9", nodes);
    cudaGraphExec_t exec;
#if CUDART_VERSION >= 12000
    RT(cudaGraphInstantiate(&exec, graph, 0));
#else
    RT(cudaGraphInstantiate(&exec, graph, nullptr, nullptr, 0));
#endif
    for (int replay = 0; replay < 5; ++replay) {
        std::memset(m.host, 0, bytes);
        RT(cudaGraphLaunch(exec, main_stream));
        // An event recorded after a graph completes after the graph.
        RT(cudaEventRecord(done, main_stream));
        RT(cudaEventSynchronize(done));
        check(m, expected(7u), "replay");
    }
    // Back to back launches of one graph execute one after the other.
    for (int replay = 0; replay < 20; ++replay) RT(cudaGraphLaunch(exec, main_stream));
    RT(cudaStreamSynchronize(main_stream));
    check(m, expected(7u), "back to back");

    cudaGraph_t changed = capture_fork_join(main_stream, side, fork, join, m, 1000u);
#if CUDART_VERSION >= 12000
    cudaGraphExecUpdateResultInfo info = {};
    RT(cudaGraphExecUpdate(exec, changed, &info));
    REQUIRE(info.result == cudaGraphExecUpdateSuccess, "update result %d", int(info.result));
#else
    cudaGraphNode_t failed;
    cudaGraphExecUpdateResult result;
    RT(cudaGraphExecUpdate(exec, changed, &failed, &result));
    REQUIRE(result == cudaGraphExecUpdateSuccess, "update result %d", int(result));
#endif
    RT(cudaGraphLaunch(exec, main_stream));
    RT(cudaStreamSynchronize(main_stream));
    check(m, expected(1000u), "after ExecUpdate");

    // The streams work as before once captures have ended.
    chain<<<kBlocks, 128, 0, side>>>(m.b, 0u, kCount);
    RT(cudaMemcpyAsync(m.host, m.b, bytes, cudaMemcpyDeviceToHost, side));
    RT(cudaStreamSynchronize(side));
    check(m, 300u, "after the captures");
    RT(cudaGraphExecDestroy(exec));
    RT(cudaGraphDestroy(graph));
    RT(cudaGraphDestroy(changed));
    return PASS();
}
