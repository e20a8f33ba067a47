// Errors that do not poison the context: before cuInit, unknown handles, double frees, impossible configurations (also
// as the first launch of a kernel, where they are immediate).
// rules: 10 11 19
#include "../common/driver.h"

TEST("errors_drv");

int main() {
    // Before cuInit: everything but a few says so.
    int count = -1, version = 0;
    CUdevice device;
    CUcontext context;
    CUdeviceptr p;
    const char *text = nullptr;
    CU_IS(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    CU_IS(cuDeviceGet(&device, 0), CUDA_ERROR_NOT_INITIALIZED);
    CU_IS(cuCtxGetCurrent(&context), CUDA_ERROR_NOT_INITIALIZED);
    CU_IS(cuMemAlloc(&p, 16), CUDA_ERROR_NOT_INITIALIZED);
    CU_IS(cuCtxSynchronize(), CUDA_ERROR_NOT_INITIALIZED);
    CU(cuDriverGetVersion(&version));
    CU(cuGetErrorName(CUDA_ERROR_OUT_OF_MEMORY, &text));
    REQUIRE(std::strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY") == 0, "error 2 is named %s", text);
    CU(cuGetErrorString(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
    REQUIRE(text && text[0], "error 700 has no description");
    CU_IS(cuGetErrorName(CUresult(123456), &text), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(text == nullptr, "an unknown error has a name");
    CU_IS(cuInit(1), CUDA_ERROR_INVALID_VALUE);

    // The kernel `bounded` was compiled for at most 256 threads; its first launch ever asks for 512.
    Gpu gpu = open_gpu(test_name);
    CUfunction bounded = gpu.function("at_most_256_threads", test_name), fill = gpu.function("fill", test_name),
               reverse = gpu.function("shared_reverse", test_name);
    CUdeviceptr word;
    unsigned host = 0, value = 5;
    int one = 1;
    CU(cuMemAlloc(&word, 256));
    void *only[] = {&word}, *three[] = {&word, &value, &one};
    CUresult status = cuLaunchKernel(bounded, 1, 1, 1, 512, 1, 1, 0, nullptr, only, nullptr);
    REQUIRE(status == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES || status == CUDA_ERROR_INVALID_VALUE, "512 of at most 256 threads: %d", int(status));
    auto usable = [&](unsigned stored) {
        value = stored;
        CU(cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, nullptr, three, nullptr));
        CU(cuMemcpyDtoH(&host, word, 4));
        REQUIRE(host == stored, "the context is not usable afterwards: %u, not %u", host, stored);
    };
    usable(11);
    CU(cuLaunchKernel(bounded, 1, 1, 1, 256, 1, 1, 0, nullptr, only, nullptr));
    status = cuLaunchKernel(bounded, 1, 1, 1, 512, 1, 1, 0, nullptr, only, nullptr);
    REQUIRE(status == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES || status == CUDA_ERROR_INVALID_VALUE, "after a good launch: %d", int(status));
    CU_IS(cuLaunchKernel(fill, 1, 1, 1, 2048, 1, 1, 0, nullptr, three, nullptr), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuLaunchKernel(fill, 0, 1, 1, 32, 1, 1, 0, nullptr, three, nullptr), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuLaunchKernel(fill, 1, 70000, 1, 32, 1, 1, 0, nullptr, three, nullptr), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuLaunchKernel(fill, 1, 1, 1, 32, 1, 65, 0, nullptr, three, nullptr), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuLaunchKernel(reverse, 1, 1, 1, 32, 1, 1, 1 << 20, nullptr, only, nullptr), CUDA_ERROR_INVALID_VALUE);
    usable(12);

    // Device-side limits are attributes that must change what is accepted, and back.
    int optin = 0;
    CU(cuDeviceGetAttribute(&optin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, gpu.device));
    if (optin >= 60 * 1024) {
        CU(cuFuncSetAttribute(reverse, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60 * 1024));
        CU(cuLaunchKernel(reverse, 1, 1, 1, 32, 1, 1, 60 * 1024, nullptr, only, nullptr));
        CU(cuFuncSetAttribute(reverse, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 32 * 1024));
        CU_IS(cuLaunchKernel(reverse, 1, 1, 1, 32, 1, 1, 60 * 1024, nullptr, only, nullptr), CUDA_ERROR_INVALID_VALUE);
    }
    usable(13);

    CU_IS(cuMemAlloc(&p, 0), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemAlloc(&p, size_t(1) << 46), CUDA_ERROR_OUT_OF_MEMORY);
    CU_IS(cuMemAlloc(nullptr, 16), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemAlloc(&p, 64));
    CU_IS(cuMemFree(p + 8), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree(p));
    CU_IS(cuMemFree(p), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree(0));
    CU_IS(cuMemFreeHost(&host), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuDeviceGet(&device, 4711), CUDA_ERROR_INVALID_DEVICE);
    CU_IS(cuDeviceGetAttribute(&count, CUdevice_attribute(99999), gpu.device), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuDeviceGetAttribute(&count, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 4711), CUDA_ERROR_INVALID_DEVICE);
    // A copy past the end of an allocation is found by its address, not by its consequences.
    CU(cuMemAlloc(&p, 1 << 20));
    std::vector<unsigned char> host_bytes(64 << 20);
    status = cuMemcpyHtoD(p, host_bytes.data(), host_bytes.size());
    REQUIRE(status == CUDA_ERROR_INVALID_VALUE, "a copy 63 MiB past the end returned %d", int(status));
    usable(14);
    CU_IS(cuEventDestroy(nullptr), CUDA_ERROR_INVALID_HANDLE);
    CU_IS(cuEventQuery(nullptr), CUDA_ERROR_INVALID_HANDLE);
    CU_IS(cuModuleUnload(nullptr), CUDA_ERROR_INVALID_HANDLE);

    if (!on_native_driver()) {
        // Forged handles: an address of this process's own memory, an odd number, and handles already destroyed.
        unsigned char fake[256] = {};
        CUstream stream;
        CUevent event;
        CU(cuStreamCreate(&stream, 0));
        CU(cuEventCreate(&event, 0));
        CU(cuStreamDestroy(stream));
        CU(cuEventDestroy(event));
        const CUstream streams[] = {reinterpret_cast<CUstream>(fake), reinterpret_cast<CUstream>(uintptr_t(12345)), stream};
        for (CUstream bad : streams) {
            CU_IS(cuStreamSynchronize(bad), CUDA_ERROR_INVALID_HANDLE);
            CU_IS(cuStreamQuery(bad), CUDA_ERROR_INVALID_HANDLE);
            CU_IS(cuStreamDestroy(bad), CUDA_ERROR_INVALID_HANDLE);
            CU_IS(cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, bad, three, nullptr), CUDA_ERROR_INVALID_HANDLE);
        }
        const CUevent events[] = {reinterpret_cast<CUevent>(fake), reinterpret_cast<CUevent>(uintptr_t(54321)), event};
        for (CUevent bad : events) {
            CU_IS(cuEventSynchronize(bad), CUDA_ERROR_INVALID_HANDLE);
            CU_IS(cuEventRecord(bad, nullptr), CUDA_ERROR_INVALID_HANDLE);
            CU_IS(cuStreamWaitEvent(nullptr, bad, 0), CUDA_ERROR_INVALID_HANDLE);
            CU_IS(cuEventDestroy(bad), CUDA_ERROR_INVALID_HANDLE);
        }
        CUfunction forged = reinterpret_cast<CUfunction>(fake);
        CU_IS(cuLaunchKernel(forged, 1, 1, 1, 32, 1, 1, 0, nullptr, three, nullptr), CUDA_ERROR_INVALID_HANDLE);
        CUresult module_status = cuModuleGetFunction(&forged, reinterpret_cast<CUmodule>(fake), "fill");
        REQUIRE(module_status == CUDA_ERROR_INVALID_HANDLE, "a forged module returned %d", int(module_status));
        CU_IS(cuCtxSetCurrent(reinterpret_cast<CUcontext>(fake)), CUDA_ERROR_INVALID_CONTEXT);
        CU_IS(cuGraphDestroy(reinterpret_cast<CUgraph>(fake)), CUDA_ERROR_INVALID_VALUE);
        usable(15);
        // A function of an unloaded module is as dead as a forged one.
        CU(cuModuleUnload(gpu.module));
        CU_IS(cuLaunchKernel(fill, 1, 1, 1, 32, 1, 1, 0, nullptr, three, nullptr), CUDA_ERROR_INVALID_HANDLE);
    }
    CU(cuCtxSynchronize());
    return PASS();
}
