// Host functions and stream callbacks: they run in stream order, see what was copied before them, hold the stream while
// they run, and may not call CUDA.
// variants: 13-static 12-shared 11-shared
// rules: 1 24
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "../common/runtime.h"

TEST("host_callbacks");

__global__ void chain(unsigned *data, unsigned value) { *data = *data * 3u + value; }

struct Log {
    std::vector<int> order;
    unsigned *pinned;
    std::vector<unsigned> seen;
    cudaError_t inside = cudaSuccess;
    cudaError_t inside_launch = cudaSuccess;
    std::atomic<int> stage{0};
};

struct Step {
    Log *log;
    int number;
};

static void host_function(void *user) {
    auto *step = static_cast<Step *>(user);
    step->log->order.push_back(step->number);
    step->log->seen.push_back(*step->log->pinned);
}

static void stream_callback(cudaStream_t, cudaError_t status, void *user) {
    auto *step = static_cast<Step *>(user);
    step->log->order.push_back(status == cudaSuccess ? step->number : -1);
    step->log->seen.push_back(*step->log->pinned);
}

static void calls_cuda(void *user) {
    auto *log = static_cast<Log *>(user);
    void *p = nullptr;
    log->inside = cudaMalloc(&p, 16);
    log->inside_launch = cudaStreamSynchronize(cudaStreamLegacy);
}

static void slow_store(void *user) {
    auto *log = static_cast<Log *>(user);
    log->stage.store(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    // The copy enqueued after this function reads the value: the stream must have waited.
    *log->pinned = 777u;
    log->stage.store(2);
}

int main() {
    Log log;
    unsigned *device;
    cudaStream_t stream;
    RT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RT(cudaMalloc(&device, sizeof(unsigned)));
    RT(cudaMallocHost(&log.pinned, sizeof(unsigned)));
    RT(cudaMemsetAsync(device, 0, sizeof(unsigned), stream));
    const int steps = 50;
    std::vector<Step> step(steps);
    for (int i = 0; i < steps; ++i) {
        step[i] = {&log, i};
        chain<<<1, 1, 0, stream>>>(device, unsigned(i));
        RT(cudaMemcpyAsync(log.pinned, device, sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
        if (i % 2 == 0)
            RT(cudaLaunchHostFunc(stream, host_function, &step[i]));
        else
            RT(cudaStreamAddCallback(stream, stream_callback, &step[i], 0));
    }
    RT(cudaStreamSynchronize(stream));
    REQUIRE(log.order.size() == steps, "%zu callbacks ran, not %d", log.order.size(), steps);
    unsigned want = 0;
    for (int i = 0; i < steps; ++i) {
        want = want * 3u + unsigned(i);
        REQUIRE(log.order[i] == i, "callback %d ran in place %d", log.order[i], i);
        REQUIRE(log.seen[i] == want, "callback %d saw %u, not %u", i, log.seen[i], want);
    }

    *log.pinned = 1u;
    RT(cudaLaunchHostFunc(stream, slow_store, &log));
    RT(cudaMemcpyAsync(device, log.pinned, sizeof(unsigned), cudaMemcpyHostToDevice, stream));
    // Once the function is seen running, the stream cannot be idle.
    while (log.stage.load() == 0) std::this_thread::yield();
    cudaError_t query = cudaStreamQuery(stream);
    if (log.stage.load() == 1) REQUIRE(query == cudaErrorNotReady, "a stream inside a host function reads %d", int(query));
    (void)cudaGetLastError();
    RT(cudaStreamSynchronize(stream));
    REQUIRE(log.stage.load() == 2, "the synchronisation did not wait for the host function");
    unsigned value = 0;
    RT(cudaMemcpy(&value, device, sizeof value, cudaMemcpyDeviceToHost));
    REQUIRE(value == 777u, "the copy after the host function read %u", value);

    RT(cudaLaunchHostFunc(stream, calls_cuda, &log));
    RT(cudaStreamSynchronize(stream));
    REQUIRE(log.inside == cudaErrorNotPermitted, "cudaMalloc inside a host function returned %d", int(log.inside));
    REQUIRE(log.inside_launch == cudaErrorNotPermitted, "a synchronisation inside a host function returned %d", int(log.inside_launch));
    chain<<<1, 1, 0, stream>>>(device, 0u);
    RT(cudaStreamSynchronize(stream));
    return PASS();
}
