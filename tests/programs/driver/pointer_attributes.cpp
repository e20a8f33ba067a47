// What the driver says about addresses: device, pinned and foreign ones, at their start, inside and past their end.
// rules: 14 18
#include <sys/mman.h>

#include "../common/driver.h"

TEST("pointer_attributes");

template <typename T>
static T attribute(CUpointer_attribute which, CUdeviceptr p) {
    T value{};
    CU(cuPointerGetAttribute(&value, which, p));
    return value;
}

// A module with a variable that nobody asks the driver for by name: its address comes from the device.
static const char hidden_ptx[] = R"(.version 7.0
.target sm_75
.address_size 64
.global .align 16 .b8 hidden[4096];
.visible .entry where(.param .u64 out)
{
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    mov.u64 %rd2, hidden;
    cvta.global.u64 %rd3, %rd2;
    cvta.to.global.u64 %rd1, %rd1;
    st.global.u64 [%rd1], %rd3;
    ret;
}
)";

static void of_a_hidden_variable(const Gpu &gpu) {
    CUmodule module;
    CUfunction where;
    CUdeviceptr out, hidden = 0;
    CU(cuModuleLoadData(&module, hidden_ptx));
    CU(cuModuleGetFunction(&where, module, "where"));
    CU(cuMemAlloc(&out, 8));
    CU(launch(where, nullptr, 1, out));
    CU(cuMemcpyDtoH(&hidden, out, 8));
    for (CUdeviceptr p : {hidden, hidden + 4095}) {
        REQUIRE(attribute<CUmemorytype>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p) == CU_MEMORYTYPE_DEVICE, "memory type of a hidden variable");
        REQUIRE(attribute<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT, p) == gpu.context, "context of a hidden variable");
        REQUIRE(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_DEVICE_POINTER, p) == p, "device pointer of a hidden variable");
    }
    CU(cuMemFree(out));
    CU(cuModuleUnload(module));
}

int main() {
    Gpu gpu = open_gpu(test_name);
    const size_t size = 100000;
    CUdeviceptr device;
    void *pinned;
    CU(cuMemAlloc(&device, size));
    CU(cuMemHostAlloc(&pinned, size, CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_PORTABLE));
    CUdeviceptr host = CUdeviceptr(pinned);
    for (CUdeviceptr p : {device, device + 1, device + size - 1}) {
        REQUIRE(attribute<CUmemorytype>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p) == CU_MEMORYTYPE_DEVICE, "memory type of a device address");
        REQUIRE(attribute<CUcontext>(CU_POINTER_ATTRIBUTE_CONTEXT, p) == gpu.context, "context of a device address");
        REQUIRE(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_DEVICE_POINTER, p) == p, "device pointer of a device address");
        REQUIRE(attribute<unsigned>(CU_POINTER_ATTRIBUTE_IS_MANAGED, p) == 0, "cuMemAlloc memory is managed");
        REQUIRE(attribute<int>(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, p) == 0, "ordinal of a device address");
        REQUIRE(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, p) == device, "range start");
        REQUIRE(attribute<size_t>(CU_POINTER_ATTRIBUTE_RANGE_SIZE, p) == size, "range size");
        void *none;
        CU_IS(cuPointerGetAttribute(&none, CU_POINTER_ATTRIBUTE_HOST_POINTER, p), CUDA_ERROR_INVALID_VALUE);
    }
    for (size_t offset : {size_t(0), size_t(4097), size - 1}) {
        CUdeviceptr p = host + offset;
        REQUIRE(attribute<CUmemorytype>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p) == CU_MEMORYTYPE_HOST, "memory type of a pinned address");
        REQUIRE(attribute<void *>(CU_POINTER_ATTRIBUTE_HOST_POINTER, p) == static_cast<char *>(pinned) + offset, "host pointer");
        REQUIRE(attribute<CUdeviceptr>(CU_POINTER_ATTRIBUTE_DEVICE_POINTER, p) == p, "the device address of pinned memory is its host address");
    }
    CUdeviceptr mapped;
    CU(cuMemHostGetDevicePointer(&mapped, pinned, 0));
    REQUIRE(mapped == host, "cuMemHostGetDevicePointer");
    unsigned flags = 0;
    CU(cuMemHostGetFlags(&flags, pinned));
    REQUIRE((flags & CU_MEMHOSTALLOC_DEVICEMAP) && (flags & CU_MEMHOSTALLOC_PORTABLE), "pinned flags %#x", flags);

    // Buffer ids tell allocations apart, also at a reused address.
    CUdeviceptr again;
    auto first_id = attribute<unsigned long long>(CU_POINTER_ATTRIBUTE_BUFFER_ID, device);
    CU(cuMemAlloc(&again, size));
    REQUIRE(attribute<unsigned long long>(CU_POINTER_ATTRIBUTE_BUFFER_ID, again) != first_id, "two buffers share an id");
    CU(cuMemFree(again));

    // Foreign addresses: refused one by one, answered with nothing in the plural form.
    int stack = 0;
    void *map = mmap(nullptr, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (CUdeviceptr foreign : {CUdeviceptr(&stack), CUdeviceptr(map), CUdeviceptr(0), CUdeviceptr(0x1234)}) {
        CUmemorytype type = CUmemorytype(0);
        CU_IS(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, foreign), CUDA_ERROR_INVALID_VALUE);
        CUcontext context = gpu.context;
        CUdeviceptr device_pointer = 1;
        unsigned kind = 77, managed = 77;
        CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_CONTEXT, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, CU_POINTER_ATTRIBUTE_IS_MANAGED};
        void *out[] = {&context, &kind, &device_pointer, &managed};
        CU(cuPointerGetAttributes(4, which, out, foreign));
        REQUIRE(context == nullptr && kind == 0 && device_pointer == 0 && managed == 0, "a foreign address has attributes: type %u", kind);
    }
    // The plural form on a device address gives what the singular one gives.
    CUcontext context = nullptr;
    CUmemorytype kind = CUmemorytype(0);
    int ordinal = -9;
    CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_CONTEXT, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    void *out[] = {&context, &kind, &ordinal};
    CU(cuPointerGetAttributes(3, which, out, device + 17));
    REQUIRE(context == gpu.context && kind == CU_MEMORYTYPE_DEVICE && ordinal == 0, "the plural form differs");

    of_a_hidden_variable(gpu);

    // Freed addresses are foreign from then on.
    CU(cuMemFree(device));
    CU(cuMemFreeHost(pinned));
    CUmemorytype type;
    CU_IS(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, host), CUDA_ERROR_INVALID_VALUE);

    // No address the program can map by itself lies inside device memory.
    std::vector<CUdeviceptr> blocks(20);
    for (auto &p : blocks) CU(cuMemAlloc(&p, 4 << 20));
    std::vector<char *> own;
    for (int i = 0; i < 200; ++i) own.push_back(static_cast<char *>(mmap(nullptr, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)));
    for (char *mine : own)
        for (CUdeviceptr p : blocks)
            REQUIRE(CUdeviceptr(mine) + (2 << 20) <= p || p + (4 << 20) <= CUdeviceptr(mine), "mmap returned device address %p", mine);
    return PASS();
}
