// An inclusive prefix sum in three launches (scan blocks, scan their totals, add), exact against the host.
#include <vector>

#include "../common/runtime.h"

TEST("scan");

constexpr int kBlock = 256;

__global__ void scan_blocks(const unsigned *in, unsigned *out, unsigned *totals, int n) {
    __shared__ unsigned tile[2][kBlock];
    int i = blockIdx.x * kBlock + threadIdx.x, from = 0;
    tile[0][threadIdx.x] = i < n ? in[i] : 0;
    __syncthreads();
    for (int offset = 1; offset < kBlock; offset *= 2, from ^= 1) {
        unsigned value = tile[from][threadIdx.x];
        if (threadIdx.x >= offset) value += tile[from][threadIdx.x - offset];
        tile[from ^ 1][threadIdx.x] = value;
        __syncthreads();
    }
    if (i < n) out[i] = tile[from][threadIdx.x];
    if (totals && threadIdx.x == kBlock - 1) totals[blockIdx.x] = tile[from][threadIdx.x];
}

__global__ void add_totals(unsigned *out, const unsigned *totals, int n) {
    int i = blockIdx.x * kBlock + threadIdx.x;
    if (blockIdx.x > 0 && i < n) out[i] += totals[blockIdx.x - 1];
}

int main() {
    const int n = kBlock * kBlock - 37;
    const int blocks = (n + kBlock - 1) / kBlock;
    std::vector<unsigned> in(n), out(n);
    Random random;
    for (auto &x : in) x = random.next();
    unsigned *din, *dout, *totals, *scanned;
    RT(cudaMalloc(&din, n * sizeof(unsigned)));
    RT(cudaMalloc(&dout, n * sizeof(unsigned)));
    RT(cudaMalloc(&totals, blocks * sizeof(unsigned)));
    RT(cudaMalloc(&scanned, blocks * sizeof(unsigned)));
    RT(cudaMemcpy(din, in.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice));
    scan_blocks<<<blocks, kBlock>>>(din, dout, totals, n);
    scan_blocks<<<1, kBlock>>>(totals, scanned, nullptr, blocks);
    add_totals<<<blocks, kBlock>>>(dout, scanned, n);
    RT(cudaGetLastError());
    RT(cudaMemcpy(out.data(), dout, n * sizeof(unsigned), cudaMemcpyDeviceToHost));
    unsigned want = 0;
    for (int i = 0; i < n; ++i) {
        want += in[i];
        REQUIRE(out[i] == want, "element %d is %u, not %u", i, out[i], want);
    }
    return PASS();
}
