// What belongs to graphs beside their work: parameters of host nodes and of nodes of any type, objects of the program whose end
// graphs put off, a graph as text, dependencies of a capture changed by hand, captures by their old names.
// rules: 2 19
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <string>

#include "../common/driver.h"

TEST("graph_objects");

static const int n = 1000;
static const size_t bytes = n * sizeof(unsigned);

static std::atomic<int> first_calls{0}, second_calls{0}, ended{0};

static void CUDA_CB first(void *user) { first_calls += *static_cast<int *>(user); }
static void CUDA_CB second(void *user) { second_calls += *static_cast<int *>(user); }
static void CUDA_CB end_object(void *user) { ended += *static_cast<int *>(user); }

static void run(CUgraphExec exec, CUstream stream) {
    CU(cuGraphLaunch(exec, stream));
    CU(cuStreamSynchronize(stream));
}

static void host_nodes(CUstream stream) {
    int one = 1, ten = 10;
    CUgraph graph;
    CUgraphNode node;
    CUgraphExec exec;
    CUDA_HOST_NODE_PARAMS params = {}, told = {};
    params.fn = first;
    params.userData = &one;
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphAddHostNode(&node, graph, nullptr, 0, &params));
    CU(cuGraphHostNodeGetParams(node, &told));
    REQUIRE(told.fn == first && told.userData == &one, "the node tells another function");
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    run(exec, stream);
    REQUIRE(first_calls == 1, "the node called %d times", first_calls.load());
    params.fn = second;
    params.userData = &ten;
    CU(cuGraphExecHostNodeSetParams(exec, node, &params));
    run(exec, stream);
    REQUIRE(first_calls == 1 && second_calls == 10, "the changed node: %d, %d", first_calls.load(), second_calls.load());
    CU(cuGraphHostNodeGetParams(node, &told));
    REQUIRE(told.fn == first, "the graph changed with what was made of it");
    CU(cuGraphHostNodeSetParams(node, &params));
    CU(cuGraphHostNodeGetParams(node, &told));
    REQUIRE(told.fn == second && told.userData == &ten, "the node did not change");
    params.fn = nullptr;
    CU_IS(cuGraphHostNodeSetParams(node, &params), CUDA_ERROR_INVALID_VALUE);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
}

// One function for nodes of any type.
static void any_node(const Gpu &gpu, CUfunction add_one, CUstream stream, CUdeviceptr a) {
    CUgraph graph;
    CUgraphNode fill, add;
    CUgraphExec exec;
    CUgraphNodeParams set = {};
    set.type = CU_GRAPH_NODE_TYPE_MEMSET;
    set.memset.dst = a;
    set.memset.value = 50;
    set.memset.elementSize = 4;
    set.memset.width = n;
    set.memset.height = 1;
    set.memset.ctx = gpu.context;
    int count = n;
    void *list[] = {&a, &count};
    CUgraphNodeParams kernel = {};
    kernel.type = CU_GRAPH_NODE_TYPE_KERNEL;
    kernel.kernel.func = add_one;
    kernel.kernel.gridDimX = (n + 127) / 128;
    kernel.kernel.gridDimY = kernel.kernel.gridDimZ = kernel.kernel.blockDimY = kernel.kernel.blockDimZ = 1;
    kernel.kernel.blockDimX = 128;
    kernel.kernel.kernelParams = list;
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphAddNode(&fill, graph, nullptr, nullptr, 0, &set));
    CU(cuGraphAddNode(&add, graph, &fill, nullptr, 1, &kernel));
    auto expect = [&](unsigned first_word, unsigned last_word) {
        std::vector<unsigned> words(n);
        CU(cuMemcpyDtoH(words.data(), a, bytes));
        REQUIRE(words[0] == first_word && words[n - 1] == last_word, "%u and %u, expected %u and %u", words[0], words[n - 1],
                first_word, last_word);
    };
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    run(exec, stream);
    expect(51, 51);
    set.memset.value = 60;
    CU(cuGraphExecNodeSetParams(exec, fill, &set));
    count = n / 2;
    CU(cuGraphExecNodeSetParams(exec, add, &kernel));
    run(exec, stream);
    expect(61, 60);
    CU(cuGraphExecDestroy(exec));
    // The graph itself is as it was, until it is changed, too.
    CU(cuGraphNodeSetParams(add, &kernel));
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    run(exec, stream);
    expect(51, 50);
    CU(cuGraphExecDestroy(exec));

    std::string path = "/tmp/vgpu-graph-" + std::to_string(getpid()) + ".dot";
    CU(cuGraphDebugDotPrint(graph, path.c_str(), 0));
    std::string text;
    FILE *file = std::fopen(path.c_str(), "r");
    REQUIRE(file, "%s was not written", path.c_str());
    for (int letter; (letter = std::fgetc(file)) != EOF;) text.push_back(char(letter));
    std::fclose(file);
    std::remove(path.c_str());
    REQUIRE(text.find("digraph") != std::string::npos && text.find("->") != std::string::npos, "%zu bytes are no graph", text.size());
    REQUIRE(cuGraphDebugDotPrint(graph, "/nonexistent/folder/graph.dot", 0) != CUDA_SUCCESS, "written to nowhere");
    CU(cuGraphDestroy(graph));
}

// Whether the object ends within ten seconds.
static bool ends(int before) {
    for (int i = 0; i < 10000 && ended == before; ++i) usleep(1000);
    return ended != before;
}

