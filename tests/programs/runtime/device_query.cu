// What a program sees of its first device, printed; and that what it was told agrees with itself.
// variants: 13-shared
#include "../common/runtime.h"

TEST("device_query");

int main() {
    int devices = 0, driver = 0, runtime = 0;
    RT(cudaGetDeviceCount(&devices));
    RT(cudaDriverGetVersion(&driver));
    RT(cudaRuntimeGetVersion(&runtime));
    cudaDeviceProp device;
    RT(cudaGetDeviceProperties(&device, 0));
    size_t free = 0, total = 0;
    RT(cudaMemGetInfo(&free, &total));
    std::printf("devices: %d\n", devices);
    std::printf("device name: %s\n", device.name);
    std::printf("device memory: %zu MiB in all, %zu MiB free\n", total >> 20, free >> 20);
    std::printf("compute capability: %d.%d, %d multiprocessors\n", device.major, device.minor, device.multiProcessorCount);
    std::printf("driver API: %d.%d, runtime: %d.%d\n", driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    REQUIRE(device.name[0] != 0, "the device has no name");
    REQUIRE(total == device.totalGlobalMem, "%zu bytes in all, but %zu by the properties", total, device.totalGlobalMem);
    REQUIRE(free > 0 && free <= total, "%zu bytes free of %zu", free, total);
    REQUIRE(driver / 1000 >= runtime / 1000, "the driver API %d is older than the runtime %d", driver, runtime);
    return PASS();
}
