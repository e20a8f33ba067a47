// Graphs node by node: parameters read and changed, neighbours, clones, child graphs, event nodes, memory nodes, conditional
// nodes, and the one function that adds them all.
// rules: 4 19
#include "../common/driver.h"

TEST("graph_nodes");

static const int n = 1000;
static const size_t bytes = n * sizeof(unsigned);

static void expect(CUdeviceptr buffer, unsigned value, const char *what) {
    std::vector<unsigned> words(n, 0xdead);
    CU(cuMemcpyDtoH(words.data(), buffer, bytes));
    for (int i = 0; i < n; ++i) REQUIRE(words[i] == value, "%s: word %d is %u, expected %u", what, i, words[i], value);
}

static void run(CUgraphExec exec, CUstream stream) {
    CU(cuGraphLaunch(exec, stream));
    CU(cuStreamSynchronize(stream));
}

struct AddOne {
    CUdeviceptr buffer;
    int count = n;
    void *list[2] = {&buffer, &count};
    CUDA_KERNEL_NODE_PARAMS params = {};
    AddOne(CUfunction function, CUdeviceptr at) : buffer(at) {
        params.func = function;
        params.gridDimX = (n + 127) / 128;
        params.gridDimY = params.gridDimZ = params.blockDimY = params.blockDimZ = 1;
        params.blockDimX = 128;
        params.kernelParams = list;
    }
};

static CUDA_MEMSET_NODE_PARAMS fill_of(CUdeviceptr buffer, unsigned value) {
    CUDA_MEMSET_NODE_PARAMS fill = {};
    fill.dst = buffer;
    fill.value = value;
    fill.elementSize = 4;
    fill.width = n;
    fill.height = 1;
    return fill;
}

static CUDA_MEMCPY3D copy_of(CUdeviceptr to, CUdeviceptr from) {
    CUDA_MEMCPY3D copy = {};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = from;
    copy.dstDevice = to;
    copy.WidthInBytes = bytes;
    copy.Height = copy.Depth = 1;
    return copy;
}

