// Managed memory by the driver API: one address for host and device, copies and fills, attributes, stream association,
// advice and prefetch (with and without concurrent access), and what is refused.
// rules: 18
#include "../common/driver.h"

TEST("managed_drv");

template <typename T>
static T attribute(CUpointer_attribute which, CUdeviceptr p) {
    T value{};
    CU(cuPointerGetAttribute(&value, which, p));
    return value;
}

static int range_attribute(CUmem_range_attribute which, CUdeviceptr p, size_t bytes) {
    int value = -77;
    CU(cuMemRangeGetAttribute(&value, sizeof value, which, p, bytes));
    return value;
}

int main() {
    Gpu gpu = open_gpu(test_name);
    int offered = 0, concurrent = 0;
    CU(cuDeviceGetAttribute(&offered, CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, gpu.device));
    CU(cuDeviceGetAttribute(&concurrent, CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, gpu.device));
    CUdeviceptr p = 0, other = 0;
    if (!offered) {
        CU_IS(cuMemAllocManaged(&p, 4096, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_NOT_SUPPORTED);
        SKIP("the device reports no managed memory, and refuses it");
    }
    CU_IS(cuMemAllocManaged(nullptr, 4096, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemAllocManaged(&p, 0, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemAllocManaged(&p, 4096, 0), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemAllocManaged(&p, 4096, CU_MEM_ATTACH_SINGLE), CUDA_ERROR_INVALID_VALUE);
    // A driver that oversubscribes may give more than there is.
    if (!on_native_driver()) CU_IS(cuMemAllocManaged(&p, size_t(1) << 46, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_OUT_OF_MEMORY);

    const int n = 50000;
    const size_t bytes = n * sizeof(unsigned);
    CU(cuMemAllocManaged(&p, bytes, CU_MEM_ATTACH_GLOBAL));
    CU(cuMemAllocManaged(&other, bytes, CU_MEM_ATTACH_HOST));
    auto *words = reinterpret_cast<unsigned *>(p);
    auto *others = reinterpret_cast<unsigned *>(other);
    for (CUdeviceptr at : {p, p + 4, p + bytes - 4}) {
        auto type = attribute<CUmemorytype>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at);
        REQUIRE(type == CU_MEMORYTYPE_DEVICE, "memory type of a managed address is %d", int(type));
        REQUIRE(attribute<unsigned>(CU_POINTER_ATTRIBUTE_IS_MANAGED, at) == 1, "a managed address is not managed");
        REQUIRE(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_DEVICE_POINTER, at) == at, "the device pointer differs");
        REQUIRE(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_HOST_POINTER, at) == at, "the host pointer differs");
        REQUIRE(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, at) == p, "range start");
        REQUIRE(attribute<size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE, at) == bytes, "range size is %zu", attribute<size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE, at));
    }
    CUdeviceptr base = 0;
    size_t size = 0;
    CU(cuMemGetAddressRange(&base, &size, p + 100));
    REQUIRE(base == p && size == bytes, "address range %#llx, %zu bytes", (unsigned long long)base, size);

    // Host, device, host, device, host.
    CUfunction add_one = gpu.function("add_one", test_name), fill_ramp = gpu.function("fill_ramp", test_name);
    for (int i = 0; i < n; ++i) words[i] = unsigned(i) * 3;
    for (unsigned round = 1; round <= 3; ++round) {
        CU(launch(add_one, nullptr, n, p, n));
        CU(cuCtxSynchronize());
        for (int i = 0; i < n; ++i) REQUIRE(words[i] == unsigned(i) * 3 + round * 2 - 1, "round %u, word %d is %u", round, i, words[i]);
        for (int i = 0; i < n; ++i) words[i] += 1;
    }
    // In a stream, ended by a stream's and by an event's synchronisation.
    CUstream stream;
    CUevent event;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuStreamAttachMemAsync(stream, p, 0, CU_MEM_ATTACH_SINGLE));
    CU(cuStreamSynchronize(stream));
    CU(launch(fill_ramp, stream, n, p, 700u, n));
    CU(cuStreamSynchronize(stream));
    for (int i = 0; i < n; ++i) REQUIRE(words[i] == 700u + unsigned(i), "after a stream's synchronisation word %d is %u", i, words[i]);
    CU(launch(add_one, stream, n, p, n));
    CU(cuEventRecord(event, stream));
    CU(cuEventSynchronize(event));
    for (int i = 0; i < n; ++i) REQUIRE(words[i] == 701u + unsigned(i), "after an event's synchronisation word %d is %u", i, words[i]);
    CU(cuStreamAttachMemAsync(stream, p, bytes, CU_MEM_ATTACH_GLOBAL));
    CU(cuStreamSynchronize(stream));
    REQUIRE(cuStreamAttachMemAsync(nullptr, p, 0, CU_MEM_ATTACH_SINGLE) != CUDA_SUCCESS, "attached singly to the NULL stream");
    if (!on_native_driver()) {
        CU_IS(cuStreamAttachMemAsync(stream, p, 4096, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_INVALID_VALUE);
        CU_IS(cuStreamAttachMemAsync(stream, p, 0, 3), CUDA_ERROR_INVALID_VALUE);
    }

    // Copies and fills with managed, device and pageable ends.
    std::vector<unsigned> own(n, 5u);
    CUdeviceptr device;
    CU(cuMemAlloc(&device, bytes));
    CU(cuMemcpyHtoD(p, own.data(), bytes));
    CU(cuCtxSynchronize());
    REQUIRE(words[0] == 5 && words[n - 1] == 5, "copied in: %u, %u", words[0], words[n - 1]);
    CU(cuMemcpyDtoD(device, p, bytes));
    CU(launch(add_one, nullptr, n, device, n));
    CU(cuStreamAttachMemAsync(nullptr, other, 0, CU_MEM_ATTACH_GLOBAL));
    CU(cuMemcpy(other, device, bytes));
    CU(cuCtxSynchronize());
    for (int i = 0; i < n; ++i) REQUIRE(others[i] == 6, "copied from the device: word %d is %u", i, others[i]);
    CU(cuMemsetD32(p, 0xabcdef01, n));
    CU(cuMemcpyDtoH(own.data(), p, bytes));
    for (int i = 0; i < n; ++i) REQUIRE(own[i] == 0xabcdef01 && words[i] == own[i], "filled: word %d is %#x here and %#x there", i, words[i], own[i]);

    // Advice is told again, for just the range it was given for.
    const CUmemLocation host = {CU_MEM_LOCATION_TYPE_HOST, 0}, on_device = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    REQUIRE(range_attribute(CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, p, bytes) == 0, "mostly read from the start");
    CU(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, on_device));
    REQUIRE(range_attribute(CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, p, bytes) == 1, "not mostly read after the advice");
    REQUIRE(range_attribute(CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, other, bytes) == 0, "the advice reached another allocation");
    CU(cuMemAdvise(p, bytes, CU_MEM_ADVISE_UNSET_READ_MOSTLY, on_device));
    REQUIRE(range_attribute(CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, p, bytes) == 0, "still mostly read");
    CU(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, host));
    int preferred = range_attribute(CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, p, bytes);
    REQUIRE(preferred == CU_DEVICE_CPU, "preferred location %d", preferred);
    CU(cuMemAdvise(p, bytes, CU_MEM_ADVISE_UNSET_PREFERRED_LOCATION, host));
    preferred = range_attribute(CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, p, bytes);
    REQUIRE(preferred == CU_DEVICE_INVALID, "preferred location %d after it was unset", preferred);
    int by[3] = {7, 7, 7};
    CU(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, host));
    CU(cuMemRangeGetAttribute(by, sizeof by, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, p, bytes));
    REQUIRE(by[0] == CU_DEVICE_CPU && by[1] == CU_DEVICE_INVALID && by[2] == CU_DEVICE_INVALID, "accessed by %d, %d, %d", by[0], by[1], by[2]);
    if (concurrent) {
        CU(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, on_device));
        CU(cuMemPrefetchAsync(p, bytes, on_device, 0, stream));
        CU(cuStreamSynchronize(stream));
    } else {
        CU_IS(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_PREFERRED_LOCATION, on_device), CUDA_ERROR_INVALID_DEVICE);
        CU_IS(cuMemAdvise(p, bytes, CU_MEM_ADVISE_SET_ACCESSED_BY, on_device), CUDA_ERROR_INVALID_DEVICE);
        CU_IS(cuMemPrefetchAsync(p, bytes, on_device, 0, stream), CUDA_ERROR_INVALID_DEVICE);
        int last = range_attribute(CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION, p, bytes);
        REQUIRE(last == CU_DEVICE_INVALID, "last prefetched to %d", last);
    }
    int mostly = 9, where = 9;
    void *data[] = {&mostly, &where};
    size_t sizes[] = {4, 4};
    CUmem_range_attribute which[] = {CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, CU_MEM_RANGE_ATTRIBUTE_LAST_PREFETCH_LOCATION};
    CU(cuMemRangeGetAttributes(data, sizes, which, 2, p, bytes));
    REQUIRE(mostly == 0 && where == (concurrent ? 0 : CU_DEVICE_INVALID), "in the plural: %d, %d", mostly, where);
    CU_IS(cuMemRangeGetAttribute(&mostly, 8, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, p, bytes), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemAdvise(device, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, host), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemAdvise(p, 0, CU_MEM_ADVISE_SET_READ_MOSTLY, host), CUDA_ERROR_INVALID_VALUE);

    // The end of an allocation, and its address in another life.
    CU(launch(add_one, nullptr, n, p, n));
    CU(cuMemFree(p));
    unsigned managed = 9;
    CU_IS(cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, p), CUDA_ERROR_INVALID_VALUE);
    if (!on_native_driver()) {
        CU_IS(cuMemFree(p), CUDA_ERROR_INVALID_VALUE);
        CU_IS(cuMemFreeHost(others), CUDA_ERROR_INVALID_VALUE);
        CU_IS(cuMemFreeAsync(other, stream), CUDA_ERROR_INVALID_VALUE);
        REQUIRE(others[0] == 6, "a refused free spoiled the memory");
    }
    for (int round = 0; round < 50; ++round) {
        CU(cuMemAllocManaged(&p, bytes, CU_MEM_ATTACH_GLOBAL));
        REQUIRE(range_attribute(CU_MEM_RANGE_ATTRIBUTE_PREFERRED_LOCATION, p, bytes) == CU_DEVICE_INVALID, "new memory has advice");
        reinterpret_cast<unsigned *>(p)[n - 1] = unsigned(round);
        CU(cuMemFree(p));
    }
    CU(cuMemFree(other));
    CU(cuMemFree(device));
    CU(cuEventDestroy(event));
    CU(cuStreamDestroy(stream));
    CU(cuModuleUnload(gpu.module));
    CU(cuDevicePrimaryCtxRelease(gpu.device));
    return PASS();
}
