// Threads that store into memory while it is registered and unregistered, by themselves and by system calls, lose nothing, and
// what the device stores in between is there.
// rules: 17
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "../common/driver.h"

TEST("host_register_writers");

static const size_t bytes = 2u << 20, page = 4096;
static std::atomic<bool> stop{false};

// Each writer has a word of its own on every page and finds there what it stored last.
static void write_on(volatile unsigned *words, size_t writer, bool by_calls) {
    int ends[2];
    REQUIRE(pipe(ends) == 0, "no pipe");
    for (unsigned last = 0; !stop.load(); ++last) {
        for (size_t at = writer; at < bytes / 4; at += page / 4) {
            unsigned found = words[at], next = last + 1;
            REQUIRE(found == last, "word %zu is %u, not %u as it was stored", at, found, last);
            if (by_calls) {
                REQUIRE(write(ends[1], &next, 4) == 4, "writing to a pipe failed");
                REQUIRE(read(ends[0], const_cast<unsigned *>(words) + at, 4) == 4, "reading from a pipe failed");
            } else {
                words[at] = next;
            }
        }
    }
    close(ends[0]);
    close(ends[1]);
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction add_one = gpu.function("add_one", test_name);
    int supported = 0;
    CU(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, gpu.device));
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED, "mmap failed");
    auto *words = static_cast<unsigned *>(memory);
    std::vector<std::thread> writers;
    for (size_t writer = 0; writer < 3; ++writer) writers.emplace_back(write_on, words, writer, writer == 0);
    const unsigned rounds = 40;
    const size_t counted = 1000;
    bool refused = false;
    for (unsigned round = 0; round < rounds && !refused; ++round) {
        CUresult status = cuMemHostRegister(memory, bytes, 0);
        if (status == CUDA_ERROR_NOT_SUPPORTED && !supported) {
            refused = true;
            break;
        }
        REQUIRE(status == CUDA_SUCCESS, "registering returned %d (%s)", int(status), error_name(status));
        CUdeviceptr device;
        CU(cuMemHostGetDevicePointer(&device, memory, 0));
        // A word that is no writer's.
        CU(launch(add_one, nullptr, 1, device + counted * 4, 1));
        CU(cuCtxSynchronize());
        CU(cuMemHostUnregister(memory));
        REQUIRE(words[counted] == round + 1, "the device counted %u, not %u", words[counted], round + 1);
    }
    stop.store(true);
    for (auto &writer : writers) writer.join();
    if (refused) SKIP("the driver registers no memory while threads store into it");
    return PASS();
}
