// Several devices in one program: contexts of their own, current to threads of their own; copies between them; what belongs
// to one is not the other's; peer access is there or refused. With one device the same between two of its contexts.
// devices: 2
// rules: 1
#include <thread>

#include "../common/driver.h"

TEST("peers");

static const int n = 1 << 16;

struct Side {
    CUdevice device = 0;
    CUcontext context = nullptr;
    CUmodule module = nullptr;
    CUfunction ramp = nullptr, add_one = nullptr;
    CUstream stream = nullptr;
    CUdeviceptr data = 0;
};

static void open(Side &side, CUdevice device) {
    side.device = device;
    CU(cuCtxCreate(&side.context, nullptr, 0, device));
    CU(cuModuleLoadData(&side.module, kernels_fatbin));
    CU(cuModuleGetFunction(&side.ramp, side.module, "fill_ramp"));
    CU(cuModuleGetFunction(&side.add_one, side.module, "add_one"));
    CU(cuStreamCreate(&side.stream, CU_STREAM_NON_BLOCKING));
    CU(cuMemAlloc(&side.data, n * sizeof(unsigned)));
    CUdevice found = -1;
    CU(cuCtxGetDevice(&found));
    REQUIRE(found == device, "a context of device %d is one of device %d", int(device), int(found));
    CUcontext popped;
    CU(cuCtxPopCurrent(&popped));
}

static void check(const Side &side, unsigned first, const char *what) {
    std::vector<unsigned> host(n);
    CU(cuCtxSetCurrent(side.context));
    CU(cuMemcpyDtoH(host.data(), side.data, n * sizeof(unsigned)));
    for (int i = 0; i < n; ++i) REQUIRE(host[i] == first + unsigned(i), "%s: element %d is %u, not %u", what, i, host[i], first + unsigned(i));
}

int main() {
    CU(cuInit(0));
    int count = 0;
    CU(cuDeviceGetCount(&count));
    const bool two = count > 1;
    Side a, b;
    open(a, 0);
    open(b, two ? 1 : 0);

    // Threads of both devices work at the same time.
    std::thread workers[2];
    Side *sides[] = {&a, &b};
    for (int i = 0; i < 2; ++i)
        workers[i] = std::thread([side = sides[i], i] {
            CU(cuCtxSetCurrent(side->context));
            CU(launch(side->ramp, side->stream, n, side->data, unsigned(1000 * i), n));
            for (int round = 0; round < 100; ++round) CU(launch(side->add_one, side->stream, n, side->data, n));
            CU(cuStreamSynchronize(side->stream));
        });
    for (auto &worker : workers) worker.join();
    check(a, 100, "the first device");
    check(b, 1100, "the second device");

    // Whose memory and streams they are.
    int owner = -1;
    CUcontext context = nullptr;
    CU(cuCtxSetCurrent(a.context));
    CU(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, b.data));
    REQUIRE(owner == int(b.device), "memory of device %d is on device %d", int(b.device), owner);
    CU(cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, b.data));
    REQUIRE(context == b.context, "memory belongs to another context");
    CU(cuStreamGetCtx(b.stream, &context));
    REQUIRE(context == b.context, "a stream belongs to another context");

    // Copies from one to the other, whichever is current: at once, and in stream order behind a kernel.
    CU(cuMemcpyPeer(b.data, b.context, a.data, a.context, n * sizeof(unsigned)));
    check(b, 100, "a copy between devices");
    CU(cuCtxSetCurrent(b.context));
    CU(launch(b.add_one, b.stream, n, b.data, n));
    CU(cuMemcpyPeerAsync(a.data, a.context, b.data, b.context, n * sizeof(unsigned), b.stream));
    CU(cuStreamSynchronize(b.stream));
    check(a, 101, "an asynchronous copy between devices");

    // An event of one device orders the other.
    CUevent event;
    CU(cuCtxSetCurrent(b.context));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(launch(b.add_one, b.stream, n, b.data, n));
    CU(cuEventRecord(event, b.stream));
    CU(cuCtxSetCurrent(a.context));
    CU(cuStreamWaitEvent(a.stream, event, 0));
    CU(cuMemcpyPeerAsync(a.data, a.context, b.data, b.context, n * sizeof(unsigned), a.stream));
    CU(launch(a.add_one, a.stream, n, a.data, n));
    CU(cuStreamSynchronize(a.stream));
    check(a, 103, "a copy behind the other device's event");

    // Peer access.
    int self = 1, can = 0, back = 0;
    CU(cuDeviceCanAccessPeer(&self, a.device, a.device));
    REQUIRE(self == 0, "a device is its own peer");
    if (two) {
        int attribute = -1;
        CU(cuDeviceCanAccessPeer(&can, a.device, b.device));
        CU(cuDeviceCanAccessPeer(&back, b.device, a.device));
        CU(cuDeviceGetP2PAttribute(&attribute, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, a.device, b.device));
        REQUIRE(attribute == can, "the attribute says %d, the call %d", attribute, can);
        CU(cuCtxSetCurrent(a.context));
        CU_IS(cuCtxDisablePeerAccess(b.context), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
        if (can) {
            CU(cuCtxEnablePeerAccess(b.context, 0));
            CU_IS(cuCtxEnablePeerAccess(b.context, 0), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
            // A kernel of the one adds in the memory of the other.
            CU(launch(a.add_one, a.stream, n, b.data, n));
            CU(cuStreamSynchronize(a.stream));
            check(b, 103, "an addition from the other device");
            CU(cuCtxSetCurrent(a.context));
            CU(cuCtxDisablePeerAccess(b.context));
        } else {
            CU_IS(cuCtxEnablePeerAccess(b.context, 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
        }
    }
    std::printf("%s; peer access: %s\n", two ? "two devices" : "one device: two contexts of it stand for two devices", can && back ? "yes" : "no");

    // The end of one leaves the other alone.
    CU(cuCtxDestroy(b.context));
    check(a, 103, "after the other's end");
    CU(cuCtxDestroy(a.context));
    return PASS();
}
