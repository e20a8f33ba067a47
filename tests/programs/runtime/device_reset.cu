// cudaDeviceReset: memory, streams and events of the old context are gone, and a new one works from the next call on.
// variants: 13-static 12-shared
// rules: 16
#include "../common/runtime.h"

TEST("device_reset");

__global__ void store(unsigned *out, unsigned value) { *out = value; }

static unsigned *good_launch(unsigned value) {
    unsigned *word, host = 0;
    RT(cudaMalloc(&word, sizeof host));
    store<<<1, 1>>>(word, value);
    RT(cudaGetLastError());
    RT(cudaMemcpy(&host, word, sizeof host, cudaMemcpyDeviceToHost));
    REQUIRE(host == value, "stored %u, not %u", host, value);
    return word;
}

int main() {
    size_t before = 0, after = 0, total = 0;
    good_launch(1);
    RT(cudaMemGetInfo(&before, &total));
    for (unsigned round = 0; round < 4; ++round) {
        unsigned *old = good_launch(10 + round), *pinned;
        void *large;
        cudaStream_t stream;
        RT(cudaMalloc(&large, 48 << 20));
        RT(cudaMallocHost(&pinned, 1 << 16));
        RT(cudaStreamCreate(&stream));
        store<<<1, 1, 0, stream>>>(old, 99u);
        RT(cudaDeviceReset());
        RT_IS(cudaFree(old), cudaErrorInvalidValue);
        RT_IS(cudaFreeHost(pinned), cudaErrorInvalidValue);
        good_launch(20 + round);
    }
    RT(cudaMemGetInfo(&after, &total));
    REQUIRE(after + (96u << 20) > before, "resets leak device memory: %zu MiB free before, %zu after", before >> 20, after >> 20);
    RT(cudaDeviceReset());
    RT(cudaDeviceReset());
    return PASS();
}
