// Managed memory, where the device offers it: host and device see each other's stores after synchronisation.
// variants: 13-static 12-shared 11-shared
// rules: 18
#include "../common/runtime.h"

TEST("managed");

struct Node {
    Node *next;
    unsigned value;
};

__global__ void add_index(unsigned *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += unsigned(i);
}

__global__ void count(unsigned *bins, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(&bins[i % 7], 1u);
}

// Follows pointers that the host stored.
__global__ void sum_list(const Node *first, unsigned *sum) {
    unsigned total = 0;
    for (const Node *node = first; node; node = node->next) total += node->value;
    *sum = total;
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
    REQUIRE(attributes.devicePointer == data && attributes.hostPointer == data, "pointers %p and %p of %p", attributes.devicePointer, attributes.hostPointer, static_cast<void *>(data));

    // Atomics of many threads, and a synchronous copy that ends the wait.
    unsigned *bins = nullptr, found[7];
    RT(cudaMallocManaged(&bins, sizeof found));
    RT(cudaMemset(bins, 0, sizeof found));
    count<<<70, 100>>>(bins, 7000);
    RT(cudaMemcpy(found, bins, sizeof found, cudaMemcpyDefault));
    for (int i = 0; i < 7; ++i) REQUIRE(found[i] == 1000 && bins[i] == 1000, "bin %d is %u in a copy and %u in place", i, found[i], bins[i]);

    // A structure with pointers: the same addresses on both sides.
    Node *nodes = nullptr;
    RT(cudaMallocManaged(&nodes, 100 * sizeof(Node)));
    for (unsigned i = 0; i < 100; ++i) nodes[i] = {i == 99 ? nullptr : &nodes[i + 1], i};
    sum_list<<<1, 1>>>(nodes, bins);
    RT(cudaDeviceSynchronize());
    REQUIRE(bins[0] == 4950, "the sum of the list is %u", bins[0]);

    // More than there can be.
    void *much = nullptr;
    if (!on_native_driver()) RT_IS(cudaMallocManaged(&much, size_t(1) << 46), cudaErrorMemoryAllocation);
    RT(cudaFree(nodes));
    RT(cudaFree(bins));
    RT(cudaFree(data));
    return PASS();
}
