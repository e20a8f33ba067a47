// Occupancy and function attributes agree with each other, and with what can be launched.
// variants: 13-static 12-shared
// rules: 10 19
#include "../common/runtime.h"

TEST("occupancy");

__global__ void small(unsigned *out) { out[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x; }

__global__ void __launch_bounds__(128) bounded(unsigned *out) {
    __shared__ unsigned tile[1000];
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

static size_t shared_for(int block) { return size_t(block) * 4; }

int main() {
    cudaFuncAttributes a, b;
    RT(cudaFuncGetAttributes(&a, small));
    RT(cudaFuncGetAttributes(&b, bounded));
    REQUIRE(a.maxThreadsPerBlock >= 128 && a.maxThreadsPerBlock <= 1024, "small allows %d threads", a.maxThreadsPerBlock);
    REQUIRE(b.maxThreadsPerBlock == 128, "bounded allows %d threads, not 128", b.maxThreadsPerBlock);
    REQUIRE(b.sharedSizeBytes >= 4000 && b.sharedSizeBytes < 8192, "bounded uses %zu bytes of shared memory", b.sharedSizeBytes);
    REQUIRE(a.numRegs > 0 && a.ptxVersion > 0 && a.binaryVersion > 0, "registers %d, versions %d %d", a.numRegs, a.ptxVersion, a.binaryVersion);
    cudaDeviceProp device;
    RT(cudaGetDeviceProperties(&device, 0));
    REQUIRE(device.warpSize == 32 && device.multiProcessorCount > 0 && device.totalGlobalMem > 0, "properties");
    int blocks = 0, fewer = 0, grid = 0, block = 0;
    RT(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, small, 128, 0));
    REQUIRE(blocks > 0 && blocks * 128 <= device.maxThreadsPerMultiProcessor, "%d blocks of 128", blocks);
    RT(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, small, 128, 40 << 10));
    REQUIRE(fewer >= 1 && fewer <= blocks && size_t(fewer) * (40 << 10) <= device.sharedMemPerMultiprocessor, "%d blocks with 40 KiB", fewer);
    RT(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, small, 2048, 0));
    REQUIRE(fewer == 0, "%d blocks of 2048 threads", fewer);
    RT(cudaOccupancyMaxPotentialBlockSize(&grid, &block, small, 0, 0));
    REQUIRE(grid > 0 && block > 0 && block <= 1024, "suggested %d blocks of %d", grid, block);
    RT(cudaOccupancyMaxPotentialBlockSizeVariableSMem(&grid, &block, small, shared_for, 0));
    REQUIRE(grid > 0 && block > 0, "suggested %d blocks of %d", grid, block);
    unsigned *out, host[128];
    RT(cudaMalloc(&out, 1024 * sizeof(unsigned)));
    bounded<<<1, 128>>>(out);
    RT(cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost));
    for (unsigned i = 0; i < 128; ++i) REQUIRE(host[i] == 127 - i, "element %u is %u", i, host[i]);
    // One thread more than the function allows: refused at once, with the context still usable.
    bounded<<<1, 160>>>(out);
    cudaError_t status = cudaGetLastError();
    REQUIRE(status == cudaErrorInvalidValue || status == cudaErrorLaunchOutOfResources || status == cudaErrorInvalidConfiguration,
            "160 threads on a function bounded by 128: %d", int(status));
    small<<<1, 128>>>(out);
    RT(cudaDeviceSynchronize());
    return PASS();
}
