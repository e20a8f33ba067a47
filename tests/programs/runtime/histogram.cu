// Shared and global atomics: a histogram, plus min, max, and, or, xor, exchange and compare-and-swap.
#include <vector>

#include "../common/runtime.h"

TEST("histogram");

struct Extremes {
    int low, high;
    unsigned all, any, parity, claimed;
    unsigned long long sum;
    float fsum;
};

__global__ void histogram(const unsigned char *in, int n, unsigned *bins) {
    __shared__ unsigned local[256];
    local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[in[i]], 1u);
    __syncthreads();
    atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

__global__ void extremes(const int *in, int n, Extremes *e) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    atomicMin(&e->low, in[i]);
    atomicMax(&e->high, in[i]);
    atomicAnd(&e->all, unsigned(in[i]));
    atomicOr(&e->any, unsigned(in[i]));
    atomicXor(&e->parity, unsigned(in[i]));
    atomicAdd(&e->sum, (unsigned long long)(unsigned(in[i])));
    // Whole numbers below 2^24: exact in any order.
    atomicAdd(&e->fsum, float(in[i] & 15));
    atomicCAS(&e->claimed, 0u, unsigned(i) + 1u);
}

int main() {
    const int n = 60000;
    std::vector<unsigned char> in(n);
    std::vector<int> values(2000);
    Random random;
    unsigned want[256] = {};
    for (auto &x : in) {
        x = static_cast<unsigned char>(random.next() >> 11);
        ++want[x];
    }
    Extremes e = {2147483647, -2147483647 - 1, ~0u, 0, 0, 0, 0, 0.0f}, we = e;
    for (auto &x : values) {
        x = int(random.next() | 0x10u);
        if (x < we.low) we.low = x;
        if (x > we.high) we.high = x;
        we.all &= unsigned(x);
        we.any |= unsigned(x);
        we.parity ^= unsigned(x);
        we.sum += unsigned(x);
        we.fsum += float(x & 15);
    }
    unsigned char *din;
    unsigned *dbins, bins[256];
    int *dvalues;
    Extremes *de;
    RT(cudaMalloc(&din, n));
    RT(cudaMalloc(&dbins, sizeof bins));
    RT(cudaMalloc(&dvalues, values.size() * sizeof(int)));
    RT(cudaMalloc(&de, sizeof e));
    RT(cudaMemcpy(din, in.data(), n, cudaMemcpyHostToDevice));
    RT(cudaMemset(dbins, 0, sizeof bins));
    RT(cudaMemcpy(dvalues, values.data(), values.size() * sizeof(int), cudaMemcpyHostToDevice));
    RT(cudaMemcpy(de, &e, sizeof e, cudaMemcpyHostToDevice));
    histogram<<<8, 256>>>(din, n, dbins);
    extremes<<<8, 256>>>(dvalues, int(values.size()), de);
    RT(cudaMemcpy(bins, dbins, sizeof bins, cudaMemcpyDeviceToHost));
    RT(cudaMemcpy(&e, de, sizeof e, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 256; ++i) REQUIRE(bins[i] == want[i], "bin %d is %u, not %u", i, bins[i], want[i]);
    REQUIRE(e.low == we.low && e.high == we.high, "min/max %d %d, not %d %d", e.low, e.high, we.low, we.high);
    REQUIRE(e.all == we.all && e.any == we.any && e.parity == we.parity, "and/or/xor differ");
    REQUIRE(e.sum == we.sum, "64-bit sum %llu, not %llu", e.sum, we.sum);
    REQUIRE(e.fsum == we.fsum, "float sum %g, not %g", e.fsum, we.fsum);
    REQUIRE(e.claimed >= 1 && e.claimed <= values.size(), "compare-and-swap left %u", e.claimed);
    return PASS();
}