static void parameters(const Gpu &gpu, CUfunction add_one, CUstream stream, CUdeviceptr a, CUdeviceptr b) {
    CUgraph graph;
    CUgraphNode fill, add, copy;
    CUDA_MEMSET_NODE_PARAMS set = fill_of(a, 10), set_told = {};
    AddOne kernel(add_one, a);
    CUDA_MEMCPY3D move = copy_of(b, a), move_told = {};
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphAddMemsetNode(&fill, graph, nullptr, 0, &set, gpu.context));
    CU(cuGraphAddKernelNode(&add, graph, &fill, 1, &kernel.params));
    CU(cuGraphAddMemcpyNode(&copy, graph, &add, 1, &move, gpu.context));
    CU_OR_SKIP(cuGraphMemsetNodeGetParams(fill, &set_told));
    REQUIRE(set_told.dst == a && set_told.value == 10 && set_told.elementSize == 4 && set_told.width == n && set_told.height == 1, "fill of %zu elements of %u bytes with %u at %#llx", set_told.width,
            set_told.elementSize, set_told.value, (unsigned long long)set_told.dst);
    CU(cuGraphMemcpyNodeGetParams(copy, &move_told));
    REQUIRE(move_told.srcDevice == a && move_told.dstDevice == b && move_told.WidthInBytes == bytes, "copy of %zu bytes from %#llx to %#llx", move_told.WidthInBytes,
            (unsigned long long)move_told.srcDevice, (unsigned long long)move_told.dstDevice);

    // Neighbours.
    CUgraphNode found[3] = {};
    size_t count = 3;
    CU(cuGraphNodeGetDependencies(add, found, nullptr, &count));
    REQUIRE(count == 1 && found[0] == fill, "the kernel has %zu dependencies", count);
    count = 0;
    CU(cuGraphNodeGetDependentNodes(add, nullptr, nullptr, &count));
    REQUIRE(count == 1, "%zu nodes depend on the kernel", count);
    count = 3;
    CU(cuGraphNodeGetDependentNodes(add, found, nullptr, &count));
    REQUIRE(count == 1 && found[0] == copy, "%zu nodes depend on the kernel, not the copy", count);
    CUgraphNode from[3] = {}, to[3] = {};
    CUgraphEdgeData data[3];
    std::memset(data, 0xff, sizeof data);
    count = 3;
    CU(cuGraphGetEdges(graph, from, to, data, &count));
    REQUIRE(count == 2 && data[0].type == 0 && data[1].from_port == 0, "%zu edges", count);
    CU(cuGraphRemoveDependencies(graph, &fill, &add, nullptr, 1));
    count = 3;
    CU(cuGraphGetRootNodes(graph, found, &count));
    REQUIRE(count == 2, "%zu roots after an edge was removed", count);
    CU(cuGraphAddDependencies(graph, &fill, &add, nullptr, 1));

    CUgraph clone;
    CUgraphNode twin;
    CU(cuGraphClone(&clone, graph));
    CU(cuGraphNodeFindInClone(&twin, fill, clone));
    CU(cuGraphMemsetNodeGetParams(twin, &set_told));
    REQUIRE(set_told.dst == a && set_told.value == 10, "the clone fills with %u", set_told.value);
    CU(cuGraphDestroy(clone));

    // Parameters changed in the graph, then in what was made of it.
    set.value = 20;
    CU(cuGraphMemsetNodeSetParams(fill, &set));
    CUgraphExec exec;
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    cuuint64_t flags = 9;
    CU(cuGraphExecGetFlags(exec, &flags));
    REQUIRE(flags == 0, "flags %llu", (unsigned long long)flags);
    run(exec, stream);
    expect(b, 21, "after a change in the graph");
    set.value = 30;
    CU(cuGraphExecMemsetNodeSetParams(exec, fill, &set, gpu.context));
    run(exec, stream);
    expect(b, 31, "after a change in the executable graph");
    CU(cuMemsetD32(b, 5, n));
    unsigned enabled = 9;
    CU(cuGraphNodeSetEnabled(exec, add, 0));
    CU(cuGraphNodeGetEnabled(exec, add, &enabled));
    REQUIRE(enabled == 0, "the kernel is enabled");
    run(exec, stream);
    expect(b, 30, "without the kernel");
    CU(cuGraphNodeSetEnabled(exec, add, 1));
    CUdeviceptr c;
    CU(cuMemAlloc(&c, bytes));
    CUDA_MEMCPY3D elsewhere = copy_of(c, a);
    CU(cuGraphExecMemcpyNodeSetParams(exec, copy, &elsewhere, gpu.context));
    run(exec, stream);
    expect(c, 31, "copied elsewhere");
    expect(b, 30, "and no longer there");
    std::vector<unsigned> own(n);
    CUDA_MEMCPY3D pageable = copy_of(c, a);
    pageable.srcMemoryType = CU_MEMORYTYPE_HOST;
    pageable.srcHost = own.data();
    if (!on_native_driver()) {
        CU_IS(cuGraphMemcpyNodeSetParams(copy, &pageable), CUDA_ERROR_NOT_SUPPORTED);
        auto forged = reinterpret_cast<CUgraphNode>(own.data());
        REQUIRE(cuGraphMemsetNodeGetParams(forged, &set_told) != CUDA_SUCCESS, "a forged node has parameters");
        REQUIRE(cuGraphNodeSetEnabled(exec, forged, 0) != CUDA_SUCCESS, "a forged node was disabled");
    }
    CU(cuGraphExecDestroy(exec));

    // A child graph: its inner graph is seen, and is not to be destroyed by itself.
    CUgraph outer, inner;
    CUgraphNode child;
    CU(cuGraphCreate(&outer, 0));
    CU(cuGraphAddChildGraphNode(&child, outer, nullptr, 0, graph));
    CU(cuGraphChildGraphNodeGetGraph(child, &inner));
    REQUIRE(inner != graph, "the child is the graph itself");
    count = 0;
    CU(cuGraphGetNodes(inner, nullptr, &count));
    REQUIRE(count == 3, "the child has %zu nodes", count);
    if (!on_native_driver()) REQUIRE(cuGraphDestroy(inner) != CUDA_SUCCESS, "the child was destroyed by itself");
    CU(cuGraphInstantiateWithFlags(&exec, outer, 0));
    run(exec, stream);
    expect(b, 21, "as a child");
    CU(cuGraphMemsetNodeSetParams(fill, &set));
    CU(cuGraphExecChildGraphNodeSetParams(exec, child, graph));
    run(exec, stream);
    expect(b, 31, "as a changed child");
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(outer));
    if (!on_native_driver()) REQUIRE(cuGraphGetNodes(inner, nullptr, &count) != CUDA_SUCCESS, "the child outlived its parent");
    CU(cuGraphDestroy(graph));
    CU(cuMemFree(c));
}

