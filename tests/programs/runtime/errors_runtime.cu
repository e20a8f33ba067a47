// Errors that leave the context usable: bad configuration (also for a kernel launched before), bad handles, bad
// pointers, out of memory. After each of them a correct launch still gives correct numbers.
// variants: 13-static 13-shared 12-shared 11-shared
// rules: 10 11 19
#include <cstdint>

#include "../common/runtime.h"

TEST("errors_runtime");

__global__ void store(unsigned *out, unsigned value) {
    if (threadIdx.x == 0) *out = value;
}

__global__ void shared_user(unsigned *out) {
    extern __shared__ unsigned dynamic[];
    dynamic[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) *out = dynamic[blockDim.x - 1];
}

static unsigned *word;
// What the loaded libcudart makes of the driver's CUDA_ERROR_INVALID_VALUE for an impossible grid or block.
static cudaError_t impossible_shape;

static void still_usable(unsigned value) {
    unsigned host = 0;
    store<<<1, 32>>>(word, value);
    RT(cudaGetLastError());
    RT(cudaMemcpy(&host, word, sizeof host, cudaMemcpyDeviceToHost));
    REQUIRE(host == value, "a correct launch afterwards stored %u, not %u", host, value);
}

#define LAUNCH_FAILS(launch, expected)                                                                  \
    do {                                                                                                \
        launch;                                                                                         \
        cudaError_t now_ = cudaPeekAtLastError();                                                       \
        REQUIRE(now_ == (expected), "%s: %d right after the launch, expected %d", #launch, int(now_), int(expected)); \
        REQUIRE(cudaGetLastError() == (expected), "the last error changed by looking");                 \
        REQUIRE(cudaGetLastError() == cudaSuccess, "the last error is not cleared by reading");         \
    } while (0)

int main() {
    impossible_shape = error_of_an_impossible_shape();
    RT(cudaMalloc(&word, sizeof(unsigned)));
    // The very first launch of a kernel reports its bad configuration at once, not later.
    LAUNCH_FAILS((store<<<1, 2048>>>(word, 1u)), impossible_shape);
    still_usable(1);
    // So does one after a hundred good launches of the same kernel.
    for (int i = 0; i < 100; ++i) store<<<1, 32>>>(word, 2u);
    LAUNCH_FAILS((store<<<1, dim3(1, 1, 128)>>>(word, 1u)), impossible_shape);
    LAUNCH_FAILS((store<<<dim3(1, 70000), 32>>>(word, 1u)), impossible_shape);
    LAUNCH_FAILS((store<<<0, 32>>>(word, 1u)), impossible_shape);
    LAUNCH_FAILS((shared_user<<<1, 32, 1 << 20>>>(word)), cudaErrorInvalidValue);
    still_usable(3);
    // More dynamic shared memory than the default needs the attribute first.
    int limit = 0, device = 0;
    RT(cudaGetDevice(&device));
    RT(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    if (limit > 56 * 1024) {
        LAUNCH_FAILS((shared_user<<<1, 32, 56 * 1024>>>(word)), cudaErrorInvalidValue);
        RT(cudaFuncSetAttribute(reinterpret_cast<const void *>(shared_user), cudaFuncAttributeMaxDynamicSharedMemorySize, 56 * 1024));
        shared_user<<<1, 32, 56 * 1024>>>(word);
        RT(cudaGetLastError());
        unsigned host = 0;
        RT(cudaMemcpy(&host, word, sizeof host, cudaMemcpyDeviceToHost));
        REQUIRE(host == 31, "a kernel with opted-in shared memory stored %u", host);
    }

    void *huge = nullptr;
    RT_IS(cudaMalloc(&huge, size_t(1) << 46), cudaErrorMemoryAllocation);
    still_usable(4);
    RT(cudaMalloc(&huge, 0));
    REQUIRE(huge == nullptr, "an empty allocation is %p", huge);
    RT(cudaFree(nullptr));
    RT_IS(cudaFree(reinterpret_cast<void *>(uintptr_t(0x12340))), cudaErrorInvalidValue);
    RT_IS(cudaEventDestroy(nullptr), cudaErrorInvalidResourceHandle);
    RT_IS(cudaEventQuery(nullptr), cudaErrorInvalidResourceHandle);
    RT_IS(cudaSetDevice(4711), cudaErrorInvalidDevice);
    RT_IS(cudaMemcpy(word, &huge, 8, cudaMemcpyKind(17)), cudaErrorInvalidMemcpyDirection);
    void *freed;
    RT(cudaMalloc(&freed, 64));
    RT(cudaFree(freed));
    RT_IS(cudaFree(freed), cudaErrorInvalidValue);
    cudaEvent_t never;
    float time;
    RT(cudaEventCreate(&never));
    RT_IS(cudaEventElapsedTime(&time, never, never), cudaErrorInvalidResourceHandle);
    still_usable(5);
    REQUIRE(std::strcmp(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress") == 0, "error names");
    REQUIRE(cudaGetErrorString(cudaErrorInvalidValue)[0] != 0, "error strings");
    return PASS();
}
