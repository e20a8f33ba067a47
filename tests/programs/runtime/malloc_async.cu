// Stream-ordered allocation: reuse on one stream, frees ordered by events, a pool of our own and its attributes.
// variants: 13-static 12-shared
// rules: 9 14
#include <vector>

#include "../common/runtime.h"

TEST("malloc_async");

__global__ void fill(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = value;
}

int main() {
    int supported = 0;
    RT(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, 0));
    if (!supported) {
        void *p;
        cudaError_t status = cudaMallocAsync(&p, 64, 0);
        REQUIRE(status == cudaErrorNotSupported, "the attribute says no pools, but cudaMallocAsync returned %d", int(status));
        SKIP("the device reports no memory pools");
    }
    const int n = 5000;
    const size_t bytes = n * sizeof(unsigned);
    cudaStream_t stream, other;
    cudaEvent_t event;
    RT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RT(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    RT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    unsigned *host;
    RT(cudaMallocHost(&host, bytes * 2));
    for (unsigned round = 0; round < 100; ++round) {
        unsigned *a, *b;
        RT(cudaMallocAsync(&a, bytes, stream));
        RT(cudaMallocAsync(&b, bytes, stream));
        REQUIRE(a != b, "two live allocations share an address");
        fill<<<(n + 127) / 128, 128, 0, stream>>>(a, round, n);
        fill<<<(n + 127) / 128, 128, 0, stream>>>(b, ~round, n);
        RT(cudaMemcpyAsync(host, a, bytes, cudaMemcpyDeviceToHost, stream));
        RT(cudaFreeAsync(a, stream));
        RT(cudaMemcpyAsync(host + n, b, bytes, cudaMemcpyDeviceToHost, stream));
        RT(cudaFreeAsync(b, stream));
        if (round % 10 == 0) {
            RT(cudaStreamSynchronize(stream));
            for (int i = 0; i < n; ++i)
                REQUIRE(host[i] == round && host[n + i] == ~round, "round %u element %d: %u %u", round, i, host[i], host[n + i]);
        }
    }
    // Allocated here, used and freed there.
    unsigned *shared;
    RT(cudaMallocAsync(&shared, bytes, stream));
    RT(cudaEventRecord(event, stream));
    RT(cudaStreamWaitEvent(other, event, 0));
    fill<<<(n + 127) / 128, 128, 0, other>>>(shared, 31u, n);
    RT(cudaMemcpyAsync(host, shared, bytes, cudaMemcpyDeviceToHost, other));
    RT(cudaFreeAsync(shared, other));
    RT(cudaStreamSynchronize(other));
    REQUIRE(host[0] == 31u && host[n - 1] == 31u, "the other stream stored %u", host[0]);

    cudaMemPool_t pool;
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = 0;
    RT(cudaMemPoolCreate(&pool, &properties));
    unsigned long long threshold = 1 << 20, seen = 0;
    RT(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    RT(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &seen));
    REQUIRE(seen == threshold, "the release threshold reads %llu", seen);
    unsigned *mine;
    RT(cudaMallocFromPoolAsync(reinterpret_cast<void **>(&mine), bytes, pool, stream));
    fill<<<(n + 127) / 128, 128, 0, stream>>>(mine, 77u, n);
    RT(cudaMemcpyAsync(host, mine, bytes, cudaMemcpyDeviceToHost, stream));
    RT(cudaStreamSynchronize(stream));
    REQUIRE(host[n - 1] == 77u, "memory from the pool holds %u", host[n - 1]);
    RT(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &seen));
    REQUIRE(seen >= bytes, "the pool says %llu bytes are in use", seen);
    RT(cudaFreeAsync(mine, stream));
    RT(cudaStreamSynchronize(stream));
    RT(cudaMemPoolTrimTo(pool, 0));
    RT(cudaMemPoolDestroy(pool));
    // Ordinary frees accept stream-ordered memory.
    RT(cudaMallocAsync(&mine, bytes, stream));
    RT(cudaStreamSynchronize(stream));
    RT(cudaFree(mine));
    return PASS();
}