static void events(CUfunction busy, CUstream stream, CUdeviceptr a) {
    CUevent event, other, told;
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuEventCreate(&other, CU_EVENT_DISABLE_TIMING));
    CUgraph graph;
    CUgraphNode work, record, wait;
    CUgraphExec exec;
    unsigned rounds = 2000000;
    void *list[] = {&a, &rounds};
    CUDA_KERNEL_NODE_PARAMS params = {};
    params.func = busy;
    params.gridDimX = params.gridDimY = params.gridDimZ = params.blockDimX = params.blockDimY = params.blockDimZ = 1;
    params.kernelParams = list;
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphAddEventWaitNode(&wait, graph, nullptr, 0, other));
    CU(cuGraphAddKernelNode(&work, graph, &wait, 1, &params));
    CU(cuGraphAddEventRecordNode(&record, graph, &work, 1, event));
    CU(cuGraphEventRecordNodeGetEvent(record, &told));
    REQUIRE(told == event, "the recorded event is another one");
    CU(cuGraphEventWaitNodeGetEvent(wait, &told));
    REQUIRE(told == other, "the awaited event is another one");
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    // Recorded and done before the graph records it again: the launch's record is the one that counts.
    CU(cuEventRecord(event, stream));
    CU(cuEventSynchronize(event));
    unsigned result = 0, expected = 12345u;
    for (unsigned i = 0; i < rounds; ++i) expected = expected * 1664525u + 1013904223u;
    CU(cuMemsetD32(a, 0, n));
    CU(cuCtxSynchronize());
    CU(cuGraphLaunch(exec, stream));
    CU(cuEventSynchronize(event));
    CU(cuMemcpyDtoH(&result, a, sizeof result));
    REQUIRE(result == expected, "the event was done before the kernel ahead of it: %u, expected %u", result, expected);
    CU(cuStreamSynchronize(stream));
    CU_IS(cuEventQuery(event), CUDA_SUCCESS);
    CU(cuGraphExecEventRecordNodeSetEvent(exec, record, other));
    run(exec, stream);
    CU_IS(cuEventQuery(other), CUDA_SUCCESS);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
    CU(cuEventDestroy(event));
    CU(cuEventDestroy(other));
}

static void memory(const Gpu &gpu, CUfunction add_one, CUstream stream, CUdeviceptr b) {
    CUgraph graph;
    CUgraphNode alloc, fill, add, copy, free_node;
    CUgraphExec exec;
    CUDA_MEM_ALLOC_NODE_PARAMS wanted = {}, told = {};
    wanted.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    wanted.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    wanted.poolProps.location.id = gpu.device;
    wanted.bytesize = bytes;
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphAddMemAllocNode(&alloc, graph, nullptr, 0, &wanted));
    REQUIRE(wanted.dptr != 0, "no address");
    CU(cuGraphMemAllocNodeGetParams(alloc, &told));
    REQUIRE(told.dptr == wanted.dptr && told.bytesize == bytes, "the node tells %zu bytes at %#llx", told.bytesize, (unsigned long long)told.dptr);
    CUDA_MEMSET_NODE_PARAMS set = fill_of(wanted.dptr, 40);
    AddOne kernel(add_one, wanted.dptr);
    CUDA_MEMCPY3D move = copy_of(b, wanted.dptr);
    CU(cuGraphAddMemsetNode(&fill, graph, &alloc, 1, &set, gpu.context));
    CU(cuGraphAddKernelNode(&add, graph, &fill, 1, &kernel.params));
    CU(cuGraphAddMemcpyNode(&copy, graph, &add, 1, &move, gpu.context));
    CU(cuGraphAddMemFreeNode(&free_node, graph, &copy, 1, wanted.dptr));
    CUdeviceptr freed = 0;
    CU(cuGraphMemFreeNodeGetParams(free_node, &freed));
    REQUIRE(freed == wanted.dptr, "the node frees %#llx", (unsigned long long)freed);
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int round = 0; round < 3; ++round) {
        CU(cuMemsetD32(b, 0, n));
        run(exec, stream);
        expect(b, 41, "through memory of the graph");
    }
    cuuint64_t reserved = 0;
    CU(cuDeviceGetGraphMemAttribute(gpu.device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH, &reserved));
    REQUIRE(reserved >= bytes, "at most %llu bytes were reserved", (unsigned long long)reserved);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
    CU(cuCtxSynchronize());
    CU(cuDeviceGraphMemTrim(gpu.device));
    cuuint64_t zero = 0;
    CU(cuDeviceSetGraphMemAttribute(gpu.device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH, &zero));
    if (!on_native_driver()) {
        wanted.poolProps.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
        CU(cuGraphCreate(&graph, 0));
        REQUIRE(cuGraphAddMemAllocNode(&alloc, graph, nullptr, 0, &wanted) != CUDA_SUCCESS, "memory with a handle");
        CU(cuGraphDestroy(graph));
    }
}

