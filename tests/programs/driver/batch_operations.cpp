// Batches: of memory operations, in streams and as nodes of graphs, and of copies, whatever lies at their ends.
// rules: 12
#include <dlfcn.h>
#include <time.h>

#include <algorithm>

#include "../common/driver.h"

TEST("batch_operations");

static const int n = 5000;
static const size_t bytes = n * sizeof(unsigned);

static CUstreamBatchMemOpParams write_of(CUdeviceptr at, unsigned value) {
    CUstreamBatchMemOpParams operation = {};
    operation.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    operation.writeValue.address = at;
    operation.writeValue.value = value;
    return operation;
}

static CUstreamBatchMemOpParams wait_for(CUdeviceptr at, unsigned value) {
    CUstreamBatchMemOpParams operation = {};
    operation.waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    operation.waitValue.address = at;
    operation.waitValue.value = value;
    operation.waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    return operation;
}

static unsigned word_at(CUdeviceptr at) {
    unsigned word = 0;
    CU(cuMemcpyDtoH(&word, at, sizeof word));
    return word;
}

static void in_stream(CUstream stream, CUdeviceptr a) {
    unsigned *flag;
    CU(cuMemHostAlloc(reinterpret_cast<void **>(&flag), 64, 0));
    *flag = 0;
    CUdeviceptr flag_address;
    CU(cuMemHostGetDevicePointer(&flag_address, flag, 0));
    CU(cuMemsetD32(a, 0, n));
    CU(cuCtxSynchronize());
    CUstreamBatchMemOpParams batch[4] = {wait_for(flag_address, 7), write_of(a, 11), write_of(a + 4, 12), {}};
    batch[3].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    batch[3].writeValue.address = a + 8;
    batch[3].writeValue.value64 = 0x1234567890abcdefull;
    CU(cuStreamBatchMemOp(stream, 4, batch, 0));
    CU_IS(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    *static_cast<volatile unsigned *>(flag) = 7;
    CU(cuStreamSynchronize(stream));
    REQUIRE(word_at(a) == 11 && word_at(a + 4) == 12, "the batch wrote %u, %u", word_at(a), word_at(a + 4));
    REQUIRE(word_at(a + 8) == 0x90abcdefu && word_at(a + 12) == 0x12345678u, "64 bits: %#x %#x", word_at(a + 8), word_at(a + 12));
    if (!on_native_driver()) {
        std::vector<CUstreamBatchMemOpParams> many(257, write_of(a, 1));
        CU_IS(cuStreamBatchMemOp(stream, unsigned(many.size()), many.data(), 0), CUDA_ERROR_INVALID_VALUE);
        CU_IS(cuStreamBatchMemOp(stream, 1, nullptr, 0), CUDA_ERROR_INVALID_VALUE);
        CUstreamBatchMemOpParams unknown = write_of(a, 1);
        unknown.operation = CUstreamBatchMemOpType(77);
        CU_IS(cuStreamBatchMemOp(stream, 1, &unknown, 0), CUDA_ERROR_INVALID_VALUE);
        unsigned own = 5;
        CUstreamBatchMemOpParams forged = write_of(CUdeviceptr(&own), 1);
        REQUIRE(cuStreamBatchMemOp(stream, 1, &forged, 0) != CUDA_SUCCESS, "the program's own memory was taken");
        REQUIRE(own == 5, "the program's own memory was written");
    }
    CU(cuMemFreeHost(flag));
}

static void in_graph(const Gpu &gpu, CUstream stream, CUdeviceptr a) {
    CUgraph graph;
    CUgraphNode node;
    CUgraphExec exec;
    CUstreamBatchMemOpParams batch[2] = {write_of(a, 21), write_of(a + 4, 22)};
    CUDA_BATCH_MEM_OP_NODE_PARAMS params = {}, told = {};
    params.ctx = gpu.context;
    params.count = 2;
    params.paramArray = batch;
    CU(cuGraphCreate(&graph, 0));
    CU(cuGraphAddBatchMemOpNode(&node, graph, nullptr, 0, &params));
    CUgraphNodeType type;
    CU(cuGraphNodeGetType(node, &type));
    REQUIRE(type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, "the node's type is %d", int(type));
    CU(cuGraphBatchMemOpNodeGetParams(node, &told));
    REQUIRE(told.count == 2 && told.paramArray[1].writeValue.address == a + 4 && told.paramArray[1].writeValue.value == 22,
            "the node tells %u operations", told.count);
    CU(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CU(cuGraphLaunch(exec, stream));
    CU(cuStreamSynchronize(stream));
    REQUIRE(word_at(a) == 21 && word_at(a + 4) == 22, "the node wrote %u, %u", word_at(a), word_at(a + 4));
    batch[0].writeValue.value = 31;
    CU(cuGraphExecBatchMemOpNodeSetParams(exec, node, &params));
    CU(cuGraphLaunch(exec, stream));
    CU(cuStreamSynchronize(stream));
    REQUIRE(word_at(a) == 31, "the changed node wrote %u", word_at(a));
    batch[0].writeValue.value = 41;
    CU(cuGraphBatchMemOpNodeSetParams(node, &params));
    CU(cuGraphBatchMemOpNodeGetParams(node, &told));
    REQUIRE(told.paramArray[0].writeValue.value == 41, "the node tells %u", told.paramArray[0].writeValue.value);
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
}

static CUmemcpyAttributes with_order(CUmemcpySrcAccessOrder order) {
    CUmemcpyAttributes attributes = {};
    attributes.srcAccessOrder = order;
    return attributes;
}

static void copies(CUfunction busy, CUstream stream, CUdeviceptr a, CUdeviceptr b, CUdeviceptr c) {
    std::vector<unsigned> own(n), back(n, 1);
    unsigned *pinned, *pinned_back;
    CU(cuMemAllocHost(reinterpret_cast<void **>(&pinned), bytes));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&pinned_back), bytes));
    for (int i = 0; i < n; ++i) {
        own[i] = 3u * i;
        pinned[i] = 7u * i;
    }
    // The sources are gone as soon as the call returns, and the stream is busy meanwhile.
    CU(launch(busy, stream, 1, c, 3000000u));
    CUdeviceptr to[2] = {a, b}, from[2] = {CUdeviceptr(own.data()), CUdeviceptr(pinned)};
    size_t sizes[2] = {bytes, bytes}, starts[2] = {0, 1};
    CUmemcpyAttributes during = with_order(CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL);
    CU(cuMemcpyBatchAsync(to, from, sizes, 2, &during, starts, 1, stream));
    std::fill(own.begin(), own.end(), 0xdeadu);
    std::fill(pinned, pinned + n, 0xdeadu);
    // In stream order: out again, to pageable and pinned memory, and between devices' memory.
    CUmemcpyAttributes both[2] = {with_order(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM), with_order(CU_MEMCPY_SRC_ACCESS_ORDER_ANY)};
    CUdeviceptr out[2] = {CUdeviceptr(back.data()), CUdeviceptr(pinned_back)}, in[2] = {a, b};
    CU(cuMemcpyBatchAsync(out, in, sizes, 2, both, starts, 2, stream));
    CU(cuStreamSynchronize(stream));
    for (int i = 0; i < n; ++i) {
        REQUIRE(back[i] == 3u * i, "pageable word %d is %u", i, back[i]);
        REQUIRE(pinned_back[i] == 7u * i, "pinned word %d is %u", i, pinned_back[i]);
    }
    CU(cuMemcpyBatchAsync(&b, &a, sizes, 1, both, starts, 1, stream));
    CU(cuStreamSynchronize(stream));
    CU(cuMemcpyDtoH(back.data(), b, bytes));
    for (int i = 0; i < n; ++i) REQUIRE(back[i] == 3u * i, "word %d is %u between devices' memory", i, back[i]);

    CUmemcpyAttributes none = {};
    size_t late = 1;
    CU_IS(cuMemcpyBatchAsync(to, in, sizes, 2, &none, starts, 1, stream), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemcpyBatchAsync(to, in, sizes, 2, both, &late, 1, stream), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemcpyBatchAsync(to, in, sizes, 2, both, starts, 0, stream), CUDA_ERROR_INVALID_VALUE);
    if (!on_native_driver()) CU_IS(cuMemcpyBatchAsync(to, in, sizes, 2, both, starts, 1, nullptr), CUDA_ERROR_INVALID_VALUE);

    // The form of CUDA 12 says which copy is at fault.
    using Old = CUresult (*)(CUdeviceptr *, CUdeviceptr *, size_t *, size_t, CUmemcpyAttributes *, size_t *, size_t, size_t *, CUstream);
    auto old = reinterpret_cast<Old>(dlsym(RTLD_DEFAULT, "cuMemcpyBatchAsync"));
    REQUIRE(old, "cuMemcpyBatchAsync is not exported");
    size_t fault = 99;
    CU(old(&b, &a, sizes, 1, both, starts, 1, &fault, stream));
    CUdeviceptr wrong[2] = {b, 0};
    CU_IS(old(wrong, in, sizes, 2, both, starts, 1, &fault, stream), CUDA_ERROR_INVALID_VALUE);
    if (!on_native_driver()) REQUIRE(fault == 1, "copy %zu is at fault", fault);
    CU(cuStreamSynchronize(stream));
    CU(cuMemFreeHost(pinned));
    CU(cuMemFreeHost(pinned_back));
}

