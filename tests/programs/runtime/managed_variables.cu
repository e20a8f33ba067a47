// Variables declared __managed__: they work, or a program that has them is told so by an error; never a wrong value.
// rules: 18
#include "../common/runtime.h"

TEST("managed_variables");

__device__ __managed__ unsigned counter = 5;
__device__ unsigned plain = 3;

__global__ void add(unsigned amount) {
    counter += amount + plain;
}

int main() {
    // The runtime looks its managed variables up when it starts, or when one is asked for.
    cudaError_t status = cudaFree(nullptr);
    unsigned *address = nullptr;
    if (status == cudaSuccess) status = cudaGetSymbolAddress(reinterpret_cast<void **>(&address), counter);
    if (status != cudaSuccess) {
        REQUIRE(!on_native_driver(), "the driver itself answers %s", cudaGetErrorName(status));
        SKIP("managed variables are refused: %s", cudaGetErrorName(status));
    }
    REQUIRE(counter == 5, "the initial value is %u", counter);
    counter = 20;
    add<<<1, 1>>>(10);
    RT(cudaDeviceSynchronize());
    REQUIRE(counter == 33, "the value is %u, expected 33", counter);
    return PASS();
}
