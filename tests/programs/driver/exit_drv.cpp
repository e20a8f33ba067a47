// CUDA calls from atexit handlers and static destructors, and threads still launching while the process ends: nothing
// blocks, nothing crashes, and what is returned is either success or an honest error.
// rules: 24
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "../common/driver.h"

TEST("exit_drv");

static CUdeviceptr word;
static CUstream stream;
static CUfunction fill;

static bool honest(CUresult status) {
    return status == CUDA_SUCCESS || status == CUDA_ERROR_DEINITIALIZED || status == CUDA_ERROR_CONTEXT_IS_DESTROYED ||
           status == CUDA_ERROR_INVALID_CONTEXT || status == CUDA_ERROR_INVALID_VALUE || status == CUDA_ERROR_INVALID_HANDLE;
}

static void call_everything(const char *when) {
    unsigned host = 0;
    CUdeviceptr more = 0;
    const CUresult results[] = {
        cuStreamSynchronize(stream),
        launch(fill, stream, 1, word, 5u, 1),
        cuMemcpyDtoH(&host, word, 4),
        cuMemAlloc(&more, 64),
        cuCtxSynchronize(),
    };
    for (CUresult status : results)
        if (!honest(status)) FAIL("%s: a call returned %d (%s)", when, int(status), error_name(status));
}

// Constructed before CUDA is first used, so destroyed after everything CUDA registered for the exit.
struct LastOne {
    bool armed = false;
    ~LastOne() {
        if (!armed) return;
        call_everything("a static destructor");
        const CUresult frees[] = {cuMemFree(word), cuStreamDestroy(stream)};
        for (CUresult status : frees)
            if (!honest(status)) FAIL("a static destructor: freeing returned %d", int(status));
        PASS();
    }
};
static LastOne last_one;

int main() {
    std::atexit([] { call_everything("an exit handler registered before cuInit"); });
    Gpu gpu = open_gpu(test_name);
    std::atexit([] { call_everything("an exit handler registered after cuInit"); });
    fill = gpu.function("fill", test_name);
    CU(cuMemAlloc(&word, 4));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    call_everything("main");
    // Work left unfinished, and a host function pending, at the moment of the exit.
    for (int i = 0; i < 50; ++i) CU(launch(fill, stream, 1, word, 1u, 1));
    if (!on_native_driver()) {
        // A thread that never stops launching by itself, into memory that nobody frees: a kernel that writes to what the
        // destructor just freed would be a fault of this program's own.
        static std::atomic<int> launches{0};
        CUdeviceptr lasting;
        CU(cuMemAlloc(&lasting, 4));
        std::thread([context = gpu.context, lasting] {
            cuCtxSetCurrent(context);
            for (;;) {
                CUresult status = launch(fill, stream, 1, lasting, 2u, 1);
                if (status != CUDA_SUCCESS) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                launches.fetch_add(1);
            }
        }).detach();
        while (launches.load() < 100) std::this_thread::yield();
    }
    last_one.armed = true;
    return 0;
}
