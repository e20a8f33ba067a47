// Pinned, mapped and registered host memory: the device reads and writes it in place, and its attributes say so.
// variants: 13-static 12-static
// rules: 14 17
#include <sys/mman.h>

#include <vector>

#include "../common/runtime.h"

TEST("pinned_mapped");

__global__ void add_index(unsigned *data, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += i;
}

static void use_in_place(unsigned *host, unsigned *device, unsigned n, const char *kind) {
    for (unsigned i = 0; i < n; ++i) host[i] = 1000u;
    add_index<<<(n + 127) / 128, 128>>>(device, n);
    RT(cudaGetLastError());
    RT(cudaDeviceSynchronize());
    for (unsigned i = 0; i < n; ++i) REQUIRE(host[i] == 1000u + i, "%s memory: element %u is %u", kind, i, host[i]);
}

int main() {
    const unsigned n = 10000;
    unsigned *pinned, *mapped, *alias;
    RT(cudaMallocHost(&pinned, n * sizeof(unsigned)));
    RT(cudaHostAlloc(&mapped, n * sizeof(unsigned), cudaHostAllocMapped | cudaHostAllocPortable));
    RT(cudaHostGetDevicePointer(&alias, mapped, 0));
    use_in_place(mapped, alias, n, "mapped");
    cudaDeviceProp properties;
    RT(cudaGetDeviceProperties(&properties, 0));
    if (properties.unifiedAddressing) {
        // Under unified addressing every pinned allocation is mapped at its own address.
        REQUIRE(alias == mapped, "the device address differs from the host address");
        use_in_place(pinned, pinned, n, "pinned");
    }
    unsigned flags = 0;
    RT(cudaHostGetFlags(&flags, mapped));
    REQUIRE((flags & cudaHostAllocMapped) != 0, "flags are %#x", flags);

    // An address inside the allocation belongs to it; one past its end does not.
    cudaPointerAttributes attributes;
    RT(cudaPointerGetAttributes(&attributes, pinned + 77));
    REQUIRE(attributes.type == cudaMemoryTypeHost, "an interior pinned pointer has type %d", int(attributes.type));
    RT(cudaPointerGetAttributes(&attributes, &flags));
    REQUIRE(attributes.type == cudaMemoryTypeUnregistered, "a stack address has type %d", int(attributes.type));
    RT_IS(cudaFreeHost(&flags), cudaErrorInvalidValue);

    // Many allocations live at once, each its own.
    std::vector<unsigned char *> many;
    for (int i = 0; i < 200; ++i) {
        unsigned char *p;
        RT(cudaMallocHost(&p, 1 + size_t(i) * 611));
        std::memset(p, i, 1 + size_t(i) * 611);
        many.push_back(p);
    }
    for (int i = 0; i < 200; ++i) {
        size_t size = 1 + size_t(i) * 611;
        REQUIRE(many[i][0] == i && many[i][size - 1] == i, "pinned allocation %d was overwritten", i);
        RT(cudaFreeHost(many[i]));
    }

    // Registering the program's own memory: either it works in place, or it is refused; nothing in between.
    const size_t bytes = 1 << 20;
    void *own = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(own != MAP_FAILED, "mmap failed");
    std::memset(own, 0x5a, bytes);
    cudaError_t status = cudaHostRegister(own, bytes, cudaHostRegisterMapped);
    if (status == cudaSuccess) {
        unsigned char *bytes_seen = static_cast<unsigned char *>(own);
        for (size_t i = 0; i < bytes; i += 4096) REQUIRE(bytes_seen[i] == 0x5a, "registering lost the content at %zu", i);
        unsigned *device;
        RT(cudaHostGetDevicePointer(&device, own, 0));
        use_in_place(static_cast<unsigned *>(own), device, n, "registered");
        RT_IS(cudaHostRegister(own, bytes, 0), cudaErrorHostMemoryAlreadyRegistered);
        RT(cudaHostUnregister(own));
        RT_IS(cudaHostUnregister(own), cudaErrorHostMemoryNotRegistered);
        REQUIRE(static_cast<unsigned *>(own)[5] == 1005u, "unregistering lost the content");
    } else {
        REQUIRE(status == cudaErrorNotSupported, "cudaHostRegister returned %d", int(status));
        (void)cudaGetLastError();
        std::printf("cudaHostRegister: not supported\n");
    }
    RT(cudaFreeHost(pinned));
    RT(cudaFreeHost(mapped));
    return PASS();
}
