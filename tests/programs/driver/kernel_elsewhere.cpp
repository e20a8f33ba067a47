// A kernel that a thread without a current context looks up, and others launch: what the driver could not tell then, it is
// asked for later. Autograd threads of PyTorch look kernels up so.
// rules: 10
#include <thread>

#include "../common/driver.h"

TEST("kernel_elsewhere");

static unsigned run(CUfunction chain, CUdeviceptr word, unsigned value) {
    unsigned host = 0;
    CU(cuMemsetD32(word, 5, 1));
    CU(launch(chain, nullptr, 1, word, value, 1));
    CU(cuMemcpyDtoH(&host, word, 4));
    return host;
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CUdeviceptr word;
    CU(cuMemAlloc(&word, 4));
    CUlibrary library;
    CU(cuLibraryLoadData(&library, kernels_fatbin, nullptr, nullptr, 0, nullptr, nullptr, 0));
    CUkernel kernel = nullptr;
    unsigned there = 0;
    std::thread([&] {
        CUcontext current = nullptr;
        CU(cuCtxGetCurrent(&current));
        REQUIRE(current == nullptr, "a new thread has a context");
        CU(cuLibraryGetKernel(&kernel, library, "chain"));
        size_t offset = 0, size = 0;
        CU_IS(cuKernelGetParamInfo(kernel, 1, &offset, &size), CUDA_ERROR_INVALID_CONTEXT);
        CU(cuCtxSetCurrent(gpu.context));
        there = run(reinterpret_cast<CUfunction>(kernel), word, 7);
    }).join();
    REQUIRE(there == 22, "launched there, it gave %u", there);
    const unsigned here = run(reinterpret_cast<CUfunction>(kernel), word, 8);
    REQUIRE(here == 23, "launched here, it gave %u", here);
    size_t offset = 0, size = 0;
    CU(cuKernelGetParamInfo(kernel, 1, &offset, &size));
    REQUIRE(offset == 8 && size == 4, "the second parameter lies at %zu and has %zu bytes", offset, size);
    CU(cuLibraryUnload(library));
    CU(cuMemFree(word));
    return PASS();
}
