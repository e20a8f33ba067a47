// The smallest driver-API program: a kernel from PTX text, then the same from a fatbin and from a library.
// rules: 9 10
#include "../common/driver.h"

TEST("vector_add_drv");

static void add_and_check(CUfunction add) {
    const int n = 1003;
    std::vector<float> a(n), b(n), c(n, -1.0f);
    for (int i = 0; i < n; ++i) a[i] = float(i), b[i] = float(i) * 0.5f;
    CUdeviceptr da, db, dc;
    const size_t bytes = n * sizeof(float);
    CU(cuMemAlloc(&da, bytes));
    CU(cuMemAlloc(&db, bytes));
    CU(cuMemAlloc(&dc, bytes));
    CU(cuMemcpyHtoD(da, a.data(), bytes));
    CU(cuMemcpyHtoD(db, b.data(), bytes));
    CU(launch(add, nullptr, n, da, db, dc, n));
    CU(cuCtxSynchronize());
    CU(cuMemcpyDtoH(c.data(), dc, bytes));
    for (int i = 0; i < n; ++i) REQUIRE(c[i] == a[i] + b[i], "element %d is %g", i, c[i]);
    CU(cuMemFree(da));
    CU(cuMemFree(db));
    CU(cuMemFree(dc));
}

int main() {
    CU(cuInit(0));
    int count = 0, version = 0;
    CU(cuDeviceGetCount(&count));
    REQUIRE(count >= 1, "no device");
    CU(cuDriverGetVersion(&version));
    REQUIRE(version >= 11000, "driver version %d", version);
    CUdevice device;
    CUcontext context;
    char name[128] = {};
    size_t memory = 0;
    CU(cuDeviceGet(&device, 0));
    CU(cuDeviceGetName(name, sizeof name, device));
    CU(cuDeviceTotalMem(&memory, device));
    REQUIRE(name[0] && memory > 0, "name '%s', %zu bytes", name, memory);
    // A buffer too small for the name: cut, and terminated.
    char tiny[4] = {'x', 'x', 'x', 'x'};
    CU(cuDeviceGetName(tiny, 3, device));
    REQUIRE(std::strlen(tiny) <= 2 && tiny[3] == 'x', "a short name buffer was overrun");
    CU(cuDevicePrimaryCtxRetain(&context, device));
    CU(cuCtxSetCurrent(context));

    CUmodule module;
    CUfunction function;
    CU(cuModuleLoadData(&module, kernels_ptx));
    CU(cuModuleGetFunction(&function, module, "vector_add"));
    add_and_check(function);
    CU_IS(cuModuleGetFunction(&function, module, "no_such_kernel"), CUDA_ERROR_NOT_FOUND);
    CU(cuModuleUnload(module));

    CU(cuModuleLoadFatBinary(&module, kernels_fatbin));
    CU(cuModuleGetFunction(&function, module, "vector_add"));
    add_and_check(function);
    CUdeviceptr symbol;
    size_t size;
    unsigned values[8] = {1, 1, 2, 3, 5, 8, 13, 21}, out[16], seen = 0;
    CU(cuModuleGetGlobal(&symbol, &size, module, "table"));
    REQUIRE(size == sizeof values, "the table has %zu bytes", size);
    CU(cuMemcpyHtoD(symbol, values, sizeof values));
    CUfunction use;
    CUdeviceptr result;
    CU(cuModuleGetFunction(&use, module, "use_table"));
    CU(cuMemAlloc(&result, sizeof out));
    CU(launch(use, nullptr, 16, result, 16));
    CU(cuMemcpyDtoH(out, result, sizeof out));
    for (int i = 0; i < 16; ++i) REQUIRE(out[i] == values[i % 8], "element %d is %u", i, out[i]);
    CU(cuModuleGetGlobal(&symbol, nullptr, module, "launches_seen"));
    CU(cuMemcpyDtoH(&seen, symbol, sizeof seen));
    REQUIRE(seen == 8, "the counter is %u, not 8", seen);
    CU_IS(cuModuleGetGlobal(&symbol, &size, module, "no_such_symbol"), CUDA_ERROR_NOT_FOUND);
    CU(cuModuleUnload(module));

    // Broken text is refused with a message in the log buffer.
    char log[512] = {};
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values_of[] = {log, reinterpret_cast<void *>(sizeof log)};
    CUresult broken = cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry k() { bogus.u32 %r1 }", 2, options, values_of);
    REQUIRE(broken == CUDA_ERROR_INVALID_PTX, "broken PTX returned %d", int(broken));
    REQUIRE(log[0] != 0, "broken PTX left no message");
    CU_IS(cuModuleLoadData(&module, "this is neither PTX nor a fatbin"), CUDA_ERROR_INVALID_IMAGE);

    CUlibrary library;
    CUkernel kernel;
    CU(cuLibraryLoadData(&library, kernels_fatbin, nullptr, nullptr, 0, nullptr, nullptr, 0));
    CU(cuLibraryGetKernel(&kernel, library, "vector_add"));
    // A library's kernel may be launched as it is, or through its function in the current context.
    add_and_check(reinterpret_cast<CUfunction>(kernel));
    CU(cuKernelGetFunction(&function, kernel));
    add_and_check(function);
    CU(cuLibraryUnload(library));
    CU(cuDevicePrimaryCtxRelease(device));
    return PASS();
}
