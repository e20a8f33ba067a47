// Many pinned buffers and device allocations do not use up the process's mappings (vm.max_map_count is 65,530 for the
// whole process), and running out of pinned memory is an error, not a crash.
// rules: 15
#include <fstream>
#include <string>

#include "../common/driver.h"

TEST("mappings");

static size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    size_t lines = 0;
    for (std::string line; std::getline(maps, line);) ++lines;
    return lines;
}

int main() {
    open_gpu(test_name);
    CUdeviceptr first;
    CU(cuMemAlloc(&first, 4096));
    const size_t before = mappings();
    std::vector<void *> pinned(1500);
    std::vector<CUdeviceptr> device(1500);
    for (size_t i = 0; i < pinned.size(); ++i) {
        CU(cuMemAllocHost(&pinned[i], 40000));
        CU(cuMemAlloc(&device[i], 20000));
        std::memset(pinned[i], int(i), 40000);
    }
    const size_t during = mappings();
    if (!on_native_driver()) REQUIRE(during < before + 500, "3000 allocations made %zu mappings", during - before);
    for (size_t i = 0; i < pinned.size(); ++i) {
        REQUIRE(static_cast<unsigned char *>(pinned[i])[39999] == static_cast<unsigned char>(i), "pinned buffer %zu was overwritten", i);
        CU(cuMemFreeHost(pinned[i]));
        CU(cuMemFree(device[i]));
    }
    void *huge = nullptr;
    CU_IS(cuMemAllocHost(&huge, size_t(1) << 46), CUDA_ERROR_OUT_OF_MEMORY);
    CU(cuMemAllocHost(&huge, 1 << 20));
    std::memset(huge, 1, 1 << 20);
    CU(cuMemFreeHost(huge));
    return PASS();
}
