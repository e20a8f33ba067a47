// Graphs built node by node: kernel, memcpy, memset, host, empty and child-graph nodes; parameters read back and changed.
// variants: 13-static 12-static
// rules: 12
#include <vector>

#include "../common/runtime.h"

TEST("graphs_explicit");

__global__ void chain(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 3u + value;
}

static void count_call(void *user) { ++*static_cast<int *>(user); }

static cudaGraphExec_t instantiate(cudaGraph_t graph) {
    cudaGraphExec_t exec;
#if CUDART_VERSION >= 12000
    RT(cudaGraphInstantiate(&exec, graph, 0));
#else
    RT(cudaGraphInstantiate(&exec, graph, nullptr, nullptr, 0));
#endif
    return exec;
}

// A graph that copies pageable memory, built or captured: refused, or each replay takes what lies there by then, and
// writes where it should.
static void copies_of_pageable_memory(cudaStream_t stream, unsigned *device, int n, bool captured, cudaMemcpyKind kind) {
    const size_t bytes = n * sizeof(unsigned);
    std::vector<unsigned> own(n, 1u), there(n);
    void *to = kind == cudaMemcpyHostToDevice ? static_cast<void *>(device) : own.data();
    const void *from = kind == cudaMemcpyHostToDevice ? static_cast<const void *>(own.data()) : device;
    cudaGraph_t graph;
    cudaError_t status;
    if (captured) {
        RT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
        status = cudaMemcpyAsync(to, from, bytes, kind, stream);
        const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
        if (status == cudaSuccess) RT(ended);
    } else {
        cudaGraphNode_t node;
        RT(cudaGraphCreate(&graph, 0));
        status = cudaGraphAddMemcpyNode1D(&node, graph, nullptr, 0, to, from, bytes, kind);
    }
    (void)cudaGetLastError();
    if (status != cudaSuccess) {
        REQUIRE(status == cudaErrorNotSupported, "%d words, captured %d, kind %d: refused with %d (%s)", n, int(captured), int(kind), int(status), cudaGetErrorName(status));
        if (graph) RT(cudaGraphDestroy(graph));
        return;
    }
    cudaGraphExec_t exec = instantiate(graph);
    for (unsigned replay = 2; replay < 5; ++replay) {
        // Other copies in between, which must not matter.
        std::vector<unsigned> noise(n, 0xeeeeeeeeu);
        RT(cudaMemcpy(device, noise.data(), bytes, cudaMemcpyHostToDevice));
        if (kind == cudaMemcpyHostToDevice)
            own.assign(n, replay);
        else
            RT(cudaMemset(device, int(replay), bytes));
        RT(cudaDeviceSynchronize());
        RT(cudaGraphLaunch(exec, stream));
        RT(cudaStreamSynchronize(stream));
        if (kind == cudaMemcpyHostToDevice) RT(cudaMemcpy(there.data(), device, bytes, cudaMemcpyDeviceToHost));
        const unsigned want = kind == cudaMemcpyHostToDevice ? replay : replay * 0x01010101u;
        for (int i = 0; i < n; ++i) {
            const unsigned got = kind == cudaMemcpyHostToDevice ? there[i] : own[i];
            REQUIRE(got == want, "%d words, captured %d, kind %d: replay %u gave %#x", n, int(captured), int(kind), replay, got);
        }
    }
    RT(cudaGraphExecDestroy(exec));
    RT(cudaGraphDestroy(graph));
}

int main() {
    const int n = 500;
    const size_t bytes = n * sizeof(unsigned);
    unsigned *device, *pinned;
    int calls = 0;
    RT(cudaMalloc(&device, bytes));
    RT(cudaMallocHost(&pinned, bytes));
    cudaGraph_t graph, child;
    RT(cudaGraphCreate(&graph, 0));
    RT(cudaGraphCreate(&child, 0));

    cudaMemsetParams set = {};
    set.dst = device;
    set.value = 2;
    set.elementSize = 4;
    set.width = n;
    set.height = 1;
    cudaGraphNode_t memset_node, first, second, copy, host, empty, nested;
    RT(cudaGraphAddMemsetNode(&memset_node, graph, nullptr, 0, &set));

    unsigned value = 5;
    int count = n;
    void *arguments[] = {&device, &value, &count};
    cudaKernelNodeParams kernel = {};
    kernel.func = reinterpret_cast<void *>(chain);
    kernel.gridDim = dim3((n + 127) / 128);
    kernel.blockDim = dim3(128);
    kernel.kernelParams = arguments;
    RT(cudaGraphAddKernelNode(&first, graph, &memset_node, 1, &kernel));
    // The node keeps a copy of its parameters.
    value = 6;
    RT(cudaGraphAddKernelNode(&second, child, nullptr, 0, &kernel));
    RT(cudaGraphAddChildGraphNode(&nested, graph, &first, 1, child));
    RT(cudaGraphAddEmptyNode(&empty, graph, &nested, 1));
    RT(cudaGraphAddMemcpyNode1D(&copy, graph, &empty, 1, pinned, device, bytes, cudaMemcpyDeviceToHost));
    cudaHostNodeParams call = {};
    call.fn = count_call;
    call.userData = &calls;
    RT(cudaGraphAddHostNode(&host, graph, &copy, 1, &call));

    cudaGraphNodeType type;
    RT(cudaGraphNodeGetType(copy, &type));
    REQUIRE(type == cudaGraphNodeTypeMemcpy, "node type %d", int(type));
    cudaKernelNodeParams seen = {};
    RT(cudaGraphKernelNodeGetParams(first, &seen));
    REQUIRE(seen.gridDim.x == kernel.gridDim.x && seen.blockDim.x == 128 && seen.func == kernel.func, "kernel node parameters differ");
    REQUIRE(*static_cast<unsigned *>(seen.kernelParams[1]) == 5u, "the node's argument reads %u", *static_cast<unsigned *>(seen.kernelParams[1]));

    cudaStream_t stream;
    cudaGraphExec_t exec;
    RT(cudaStreamCreate(&stream));
    exec = instantiate(graph);
    auto run = [&](unsigned a, unsigned b) {
        std::memset(pinned, 0, bytes);
        int before = calls;
        RT(cudaGraphLaunch(exec, stream));
        RT(cudaStreamSynchronize(stream));
        REQUIRE(calls == before + 1, "the host node ran %d times", calls - before);
        unsigned want = (2u * 3u + a) * 3u + b;
        for (int i = 0; i < n; ++i) REQUIRE(pinned[i] == want, "element %d is %u, not %u", i, pinned[i], want);
    };
    run(5, 6);
    run(5, 6);
    value = 50;
    RT(cudaGraphExecKernelNodeSetParams(exec, first, &kernel));
    run(50, 6);
    run(50, 6);
    RT(cudaGraphExecDestroy(exec));
    RT(cudaGraphDestroy(graph));
    RT(cudaGraphDestroy(child));
    for (int words : {10, n})
        for (bool captured : {false, true})
            for (cudaMemcpyKind kind : {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost}) copies_of_pageable_memory(stream, device, words, captured, kind);
    return PASS();
}
