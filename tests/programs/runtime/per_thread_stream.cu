// Built with per-thread default streams: each thread's default stream is its own, does not wait for another thread's,
// and is a blocking stream towards the legacy one.
// variants: 13-static 12-shared
// nvcc: --default-stream per-thread
// rules: 8
#include <atomic>
#include <chrono>
#include <thread>

#include "../common/runtime.h"

TEST("per_thread_stream");

__global__ void chain(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 3u + value;
}

static std::atomic<bool> ready{false}, held{false}, released{false}, finished{false};

static void hold(void *) {
    held.store(true);
    while (!released.load()) std::this_thread::yield();
}

static void wait_for(const std::atomic<bool> &flag) {
    while (!flag.load()) std::this_thread::yield();
}

// Threads that share one stream would wait for each other for ever: make that a verdict.
static void watch_for_deadlock() {
    std::thread([] {
        for (int i = 0; i < 300 && !finished.load(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (!finished.load())
            FAIL("no progress within 30 s: quick thread ready %d, stream held %d, released %d", int(ready.load()), int(held.load()), int(released.load()));
    }).detach();
}

// Memset, ten launches and a copy back, all on the calling thread's default stream.
static void work(unsigned *data, unsigned *out, int n) {
    RT(cudaMemsetAsync(data, 0, n * sizeof(unsigned), cudaStreamPerThread));
    for (unsigned r = 0; r < 10; ++r) chain<<<(n + 127) / 128, 128>>>(data, r, n);
    RT(cudaGetLastError());
    RT(cudaMemcpyAsync(out, data, n * sizeof(unsigned), cudaMemcpyDeviceToHost, cudaStreamPerThread));
    RT(cudaStreamSynchronize(cudaStreamPerThread));
    unsigned want = 0;
    for (unsigned r = 0; r < 10; ++r) want = want * 3u + r;
    for (int i = 0; i < n; ++i) REQUIRE(out[i] == want, "element %d is %u, not %u", i, out[i], want);
}

int main() {
    watch_for_deadlock();
    unsigned *slow_word, *legacy_word;
    RT(cudaMalloc(&slow_word, 4));
    RT(cudaMalloc(&legacy_word, 4));
    RT(cudaMemset(slow_word, 0, 4));
    RT(cudaDeviceSynchronize());
    std::thread quick([] {
        const int n = 3000;
        unsigned *data, *out;
        RT(cudaMalloc(&data, n * sizeof(unsigned)));
        RT(cudaMallocHost(&out, n * sizeof(unsigned)));
        // Once before the stream is held: a kernel's first launch loads its code, which may wait for all work of the
        // context, and would then wait for the held stream while that waits for this thread.
        work(data, out, n);
        std::memset(out, 0, n * sizeof(unsigned));
        ready.store(true);
        wait_for(held);
        work(data, out, n);
        REQUIRE(!released.load(), "the held stream was released early");
        released.store(true);
        RT(cudaFreeHost(out));
        RT(cudaFree(data));
    });
    // This thread's stream stays blocked until the quick one has finished: if both shared one stream, neither could.
    std::thread slow([&] {
        wait_for(ready);
        RT(cudaLaunchHostFunc(cudaStreamPerThread, hold, nullptr));
        chain<<<1, 32>>>(slow_word, 5u, 1);
        RT(cudaGetLastError());
        wait_for(held);
        if (!released.load()) {
            cudaError_t state = cudaStreamQuery(cudaStreamPerThread);
            // The other thread may have released it between the two questions.
            REQUIRE(state == cudaErrorNotReady || released.load(), "the held stream answers %d", int(state));
            (void)cudaGetLastError();
        }
        RT(cudaStreamSynchronize(cudaStreamPerThread));
        REQUIRE(released.load(), "the held stream's work was over before its release");
    });
    quick.join();
    slow.join();
    // Legacy work waits for the per-thread stream's earlier work.
    chain<<<1, 32>>>(slow_word, 1u, 1);
    RT(cudaMemcpyAsync(legacy_word, slow_word, 4, cudaMemcpyDeviceToDevice, cudaStreamLegacy));
    RT(cudaStreamSynchronize(cudaStreamLegacy));
    unsigned host = 0;
    RT(cudaMemcpy(&host, legacy_word, 4, cudaMemcpyDeviceToHost));
    REQUIRE(host == 16, "the legacy stream saw %u, not 16", host);
    finished.store(true);
    return PASS();
}
