// Built with per-thread default streams: each thread's default stream is its own, does not wait for another thread's,
// and is a blocking stream towards the legacy one.
// variants: 13-static 12-shared
// nvcc: --default-stream per-thread
// rules: 8
#include <atomic>
#include <thread>
#include <vector>

#include "../common/runtime.h"

TEST("per_thread_stream");

__global__ void chain(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 3u + value;
}

int main() {
    // The held thread's stream stays blocked until the free thread has finished: if both shared one stream, the free
    // thread could never finish.
    std::atomic<bool> released{false}, held{false};
    auto hold = [](void *flags) {
        auto **pair = static_cast<std::atomic<bool> **>(flags);
        pair[1]->store(true);
        while (!pair[0]->load()) std::this_thread::yield();
    };
    std::atomic<bool> *flags[2] = {&released, &held};
    unsigned *slow_word, *legacy_word;
    RT(cudaMalloc(&slow_word, 4));
    RT(cudaMalloc(&legacy_word, 4));
    RT(cudaMemset(slow_word, 0, 4));
    RT(cudaDeviceSynchronize());
    std::thread slow([&] {
        RT(cudaLaunchHostFunc(cudaStreamPerThread, hold, flags));
        chain<<<1, 32>>>(slow_word, 5u, 1);
        RT(cudaStreamSynchronize(cudaStreamPerThread));
    });
    while (!held.load()) std::this_thread::yield();
    std::thread quick([&] {
        const int n = 3000;
        std::vector<unsigned> out(n);
        unsigned *data;
        RT(cudaMallocAsync(&data, n * sizeof(unsigned), cudaStreamPerThread) == cudaSuccess
               ? cudaSuccess
               : cudaMalloc(&data, n * sizeof(unsigned)));
        RT(cudaMemsetAsync(data, 0, n * sizeof(unsigned), cudaStreamPerThread));
        for (unsigned r = 0; r < 10; ++r) chain<<<(n + 127) / 128, 128>>>(data, r, n);
        RT(cudaMemcpyAsync(out.data(), data, n * sizeof(unsigned), cudaMemcpyDeviceToHost, cudaStreamPerThread));
        RT(cudaStreamSynchronize(cudaStreamPerThread));
        unsigned want = 0;
        for (unsigned r = 0; r < 10; ++r) want = want * 3u + r;
        for (int i = 0; i < n; ++i) REQUIRE(out[i] == want, "element %d is %u, not %u", i, out[i], want);
    });
    quick.join();
    REQUIRE(!released.load(), "the held stream was released early");
    released.store(true);
    slow.join();
    // Legacy work waits for the per-thread stream's earlier work.
    chain<<<1, 32>>>(slow_word, 1u, 1);
    RT(cudaMemcpyAsync(legacy_word, slow_word, 4, cudaMemcpyDeviceToDevice, cudaStreamLegacy));
    RT(cudaStreamSynchronize(cudaStreamLegacy));
    unsigned host = 0;
    RT(cudaMemcpy(&host, legacy_word, 4, cudaMemcpyDeviceToHost));
    REQUIRE(host == 16, "the legacy stream saw %u, not 16", host);
    return PASS();
}
