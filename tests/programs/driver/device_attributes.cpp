// What the device promises it keeps: for each feature with an attribute, either the attribute is zero, or using the
// feature works. Also the whole range of attributes is answered.
// rules: 18
#include "../common/driver.h"

TEST("device_attributes");

static int ask(CUdevice_attribute which) {
    int value = -1;
    CU(cuDeviceGetAttribute(&value, which, 0));
    return value;
}

// A promised feature must not answer NOT_SUPPORTED; an unpromised one must not succeed quietly.
static void agrees(int promised, CUresult status, const char *feature) {
    if (promised)
        REQUIRE(status == CUDA_SUCCESS, "%s is promised, but returns %d (%s)", feature, int(status), error_name(status));
    else
        REQUIRE(status != CUDA_SUCCESS, "%s is not promised, but reports success", feature);
}

int main() {
    Gpu gpu = open_gpu(test_name);
    for (int which = 1; which < CU_DEVICE_ATTRIBUTE_MAX; ++which) {
        int value = -1;
        CUresult status = cuDeviceGetAttribute(&value, CUdevice_attribute(which), gpu.device);
        REQUIRE(status == CUDA_SUCCESS || status == CUDA_ERROR_INVALID_VALUE, "attribute %d returned %d", which, int(status));
        // 96 is retired; numbers above 140 are newer than some drivers.
        if (which <= 95) REQUIRE(status == CUDA_SUCCESS, "attribute %d is refused", which);
    }
    REQUIRE(ask(CU_DEVICE_ATTRIBUTE_WARP_SIZE) == 32, "warp size");
    REQUIRE(ask(CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK) == 1024, "threads per block");
    REQUIRE(ask(CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z) == 64, "block depth");
    REQUIRE(ask(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y) == 65535, "grid height");
    REQUIRE(ask(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING) == 1, "unified addressing");
    REQUIRE(ask(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) >= 1, "multiprocessors");
    REQUIRE(ask(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) >= 7, "compute capability");

    CUdeviceptr p = 0;
    agrees(ask(CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY), cuMemAllocManaged(&p, 4096, CU_MEM_ATTACH_GLOBAL), "managed memory");
    agrees(ask(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), cuMemAllocAsync(&p, 4096, nullptr), "stream-ordered allocation");
    int cooperative = ask(CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH);
    CUdeviceptr word;
    unsigned value = 3, host = 0;
    int n = 1;
    CU(cuMemAlloc(&word, 4));
    void *parameters[] = {&word, &value, &n};
    agrees(cooperative, cuLaunchCooperativeKernel(gpu.function("fill", test_name), 1, 1, 1, 32, 1, 1, 0, nullptr, parameters), "a cooperative launch");
    CU(cuMemcpyDtoH(&host, word, 4));
    if (cooperative) REQUIRE(host == 3, "the cooperative launch stored %u", host);
    if (ask(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)) {
        CUmemAllocationProp properties = {};
        properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}};
        size_t granularity = 0;
        CU(cuMemGetAllocationGranularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
        CUmemGenericAllocationHandle handle;
        CUdeviceptr range;
        CU(cuMemCreate(&handle, granularity, &properties, 0));
        CU(cuMemAddressReserve(&range, granularity * 2, 0, 0, 0));
        CU(cuMemMap(range, granularity, 0, handle, 0));
        CUmemAccessDesc access = {properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
        CU(cuMemSetAccess(range, granularity, &access, 1));
        CU(cuMemsetD32(range, 0x11223344u, 16));
        CU(cuMemcpyDtoH(&host, range + 60, 4));
        REQUIRE(host == 0x11223344u, "mapped memory holds %#x", host);
        CU(cuMemUnmap(range, granularity));
        CU(cuMemRelease(handle));
        CU(cuMemAddressFree(range, granularity * 2));
    }
    if (!on_native_driver()) {
        // Not carried between a guest and its host, so never promised.
        const CUdevice_attribute masked[] = {CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS,
                                             CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES,
                                             CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST,
                                             CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED,
                                             CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED,
                                             CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED};
        for (CUdevice_attribute which : masked) REQUIRE(ask(which) == 0, "attribute %d is %d, not masked", int(which), ask(which));
    }
    CUuuid uuid = {};
    CU(cuDeviceGetUuid(&uuid, gpu.device));
    bool any = false;
    for (char c : uuid.bytes) any = any || c != 0;
    REQUIRE(any, "the UUID is all zeros");
    char bus[32] = {};
    CUdevice found = -1;
    CU(cuDeviceGetPCIBusId(bus, sizeof bus, gpu.device));
    CU(cuDeviceGetByPCIBusId(&found, bus));
    REQUIRE(found == gpu.device, "the bus id %s names device %d", bus, found);
    return PASS();
}
