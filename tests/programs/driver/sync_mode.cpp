// The same chain of posts with and without VGPU_SYNC=1: equal results; and with it every post reports its own failure.
// run:
// run: VGPU_SYNC=1
// rules: 25
#include "../common/driver.h"

TEST("sync_mode");

int main() {
    const char *setting = std::getenv("VGPU_SYNC");
    const bool synchronous = setting && std::strcmp(setting, "1") == 0;
    Gpu gpu = open_gpu(test_name);
    CUfunction chain = gpu.function("chain", test_name), store = gpu.function("store_to", test_name), busy = gpu.function("busy", test_name);
    CUstream stream;
    CUevent event;
    CUdeviceptr words;
    unsigned *pinned, want = 0;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuMemAlloc(&words, 64));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&pinned), 64));
    CU(cuMemsetD32Async(words, 0, 1, stream));
    for (unsigned i = 0; i < 200; ++i) {
        CU(launch(chain, stream, 1, words, i, 1));
        want = want * 3u + i;
        if (i % 10 == 0) {
            CU(cuMemcpyDtoHAsync(pinned, words, 4, stream));
            CU(cuEventRecord(event, stream));
            // With the setting, everything is complete when its call returns.
            if (synchronous && !on_native_driver()) {
                CU(cuEventQuery(event));
                REQUIRE(*pinned == want, "the copy is not there when its call returns: %u", *pinned);
            }
        }
    }
    CU(cuStreamSynchronize(stream));
    CU(cuMemcpyDtoH(pinned, words, 4));
    REQUIRE(*pinned == want, "200 steps gave %u, not %u", *pinned, want);
    CU(launch(busy, stream, 32, words + 16, 1000u));
    if (synchronous && !on_native_driver()) CU_IS(launch(store, stream, 1, 0ull), CUDA_ERROR_ILLEGAL_ADDRESS);
    return PASS();
}
