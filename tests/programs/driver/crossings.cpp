// Which calls cross to the worker and which wait there, by the library's own count (VGPU_STATS), which a child of this program
// prints at its end. Where the library counts nothing (NVIDIA's own), only the results are checked.
// rules: 4 9
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "../common/driver.h"

TEST("crossings");

static const int rounds = 200;

struct Setup {
    Gpu gpu;
    CUstream stream = nullptr, other = nullptr;
    CUevent event = nullptr;
    CUfunction chain = nullptr;
    CUdeviceptr words = 0;
    unsigned *host = nullptr;
};

static Setup set_up() {
    Setup s;
    s.gpu = open_gpu(test_name);
    s.chain = s.gpu.function("chain", test_name);
    CU(cuStreamCreate(&s.stream, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&s.other, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&s.event, CU_EVENT_DISABLE_TIMING));
    CU(cuMemAlloc(&s.words, 4096));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&s.host), 4096));
    CU(cuMemsetD8(s.words, 0, 4096));
    CU(cuStreamSynchronize(nullptr));
    return s;
}

template <typename Query>
static CUresult polled(Query query) {
    CUresult status;
    while ((status = query()) == CUDA_ERROR_NOT_READY) std::this_thread::yield();
    return status;
}

// An event on a stream with nothing to do is done as it is recorded, however often, and the stream stays idle.
static int idle_events() {
    Setup s = set_up();
    for (int i = 0; i < rounds; ++i) {
        CU(cuEventRecord(s.event, s.stream));
        CU(cuEventSynchronize(s.event));
        CU(cuEventRecordWithFlags(s.event, s.stream, 0));
        CU(polled([&] { return cuEventQuery(s.event); }));
        CU(polled([&] { return cuStreamQuery(s.stream); }));
        CU(cuStreamSynchronize(s.stream));
    }
    // What comes behind such a record is waited for as ever.
    unsigned want = 0;
    for (unsigned i = 0; i < 50; ++i) {
        CU(cuEventRecord(s.event, s.stream));
        CU(launch(s.chain, s.stream, 1, s.words, i, 1));
        CU(cuMemcpyDtoHAsync(s.host, s.words, 4, s.stream));
        want = want * 3u + i;
        if (i % 2) {
            CU(cuEventRecord(s.event, s.stream));
            CU(cuEventSynchronize(s.event));
        } else {
            CU(cuCtxSynchronize());
        }
        REQUIRE(s.host[0] == want, "step %u gave %u, not %u", i, s.host[0], want);
    }
    return 0;
}

// Events that come and go: making one is a question, destroying one is not, and a handle that is gone is gone at once.
static int short_lived_events() {
    Setup s = set_up();
    for (unsigned i = 0; i < rounds; ++i) {
        CUevent event;
        CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
        CU(launch(s.chain, s.stream, 1, s.words, i, 1));
        CU(cuEventRecord(event, s.stream));
        CU(cuStreamWaitEvent(s.other, event, 0));
        CU(cuEventDestroy(event));
        if (on_native_driver()) continue;
        CU_IS(cuEventQuery(event), CUDA_ERROR_INVALID_HANDLE);
        CU_IS(cuEventDestroy(event), CUDA_ERROR_INVALID_HANDLE);
    }
    CU(cuStreamSynchronize(s.other));
    CU(cuStreamSynchronize(s.stream));
    return 0;
}

// Memory of two sizes freed on a stream and allocated there again.
static int pooled() {
    Setup s = set_up();
    int supported = 0;
    CU(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, s.gpu.device));
    if (!supported) return 0;
    for (unsigned i = 0; i < rounds; ++i) {
        CUdeviceptr memory;
        CU(cuMemAllocAsync(&memory, size_t(1 + i % 2) << 20, s.stream));
        CU(cuMemsetD32Async(memory, i, 1, s.stream));
        CU(cuMemcpyDtoDAsync(s.words + 4 * i, memory, 4, s.stream));
        CU(cuMemFreeAsync(memory, s.stream));
    }
    CU(cuMemcpyDtoHAsync(s.host, s.words, 4 * rounds, s.stream));
    CU(cuStreamSynchronize(s.stream));
    for (unsigned i = 0; i < rounds; ++i) REQUIRE(s.host[i] == i, "round %u left %u", i, s.host[i]);
    return 0;
}

