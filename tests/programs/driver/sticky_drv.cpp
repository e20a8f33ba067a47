// Faults inside kernels end the context: 700 for a wild address, 719 or 4-digit kin for a trap; every later call says so,
// local calls and frees do not invent other errors, and a new process works.
// rules: 6 11
#include <spawn.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "../common/driver.h"

TEST("sticky_drv");

extern char **environ;

static int again(const char *program, const char *mode) {
    char *arguments[] = {const_cast<char *>(program), const_cast<char *>(mode), nullptr};
    pid_t child;
    REQUIRE(posix_spawn(&child, program, nullptr, nullptr, arguments, environ) == 0, "posix_spawn failed");
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child, "waitpid failed");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void good(const Gpu &gpu) {
    CUdeviceptr word;
    unsigned host = 0;
    CU(cuMemAlloc(&word, 4));
    CU(launch(gpu.function("fill", test_name), nullptr, 1, word, 9u, 1));
    CU(cuMemcpyDtoH(&host, word, 4));
    REQUIRE(host == 9, "stored %u", host);
}

static void fault(const Gpu &gpu, const char *mode) {
    CUfunction store = gpu.function("store_to", test_name), trap = gpu.function("trap_always", test_name), fill = gpu.function("fill", test_name);
    CUdeviceptr word;
    CUstream stream;
    CU(cuMemAlloc(&word, 4));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    // What is known to be done before the fault is no longer told afterwards.
    CUevent done;
    CU(cuEventCreate(&done, CU_EVENT_DISABLE_TIMING));
    CU(launch(fill, stream, 1, word, 1u, 1));
    CU(cuEventRecord(done, stream));
    CU(cuEventSynchronize(done));
    CU(cuEventQuery(done));
    int expected = CUDA_ERROR_ILLEGAL_ADDRESS;
    if (std::strcmp(mode, "null") == 0) {
        CU(launch(store, stream, 1, 0ull));
    } else if (std::strcmp(mode, "wild") == 0) {
        CU(launch(store, stream, 1, 0x7f0012345678ull));
    } else if (std::strcmp(mode, "full") == 0) {
        // The fault strikes while the thread waits for room in a stream that nothing will leave any more.
        std::atomic<bool> finished{false};
        std::thread([&finished] {
            for (int i = 0; i < 300 && !finished.load(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
            if (!finished.load()) FAIL("the thread that fills the stream hears of no fault within 30 s");
        }).detach();
        // Once, so that the bad one need not wait for its code to be loaded.
        CU(launch(store, stream, 1, static_cast<unsigned long long>(word)));
        CU(cuLaunchHostFunc(stream, [](void *) { std::this_thread::sleep_for(std::chrono::milliseconds(500)); }, nullptr));
        CU(launch(store, stream, 1, 0ull));
        CUresult status = CUDA_SUCCESS;
        for (int i = 0; i < 100000 && status == CUDA_SUCCESS; ++i) status = launch(fill, stream, 1, word, unsigned(i), 1);
        REQUIRE(int(status) == expected, "the launches behind the fault returned %d at last", int(status));
        finished.store(true);
    } else {
        expected = CUDA_ERROR_LAUNCH_FAILED;
        CU(launch(trap, stream, 1));
    }
    CU_IS(cuStreamSynchronize(stream), expected);
    CU_IS(cuStreamSynchronize(stream), expected);
    CU_IS(cuCtxSynchronize(), expected);
    CU_IS(cuStreamQuery(stream), expected);
    CU_IS(launch(fill, stream, 1, word, 1u, 1), expected);
    unsigned host;
    CU_IS(cuMemcpyDtoH(&host, word, 4), expected);
    CUdeviceptr more;
    CU_IS(cuMemAlloc(&more, 16), expected);
    // Questions that need no device are still answered.
    CUcontext current = nullptr;
    int warp = 0;
    const char *name;
    CU(cuCtxGetCurrent(&current));
    REQUIRE(current == gpu.context, "the current context changed");
    CU(cuDeviceGetAttribute(&warp, CU_DEVICE_ATTRIBUTE_WARP_SIZE, gpu.device));
    CU(cuGetErrorName(CUresult(expected), &name));
    std::thread([&] {
        CU(cuCtxSetCurrent(gpu.context));
        CU_IS(cuEventQuery(done), expected);
        CU_IS(cuEventSynchronize(done), expected);
        void *pinned = nullptr;
        CU_IS(cuMemAllocHost(&pinned, 64), expected);
        CU_IS(cuCtxSynchronize(), expected);
    }).join();
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "all";
    if (std::strcmp(mode, "all") == 0) {
        for (const char *one : {"good", "null", "good", "wild", "good", "trap", "good", "full", "good"})
            REQUIRE(again(argv[0], one) == 0, "case '%s' failed", one);
        return PASS();
    }
    Gpu gpu = open_gpu(test_name);
    if (std::strcmp(mode, "good") == 0)
        good(gpu);
    else
        fault(gpu, mode);
    return 0;
}
