// printf from kernels: the whole text appears, in order with the host's own, at every kind of synchronisation.
// The harness compares stdout with device_printf.expected.
// variants: 13-static 12-shared
// rules: 6
#include "../common/runtime.h"

TEST("device_printf");

__global__ void say(int round) {
    printf("device %d: %d %u %x %c %s %.3f %5.1e %lld %%\n", round, -7, 7u, 255, 'x', "text", 1.5, 12345.678,
           -1234567890123ll);
}

__global__ void count(int from) {
    for (int i = 0; i < 3; ++i) printf("line %d\n", from + i);
}

__global__ void one_per_thread(int *total) {
    int n = printf("t\n");
    atomicAdd(total, n);
}

int main() {
    cudaStream_t stream;
    cudaEvent_t event;
    int *word, value = 0;
    RT(cudaStreamCreate(&stream));
    RT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    RT(cudaMalloc(&word, sizeof value));
    RT(cudaMemset(word, 0, sizeof value));
    std::printf("host: begin\n");
    std::fflush(stdout);
    say<<<1, 1>>>(1);
    RT(cudaDeviceSynchronize());
    std::printf("host: after cudaDeviceSynchronize\n");
    std::fflush(stdout);
    count<<<1, 1, 0, stream>>>(10);
    RT(cudaStreamSynchronize(stream));
    std::printf("host: after cudaStreamSynchronize\n");
    std::fflush(stdout);
    count<<<1, 1, 0, stream>>>(20);
    RT(cudaEventRecord(event, stream));
    RT(cudaEventSynchronize(event));
    std::printf("host: after cudaEventSynchronize\n");
    std::fflush(stdout);
    count<<<1, 1>>>(30);
    RT(cudaMemcpy(&value, word, sizeof value, cudaMemcpyDeviceToHost));
    std::printf("host: after cudaMemcpy\n");
    std::fflush(stdout);
    one_per_thread<<<2, 32>>>(word);
    RT(cudaMemcpy(&value, word, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value > 0, "printf returned %d in all", value);
    RT(cudaDeviceSynchronize());
    return PASS();
}
