// What makes a launch's success a matter of the past: a changed function attribute, an unloaded module whose handles come
// back for other kernels, a changed limit. The next launch tells its own error, at once, and leaves nothing behind.
// rules: 10
#include "../common/driver.h"

TEST("signatures");

static CUdeviceptr word;

static void usable(CUfunction fill, unsigned value) {
    int one = 1;
    unsigned host = 0;
    void *parameters[] = {&word, &value, &one};
    CU(cuLaunchKernel(fill, 1, 1, 1, 512, 1, 1, 0, nullptr, parameters, nullptr));
    CU(cuMemcpyDtoH(&host, word, 4));
    REQUIRE(host == value, "the kernel stored %u, not %u", host, value);
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CU(cuMemAlloc(&word, 4096));
    CU(cuMemsetD8(word, 0, 4096));
    CUfunction fill = gpu.function("fill", test_name), reverse = gpu.function("shared_reverse", test_name);

    // An attribute. The launch has succeeded many times; after the change it must fail by itself, not by a later call.
    const unsigned large = 60 * 1024;
    int optin = 0;
    CU(cuDeviceGetAttribute(&optin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, gpu.device));
    REQUIRE(optin >= int(large), "the device has %d bytes of shared memory", optin);
    void *only[] = {&word};
    for (int round = 0; round < 3; ++round) {
        CU(cuFuncSetAttribute(reverse, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, int(large)));
        for (int i = 0; i < 4; ++i) CU(cuLaunchKernel(reverse, 1, 1, 1, 32, 1, 1, large, nullptr, only, nullptr));
        CU(cuFuncSetAttribute(reverse, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1024));
        CU_IS(cuLaunchKernel(reverse, 1, 1, 1, 32, 1, 1, large, nullptr, only, nullptr), CUDA_ERROR_INVALID_VALUE);
        CU(cuCtxSynchronize());
        usable(fill, 100u + unsigned(round));
    }

    // A module. Its functions' handles may come back for the functions of the next one; here the first has no bound on the
    // block, the second has 256 threads.
    int came_back = 0;
    for (int round = 0; round < 8; ++round) {
        CUmodule module;
        CUfunction unbounded, bounded;
        CU(cuModuleLoadData(&module, kernels_fatbin));
        CU(cuModuleGetFunction(&unbounded, module, "fill"));
        usable(unbounded, 200u + unsigned(round));
        usable(unbounded, 300u + unsigned(round));
        CU(cuModuleUnload(module));
        CU(cuModuleLoadData(&module, kernels_fatbin));
        CU(cuModuleGetFunction(&bounded, module, "at_most_256_threads"));
        came_back += bounded == unbounded;
        CUresult status = cuLaunchKernel(bounded, 1, 1, 1, 512, 1, 1, 0, nullptr, only, nullptr);
        REQUIRE(status == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES || status == CUDA_ERROR_INVALID_VALUE,
                "512 of at most 256 threads, in a new module: %d", int(status));
        CU(cuCtxSynchronize());
        CU(cuModuleUnload(module));
    }
    std::printf("%d of 8 handles came back\n", came_back);

    // A limit. What fits still runs.
    size_t stack = 0;
    CU(cuCtxGetLimit(&stack, CU_LIMIT_STACK_SIZE));
    CU(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, stack + 1024));
    usable(fill, 400);
    CU(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, stack));
    usable(fill, 401);
    CU(cuCtxSynchronize());
    return PASS();
}