static void objects(CUstream stream) {
    int one = 1;
    CUuserObject object;
    CUgraph graph, clone;
    CUgraphNode node;
    CUgraphExec exec;
    // The program's own references.
    CU(cuUserObjectCreate(&object, &one, end_object, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CU(cuUserObjectRetain(object, 2));
    CU(cuUserObjectRelease(object, 2));
    usleep(20000);
    REQUIRE(ended == 0, "ended with a reference left");
    CU(cuUserObjectRelease(object, 1));
    REQUIRE(ends(0), "the object did not end");
    if (!on_native_driver()) {
        REQUIRE(cuUserObjectRetain(object, 1) != CUDA_SUCCESS, "an object that ended was retained");
        REQUIRE(cuUserObjectRelease(CUuserObject(&one), 1) != CUDA_SUCCESS, "a forged object was released");
    }
    // References of graphs, clones and what was made of them.
    CU(cuUserObjectCreate(&object, &one, end_object, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphAddEmptyNode(&node, graph, nullptr, 0));
    CU(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
    if (!on_native_driver()) {
        REQUIRE(cuUserObjectRelease(object, 1) != CUDA_SUCCESS, "a reference that was given away was released");
        REQUIRE(cuGraphReleaseUserObject(graph, object, 2) != CUDA_SUCCESS, "the graph had one reference only");
    }
    CU(cuGraphClone(&clone, graph));
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CU(cuGraphDestroy(graph));
    CU(cuGraphDestroy(clone));
    run(exec, stream);
    usleep(20000);
    REQUIRE(ended == 1, "ended although a graph made of its graph lives");
    CU(cuGraphExecDestroy(exec));
    REQUIRE(ends(1), "the object did not end with the last graph");
    // Given back by the graph.
    CU(cuUserObjectCreate(&object, &one, end_object, 2, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphRetainUserObject(graph, object, 1, 0));
    CU(cuUserObjectRelease(object, 2));
    usleep(20000);
    REQUIRE(ended == 2, "ended although its graph lives");
    CU(cuGraphReleaseUserObject(graph, object, 1));
    REQUIRE(ends(2), "the object did not end with the graph's reference");
    CU(cuGraphDestroy(graph));
    CU_IS(cuUserObjectCreate(&object, &one, nullptr, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuUserObjectCreate(&object, &one, end_object, 1, 0), CUDA_ERROR_INVALID_VALUE);
}

static void captures(CUfunction add_one, CUstream stream, CUdeviceptr a, CUdeviceptr b) {
    using Begin = CUresult (*)(CUstream);
    using Info = CUresult (*)(CUstream, CUstreamCaptureStatus *, cuuint64_t *);
    auto begin = reinterpret_cast<Begin>(dlsym(RTLD_DEFAULT, "cuStreamBeginCapture"));
    auto info = reinterpret_cast<Info>(dlsym(RTLD_DEFAULT, "cuStreamGetCaptureInfo"));
    REQUIRE(begin && info, "the old names are not exported");
    CUstreamCaptureStatus status;
    cuuint64_t id = 0;
    CU(begin(stream));
    CU(info(stream, &status, &id));
    REQUIRE(status == CU_STREAM_CAPTURE_STATUS_ACTIVE && id != 0, "status %d, capture %llu", int(status), (unsigned long long)id);
    CU(launch(add_one, stream, n, a, n));
    const CUgraphNode *dependencies = nullptr;
    const CUgraphEdgeData *edges = nullptr;
    CUgraph captured = nullptr;
    size_t count = 0;
    CU(cuStreamGetCaptureInfo(stream, &status, &id, &captured, &dependencies, &edges, &count));
    REQUIRE(count == 1, "%zu dependencies behind one kernel", count);
    CUgraphNode added = dependencies[0];
    // The next kernel depends on nothing, the end on both.
    CU(cuStreamUpdateCaptureDependencies(stream, nullptr, nullptr, 0, CU_STREAM_SET_CAPTURE_DEPENDENCIES));
    CU(launch(add_one, stream, n, b, n));
    CU(cuStreamUpdateCaptureDependencies(stream, &added, nullptr, 1, CU_STREAM_ADD_CAPTURE_DEPENDENCIES));
    CUgraph graph;
    CU(cuStreamEndCapture(stream, &graph));
    size_t roots = 0;
    CU(cuGraphGetRootNodes(graph, nullptr, &roots));
    REQUIRE(roots == 2, "%zu nodes depend on nothing", roots);
    CUgraphExec exec;
    CU(cuMemsetD32(a, 1, n));
    CU(cuMemsetD32(b, 2, n));
    CU(cuCtxSynchronize());
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    run(exec, stream);
    unsigned words[2];
    CU(cuMemcpyDtoH(&words[0], a, 4));
    CU(cuMemcpyDtoH(&words[1], b, 4));
    REQUIRE(words[0] == 2 && words[1] == 3, "the kernels left %u and %u", words[0], words[1]);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
    REQUIRE(cuStreamUpdateCaptureDependencies(stream, nullptr, nullptr, 0, CU_STREAM_SET_CAPTURE_DEPENDENCIES) != CUDA_SUCCESS,
            "a stream that captures nothing has no dependencies");
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction add_one = gpu.function("add_one", test_name);
    CUdeviceptr a, b;
    CUstream stream;
    CU(cuMemAlloc(&a, bytes));
    CU(cuMemAlloc(&b, bytes));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    host_nodes(stream);
    any_node(gpu, add_one, stream, a);
    objects(stream);
    captures(add_one, stream, a, b);
    CU(cuStreamDestroy(stream));
    CU(cuMemFree(a));
    CU(cuMemFree(b));
    CU(cuModuleUnload(gpu.module));
    CU(cuDevicePrimaryCtxRelease(gpu.device));
    return PASS();
}
