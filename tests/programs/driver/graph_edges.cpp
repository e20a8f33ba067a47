// Attributes of kernel nodes, and edges that are more than an order: what they say is told as it was given.
// rules: 19
#include "../common/driver.h"

TEST("graph_edges");

static const int n = 1000;
static const size_t bytes = n * sizeof(unsigned);

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction add_one = gpu.function("add_one", test_name);
    CUdeviceptr a;
    CUstream stream;
    CUgraph graph;
    CUgraphNode nodes[2];
    CU(cuMemAlloc(&a, bytes));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuGraphCreate(&graph, 0));
    int count = n;
    void *list[] = {&a, &count};
    CUDA_KERNEL_NODE_PARAMS params = {};
    params.func = add_one;
    params.gridDimX = (n + 127) / 128;
    params.gridDimY = params.gridDimZ = params.blockDimY = params.blockDimZ = 1;
    params.blockDimX = 128;
    params.kernelParams = list;
    for (CUgraphNode &node : nodes) CU(cuGraphAddKernelNode(&node, graph, nullptr, 0, &params));

    CUkernelNodeAttrValue value = {}, told = {};
    value.priority = 0;
    CU_OR_SKIP(cuGraphKernelNodeSetAttribute(nodes[0], CU_KERNEL_NODE_ATTRIBUTE_PRIORITY, &value));
    value.cooperative = 1;
    CU(cuGraphKernelNodeSetAttribute(nodes[0], CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE, &value));
    CU(cuGraphKernelNodeGetAttribute(nodes[0], CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE, &told));
    REQUIRE(told.cooperative == 1, "the attribute reads %d", told.cooperative);
    CU(cuGraphKernelNodeCopyAttributes(nodes[1], nodes[0]));
    told = {};
    CU(cuGraphKernelNodeGetAttribute(nodes[1], CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE, &told));
    REQUIRE(told.cooperative == 1, "the copied attribute reads %d", told.cooperative);
    for (CUgraphNode node : nodes) {
        value.cooperative = 0;
        CU(cuGraphKernelNodeSetAttribute(node, CU_KERNEL_NODE_ATTRIBUTE_COOPERATIVE, &value));
    }
    if (!on_native_driver()) {
        unsigned own = 0;
        value.accessPolicyWindow.base_ptr = &own;
        value.accessPolicyWindow.num_bytes = 4;
        REQUIRE(cuGraphKernelNodeSetAttribute(nodes[0], CU_KERNEL_NODE_ATTRIBUTE_ACCESS_POLICY_WINDOW, &value) != CUDA_SUCCESS,
                "the program's own memory was taken");
    }

    // The second kernel may begin as soon as the first lets it; none does, so as soon as it ends.
    CUgraphEdgeData edge = {}, read = {};
    edge.from_port = CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC;
    edge.type = CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC;
    CU(cuGraphAddDependencies(graph, &nodes[0], &nodes[1], &edge, 1));
    CUgraphNode from = nullptr, to = nullptr;
    size_t edges = 1;
    CU(cuGraphGetEdges(graph, &from, &to, &read, &edges));
    REQUIRE(edges == 1 && from == nodes[0] && to == nodes[1], "%zu edges", edges);
    REQUIRE(std::memcmp(&read, &edge, sizeof edge) == 0, "the edge tells port %d, type %d", read.from_port, read.type);
    read = {};
    edges = 1;
    CU(cuGraphNodeGetDependencies(nodes[1], &from, &read, &edges));
    REQUIRE(edges == 1 && from == nodes[0] && read.type == edge.type, "%zu dependencies", edges);
    edges = 1;
    CU_IS(cuGraphNodeGetDependentNodes(nodes[0], &to, nullptr, &edges), CUDA_ERROR_LOSSY_QUERY);
    CUgraphExec exec;
    CU(cuMemsetD32(a, 5, n));
    CU(cuCtxSynchronize());
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CU(cuGraphLaunch(exec, stream));
    CU(cuStreamSynchronize(stream));
    unsigned word = 0;
    CU(cuMemcpyDtoH(&word, a + bytes - 4, sizeof word));
    REQUIRE(word == 6 || word == 7, "the kernels left %u", word);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphRemoveDependencies(graph, &nodes[0], &nodes[1], &edge, 1));
    edges = 0;
    CU(cuGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
    REQUIRE(edges == 0, "%zu edges are left", edges);
    // A node that is added with such an edge.
    CUgraphNodeParams kernel = {};
    kernel.type = CU_GRAPH_NODE_TYPE_KERNEL;
    kernel.kernel.func = add_one;
    kernel.kernel.gridDimX = params.gridDimX;
    kernel.kernel.gridDimY = kernel.kernel.gridDimZ = kernel.kernel.blockDimY = kernel.kernel.blockDimZ = 1;
    kernel.kernel.blockDimX = 128;
    kernel.kernel.kernelParams = list;
    CUgraphNode third;
    CU(cuGraphAddNode(&third, graph, &nodes[1], &edge, 1, &kernel));
    edges = 1;
    CU(cuGraphNodeGetDependencies(third, &from, &read, &edges));
    REQUIRE(edges == 1 && from == nodes[1] && read.type == edge.type, "%zu dependencies of the third", edges);
    CU(cuGraphDestroy(graph));
    CU(cuStreamDestroy(stream));
    CU(cuMemFree(a));
    CU(cuModuleUnload(gpu.module));
    CU(cuDevicePrimaryCtxRelease(gpu.device));
    return PASS();
}
