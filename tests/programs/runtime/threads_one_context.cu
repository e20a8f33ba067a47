// Eight threads launch into one context, each on its own stream, some on the shared default stream; the per-thread last
// error stays with its thread.
// variants: 13-static 12-shared
// rules: 1 9 11 13
#include <thread>
#include <vector>

#include "../common/runtime.h"

TEST("threads_one_context");

__global__ void chain(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 3u + value;
}

static void work(unsigned id, int rounds) {
    const int n = 300;
    cudaStream_t stream = 0;
    if (id % 4 != 0) RT(cudaStreamCreate(&stream));
    unsigned *device;
    std::vector<unsigned> out(n);
    RT(cudaMalloc(&device, n * sizeof(unsigned)));
    RT(cudaMemsetAsync(device, 0, n * sizeof(unsigned), stream));
    unsigned want = 0;
    for (int r = 0; r < rounds; ++r) {
        chain<<<3, 128, 0, stream>>>(device, unsigned(r) + id, n);
        want = want * 3u + unsigned(r) + id;
        if (r % 50 == 49) {
            RT(cudaMemcpyAsync(out.data(), device, n * sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
            RT(cudaStreamSynchronize(stream));
            for (int i = 0; i < n; ++i) REQUIRE(out[i] == want, "thread %u round %d: %u, not %u", id, r, out[i], want);
        }
    }
    if (id == 3) {
        // An error of this thread's own making, left in place while the others look for theirs.
        chain<<<1, 4096, 0, stream>>>(device, 0u, n);
        cudaError_t own = cudaPeekAtLastError();
        REQUIRE(own == error_of_an_impossible_shape(), "thread 3 sees %d (%s), not its own error", int(own), cudaGetErrorName(own));
    } else {
        REQUIRE(cudaPeekAtLastError() == cudaSuccess, "thread %u sees an error that is not its own", id);
    }
    RT(cudaStreamSynchronize(stream));
    RT(cudaFree(device));
}

int main(int argc, char **argv) {
    const int rounds = int(200 * scale_argument(argc, argv));
    std::vector<std::thread> threads;
    for (unsigned id = 0; id < 8; ++id) threads.emplace_back(work, id, rounds);
    for (auto &t : threads) t.join();
    RT(cudaDeviceSynchronize());
    return PASS();
}
