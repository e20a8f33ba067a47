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

// A kernel's printf returns the number of its arguments, not of the characters: 0 without any.
__global__ void without_arguments(int *total) {
    atomicAdd(total, printf("t\n"));
}

__global__ void two_arguments(int *total) {
    atomicAdd(total, printf("%d of %s\n", 2, "two"));
}

int main() {
    cudaStream_t stream;
    cudaEvent_t event;
    int *words, totals[2] = {7, 7};
    RT(cudaStreamCreate(&stream));
    RT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    RT(cudaMalloc(&words, sizeof totals));
    RT(cudaMemset(words, 0, sizeof totals));
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
    // Also where the device is known to be done before anybody waits.
    count<<<1, 1, 0, stream>>>(40);
    RT(cudaEventRecord(event, stream));
    cudaError_t state;
    while ((state = cudaEventQuery(event)) == cudaErrorNotReady) continue;
    RT(state);
    RT(cudaStreamSynchronize(stream));
    std::printf("host: after cudaStreamSynchronize of a stream that is done\n");
    std::fflush(stdout);
    count<<<1, 1, 0, stream>>>(50);
    RT(cudaEventRecord(event, stream));
    while ((state = cudaEventQuery(event)) == cudaErrorNotReady) continue;
    RT(state);
    RT(cudaEventSynchronize(event));
    std::printf("host: after cudaEventSynchronize of an event that is done\n");
    std::fflush(stdout);
    count<<<1, 1>>>(30);
    RT(cudaMemcpy(totals, words, sizeof totals, cudaMemcpyDeviceToHost));
    std::printf("host: after cudaMemcpy\n");
    std::fflush(stdout);
    // Two kernels, for the lines of one's threads come in no particular order.
    without_arguments<<<2, 32>>>(&words[0]);
    two_arguments<<<2, 32>>>(&words[1]);
    RT(cudaMemcpy(totals, words, sizeof totals, cudaMemcpyDeviceToHost));
    REQUIRE(totals[0] == 0, "64 printfs without arguments returned %d in all", totals[0]);
    REQUIRE(totals[1] == 128, "64 printfs with two arguments returned %d in all", totals[1]);
    RT(cudaDeviceSynchronize());
    return PASS();
}
