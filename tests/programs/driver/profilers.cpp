// Asking for profilers harms nothing: the driver's own switches do nothing where nobody listens, and the private tables that CUPTI
// and its like ask for are refused.
// rules: 25
#include <dlfcn.h>

#include "../common/driver.h"

TEST("profilers");

int main() {
    Gpu gpu = open_gpu(test_name);
    CUdeviceptr word;
    CU(cuMemAlloc(&word, 64));
    using Switch = CUresult (*)();
    for (const char *name : {"cuProfilerStart", "cuProfilerStop"}) {
        // Deprecated, so not in every version's header.
        auto call = reinterpret_cast<Switch>(dlsym(RTLD_DEFAULT, name));
        REQUIRE(call, "%s is not exported", name);
        CU(call());
    }
    for (unsigned seed = 1; seed <= 16; ++seed) {
        Random random{seed};
        CUuuid id;
        for (char &byte : id.bytes) byte = char(random.next() >> 8);
        const void *table = &table;
        CUresult status = cuGetExportTable(&table, &id);
        REQUIRE(status != CUDA_SUCCESS, "there is a table of an unknown name");
    }
    unsigned host = 0;
    CU(launch(gpu.function("fill", test_name), nullptr, 1, word, 77u, 1));
    CU(cuMemcpyDtoH(&host, word, 4));
    REQUIRE(host == 77, "the kernel stored %u", host);
    CU(cuCtxSynchronize());
    return PASS();
}
