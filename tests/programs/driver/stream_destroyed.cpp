// A stream that is destroyed while it is busy goes on, and its context is not synchronised before its work is done.
// rules: 8
#include <thread>

#include "../common/driver.h"

TEST("stream_destroyed");

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction busy = gpu.function("busy", test_name);
    CUdeviceptr words;
    unsigned *host;
    CU(cuMemAlloc(&words, 4096));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&host), 4096));
    CU(cuMemsetD8(words, 0, 4096));
    CU(cuCtxSynchronize());

    auto leave = [&](CUstream stream, unsigned value) {
        CU(launch(busy, stream, 32, words + 64, 100000u));
        CU(cuMemsetD32Async(words, value, 1, stream));
        CU(cuMemcpyDtoHAsync(host, words, 4, stream));
    };
    for (unsigned round = 1; round <= 12; ++round) {
        CUstream stream;
        switch (round % 2) {
            case 0:
                CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
                leave(stream, round);
                CU(cuStreamDestroy(stream));
                CU(cuCtxSynchronize());
                break;
            case 1:
                // The default stream of a thread that ends.
                std::thread([&] {
                    CU(cuCtxSetCurrent(gpu.context));
                    leave(CU_STREAM_PER_THREAD, round);
                }).join();
                CU(cuCtxSynchronize());
                break;
        }
        REQUIRE(host[0] == round, "round %u: the work of a destroyed stream is not done: %u", round, host[0]);
    }
    return PASS();
}
