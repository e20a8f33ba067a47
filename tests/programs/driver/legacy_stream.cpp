// The legacy default stream beside others, while one of them is held up by a host function: it waits for blocking streams,
// per-thread ones included, and they wait for it; it and non-blocking streams pass each other by; an event recorded in a
// stream that has nothing to do is not done before what that stream waits for; waiting for the legacy stream orders nothing.
// rules: 4 8
#include <atomic>
#include <chrono>
#include <thread>

#include "../common/driver.h"

TEST("legacy_stream");

static std::atomic<bool> released{false}, finished{false};

static void CUDA_CB wait_for_release(void *) {
    while (!released.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// A stream that waits for what it must not wait for would never get anywhere: make that a verdict.
static std::atomic<const char *> at{"the start"};
static void watch_for_deadlock() {
    std::thread([] {
        for (int i = 0; i < 300 && !finished.load(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (!finished.load()) FAIL("no progress within 30 s: %s", at.load());
    }).detach();
}

static void hold(CUstream stream) {
    released.store(false);
    CU(cuLaunchHostFunc(stream, wait_for_release, nullptr));
}

static void release() {
    released.store(true);
    CU(cuCtxSynchronize());
}

// Asks for 20 ms, so that a stream that is not held has the time to get done.
template <typename Ask>
static void is_held(Ask ask, const char *what) {
    for (int i = 0; i < 20; ++i) {
        const CUresult status = ask();
        REQUIRE(status == CUDA_ERROR_NOT_READY, "%s: %d (%s) while the other stream is held", what, int(status), error_name(status));
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

static void gets_done(CUstream stream, const char *what) {
    at.store(what);
    CUresult status;
    while ((status = cuStreamQuery(stream)) == CUDA_ERROR_NOT_READY) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CU(status);
}

int main() {
    watch_for_deadlock();
    Gpu gpu = open_gpu(test_name);
    CUfunction chain = gpu.function("chain", test_name);
    CUstream blocking, other_blocking, non_blocking;
    CUevent event;
    CUdeviceptr word;
    CU(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    CU(cuStreamCreate(&other_blocking, CU_STREAM_DEFAULT));
    CU(cuStreamCreate(&non_blocking, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuMemAlloc(&word, 4));
    CU(cuMemsetD32(word, 0, 1));
    auto work = [&](CUstream stream) { CU(launch(chain, stream, 1, word, 1u, 1)); };
    // Once in each before anything is held: a first launch may load code and wait for everything.
    for (CUstream stream : {CU_STREAM_LEGACY, CU_STREAM_PER_THREAD, blocking, other_blocking, non_blocking}) work(stream);
    CU(cuCtxSynchronize());
    auto asks = [](CUstream stream) { return [stream] { return cuStreamQuery(stream); }; };
    auto ask_event = [&] { return cuEventQuery(event); };

    hold(blocking);
    CU(cuEventRecord(event, CU_STREAM_LEGACY));
    is_held(ask_event, "an event of the idle legacy stream, behind a blocking one");
    work(CU_STREAM_LEGACY);
    is_held(asks(CU_STREAM_LEGACY), "the legacy stream, behind a blocking one");
    work(other_blocking);
    is_held(asks(other_blocking), "a blocking stream, behind the legacy stream that is behind another");
    release();

    hold(CU_STREAM_LEGACY);
    CU(cuEventRecord(event, blocking));
    is_held(ask_event, "an event of an idle blocking stream, behind the legacy stream");
    work(blocking);
    is_held(asks(blocking), "a blocking stream, behind the legacy one");
    work(CU_STREAM_PER_THREAD);
    is_held(asks(CU_STREAM_PER_THREAD), "the per-thread stream, behind the legacy one");
    work(non_blocking);
    gets_done(non_blocking, "a non-blocking stream, beside the legacy one");
    release();

    hold(CU_STREAM_PER_THREAD);
    work(CU_STREAM_LEGACY);
    is_held(asks(CU_STREAM_LEGACY), "the legacy stream, behind the per-thread one");
    release();

    hold(non_blocking);
    work(CU_STREAM_LEGACY);
    gets_done(CU_STREAM_LEGACY, "the legacy stream, beside a non-blocking one");
    release();

    // Whoever waits for the legacy stream must not put a command into it: that would come behind the held stream, and every
    // other blocking stream behind that.
    work(CU_STREAM_LEGACY);
    hold(blocking);
    std::thread waiter([&] {
        CU(cuCtxSetCurrent(gpu.context));
        CU(cuStreamSynchronize(CU_STREAM_LEGACY));
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    work(other_blocking);
    gets_done(other_blocking, "a blocking stream beside another, while the legacy stream is waited for");
    released.store(true);
    waiter.join();
    CU(cuCtxSynchronize());
    finished.store(true);
    return PASS();
}
