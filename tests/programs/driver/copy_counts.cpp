// Copies of pinned memory, the program's own when it is registered included, move no byte through a CPU, copies of pageable memory each byte once: by the library's own count,
// which a child of this program prints at its end. Where the library counts nothing (NVIDIA's own), only the copies are checked.
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "../common/driver.h"

TEST("copy_counts");

static const size_t bytes = 16u << 20;

static void fill(unsigned *words, unsigned seed) {
    Random random{seed};
    for (size_t i = 0; i < bytes / 4; ++i) words[i] = random.next();
}

// There and back, between two buffers of the kind that `what` says. 77 if it is not to be had.
static int copies(const char *what) {
    bool pinned = std::strcmp(what, "pinned") == 0, registered = std::strcmp(what, "registered") == 0;
    CUdevice device;
    CUcontext context;
    CU(cuInit(0));
    CU(cuDeviceGet(&device, 0));
    CU(cuDevicePrimaryCtxRetain(&context, device));
    CU(cuCtxSetCurrent(context));
    CUdeviceptr there;
    CU(cuMemAlloc(&there, bytes));
    std::vector<unsigned> own[2];
    void *buffers[2];
    for (int i = 0; i < 2; ++i) {
        if (pinned) {
            CU(cuMemAllocHost(&buffers[i], bytes));
        } else {
            own[i].resize(bytes / 4);
            buffers[i] = own[i].data();
        }
        if (registered) {
            CUresult status = cuMemHostRegister(buffers[i], bytes, 0);
            if (status == CUDA_ERROR_NOT_SUPPORTED) return 77;
            REQUIRE(status == CUDA_SUCCESS, "registering returned %d", int(status));
        }
    }
    fill(static_cast<unsigned *>(buffers[0]), 7);
    std::memset(buffers[1], 0, bytes);
    CU(cuMemcpyHtoDAsync(there, buffers[0], bytes, nullptr));
    CU(cuMemcpyDtoHAsync(buffers[1], there, bytes, nullptr));
    CU(cuStreamSynchronize(nullptr));
    REQUIRE(std::memcmp(buffers[0], buffers[1], bytes) == 0, "what came back differs");
    for (int i = 0; i < 2 && registered; ++i) CU(cuMemHostUnregister(buffers[i]));
    return 0;
}

struct Counts {
    unsigned long long pinned = 0, pageable = 0, copied = 0, all = 0, worker = 0;
};

// Runs this program as `copy_counts WHAT` with counting on, and reads what it says at its end.
static Counts counted(const char *what) {
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
    pid_t ended = waitpid(child, &status, 0);
    if (ended == child && WIFEXITED(status) && WEXITSTATUS(status) == 77) return {};
    REQUIRE(ended == child && status == 0, "the child with %s copies ended with %#x: %s", what, status, said.c_str());
    Counts counts;
    if (on_native_driver()) return counts;
    unsigned long long count;
    auto find = [&](const char *text) {
        size_t at = said.find(text);
        REQUIRE(at != std::string::npos, "'%s' is not said: %s", text, said.c_str());
        return said.c_str() + at;
    };
    bool read = std::sscanf(find("copies from and to pinned"), "copies from and to pinned memory: %llu, of %llu", &count, &counts.pinned) == 2 &&
                std::sscanf(find("copies from and to pageable"), "copies from and to pageable memory: %llu, of %llu", &count, &counts.pageable) == 2 &&
                std::sscanf(find("bytes copied by CPUs"), "bytes copied by CPUs of this process: %llu for these copies; %llu", &counts.copied, &counts.all) == 2 &&
                std::sscanf(find("bytes copied by CPUs of the worker"), "bytes copied by CPUs of the worker: %llu", &counts.worker) == 1;
    REQUIRE(read, "the counts are not understood: %s", said.c_str());
    find("cuMemcpyHtoDAsync_v2");
    return counts;
}

int main(int argc, char **argv) {
    if (argc > 1) return copies(argv[1]);
    Counts pinned = counted("pinned"), pageable = counted("pageable"), registered = counted("registered");
    if (on_native_driver()) return PASS();
    std::printf("pinned: %llu bytes, copied by a CPU: %llu; records and answers: %llu bytes copied here, %llu by the worker\n", pinned.pinned,
                pinned.copied, pinned.all - pinned.copied, pinned.worker);
    std::printf("pageable: %llu bytes, copied by a CPU here: %llu; all that the worker copied: %llu\n", pageable.pageable, pageable.copied, pageable.worker);
    std::printf("registered: %llu bytes, copied by a CPU here: %llu; all that the worker copied: %llu\n", registered.pinned, registered.copied,
                registered.worker);
    REQUIRE(pinned.pinned == 2 * bytes && pinned.pageable == 0, "%llu bytes of pinned copies, %llu pageable", pinned.pinned, pinned.pageable);
    REQUIRE(pinned.copied == 0, "%llu bytes of pinned copies went through a CPU", pinned.copied);
    // Records and answers, and what is known of the device at the start: nothing that grows with the copies.
    REQUIRE(pinned.all < bytes / 16, "%llu bytes went through shared memory", pinned.all);
    REQUIRE(pinned.worker < bytes / 16 && pageable.worker < bytes / 16, "the worker copied %llu and %llu bytes", pinned.worker, pageable.worker);
    REQUIRE(pageable.pageable == 2 * bytes && pageable.pinned == 0, "%llu bytes of pageable copies, %llu pinned", pageable.pageable, pageable.pinned);
    // Refused where `host_register` says so.
    if (registered.pinned != 0 || registered.pageable != 0)
        REQUIRE(registered.pinned == 2 * bytes && registered.pageable == 0 && registered.copied == 0 && registered.worker < bytes / 16,
                "%llu bytes of registered copies were pinned, %llu not, %llu copied here, %llu by the worker", registered.pinned, registered.pageable,
                registered.copied, registered.worker);
    REQUIRE(pageable.copied == 2 * bytes, "%llu bytes of pageable copies went through a CPU", pageable.copied);
    return PASS();
}
