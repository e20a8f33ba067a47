// Memory freed in stream order goes back from its pool at the next synchronisation of stream, event or context, unless the
// pool's threshold keeps it.
// rules: 6
#include "../common/driver.h"

TEST("pool_trim");

static CUmemoryPool pool;

static cuuint64_t bytes_of(CUmemPool_attribute attribute) {
    cuuint64_t bytes = 0;
    CU(cuMemPoolGetAttribute(pool, attribute, &bytes));
    return bytes;
}

int main() {
    Gpu gpu = open_gpu(test_name);
    int supported = 0;
    CU(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, gpu.device));
    if (!supported) SKIP("the device has no memory pools");
    CUmemPoolProps properties = {};
    properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = gpu.device;
    CU(cuMemPoolCreate(&pool, &properties));
    CUstream stream;
    CUevent event;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    const size_t size = size_t(64) << 20;

    auto use_and_free = [&] {
        CUdeviceptr memory;
        CU(cuMemAllocFromPoolAsync(&memory, size, pool, stream));
        CU(cuMemsetD8Async(memory, 1, 4096, stream));
        CU(cuMemFreeAsync(memory, stream));
        CU(cuEventRecord(event, stream));
    };
    for (int round = 0; round < 12; ++round) {
        use_and_free();
        REQUIRE(bytes_of(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) >= size, "given back before any synchronisation");
        // Sometimes the stream is known to be idle when it is synchronised, which is no reason to do nothing.
        if (round % 2)
            while (cuStreamQuery(stream) == CUDA_ERROR_NOT_READY) {
            }
        switch (round % 3) {
            case 0: CU(cuStreamSynchronize(stream)); break;
            case 1: CU(cuEventSynchronize(event)); break;
            case 2: CU(cuCtxSynchronize()); break;
        }
        REQUIRE(bytes_of(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) == 0, "round %d: %llu bytes are still reserved", round,
                static_cast<unsigned long long>(bytes_of(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)));
    }

    cuuint64_t keep = size;
    CU(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
    use_and_free();
    CU(cuStreamSynchronize(stream));
    REQUIRE(bytes_of(CU_MEMPOOL_ATTR_USED_MEM_CURRENT) == 0, "something is still in use");
    REQUIRE(bytes_of(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) >= size, "the threshold did not keep the memory");
    CU(cuMemPoolTrimTo(pool, 0));
    REQUIRE(bytes_of(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT) == 0, "cuMemPoolTrimTo left something");
    CU(cuMemPoolDestroy(pool));
    return PASS();
}