// The same work by the one function that adds any node, under a condition.
static void any_node(const Gpu &gpu, CUfunction add_one, CUstream stream, CUdeviceptr a) {
    for (unsigned condition : {1u, 0u}) {
        CUgraph graph;
        CUgraphNode fill, decide, add, end;
        CUgraphExec exec;
        CUgraphConditionalHandle handle;
        CU(cuGraphCreate(&graph, 0));
        CU(cuGraphConditionalHandleCreate(&handle, graph, gpu.context, condition, CU_GRAPH_COND_ASSIGN_DEFAULT));
        CUgraphNodeParams params = {};
        params.type = CU_GRAPH_NODE_TYPE_MEMSET;
        params.memset.dst = a;
        params.memset.value = 50;
        params.memset.elementSize = 4;
        params.memset.width = n;
        params.memset.height = 1;
        params.memset.ctx = gpu.context;
        CU(cuGraphAddNode(&fill, graph, nullptr, nullptr, 0, &params));
        params = {};
        params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
        params.conditional.handle = handle;
        params.conditional.type = CU_GRAPH_COND_TYPE_IF;
        params.conditional.size = 1;
        params.conditional.ctx = gpu.context;
        CU(cuGraphAddNode(&decide, graph, &fill, nullptr, 1, &params));
        REQUIRE(params.conditional.phGraph_out != nullptr, "no graph for the body");
        CUgraph body = params.conditional.phGraph_out[0];
        CUgraphNodeType type;
        CU(cuGraphNodeGetType(decide, &type));
        REQUIRE(type == CU_GRAPH_NODE_TYPE_CONDITIONAL, "the node's type is %d", int(type));
        AddOne kernel(add_one, a);
        params = {};
        params.type = CU_GRAPH_NODE_TYPE_KERNEL;
        params.kernel.func = add_one;
        params.kernel.gridDimX = (n + 127) / 128;
        params.kernel.gridDimY = params.kernel.gridDimZ = params.kernel.blockDimY = params.kernel.blockDimZ = 1;
        params.kernel.blockDimX = 128;
        params.kernel.kernelParams = kernel.list;
        CU(cuGraphAddNode(&add, body, nullptr, nullptr, 0, &params));
        // And once more, captured into the body behind the first.
        CUgraph captured = nullptr;
        CU(cuStreamBeginCaptureToGraph(stream, body, &add, nullptr, 1, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        CU(launch(add_one, stream, n, a, n));
        CU(cuStreamEndCapture(stream, &captured));
        REQUIRE(captured == body, "the capture into the body gave another graph");
        params = {};
        params.type = CU_GRAPH_NODE_TYPE_EMPTY;
        CU(cuGraphAddNode(&end, graph, &decide, nullptr, 1, &params));
        CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
        for (int round = 0; round < 2; ++round) {
            CU(cuMemsetD32(a, 0, n));
            run(exec, stream);
            expect(a, 50 + 2 * condition, condition ? "with the condition true" : "with the condition false");
        }
        if (!on_native_driver()) {
            params = {};
            params.type = CU_GRAPH_NODE_TYPE_CONDITIONAL;
            params.conditional.handle = handle + 8;
            params.conditional.type = CU_GRAPH_COND_TYPE_IF;
            params.conditional.size = 1;
            REQUIRE(cuGraphAddNode(&decide, graph, nullptr, nullptr, 0, &params) != CUDA_SUCCESS, "a forged condition was taken");
            REQUIRE(cuGraphDestroy(body) != CUDA_SUCCESS, "a body was destroyed by itself");
        }
        CU(cuGraphExecDestroy(exec));
        CU(cuGraphDestroy(graph));
    }
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction add_one = gpu.function("add_one", test_name), busy = gpu.function("busy", test_name);
    CUdeviceptr a, b;
    CUstream stream;
    CU(cuMemAlloc(&a, bytes));
    CU(cuMemAlloc(&b, bytes));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    parameters(gpu, add_one, stream, a, b);
    events(busy, stream, a);
    memory(gpu, add_one, stream, b);
    any_node(gpu, add_one, stream, a);
    CU(cuStreamDestroy(stream));
    CU(cuMemFree(a));
    CU(cuMemFree(b));
    CU(cuModuleUnload(gpu.module));
    CU(cuDevicePrimaryCtxRelease(gpu.device));
    return PASS();
}
