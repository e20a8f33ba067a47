// fork: a child of a process that has not touched CUDA gets a working GPU; a child of one that has gets NOT_INITIALIZED
// everywhere, promptly, and leaves its parent alone. exec in a child starts afresh.
// rules: 20
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "../common/driver.h"

TEST("fork_drv");

static void use_gpu(const char *who) {
    Gpu gpu = open_gpu(test_name);
    CUdeviceptr words;
    unsigned host[100];
    CU(cuMemAlloc(&words, sizeof host));
    CU(launch(gpu.function("fill_ramp", test_name), nullptr, 100, words, 40u, 100));
    CU(cuMemcpyDtoH(host, words, sizeof host));
    for (unsigned i = 0; i < 100; ++i) REQUIRE(host[i] == 40 + i, "%s: element %u is %u", who, i, host[i]);
    CU(cuMemFree(words));
}

static void join_child(pid_t child, const char *what) {
    int status = 0;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child, "waitpid failed");
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: the child ended with status %#x", what, unsigned(status));
}

int main(int argc, char **argv) {
    if (argc > 1 && std::strcmp(argv[1], "fresh") == 0) {
        use_gpu("an executed child");
        return 0;
    }
    // Even loading names and asking the version must not tie the library to this process.
    int version = 0;
    CU(cuDriverGetVersion(&version));
    pid_t before = fork();
    if (before == 0) {
        use_gpu("a child forked before cuInit");
        std::_Exit(0);
    }
    join_child(before, "fork before cuInit");
    use_gpu("the parent");

    // Threads keep the channel busy while the process forks.
    std::atomic<bool> stop{false};
    CUcontext context;
    CU(cuCtxGetCurrent(&context));
    std::thread busy([&] {
        CU(cuCtxSetCurrent(context));
        CUdeviceptr word;
        CU(cuMemAlloc(&word, 4));
        unsigned i = 0, host = 0;
        while (!stop.load()) {
            CU(cuMemsetD32(word, ++i, 1));
            CU(cuMemcpyDtoH(&host, word, 4));
            REQUIRE(host == i, "the busy thread read %u, not %u", host, i);
        }
    });
    for (int round = 0; round < 5; ++round) {
        pid_t after = fork();
        if (after == 0) {
            int count = 0;
            CUdeviceptr p;
            CUdevice device;
            CU_IS(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
            CU_IS(cuDeviceGet(&device, 0), CUDA_ERROR_NOT_INITIALIZED);
            CU_IS(cuMemAlloc(&p, 16), CUDA_ERROR_NOT_INITIALIZED);
            CU_IS(cuCtxSynchronize(), CUDA_ERROR_NOT_INITIALIZED);
            CU_IS(cuStreamSynchronize(nullptr), CUDA_ERROR_NOT_INITIALIZED);
            CU_IS(cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
            std::_Exit(0);
        }
        join_child(after, "fork after cuInit");
    }
    stop.store(true);
    busy.join();
    pid_t fresh = fork();
    if (fresh == 0) {
        execl("/proc/self/exe", argv[0], "fresh", static_cast<char *>(nullptr));
        std::_Exit(99);
    }
    join_child(fresh, "exec");
    // The parent is unharmed by its children's exits.
    use_gpu("the parent, afterwards");
    return PASS();
}
