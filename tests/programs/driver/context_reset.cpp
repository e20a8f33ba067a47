// Resetting the primary context: its memory, pinned buffers, modules and streams are gone; the handle stays current but
// refuses work until it is retained again; then everything works anew. A reset gives back no reference: every retain,
// before or after it, needs its own release, and the context ends with the last of them.
// rules: 16 19
#include "../common/driver.h"

TEST("context_reset");

static void use(CUcontext context) {
    CUmodule module;
    CUfunction fill;
    CUdeviceptr words;
    unsigned *pinned;
    CU(cuCtxSetCurrent(context));
    CU(cuModuleLoadData(&module, kernels_fatbin));
    CU(cuModuleGetFunction(&fill, module, "fill_ramp"));
    CU(cuMemAlloc(&words, 4000));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&pinned), 4000));
    CU(launch(fill, nullptr, 1000, words, 5u, 1000));
    CU(cuMemcpyDtoHAsync(pinned, words, 4000, nullptr));
    CU(cuStreamSynchronize(nullptr));
    for (unsigned i = 0; i < 1000; ++i) REQUIRE(pinned[i] == 5 + i, "element %u is %u", i, pinned[i]);
}

int main() {
    CU(cuInit(0));
    CUdevice device = 0;
    CUcontext context, again;
    for (int round = 0; round < 5; ++round) {
        CU(cuDevicePrimaryCtxRetain(&context, device));
        use(context);
        CUdeviceptr memory, fresh;
        void *pinned;
        CUevent event;
        unsigned flags;
        int active = 9;
        CU(cuMemAlloc(&memory, 8 << 20));
        CU(cuMemAllocHost(&pinned, 1 << 16));
        CU(cuEventCreate(&event, 0));
        CU(cuDevicePrimaryCtxReset(device));
        CU(cuDevicePrimaryCtxGetState(device, &flags, &active));
        REQUIRE(active == 0, "round %d: active after a reset", round);
        CUcontext current = nullptr;
        CU(cuCtxGetCurrent(&current));
        REQUIRE(current == context, "round %d: the reset changed the current context", round);
        CU_IS(cuMemAlloc(&fresh, 64), CUDA_ERROR_CONTEXT_IS_DESTROYED);
        CU(cuDevicePrimaryCtxRetain(&again, device));
        CU(cuCtxSetCurrent(again));
        CU_IS(cuMemFree(memory), CUDA_ERROR_INVALID_VALUE);
        CU_IS(cuMemFreeHost(pinned), CUDA_ERROR_INVALID_VALUE);
        CU_IS(cuMemHostGetFlags(&flags, pinned), CUDA_ERROR_INVALID_VALUE);
        // A destructor that comes late, whatever it is told, spoils nothing for the calls behind it.
        cuEventDestroy(event);
        use(again);
        // Two references: the one of before the reset still counts.
        CU(cuDevicePrimaryCtxRelease(device));
        CU(cuDevicePrimaryCtxGetState(device, &flags, &active));
        REQUIRE(active == 1, "round %d: the reset gave back the reference taken before it", round);
        use(again);
        CU(cuDevicePrimaryCtxRelease(device));
        CU(cuDevicePrimaryCtxGetState(device, &flags, &active));
        REQUIRE(active == 0, "round %d: still active after as many releases as retains", round);
    }
    // The last release ends it as a reset does.
    CU(cuDevicePrimaryCtxRetain(&context, device));
    use(context);
    CU(cuDevicePrimaryCtxRelease(device));
    CUdeviceptr p;
    CU_IS(cuMemAlloc(&p, 64), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    CU_IS(cuDevicePrimaryCtxRelease(device), CUDA_ERROR_INVALID_CONTEXT);
    CU(cuDevicePrimaryCtxRetain(&context, device));
    use(context);
    return PASS();
}
