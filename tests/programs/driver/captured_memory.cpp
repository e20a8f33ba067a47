// Memory that a graph allocates, by a capture, and that the program frees between launches: each launch has it anew, and what the
// stream allocates itself meanwhile is something else.
// rules: 9
#include "../common/driver.h"

TEST("captured_memory");

int main() {
    Gpu gpu = open_gpu(test_name);
    const size_t bytes = 1 << 20;
    CUstream stream;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr memory, own;
    CUgraph graph;
    CUgraphExec exec;
    unsigned char *host;
    CU(cuMemAllocHost(reinterpret_cast<void **>(&host), bytes));
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    CUresult captured = cuMemAllocAsync(&memory, bytes, stream);
    if (captured == CUDA_ERROR_NOT_SUPPORTED) {
        cuStreamEndCapture(stream, &graph);
        SKIP("the device captures no allocations");
    }
    CU(captured);
    CU(cuMemsetD8Async(memory, 0x5a, bytes, stream));
    CU(cuStreamEndCapture(stream, &graph));
    CU(cuGraphInstantiate(&exec, graph, 0));
    for (int round = 0; round < 3; ++round) {
        CU(cuGraphLaunch(exec, stream));
        CU(cuMemcpyDtoHAsync(host, memory, bytes, stream));
        CU(cuStreamSynchronize(stream));
        REQUIRE(host[0] == 0x5a && host[bytes - 1] == 0x5a, "round %d: the graph's memory holds %#x", round, host[0]);
        CU(cuMemFreeAsync(memory, stream));
        CU(cuMemAllocAsync(&own, bytes, stream));
        CU(cuMemsetD8Async(own, 0x11, bytes, stream));
        // Launched while the stream's own memory is in use, and only if the free is known to the driver.
        CU(cuGraphLaunch(exec, stream));
        CU(cuMemcpyDtoHAsync(host, own, bytes, stream));
        CU(cuStreamSynchronize(stream));
        REQUIRE(host[0] == 0x11 && host[bytes - 1] == 0x11, "round %d: the stream's memory holds %#x", round, host[0]);
        CU(cuMemFreeAsync(own, stream));
        CU(cuMemFreeAsync(memory, stream));
        CU(cuStreamSynchronize(stream));
    }
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
    return PASS();
}
