// Which calls a host function may make: what touches a context, a stream, memory or an event is NOT_PERMITTED in it, also
// where no device needs to be asked for the answer; look-ups work. CUDA promises neither ("may be returned"), so on
// NVIDIA's driver the answers of calls that neither block nor change anything are only printed; ours refuses for certain,
// and in the same way in all three kinds of host function.
// rules: 24
#include <functional>
#include <string>

#include "../common/driver.h"

TEST("host_function_calls");

struct Objects {
    CUdevice device;
    CUcontext context;
    CUstream stream;
    CUevent event;
    CUdeviceptr memory;
    void *pinned;
    CUfunction function;
    CUgraph graph;
};

// Queries and changes are both refused; changes are not tried on a driver that might carry them out.
enum Kind { LOOKUP, QUERY, CHANGE };

struct Call {
    const char *name;
    Kind kind;
    std::function<CUresult(Objects &)> make;
};

#define CALL(kind, name, ...) {#name, kind, [](Objects &o) { (void)o; return name(__VA_ARGS__); }}

// Where the calls store what nobody looks at.
static int number;
static unsigned word;
static unsigned long long wide;
static size_t size, more;
static float milliseconds;
static const char *text;
static char letters[64];
static void *pointer;
static CUuuid uuid;
static CUcontext context;
static CUdevice device;
static CUstream stream;
static CUevent event;
static CUdeviceptr memory;
static CUstreamCaptureStatus capture;
static CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
static CUpointer_attribute attribute = CU_POINTER_ATTRIBUTE_CONTEXT;
static void *attribute_value[] = {&context};

static const Call calls[] = {
    CALL(LOOKUP, cuInit, 0),
    CALL(LOOKUP, cuDriverGetVersion, &number),
    CALL(LOOKUP, cuGetErrorName, CUDA_ERROR_NOT_PERMITTED, &text),
    CALL(LOOKUP, cuGetErrorString, CUDA_ERROR_NOT_PERMITTED, &text),
    CALL(QUERY, cuDeviceGetCount, &number),
    CALL(QUERY, cuDeviceGet, &device, 0),
    CALL(QUERY, cuDeviceGetName, letters, sizeof letters, o.device),
    CALL(QUERY, cuDeviceGetAttribute, &number, CU_DEVICE_ATTRIBUTE_WARP_SIZE, o.device),
    CALL(QUERY, cuDeviceGetUuid, &uuid, o.device),
    CALL(QUERY, cuDeviceTotalMem, &size, o.device),
    CALL(QUERY, cuCtxGetCurrent, &context),
    CALL(CHANGE, cuCtxSetCurrent, o.context),
    CALL(CHANGE, cuCtxPushCurrent, o.context),
    CALL(CHANGE, cuCtxPopCurrent, &context),
    CALL(QUERY, cuCtxGetDevice, &device),
    CALL(QUERY, cuCtxGetApiVersion, o.context, &word),
    CALL(CHANGE, cuCtxSynchronize),
    CALL(CHANGE, cuDevicePrimaryCtxRetain, &context, o.device),
    CALL(CHANGE, cuMemAlloc, &memory, 64),
    CALL(CHANGE, cuMemFree, o.memory),
    CALL(QUERY, cuMemGetInfo, &size, &more),
    CALL(CHANGE, cuMemAllocHost, &pointer, 64),
    CALL(CHANGE, cuMemFreeHost, o.pinned),
    CALL(QUERY, cuMemHostGetFlags, &word, o.pinned),
    CALL(QUERY, cuMemHostGetDevicePointer, &memory, o.pinned, 0),
    CALL(QUERY, cuPointerGetAttribute, &context, CU_POINTER_ATTRIBUTE_CONTEXT, o.memory),
    CALL(QUERY, cuPointerGetAttributes, 1, &attribute, attribute_value, o.memory),
    CALL(CHANGE, cuMemcpyHtoD, o.memory, o.pinned, 4),
    CALL(CHANGE, cuMemsetD8Async, o.memory, 0, 4, o.stream),
    CALL(CHANGE, cuStreamCreate, &stream, CU_STREAM_NON_BLOCKING),
    CALL(QUERY, cuStreamQuery, o.stream),
    CALL(QUERY, cuStreamGetFlags, o.stream, &word),
    CALL(QUERY, cuStreamGetCtx, o.stream, &context),
    CALL(QUERY, cuStreamIsCapturing, o.stream, &capture),
    CALL(CHANGE, cuThreadExchangeStreamCaptureMode, &mode),
    CALL(CHANGE, cuEventCreate, &event, CU_EVENT_DEFAULT),
    CALL(CHANGE, cuEventRecord, o.event, o.stream),
    CALL(QUERY, cuEventQuery, o.event),
    CALL(QUERY, cuEventElapsedTime, &milliseconds, o.event, o.event),
    CALL(QUERY, cuFuncGetAttribute, &number, CU_FUNC_ATTRIBUTE_NUM_REGS, o.function),
    CALL(QUERY, cuOccupancyMaxActiveBlocksPerMultiprocessor, &number, o.function, 32, 0),
    CALL(QUERY, cuGraphGetNodes, o.graph, nullptr, &size),
    CALL(CHANGE, cuMemAdvise, o.memory, 64, CU_MEM_ADVISE_SET_READ_MOSTLY, {}),
};
static const int count = int(sizeof calls / sizeof *calls);

