// Created contexts and the primary one: the current-context stack is per thread, objects belong to their context, and
// destroying a context invalidates it everywhere.
// rules: 2 16 19
#include <thread>

#include "../common/driver.h"

TEST("contexts");

static CUcontext current() {
    CUcontext context = nullptr;
    CU(cuCtxGetCurrent(&context));
    return context;
}

static CUcontext create(CUdevice device) {
    CUcontext context = nullptr;
#if CUDA_VERSION >= 13000
    CU(cuCtxCreate(&context, nullptr, 0, device));
#else
    CU(cuCtxCreate(&context, 0, device));
#endif
    return context;
}

static void store_and_check(const char *where) {
    CUmodule module;
    CUfunction fill;
    CUdeviceptr word;
    unsigned host = 0;
    CU(cuModuleLoadData(&module, kernels_fatbin));
    CU(cuModuleGetFunction(&fill, module, "fill"));
    CU(cuMemAlloc(&word, 4));
    CU(launch(fill, nullptr, 1, word, 77u, 1));
    CU(cuMemcpyDtoH(&host, word, 4));
    REQUIRE(host == 77, "%s: stored %u", where, host);
    CU(cuMemFree(word));
    CU(cuModuleUnload(module));
}

int main() {
    CU(cuInit(0));
    CUdevice device, seen;
    CUdeviceptr p;
    CU(cuDeviceGet(&device, 0));
    REQUIRE(current() == nullptr, "a context is current at the start");
    CU_IS(cuMemAlloc(&p, 16), CUDA_ERROR_INVALID_CONTEXT);
    CU_IS(cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT);
    CUcontext popped = nullptr;
    CU_IS(cuCtxPopCurrent(&popped), CUDA_ERROR_INVALID_CONTEXT);

    unsigned flags = 99;
    int active = 99;
    CU(cuDevicePrimaryCtxGetState(device, &flags, &active));
    REQUIRE(active == 0, "the primary context is active before it was retained");
    CUcontext primary;
    CU(cuDevicePrimaryCtxRetain(&primary, device));
    REQUIRE(current() == nullptr, "retaining made the context current");
    CU(cuCtxSetCurrent(primary));
    store_and_check("primary");
    CU(cuDevicePrimaryCtxGetState(device, &flags, &active));
    REQUIRE(active == 1, "the primary context is not active");
    CUcontext twice;
    CU(cuDevicePrimaryCtxRetain(&twice, device));
    REQUIRE(twice == primary, "retaining twice gives two contexts");
    CU(cuDevicePrimaryCtxRelease(device));
    store_and_check("primary after one of two releases");

    // Creating pushes; pushing and popping keep order; setting replaces the top.
    CUcontext first = create(device);
    REQUIRE(current() == first, "a created context is not current");
    store_and_check("first");
    CUdeviceptr mine;
    CU(cuMemAlloc(&mine, 64));
    CUcontext second = create(device);
    REQUIRE(current() == second && second != first, "the second context");
    CU(cuCtxGetDevice(&seen));
    REQUIRE(seen == device, "the current device is %d", seen);
    store_and_check("second");
    CU(cuCtxPopCurrent(&popped));
    REQUIRE(popped == second && current() == first, "the stack after one pop");
    CU(cuCtxPushCurrent(primary));
    CU(cuCtxPushCurrent(second));
    CU(cuCtxPopCurrent(&popped));
    CU(cuCtxPopCurrent(&popped));
    REQUIRE(popped == primary && current() == first, "the stack after two pushes and pops");
    unsigned version = 0;
    CU(cuCtxGetApiVersion(first, &version));
    REQUIRE(version >= 3000, "context API version %u", version);

    // Another thread starts with nothing current and has a stack of its own.
    std::thread([&] {
        REQUIRE(current() == nullptr, "a new thread has a context");
        CU(cuCtxSetCurrent(second));
        store_and_check("second, from another thread");
        CU(cuCtxSetCurrent(primary));
    }).join();
    REQUIRE(current() == first, "another thread changed this thread's context");

    // A stream of one context cannot be used with another current: the context is the stream's.
    CUstream of_first;
    CUcontext owner = nullptr;
    CU(cuStreamCreate(&of_first, CU_STREAM_NON_BLOCKING));
    CU(cuStreamGetCtx(of_first, &owner));
    REQUIRE(owner == first, "the stream belongs to another context");
#if CUDA_VERSION >= 12040
    auto green = reinterpret_cast<CUgreenCtx>(&owner);
    CU(cuStreamGetGreenCtx(of_first, &green));
    REQUIRE(green == nullptr, "the stream belongs to a green context");
#endif
    CUmodule module;
    CUfunction fill;
    CU(cuModuleLoadData(&module, kernels_fatbin));
    CU(cuModuleGetFunction(&fill, module, "fill"));
    CU(cuCtxSetCurrent(second));
    CUmodule module2;
    CUfunction fill2;
    CU(cuModuleLoadData(&module2, kernels_fatbin));
    CU(cuModuleGetFunction(&fill2, module2, "fill"));
    CU_IS(launch(fill2, of_first, 1, mine, 1u, 1), CUDA_ERROR_INVALID_HANDLE);

    // Destroying: the handle is dead everywhere; the memory is gone; the rest works on.
    CU(cuCtxSetCurrent(primary));
    CU(cuCtxDestroy(first));
    CU_IS(cuMemFree(mine), CUDA_ERROR_INVALID_VALUE);
    if (!on_native_driver()) {
        CUresult dead = cuCtxSetCurrent(first);
        REQUIRE(dead == CUDA_ERROR_INVALID_CONTEXT || dead == CUDA_ERROR_CONTEXT_IS_DESTROYED, "setting a destroyed context returned %d", int(dead));
        dead = cuStreamSynchronize(of_first);
        REQUIRE(dead == CUDA_ERROR_INVALID_HANDLE || dead == CUDA_ERROR_CONTEXT_IS_DESTROYED || dead == CUDA_ERROR_INVALID_CONTEXT,
                "a stream of a destroyed context returned %d", int(dead));
    }
    CU(cuCtxSetCurrent(second));
    store_and_check("second, after first was destroyed");
    CU(cuCtxDestroy(second));
    CU(cuCtxSetCurrent(primary));
    store_and_check("primary, at the end");
    CU(cuDevicePrimaryCtxRelease(device));
    CU(cuDevicePrimaryCtxGetState(device, &flags, &active));
    REQUIRE(active == 0, "the primary context is active after its last release");
    return PASS();
}