// One token of a language model: inputs, kernels of their own, a graph, the result.
static int tokens() {
    Setup s = set_up();
    CUgraph graph;
    CUgraphExec exec;
    CU(cuStreamBeginCapture(s.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (unsigned i = 0; i < 3; ++i) CU(launch(s.chain, s.stream, 1, s.words, i, 1));
    CU(cuStreamEndCapture(s.stream, &graph));
    CU(cuGraphInstantiate(&exec, graph, 0));
    unsigned want = 0;
    for (unsigned token = 0; token < rounds; ++token) {
        CUdevice device;
        CU(cuCtxGetDevice(&device));
        s.host[8] = token;
        CU(cuMemcpyHtoDAsync(s.words + 64, s.host + 8, 4, s.stream));
        for (unsigned i = 0; i < 5; ++i) {
            CU(launch(s.chain, s.stream, 1, s.words, token + i, 1));
            want = want * 3u + token + i;
        }
        CU(cuGraphLaunch(exec, s.stream));
        for (unsigned i = 0; i < 3; ++i) want = want * 3u + i;
        CU(cuMemcpyDtoHAsync(s.host, s.words, 4, s.stream));
        CU(cuStreamSynchronize(s.stream));
        REQUIRE(s.host[0] == want, "token %u gave %u, not %u", token, s.host[0], want);
    }
    return 0;
}

// One step of a training loop: a batch from pageable memory, kernels on two streams tied by events, what frameworks ask about
// streams, pointers and kernels in between, and the loss.
static int training() {
    Setup s = set_up();
    CUevent back;
    CU(cuEventCreate(&back, CU_EVENT_DISABLE_TIMING));
    std::vector<unsigned> batch(512);
    unsigned want = 0, loss = 0;
    for (unsigned step = 0; step < rounds; ++step) {
        batch[0] = step;
        CU(cuMemcpyHtoDAsync(s.words + 2048, batch.data(), 2048, s.stream));
        CU(cuMemsetD8Async(s.words + 1024, 0, 512, s.stream));
        for (unsigned i = 0; i < 10; ++i) {
            CUcontext current;
            CUstreamCaptureStatus status;
            CUmemorytype kind;
            int number;
            CU(cuCtxGetCurrent(&current));
            CU(cuStreamIsCapturing(s.stream, &status));
            CU(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, s.words));
            CU(cuFuncGetAttribute(&number, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, s.chain));
            CU(cuOccupancyMaxActiveBlocksPerMultiprocessor(&number, s.chain, 128, 0));
            CU(launch(s.chain, s.stream, 1, s.words, step + i, 1));
            want = want * 3u + step + i;
        }
        CU(cuEventRecord(s.event, s.stream));
        CU(cuStreamWaitEvent(s.other, s.event, 0));
        CU(launch(s.chain, s.other, 1, s.words, 1u, 1));
        want = want * 3u + 1;
        CU(cuEventRecord(back, s.other));
        CU(cuStreamWaitEvent(s.stream, back, 0));
        CU(cuMemcpyDtoHAsync(&loss, s.words, 4, s.stream));
        CU(cuStreamSynchronize(s.stream));
        REQUIRE(loss == want, "step %u gave %u, not %u", step, loss, want);
    }
    return 0;
}

struct Row {
    long calls = 0, crossed = 0, waited = 0;
};

// Runs this program as `crossings WHAT` with counting on, and reads what it says at its end.
static std::string counted(const char *what) {
    int ends[2];
    REQUIRE(pipe(ends) == 0, "no pipe");
    pid_t child = fork();
    REQUIRE(child >= 0, "no child");
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        setenv("VGPU_STATS", "1", 1);
        unsetenv("VGPU_LOG");
        execl("/proc/self/exe", test_name, what, nullptr);
        _exit(9);
    }
    close(ends[1]);
    std::string said;
    char part[4096];
    for (ssize_t got; (got = read(ends[0], part, sizeof part)) > 0;) said.append(part, size_t(got));
    close(ends[0]);
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child && status == 0, "the child '%s' ended with %#x: %s", what, status, said.c_str());
    return said;
}

