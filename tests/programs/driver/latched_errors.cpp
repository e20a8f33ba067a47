// A failure of posted work reaches the program at the next launch, copy or synchronisation, never at a free or a local
// question; it names the real cause; and other threads of the process learn of it too. A failure that harms nothing else
// belongs to the thread that posted the work alone, and is told once.
// rules: 6 11
#include <thread>

#include "../common/driver.h"

TEST("latched_errors");

// A value written to an address that is no device's: refused at once, or left behind for the calling thread. What may not
// tell of it must not; what tells of it does so once. Meanwhile another thread notices nothing.
static void fail_harmlessly(const Gpu &gpu, CUfunction fill, CUdeviceptr words, int way) {
    CU(cuCtxSetCurrent(gpu.context));
    CUstream stream;
    CUevent event;
    CUdeviceptr spare;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(launch(fill, stream, 1, words, 1u, 1));
    const CUresult at_once = cuStreamWriteValue32(stream, 0x1000, 1, CU_STREAM_WRITE_VALUE_DEFAULT);
    if (at_once == CUDA_SUCCESS) {
        CU(cuEventRecord(event, stream));
        CU(cuStreamWaitEvent(stream, event, 0));
        // An allocation waits for everything posted before, so from here on the failure is known.
        CU(cuMemAlloc(&spare, 64));
        CU(cuMemFree(spare));
        std::thread([&] {
            CU(cuCtxSetCurrent(gpu.context));
            CU(launch(fill, nullptr, 1, words, 1u, 1));
            CU(cuStreamSynchronize(nullptr));
        }).join();
        auto tell = [&]() -> CUresult {
            switch (way) {
                case 0: return launch(fill, stream, 1, words, 2u, 1);
                case 1: return cuMemsetD32Async(words, 3, 1, stream);
                case 2: return cuMemcpyDtoDAsync(words, words + 64, 4, stream);
                case 3: return cuStreamSynchronize(stream);
                default: return cuCtxSynchronize();
            }
        };
        CU_IS(tell(), CUDA_ERROR_INVALID_VALUE);
        CU(tell());
    } else {
        REQUIRE(at_once == CUDA_ERROR_INVALID_VALUE, "a write to no address returned %d", int(at_once));
    }
    CU(cuStreamSynchronize(stream));
    CU(cuStreamDestroy(stream));
    CU(cuEventDestroy(event));
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction store = gpu.function("store_to", test_name), fill = gpu.function("fill", test_name);
    CUstream stream;
    CUdeviceptr words;
    CUevent event;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuMemAlloc(&words, 4096));
    // NVIDIA's own driver may not check such an address before the device does.
    for (int way = 0; way < 5 && !on_native_driver(); ++way) {
        fail_harmlessly(gpu, fill, words, way);
        std::thread([&] { fail_harmlessly(gpu, fill, words, way); }).join();
    }
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
