// __half and __half2 arithmetic: every finite half goes through a round trip, and fused products match the host.
#include <cuda_fp16.h>

#include <cmath>
#include <vector>

#include "../common/runtime.h"

TEST("half_precision");

__global__ void round_trip(const unsigned short *in, float *wide, unsigned short *back) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    __half h = __ushort_as_half(in[i]);
    wide[i] = __half2float(h);
    back[i] = __half_as_ushort(__float2half_rn(wide[i]));
}

__global__ void axpy(const __half2 *x, __half2 *y, __half2 a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __hfma2(a, x[i], y[i]);
}

int main() {
    const int all = 65536;
    std::vector<unsigned short> in(all), back(all);
    std::vector<float> wide(all);
    for (int i = 0; i < all; ++i) in[i] = static_cast<unsigned short>(i);
    unsigned short *din, *dback;
    float *dwide;
    RT(cudaMalloc(&din, all * 2));
    RT(cudaMalloc(&dback, all * 2));
    RT(cudaMalloc(&dwide, all * 4));
    RT(cudaMemcpy(din, in.data(), all * 2, cudaMemcpyHostToDevice));
    round_trip<<<all / 256, 256>>>(din, dwide, dback);
    RT(cudaMemcpy(back.data(), dback, all * 2, cudaMemcpyDeviceToHost));
    RT(cudaMemcpy(wide.data(), dwide, all * 4, cudaMemcpyDeviceToHost));
    for (int i = 0; i < all; ++i) {
        int exponent = (i >> 10) & 31, fraction = i & 1023;
        if (exponent == 31) continue;
        double want = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
        if (i & 0x8000) want = -want;
        REQUIRE(double(wide[i]) == want, "half %#x is %g, not %g", i, wide[i], want);
        REQUIRE(back[i] == i, "half %#x came back as %#x", i, back[i]);
    }
    // Small whole numbers are exact in half precision, so the product has one right answer.
    const int n = 1000;
    std::vector<__half2> x(n), y(n);
    for (int i = 0; i < n; ++i) {
        x[i] = __floats2half2_rn(float(i % 20), float(i % 7));
        y[i] = __floats2half2_rn(float(i % 11), -float(i % 5));
    }
    __half2 *dx, *dy;
    RT(cudaMalloc(&dx, n * sizeof(__half2)));
    RT(cudaMalloc(&dy, n * sizeof(__half2)));
    RT(cudaMemcpy(dx, x.data(), n * sizeof(__half2), cudaMemcpyHostToDevice));
    RT(cudaMemcpy(dy, y.data(), n * sizeof(__half2), cudaMemcpyHostToDevice));
    axpy<<<(n + 127) / 128, 128>>>(dx, dy, __floats2half2_rn(3.0f, -2.0f), n);
    RT(cudaMemcpy(y.data(), dy, n * sizeof(__half2), cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) {
        float low = 3.0f * float(i % 20) + float(i % 11), high = -2.0f * float(i % 7) - float(i % 5);
        REQUIRE(__low2float(y[i]) == low && __high2float(y[i]) == high, "element %d is (%g,%g), not (%g,%g)", i,
                __low2float(y[i]), __high2float(y[i]), low, high);
    }
    return PASS();
}
