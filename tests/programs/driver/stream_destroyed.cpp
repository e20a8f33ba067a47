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
    // Pinned memory that such a stream still writes to is freed only when it has: nobody else's memory is overwritten.
    const size_t bytes = 1 << 20;
    CUdeviceptr pattern;
    CU(cuMemAlloc(&pattern, bytes));
    CU(cuMemsetD8(pattern, 0xab, bytes));
    for (int round = 0; round < 4; ++round) {
        CUstream stream;
        void *old, *fresh;
        CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
        CU(cuMemAllocHost(&old, bytes));
        CU(launch(busy, stream, 32, words + 64, 100000u));
        CU(cuMemcpyDtoHAsync(old, pattern, bytes, stream));
        CU(cuStreamDestroy(stream));
        CU(cuMemFreeHost(old));
        CU(cuMemAllocHost(&fresh, bytes));
        std::memset(fresh, 0x11, bytes);
        CU(cuCtxSynchronize());
        for (size_t i = 0; i < bytes; ++i)
            REQUIRE(static_cast<unsigned char *>(fresh)[i] == 0x11, "byte %zu of new memory was overwritten", i);
        CU(cuMemFreeHost(fresh));
    }
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
