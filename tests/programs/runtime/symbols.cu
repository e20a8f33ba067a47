// __constant__ and __device__ variables: initial values, copies to and from symbols, addresses, sizes; after a device
// reset they hold their initial values again.
// variants: 13-static 13-shared 12-static 12-shared 11-shared
// rules: 16
#include "../common/runtime.h"

TEST("symbols");

__constant__ float scale[4] = {1.0f, 2.0f, 3.0f, 4.0f};
__device__ int counter = 5;
__device__ double matrix[2][3] = {{1, 2, 3}, {4, 5, 6}};
__device__ int *where;

__global__ void use(float *out) {
    int i = threadIdx.x;
    out[i] = scale[i] * float(matrix[i / 3][i % 3]);
    atomicAdd(&counter, 1);
}

__global__ void publish() { where = &counter; }

static void round_trip() {
    float *out, host[4];
    int value = 0;
    RT(cudaMalloc(&out, sizeof host));
    use<<<1, 4>>>(out);
    RT(cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost));
    REQUIRE(host[0] == 1 && host[1] == 4 && host[2] == 9 && host[3] == 16, "initial values: %g %g %g %g", host[0], host[1], host[2], host[3]);
    RT(cudaMemcpyFromSymbol(&value, counter, sizeof value));
    REQUIRE(value == 9, "the counter is %d, not 9", value);
    const float other[2] = {10.0f, 20.0f};
    RT(cudaMemcpyToSymbol(scale, other, sizeof other, sizeof(float)));
    RT(cudaMemcpyToSymbolAsync(counter, &(value = 100), sizeof value, 0, cudaMemcpyHostToDevice, 0));
    use<<<1, 4>>>(out);
    RT(cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost));
    REQUIRE(host[0] == 1 && host[1] == 20 && host[2] == 60 && host[3] == 16, "after a copy to the symbol: %g %g %g %g", host[0], host[1], host[2], host[3]);
    int *address;
    size_t size;
    RT(cudaGetSymbolAddress(reinterpret_cast<void **>(&address), counter));
    RT(cudaGetSymbolSize(&size, matrix));
    REQUIRE(size == sizeof matrix, "the symbol's size is %zu", size);
    RT(cudaMemcpy(&value, address, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value == 104, "the counter is %d, not 104", value);
    publish<<<1, 1>>>();
    int *seen = nullptr;
    RT(cudaMemcpyFromSymbol(&seen, where, sizeof seen));
    REQUIRE(seen == address, "kernel and host disagree on the symbol's address");
    RT(cudaFree(out));
}

int main() {
    round_trip();
    RT(cudaDeviceReset());
    round_trip();
    RT_IS(cudaMemcpyToSymbol(scale, "", 64, 0), cudaErrorInvalidValue);
    return PASS();
}
