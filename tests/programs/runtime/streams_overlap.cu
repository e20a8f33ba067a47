// Chunks of work on four non-blocking streams, joined by events; then the ordering rules of the legacy stream.
// variants: 13-static 13-shared 12-shared 11-shared
// rules: 1 4 8 9
#include <vector>

#include "../common/runtime.h"

TEST("streams_overlap");

__global__ void triple_plus(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 3u + value;
}

__global__ void busy_then_store(unsigned *data, unsigned value, int rounds) {
    unsigned x = value;
    for (int i = 0; i < rounds; ++i) x = x * 1664525u + 1013904223u;
    // x is odd or even, never both: the condition holds always, and the compiler cannot know.
    if (threadIdx.x == 0 && (x | 1u) != 0u) *data = value;
}

__global__ void copy_word(unsigned *to, const unsigned *from) { *to = *from; }

int main() {
    const int streams = 4, chunk = 5000, rounds = 20;
    cudaStream_t stream[streams];
    cudaEvent_t ready[streams], start, stop;
    unsigned *pinned, *device;
    const size_t bytes = sizeof(unsigned) * chunk * streams;
    RT(cudaMallocHost(&pinned, bytes));
    RT(cudaMalloc(&device, bytes));
    RT(cudaEventCreate(&start));
    RT(cudaEventCreate(&stop));
    for (int i = 0; i < chunk * streams; ++i) pinned[i] = unsigned(i);
    for (int s = 0; s < streams; ++s) {
        RT(cudaStreamCreateWithFlags(&stream[s], cudaStreamNonBlocking));
        RT(cudaEventCreateWithFlags(&ready[s], cudaEventDisableTiming));
    }
    RT(cudaEventRecord(start, stream[0]));
    for (int s = 0; s < streams; ++s) {
        unsigned *d = device + s * chunk, *h = pinned + s * chunk;
        RT(cudaMemcpyAsync(d, h, chunk * sizeof(unsigned), cudaMemcpyHostToDevice, stream[s]));
        for (int r = 0; r < rounds; ++r)
            triple_plus<<<(chunk + 127) / 128, 128, 0, stream[s]>>>(d, unsigned(r + s), chunk);
        RT(cudaMemcpyAsync(h, d, chunk * sizeof(unsigned), cudaMemcpyDeviceToHost, stream[s]));
        RT(cudaEventRecord(ready[s], stream[s]));
        RT(cudaStreamWaitEvent(stream[0], ready[s], 0));
    }
    RT(cudaEventRecord(stop, stream[0]));
    RT(cudaEventSynchronize(stop));
    // Everything before `stop` is done: no further synchronisation may be needed to read the results.
    for (int s = 0; s < streams; ++s) RT_IS(cudaEventQuery(ready[s]), cudaSuccess);
    for (int i = 0; i < chunk * streams; ++i) {
        unsigned want = unsigned(i);
        for (int r = 0; r < rounds; ++r) want = want * 3u + unsigned(r + i / chunk);
        REQUIRE(pinned[i] == want, "element %d is %u, not %u", i, pinned[i], want);
    }
    float milliseconds = -1.0f;
    RT(cudaEventElapsedTime(&milliseconds, start, stop));
    REQUIRE(milliseconds >= 0.0f && milliseconds < 600000.0f, "elapsed time is %g ms", milliseconds);

    // The legacy stream waits for blocking streams and they for it, but not for non-blocking ones.
    cudaStream_t blocking;
    unsigned *words, host[3] = {0, 0, 0};
    RT(cudaStreamCreate(&blocking));
    RT(cudaMalloc(&words, 3 * sizeof(unsigned)));
    RT(cudaMemset(words, 0, 3 * sizeof(unsigned)));
    busy_then_store<<<1, 32, 0, blocking>>>(&words[0], 41u, 20000);
    copy_word<<<1, 1>>>(&words[1], &words[0]);
    copy_word<<<1, 1, 0, blocking>>>(&words[2], &words[1]);
    RT(cudaStreamSynchronize(blocking));
    RT(cudaMemcpy(host, words, sizeof host, cudaMemcpyDeviceToHost));
    REQUIRE(host[0] == 41 && host[1] == 41 && host[2] == 41, "the legacy stream did not order: %u %u %u", host[0], host[1], host[2]);

    // A recorded event that is recorded again means the newer position.
    RT(cudaEventRecord(stop, stream[1]));
    busy_then_store<<<1, 32, 0, stream[1]>>>(&words[0], 42u, 20000);
    RT(cudaEventRecord(stop, stream[1]));
    RT(cudaStreamWaitEvent(stream[2], stop, 0));
    copy_word<<<1, 1, 0, stream[2]>>>(&words[1], &words[0]);
    RT(cudaMemcpyAsync(pinned, &words[1], sizeof(unsigned), cudaMemcpyDeviceToHost, stream[2]));
    RT(cudaStreamSynchronize(stream[2]));
    REQUIRE(pinned[0] == 42, "a wait saw the older record of an event: %u", pinned[0]);

    RT_IS(cudaStreamQuery(stream[2]), cudaSuccess);
    int least, greatest, priority;
    RT(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    REQUIRE(greatest <= least, "priority range %d..%d", greatest, least);
    cudaStream_t urgent;
    RT(cudaStreamCreateWithPriority(&urgent, cudaStreamNonBlocking, greatest));
    RT(cudaStreamGetPriority(urgent, &priority));
    REQUIRE(priority == greatest, "priority is %d, not %d", priority, greatest);
    unsigned flags = 0;
    RT(cudaStreamGetFlags(urgent, &flags));
    REQUIRE(flags == cudaStreamNonBlocking, "flags are %u", flags);
    RT(cudaStreamDestroy(urgent));
    for (int s = 0; s < streams; ++s) {
        RT(cudaStreamDestroy(stream[s]));
        RT(cudaEventDestroy(ready[s]));
    }
    RT(cudaFreeHost(pinned));
    return PASS();
}
