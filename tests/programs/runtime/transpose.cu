// A transpose through padded shared memory, with an edge that fills no whole tile; then twice, giving the original.
#include <vector>

#include "../common/runtime.h"

TEST("transpose");

__global__ void transpose(const float *in, float *out, int width, int height) {
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x;
    for (int j = threadIdx.y; j < 32; j += blockDim.y) {
        int y = blockIdx.y * 32 + j;
        if (x < width && y < height) tile[j][threadIdx.x] = in[y * width + x];
    }
    __syncthreads();
    int tx = blockIdx.y * 32 + threadIdx.x;
    for (int j = threadIdx.y; j < 32; j += blockDim.y) {
        int ty = blockIdx.x * 32 + j;
        if (tx < height && ty < width) out[ty * height + tx] = tile[threadIdx.x][j];
    }
}

int main(int argc, char **argv) {
    const int width = int(211 * scale_argument(argc, argv)), height = 157;
    const size_t bytes = sizeof(float) * width * height;
    std::vector<float> in(size_t(width) * height), out(in.size());
    for (size_t i = 0; i < in.size(); ++i) in[i] = float(i);
    float *a, *b;
    RT(cudaMalloc(&a, bytes));
    RT(cudaMalloc(&b, bytes));
    RT(cudaMemcpy(a, in.data(), bytes, cudaMemcpyHostToDevice));
    const dim3 block(32, 8), there((width + 31) / 32, (height + 31) / 32), back(there.y, there.x);
    transpose<<<there, block>>>(a, b, width, height);
    RT(cudaMemcpy(out.data(), b, bytes, cudaMemcpyDeviceToHost));
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
            REQUIRE(out[size_t(x) * height + y] == in[size_t(y) * width + x], "element (%d,%d) is wrong", x, y);
    RT(cudaMemset(a, 0, bytes));
    transpose<<<back, block>>>(b, a, height, width);
    RT(cudaMemcpy(out.data(), a, bytes, cudaMemcpyDeviceToHost));
    REQUIRE(std::memcmp(out.data(), in.data(), bytes) == 0, "two transposes are not the identity");
    return PASS();
}
