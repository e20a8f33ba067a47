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
#if CUDART_VERSION >= 12000
    RT(cudaGraphInstantiate(&exec, graph, 0));
#else
    RT(cudaGraphInstantiate(&exec, graph, nullptr, nullptr, 0));
#endif
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
    return PASS();
}