static std::vector<unsigned> late(n);
static void CUDA_CB fill_late(void *) {
    struct timespec pause = {0, 20000000};
    nanosleep(&pause, nullptr);
    std::fill(late.begin(), late.end(), 77u);
}

// A source that is read in stream order is what the stream left there.
static void behind_a_host_function(CUstream stream, CUdeviceptr a) {
    size_t size = bytes, start = 0;
    CUmemcpyAttributes in_order = with_order(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM);
    CUdeviceptr from = CUdeviceptr(late.data());
    CU(cuLaunchHostFunc(stream, fill_late, nullptr));
    CU(cuMemcpyBatchAsync(&a, &from, &size, 1, &in_order, &start, 1, stream));
    CU(cuStreamSynchronize(stream));
    REQUIRE(word_at(a) == 77 && word_at(a + bytes - 4) == 77, "the copy took %u and %u", word_at(a), word_at(a + bytes - 4));
}

// Boxes: rows of a plane in the program's memory, packed on the device.
static void boxes(CUstream stream, CUdeviceptr a) {
    const size_t width = 24, pitch = 40, rows = 7;
    std::vector<unsigned char> plane(pitch * rows), back(pitch * rows, 0xee);
    for (size_t i = 0; i < plane.size(); ++i) plane[i] = static_cast<unsigned char>(i * 5 + 1);
    auto at = [](CUdeviceptr address, size_t row) {
        CUmemcpy3DOperand operand = {};
        operand.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
        operand.op.ptr.ptr = address;
        operand.op.ptr.rowLength = row;
        return operand;
    };
    CUDA_MEMCPY3D_BATCH_OP copy = {};
    copy.src = at(CUdeviceptr(plane.data()), pitch);
    copy.dst = at(a, 0);
    copy.extent = {width, rows, 1};
    copy.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
    CU(cuMemcpy3DBatchAsync(1, &copy, 0, stream));
    CU(cuStreamSynchronize(stream));
    copy.src = at(a, 0);
    copy.dst = at(CUdeviceptr(back.data()), pitch);
    CU(cuMemcpy3DBatchAsync(1, &copy, 0, stream));
    CU(cuStreamSynchronize(stream));
    for (size_t i = 0; i < back.size(); ++i) {
        unsigned expected = i % pitch < width ? plane[i] : 0xee;
        REQUIRE(back[i] == expected, "byte %zu is %u, expected %u", i, back[i], expected);
    }
    copy.dst.op.ptr.rowLength = width - 1;
    CU_IS(cuMemcpy3DBatchAsync(1, &copy, 0, stream), CUDA_ERROR_INVALID_VALUE);
    copy.dst.op.ptr.rowLength = pitch;
    copy.extent.height = 0;
    CU_IS(cuMemcpy3DBatchAsync(1, &copy, 0, stream), CUDA_ERROR_INVALID_VALUE);
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction busy = gpu.function("busy", test_name);
    CUdeviceptr a, b, c;
    CUstream stream;
    CU(cuMemAlloc(&a, bytes));
    CU(cuMemAlloc(&b, bytes));
    CU(cuMemAlloc(&c, bytes));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    in_stream(stream, a);
    in_graph(gpu, stream, a);
    copies(busy, stream, a, b, c);
    behind_a_host_function(stream, a);
    boxes(stream, a);
    CU(cuStreamDestroy(stream));
    CU(cuMemFree(a));
    CU(cuMemFree(b));
    CU(cuMemFree(c));
    CU(cuModuleUnload(gpu.module));
    CU(cuDevicePrimaryCtxRelease(gpu.device));
    return PASS();
}
