// CUDA_LAUNCH_BLOCKING=1: a launch returns after the kernel has ended, so a fault shows at the launch itself.
// run: CUDA_LAUNCH_BLOCKING=1
// rules: 21 25
#include "../common/runtime.h"

TEST("launch_blocking");

__global__ void slow_store(volatile unsigned *out, unsigned rounds) {
    unsigned x = 1;
    for (unsigned i = 0; i < rounds; ++i) x = x * 1664525u + 1013904223u;
    *out = x | 1u;
}

int main() {
    const char *setting = std::getenv("CUDA_LAUNCH_BLOCKING");
    if (!setting || std::strcmp(setting, "1") != 0) SKIP("needs CUDA_LAUNCH_BLOCKING=1");
    volatile unsigned *word;
    RT(cudaMallocHost(const_cast<unsigned **>(&word), sizeof(unsigned)));
    for (int round = 0; round < 20; ++round) {
        *word = 0;
        slow_store<<<1, 1>>>(word, 50000u);
        REQUIRE(*word != 0, "round %d: the launch returned before the kernel ended", round);
    }
    slow_store<<<1, 1>>>(nullptr, 10u);
    cudaError_t status = cudaGetLastError();
    REQUIRE(status == cudaErrorIllegalAddress, "the faulting launch itself returned %d", int(status));
    return PASS();
}
