// A tiled matrix product through shared memory, compared with a sum in the same order on the host.
// variants: 13-static 12-shared
#include <cmath>
#include <vector>

#include "../common/runtime.h"

TEST("matmul_tiled");

constexpr int kTile = 16;

__global__ void matmul(const float *a, const float *b, float *c, int n) {
    __shared__ float ta[kTile][kTile], tb[kTile][kTile];
    int row = blockIdx.y * kTile + threadIdx.y, column = blockIdx.x * kTile + threadIdx.x;
    float sum = 0.0f;
    for (int t = 0; t < n; t += kTile) {
        ta[threadIdx.y][threadIdx.x] = a[row * n + t + threadIdx.x];
        tb[threadIdx.y][threadIdx.x] = b[(t + threadIdx.y) * n + column];
        __syncthreads();
        for (int k = 0; k < kTile; ++k) sum = fmaf(ta[threadIdx.y][k], tb[k][threadIdx.x], sum);
        __syncthreads();
    }
    c[row * n + column] = sum;
}

int main(int argc, char **argv) {
    const int n = int(96 * scale_argument(argc, argv));
    const size_t bytes = size_t(n) * n * sizeof(float);
    std::vector<float> a(n * n), b(n * n), c(n * n);
    Random random;
    for (auto &x : a) x = random.uniform() - 0.5f;
    for (auto &x : b) x = random.uniform() - 0.5f;
    float *da, *db, *dc;
    RT(cudaMalloc(&da, bytes));
    RT(cudaMalloc(&db, bytes));
    RT(cudaMalloc(&dc, bytes));
    RT(cudaMemcpy(da, a.data(), bytes, cudaMemcpyHostToDevice));
    RT(cudaMemcpy(db, b.data(), bytes, cudaMemcpyHostToDevice));
    matmul<<<dim3(n / kTile, n / kTile), dim3(kTile, kTile)>>>(da, db, dc, n);
    RT(cudaGetLastError());
    RT(cudaMemcpy(c.data(), dc, bytes, cudaMemcpyDeviceToHost));
    // One row in eight keeps the host's share of a large run small.
    for (int i = 0; i < n; i += 8)
        for (int j = 0; j < n; ++j) {
            float sum = 0.0f;
            for (int k = 0; k < n; ++k) sum = std::fmaf(a[i * n + k], b[k * n + j], sum);
            REQUIRE(sum == c[i * n + j], "c[%d][%d] is %.9g, not %.9g", i, j, c[i * n + j], sum);
        }
    return PASS();
}
