// A failure of posted work reaches the program at the next launch, copy or synchronisation, never at a free or a local
// question; it names the real cause; and other threads of the process learn of it too.
// rules: 6 11
#include <thread>

#include "../common/driver.h"

TEST("latched_errors");

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction store = gpu.function("store_to", test_name), fill = gpu.function("fill", test_name);
    CUstream stream;
    CUdeviceptr words;
    CUevent event;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuMemAlloc(&words, 4096));
    // A good launch of the same signature first, so that the bad one is posted.
    CU(launch(store, stream, 1, static_cast<unsigned long long>(words)));
    CU(cuStreamSynchronize(stream));
    CU(launch(store, stream, 1, 0xdead000ull));
    CUresult status = CUDA_SUCCESS;
    for (int i = 0; i < 1000000 && status == CUDA_SUCCESS; ++i) status = launch(fill, stream, 1, words, unsigned(i), 1);
    REQUIRE(status == CUDA_ERROR_ILLEGAL_ADDRESS, "launches after the fault returned %d at last", int(status));
    int value = 0;
    size_t offset = 0;
    CUcontext current;
    CU(cuCtxGetCurrent(&current));
    CU(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, gpu.device));
    if (!on_native_driver()) CU(cuFuncGetParamInfo(fill, 0, &offset, nullptr));
    std::thread([&] {
        CU(cuCtxSetCurrent(gpu.context));
        CU_IS(cuStreamSynchronize(stream), CUDA_ERROR_ILLEGAL_ADDRESS);
    }).join();
    CU_IS(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    return PASS();
}
