// Sums by warp shuffles, shared memory and one atomic per block; a ballot counts the odd values.
// variants: 13-static 12-static
#include <vector>

#include "../common/runtime.h"

TEST("reduce_shuffle");

__global__ void reduce(const unsigned *in, int n, unsigned long long *sum, unsigned *odd) {
    __shared__ unsigned long long partial[32];
    unsigned long long mine = 0;
    unsigned odd_here = 0;
    const int step = gridDim.x * blockDim.x;
    // Every lane takes part in each round, so the full mask is right.
    for (int base = blockIdx.x * blockDim.x; base < n; base += step) {
        int i = base + threadIdx.x;
        unsigned value = i < n ? in[i] : 0;
        mine += value;
        odd_here += __popc(__ballot_sync(0xffffffffu, value & 1));
    }
    for (int offset = 16; offset > 0; offset /= 2) mine += __shfl_down_sync(0xffffffffu, mine, offset);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) {
        partial[warp] = mine;
        atomicAdd(odd, odd_here);
    }
    __syncthreads();
    if (warp == 0) {
        mine = lane < blockDim.x / 32 ? partial[lane] : 0;
        for (int offset = 16; offset > 0; offset /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, offset);
        if (lane == 0) atomicAdd(sum, mine);
    }
}

int main(int argc, char **argv) {
    const int n = int(200001 * scale_argument(argc, argv));
    std::vector<unsigned> in(n);
    Random random;
    unsigned long long want = 0;
    unsigned want_odd = 0;
    for (auto &x : in) {
        x = random.next();
        want += x;
        want_odd += x & 1;
    }
    unsigned *din, *dodd, odd = 0;
    unsigned long long *dsum, sum = 0;
    RT(cudaMalloc(&din, n * sizeof(unsigned)));
    RT(cudaMalloc(&dsum, sizeof sum));
    RT(cudaMalloc(&dodd, sizeof odd));
    RT(cudaMemcpy(din, in.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice));
    RT(cudaMemset(dsum, 0, sizeof sum));
    RT(cudaMemset(dodd, 0, sizeof odd));
    reduce<<<16, 256>>>(din, n, dsum, dodd);
    RT(cudaGetLastError());
    RT(cudaMemcpy(&sum, dsum, sizeof sum, cudaMemcpyDeviceToHost));
    RT(cudaMemcpy(&odd, dodd, sizeof odd, cudaMemcpyDeviceToHost));
    REQUIRE(sum == want, "the sum is %llu, not %llu", sum, want);
    REQUIRE(odd == want_odd, "%u odd values, not %u", odd, want_odd);
    return PASS();
}
