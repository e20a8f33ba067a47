// A kernel that stores to a wrong address poisons this process's context: every later call that touches it reports the same error,
// from any thread; a process started afterwards is not affected.
// variants: 13-static 12-shared
// rules: 6 11
#include <spawn.h>
#include <sys/wait.h>

#include <thread>

#include "../common/runtime.h"

TEST("errors_sticky");

extern char **environ;

__global__ void store(unsigned *out) { *out = 1u; }

static int one_good_launch() {
    unsigned *word, host = 0;
    RT(cudaMalloc(&word, sizeof host));
    store<<<1, 1>>>(word);
    RT(cudaMemcpy(&host, word, sizeof host, cudaMemcpyDeviceToHost));
    REQUIRE(host == 1, "a good launch stored %u", host);
    return 0;
}

// Runs this program again with `mode` as its argument; returns its exit status.
static int again(const char *program, const char *mode) {
    char *arguments[] = {const_cast<char *>(program), const_cast<char *>(mode), nullptr};
    pid_t child;
    REQUIRE(posix_spawn(&child, program, nullptr, nullptr, arguments, environ) == 0, "posix_spawn failed");
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child, "waitpid failed");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void must_be_sticky(unsigned *word, cudaError_t expected) {
    unsigned host;
    void *p;
    cudaStream_t stream;
    RT_IS(cudaDeviceSynchronize(), expected);
    RT_IS(cudaDeviceSynchronize(), expected);
    RT_IS(cudaMalloc(&p, 64), expected);
    RT_IS(cudaMemcpy(&host, word, sizeof host, cudaMemcpyDeviceToHost), expected);
    RT_IS(cudaStreamCreate(&stream), expected);
    store<<<1, 1>>>(word);
    REQUIRE(cudaGetLastError() == expected, "a launch after the fault is accepted");
    std::thread([&] { RT_IS(cudaDeviceSynchronize(), expected); }).join();
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "all";
    if (std::strcmp(mode, "good") == 0) return one_good_launch();
    unsigned *word;
    if (std::strcmp(mode, "null") == 0) {
        RT(cudaMalloc(&word, 4));
        store<<<1, 1>>>(nullptr);
        must_be_sticky(word, cudaErrorIllegalAddress);
        return 0;
    }
    if (std::strcmp(mode, "freed") == 0) {
        unsigned *large;
        RT(cudaMalloc(&word, 4));
        RT(cudaMalloc(&large, 64 << 20));
        store<<<1, 1>>>(large);
        RT(cudaDeviceSynchronize());
        RT(cudaFree(large));
        store<<<1, 1>>>(large);
        must_be_sticky(word, cudaErrorIllegalAddress);
        return 0;
    }
    if (std::strcmp(mode, "far") == 0) {
        RT(cudaMalloc(&word, 4));
        // Found by the first call that waits, here an event, although the faulting launch itself was accepted.
        cudaEvent_t event;
        RT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        store<<<1, 1>>>(reinterpret_cast<unsigned *>(uintptr_t(1) << 45));
        (void)cudaEventRecord(event, 0);
        cudaError_t status = cudaEventSynchronize(event);
        REQUIRE(status == cudaErrorIllegalAddress, "the wait returned %d", int(status));
        must_be_sticky(word, cudaErrorIllegalAddress);
        return 0;
    }
    REQUIRE(again(argv[0], "good") == 0, "a good process fails before any fault");
    for (const char *fault : {"null", "freed", "far"}) {
        REQUIRE(again(argv[0], fault) == 0, "case '%s' failed", fault);
        REQUIRE(again(argv[0], "good") == 0, "a new process fails after case '%s'", fault);
    }
    return PASS();
}
