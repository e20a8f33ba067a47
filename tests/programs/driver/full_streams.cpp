// A stream blocked by a host function takes thousands of launches from one thread (which may be held up) while another
// thread works on a second stream and in the end releases the first: nothing may deadlock. Then the same with a
// memory wait instead of the host function.
// rules: 1 24
#include <atomic>
#include <chrono>
#include <thread>

#include "../common/driver.h"

TEST("full_streams");

// Posts that a held stream takes before it may hold its poster up.
static constexpr unsigned kHeldUp = 850;

static std::atomic<bool> release_function{false};

static void hold(void *) {
    while (!release_function.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// Ends the program when nothing has moved for a minute: a deadlock must be a verdict, not a hang.
static std::atomic<bool> finished{false};
static void watch_for_deadlock() {
    std::thread([] {
        for (int i = 0; i < 600 && !finished.load(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (!finished.load()) FAIL("no progress within 60 s");
    }).detach();
}

int main(int argc, char **argv) {
    const unsigned posts = unsigned(4000 * scale_argument(argc, argv));
    watch_for_deadlock();
    Gpu gpu = open_gpu(test_name);
    CUfunction chain = gpu.function("chain", test_name);
    CUstream blocked, lively;
    CUdeviceptr words;
    unsigned *host;
    CU(cuStreamCreate(&blocked, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&lively, CU_STREAM_NON_BLOCKING));
    CU(cuMemAlloc(&words, 64));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&host), 64));

    auto fill_blocked_stream = [&](CUdeviceptr word, std::atomic<unsigned> *posted) {
        CU(cuCtxSetCurrent(gpu.context));
        for (unsigned i = 0; i < posts; ++i) {
            CU(launch(chain, blocked, 1, word, i, 1));
            posted->fetch_add(1);
        }
    };
    auto work_on_lively_stream = [&](CUdeviceptr word) {
        CU(cuMemsetD32Async(word, 0, 1, lively));
        unsigned want = 0;
        for (unsigned i = 0; i < 200; ++i) {
            CU(launch(chain, lively, 1, word, i, 1));
            want = want * 3u + i;
            if (i % 20 == 19) {
                CU(cuMemcpyDtoHAsync(host, word, 4, lively));
                CU(cuStreamSynchronize(lively));
                REQUIRE(*host == want, "the lively stream gave %u, not %u", *host, want);
            }
        }
    };
    unsigned want = 0;
    for (unsigned i = 0; i < posts; ++i) want = want * 3u + i;
    auto check_blocked = [&](CUdeviceptr word, const char *what) {
        CU(cuStreamSynchronize(blocked));
        CU(cuMemcpyDtoH(host, word, 4));
        REQUIRE(*host == want, "%s: the blocked stream gave %u, not %u", what, *host, want);
    };

    CU(cuMemsetD32(words, 0, 16));
    CU(cuStreamSynchronize(nullptr));
    CU(cuLaunchHostFunc(blocked, hold, nullptr));
    std::atomic<unsigned> posted{0};
    std::thread filler([&] { fill_blocked_stream(words, &posted); });
    // Enough posts that the driver's own queue may be full by now.
    while (posted.load() < kHeldUp) std::this_thread::yield();
    work_on_lively_stream(words + 4);
    release_function.store(true);
    filler.join();
    check_blocked(words, "host function");

    int supported = 0;
    CU(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, gpu.device));
    CU(cuMemsetD32(words, 0, 16));
    CU(cuStreamSynchronize(nullptr));
    CUresult waits = cuStreamWaitValue32(blocked, words + 32, 1, CU_STREAM_WAIT_VALUE_EQ);
    if (waits == CUDA_ERROR_NOT_SUPPORTED && !supported) {
        std::printf("memory waits: not supported\n");
    } else {
        CU(waits);
        posted.store(0);
        std::thread again([&] { fill_blocked_stream(words, &posted); });
        while (posted.load() < kHeldUp) std::this_thread::yield();
        work_on_lively_stream(words + 4);
        CU(cuStreamWriteValue32(lively, words + 32, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
        again.join();
        check_blocked(words, "memory wait");
    }
    finished.store(true);
    return PASS();
}
