// Streams and events: order within a stream, waits across streams, queries, elapsed time, re-recorded and never recorded
// events, and the two special stream handles.
// rules: 4 7 8 9
#include <thread>

#include "../common/driver.h"

TEST("streams_drv");

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction chain = gpu.function("chain", test_name), busy = gpu.function("busy", test_name);
    CUstream a, b, blocking;
    CUevent event, timed_start, timed_stop, sleeping;
    CU(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuEventCreate(&timed_start, CU_EVENT_DEFAULT));
    CU(cuEventCreate(&timed_stop, CU_EVENT_DEFAULT));
    CU(cuEventCreate(&sleeping, CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING));
    CUdeviceptr words;
    unsigned *host;
    CU(cuMemAlloc(&words, 4096));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&host), 4096));
    CU(cuMemsetD8(words, 0, 4096));
    // Memsets of device memory may return before they are over, and non-blocking streams do not wait for the legacy stream.
    CU(cuStreamSynchronize(nullptr));

    // A never recorded event is complete; waiting for it waits for nothing.
    CU(cuEventQuery(event));
    CU(cuEventSynchronize(event));
    CU(cuStreamWaitEvent(a, event, 0));

    // Ping-pong between two streams, ordered by one event re-recorded each time: every step sees the one before.
    unsigned want = 0;
    for (unsigned i = 0; i < 300; ++i) {
        CUstream here = i % 2 ? a : b, there = i % 2 ? b : a;
        CU(launch(chain, here, 1, words, i, 1));
        want = want * 3u + i;
        CU(cuEventRecord(event, here));
        CU(cuStreamWaitEvent(there, event, 0));
    }
    CU(cuMemcpyDtoHAsync(host, words, 4, b));
    CU(cuStreamSynchronize(b));
    REQUIRE(host[0] == want, "the ping-pong gave %u, not %u", host[0], want);

    // A wait binds to the record before it, even when the event is recorded again (and is then pending) before the
    // waiting stream gets there.
    for (unsigned round = 0; round < 30; ++round) {
        CU(cuMemsetD32Async(words, 0, 1, a));
        CU(launch(chain, a, 1, words, 10u, 1));
        CU(cuEventRecord(event, a));
        CU(cuStreamWaitEvent(b, event, 0));
        CU(launch(busy, a, 32, words + 64, 3000u));
        CU(cuEventRecord(event, a));
        CU(launch(chain, b, 1, words, 5u, 1));
        CU(cuMemcpyDtoHAsync(host, words, 4, b));
        CU(cuStreamSynchronize(b));
        REQUIRE(host[0] == 35, "round %u: %u, not 35", round, host[0]);
        CU(cuEventSynchronize(event));
        CU(cuStreamQuery(a));
    }

    // Polling reaches success without any synchronising call, and never before the work is done.
    CU(cuMemsetD32(words, 7, 1));
    CU(cuStreamSynchronize(nullptr));
    CU(launch(busy, a, 32, words + 64, 100000u));
    CU(launch(chain, a, 1, words, 1u, 1));
    CU(cuMemcpyDtoHAsync(host, words, 4, a));
    host[0] = 0;
    CU(cuEventRecord(event, a));
    CUresult polled;
    while ((polled = cuEventQuery(event)) == CUDA_ERROR_NOT_READY) std::this_thread::yield();
    CU(polled);
    REQUIRE(host[0] == 22, "the event is complete but the copy is not there: %u", host[0]);
    CU(cuStreamQuery(a));

    // An event made for sleeping waits, waited for by two threads at once.
    CU(launch(busy, a, 32, words + 64, 200000u));
    CU(cuMemcpyHtoDAsync(words, host, 4, a));
    CU(cuEventRecord(sleeping, a));
    std::thread other([&] {
        CU(cuCtxSetCurrent(gpu.context));
        CU(cuEventSynchronize(sleeping));
        CU(cuEventQuery(sleeping));
    });
    CU(cuEventSynchronize(sleeping));
    CU(cuEventQuery(sleeping));
    other.join();

    CU(cuEventRecord(timed_start, a));
    CU(launch(busy, a, 32, words + 64, 100000u));
    CU(cuEventRecord(timed_stop, a));
    float milliseconds = -1;
    CUresult early = cuEventElapsedTime(&milliseconds, timed_start, timed_stop);
    REQUIRE(early == CUDA_SUCCESS || early == CUDA_ERROR_NOT_READY, "elapsed time of a pending event: %d", int(early));
    CU(cuEventSynchronize(timed_stop));
    CU(cuEventElapsedTime(&milliseconds, timed_start, timed_stop));
    REQUIRE(milliseconds > 0.0f && milliseconds < 600000.0f, "elapsed time %g ms", milliseconds);
    float reverse = 0;
    CU(cuEventElapsedTime(&reverse, timed_stop, timed_start));
    REQUIRE(reverse <= 0.0f, "the reversed time is %g ms", reverse);
    CU_IS(cuEventElapsedTime(&milliseconds, event, timed_stop), CUDA_ERROR_INVALID_HANDLE);

    // The legacy stream in both spellings, and the per-thread stream.
    CU(cuMemsetD32(words, 0, 4));
    CU(launch(busy, blocking, 32, words + 64, 20000u));
    CU(launch(chain, blocking, 1, words, 3u, 1));
    CU(launch(chain, CU_STREAM_LEGACY, 1, words, 1u, 1));
    CU(launch(chain, blocking, 1, words, 2u, 1));
    CU(launch(chain, nullptr, 1, words, 4u, 1));
    CU(launch(chain, CU_STREAM_PER_THREAD, 1, words, 5u, 1));
    CU(cuStreamSynchronize(CU_STREAM_PER_THREAD));
    CU(cuMemcpyDtoH(host, words, 4));
    unsigned legacy = 0;
    for (unsigned v : {3u, 1u, 2u, 4u, 5u}) legacy = legacy * 3u + v;
    REQUIRE(host[0] == legacy, "legacy order gave %u, not %u", host[0], legacy);

    // Destroying a stream or event with work outstanding lets the work finish.
    CU(cuMemsetD32(words, 1, 1));
    CU(cuStreamSynchronize(nullptr));
    CU(launch(busy, b, 32, words + 64, 20000u));
    CU(launch(chain, b, 1, words, 8u, 1));
    CU(cuEventRecord(event, b));
    CU(cuStreamWaitEvent(a, event, 0));
    CU(cuEventDestroy(event));
    CU(cuStreamDestroy(b));
    CU(launch(chain, a, 1, words, 9u, 1));
    CU(cuStreamSynchronize(a));
    CU(cuMemcpyDtoH(host, words, 4));
    REQUIRE(host[0] == 42, "after the destroys: %u, not 42", host[0]);

    // Ids are unique and are not reused.
    unsigned long long id_a = 0, id_new = 0;
    CU(cuStreamGetId(a, &id_a));
    CU(cuStreamDestroy(a));
    CU(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
    CU(cuStreamGetId(a, &id_new));
    REQUIRE(id_new != id_a, "a stream id was reused");
    unsigned flags = 9;
    CU(cuStreamGetFlags(a, &flags));
    REQUIRE(flags == CU_STREAM_NON_BLOCKING, "flags %u", flags);
    CU(cuCtxSynchronize());
    return PASS();
}