static Row row(const std::string &said, const char *function) {
    Row row;
    std::string name = std::string(function) + " ";
    size_t at = said.find(name);
    REQUIRE(at != std::string::npos, "nothing is said of %s: %s", function, said.c_str());
    REQUIRE(std::sscanf(said.c_str() + at + name.size(), "%ld %ld %ld", &row.calls, &row.crossed, &row.waited) == 3, "the row of %s is not understood: %s",
            function, said.c_str());
    return row;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        std::string what = argv[1];
        return what == "idle"     ? idle_events()
               : what == "events" ? short_lived_events()
               : what == "tokens" ? tokens()
               : what == "steps"  ? training()
                                  : pooled();
    }
    std::string idle = counted("idle"), events = counted("events"), memory = counted("memory"), token = counted("tokens"), step = counted("steps");
    if (on_native_driver()) return PASS();

    // Records of an idle stream cross, nothing waits. Every 128th command has the device write the stream's word, and is waited
    // for by who asks next, perhaps again and again; so are the waits of the loop behind, 50 at most.
    for (const char *function : {"cuEventSynchronize", "cuStreamSynchronize", "cuEventQuery", "cuStreamQuery"}) {
        Row asked = row(idle, function);
        long again = asked.calls - rounds;
        std::printf("%-45s %5ld calls, %5ld crossed, %5ld waited\n", function, asked.calls, asked.crossed, asked.waited);
        REQUIRE(asked.waited <= 50 + rounds / 16 + again, "%s waited %ld times in %ld", function, asked.waited, asked.calls);
    }
    // The children's second destructions are refused here.
    Row destroyed = row(events, "cuEventDestroy_v2");
    REQUIRE(destroyed.crossed == rounds && destroyed.waited == 0, "destroying %d events crossed %ld times and waited %ld times", rounds, destroyed.crossed,
            destroyed.waited);
    if (memory.find("cuMemAllocAsync ") != std::string::npos) {
        Row allocated = row(memory, "cuMemAllocAsync"), freed = row(memory, "cuMemFreeAsync");
        REQUIRE(allocated.calls == rounds && allocated.crossed == 2 && allocated.waited == 2, "%ld allocations crossed %ld times and waited %ld times",
                allocated.calls, allocated.crossed, allocated.waited);
        // Every 128th command has the word written.
        REQUIRE(freed.crossed <= rounds / 32 && freed.waited == 0, "%ld of %ld frees crossed, %ld waited", freed.crossed, freed.calls, freed.waited);
    }

    // Waits: the one for the result, and what is learnt once: the first launch of a signature, a kernel's figures, commands of
    // the capture. A full stream makes its commands wait, too, which these are too few for.
    struct {
        const std::string &said;
        const char *function;
        long most;
    } bounds[] = {
        {token, "cuMemcpyHtoDAsync_v2", 0},  {token, "cuLaunchKernel", 4},       {token, "cuGraphLaunch", 1},         {token, "cuMemcpyDtoHAsync_v2", 0},
        {token, "cuStreamSynchronize", rounds + 1}, {token, "cuCtxGetDevice", 0},       {step, "cuMemcpyHtoDAsync_v2", 0},   {step, "cuMemsetD8Async", 0},
        {step, "cuLaunchKernel", 2},         {step, "cuEventRecord", 0},         {step, "cuStreamWaitEvent", 0},      {step, "cuMemcpyDtoHAsync_v2", rounds},
        {step, "cuStreamSynchronize", 1},    {step, "cuCtxGetCurrent", 0},       {step, "cuStreamIsCapturing", 0},    {step, "cuPointerGetAttribute", 0},
        {step, "cuFuncGetAttribute", 1},     {step, "cuOccupancyMaxActiveBlocksPerMultiprocessor", 1},
    };
    for (const auto &bound : bounds) {
        Row seen = row(bound.said, bound.function);
        std::printf("%-45s %5ld calls, %5ld crossed, %5ld waited\n", bound.function, seen.calls, seen.crossed, seen.waited);
        REQUIRE(seen.waited <= bound.most, "%s waited %ld times in %ld calls", bound.function, seen.waited, seen.calls);
    }
    return PASS();
}