struct Inside {
    Objects *objects;
    CUresult results[count] = {};
    bool ran = false;
};

static void make_calls(void *user) {
    auto *inside = static_cast<Inside *>(user);
    for (int i = 0; i < count; ++i)
        if (calls[i].kind != CHANGE || !on_native_driver()) inside->results[i] = calls[i].make(*inside->objects);
    inside->ran = true;
}

static void stream_callback(CUstream, CUresult, void *user) { make_calls(user); }

static void judge(const char *kind, const Inside &inside) {
    REQUIRE(inside.ran, "the %s did not run", kind);
    for (int i = 0; i < count; ++i) {
        const CUresult result = inside.results[i];
        if (on_native_driver()) {
            if (calls[i].kind != CHANGE) std::printf("%s: %s is %s\n", kind, calls[i].name, error_name(result));
            continue;
        }
        const CUresult want = calls[i].kind == LOOKUP ? CUDA_SUCCESS : CUDA_ERROR_NOT_PERMITTED;
        REQUIRE(result == want, "%s in a %s returned %d, not %d", calls[i].name, kind, int(result), int(want));
    }
}

int main() {
    Gpu gpu = open_gpu(test_name);
    Objects o = {};
    o.device = gpu.device;
    o.context = gpu.context;
    o.function = gpu.function("fill", test_name);
    CU(cuStreamCreate(&o.stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&o.event, CU_EVENT_DEFAULT));
    CU(cuEventRecord(o.event, o.stream));
    CU(cuMemAlloc(&o.memory, 64));
    CU(cuMemAllocHost(&o.pinned, 64));
    CU(cuGraphCreate(&o.graph, 0));
    CU(cuStreamSynchronize(o.stream));

    Inside host, callback, node;
    for (Inside *inside : {&host, &callback, &node}) inside->objects = &o;
    CU(cuLaunchHostFunc(o.stream, make_calls, &host));
    CU(cuStreamSynchronize(o.stream));
    judge("host function", host);
    CU(cuStreamAddCallback(o.stream, stream_callback, &callback, 0));
    CU(cuStreamSynchronize(o.stream));
    judge("stream callback", callback);

    CUDA_HOST_NODE_PARAMS parameters = {};
    parameters.fn = make_calls;
    parameters.userData = &node;
    CUgraphNode added;
    CUgraphExec exec;
    CU(cuGraphAddHostNode(&added, o.graph, nullptr, 0, &parameters));
    CU(cuGraphInstantiate(&exec, o.graph, 0));
    CU(cuGraphLaunch(exec, o.stream));
    CU(cuStreamSynchronize(o.stream));
    judge("host node", node);

    // Nothing of what was refused has happened, and this thread may still do all of it.
    CUcontext current;
    CU(cuCtxGetCurrent(&current));
    REQUIRE(current == o.context, "the current context has changed");
    CU(cuMemsetD8(o.memory, 1, 64));
    CU(cuMemFreeHost(o.pinned));
    CU(cuMemFree(o.memory));
    CU(cuEventDestroy(o.event));
    CU(cuStreamDestroy(o.stream));
    return PASS();
}
