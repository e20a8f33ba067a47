// Managed memory, where the device offers it: host and device see each other's stores after synchronisation.
// rules: 18
#include "../common/runtime.h"

TEST("managed");

__global__ void add_index(unsigned *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += unsigned(i);
}

int main() {
    int offered = 0;
    RT(cudaDeviceGetAttribute(&offered, cudaDevAttrManagedMemory, 0));
    const int n = 3000;
    unsigned *data = nullptr;
    cudaError_t status = cudaMallocManaged(&data, n * sizeof(unsigned));
    if (!offered) {
        REQUIRE(status == cudaErrorNotSupported, "the attribute says no, but cudaMallocManaged returned %d", int(status));
        SKIP("the device reports no managed memory");
    }
    if (status == cudaErrorNotSupported) FAIL("the attribute promises managed memory, but cudaMallocManaged refuses it");
    RT(status);
    for (int i = 0; i < n; ++i) data[i] = 10u;
    for (int round = 1; round <= 3; ++round) {
        add_index<<<(n + 127) / 128, 128>>>(data, n);
        RT(cudaDeviceSynchronize());
        for (int i = 0; i < n; ++i) REQUIRE(data[i] == 10u + unsigned(round * i), "round %d element %d is %u", round, i, data[i]);
    }
    cudaPointerAttributes attributes;
    RT(cudaPointerGetAttributes(&attributes, data));
    REQUIRE(attributes.type == cudaMemoryTypeManaged, "type %d", int(attributes.type));
    RT(cudaFree(data));
    return PASS();
}
