// cuMemHostRegister of the program's own memory: private anonymous pages keep their content and work in place both while
// registered and after; shared, read-only and stack memory either works or is refused, and is never lost.
// rules: 17
#include <sys/mman.h>
#include <unistd.h>

#include "../common/driver.h"

TEST("host_register");

static CUfunction add_one;

// Registers, uses and unregisters; returns false when the driver refuses cleanly.
static bool in_place(unsigned char *memory, size_t bytes, const char *kind) {
    for (size_t i = 0; i < bytes; ++i) memory[i] = static_cast<unsigned char>(i * 7);
    CUresult status = cuMemHostRegister(memory, bytes, CU_MEMHOSTREGISTER_DEVICEMAP);
    if (status != CUDA_SUCCESS) {
        REQUIRE(status == CUDA_ERROR_NOT_SUPPORTED || status == CUDA_ERROR_INVALID_VALUE || status == CUDA_ERROR_NOT_PERMITTED,
                "%s: registering returned %d (%s)", kind, int(status), error_name(status));
        for (size_t i = 0; i < bytes; ++i) REQUIRE(memory[i] == static_cast<unsigned char>(i * 7), "%s: a refusal changed byte %zu", kind, i);
        std::printf("%s: refused\n", kind);
        return false;
    }
    for (size_t i = 0; i < bytes; ++i) REQUIRE(memory[i] == static_cast<unsigned char>(i * 7), "%s: registering changed byte %zu", kind, i);
    CUdeviceptr device;
    CU(cuMemHostGetDevicePointer(&device, memory, 0));
    auto *words = reinterpret_cast<unsigned *>(memory);
    const int n = int(bytes / 4);
    for (int i = 0; i < n; ++i) words[i] = unsigned(i);
    CU(launch(add_one, nullptr, n, device, n));
    CU(cuCtxSynchronize());
    for (int i = 0; i < n; ++i) REQUIRE(words[i] == unsigned(i) + 1, "%s: word %d is %u", kind, i, words[i]);
    CU_IS(cuMemHostRegister(memory, bytes, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    CU(cuMemHostUnregister(memory));
    for (int i = 0; i < n; ++i) REQUIRE(words[i] == unsigned(i) + 1, "%s: unregistering lost word %d", kind, i);
    CU_IS(cuMemHostUnregister(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    return true;
}

int main() {
    Gpu gpu = open_gpu(test_name);
    add_one = gpu.function("add_one", test_name);
    const size_t bytes = 256 << 10;
    auto *anonymous = static_cast<unsigned char *>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    bool works = in_place(anonymous, bytes, "private anonymous memory");
    if (works) {
        in_place(anonymous, bytes, "the same memory again");
        // Still private: a child's stores do not reach the parent.
        anonymous[0] = 1;
    }
    REQUIRE(munmap(anonymous, bytes) == 0, "munmap failed");

    int memfd = memfd_create("host_register", 0);
    REQUIRE(memfd >= 0 && ftruncate(memfd, off_t(bytes)) == 0, "memfd_create failed");
    auto *shared = static_cast<unsigned char *>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0));
    in_place(shared, bytes, "shared memory");
    // The file and its mapping are still one.
    shared[100] = 0x42;
    unsigned char seen = 0;
    REQUIRE(pread(memfd, &seen, 1, 100) == 1 && seen == 0x42, "shared memory is no longer shared: %#x", seen);

    std::vector<unsigned char> heap(3 * 4096 + 100);
    in_place(heap.data() + 16, 2 * 4096, "unaligned heap memory");
    CUresult status = cuMemHostRegister(nullptr, 4096, 0);
    REQUIRE(status == CUDA_ERROR_INVALID_VALUE || status == CUDA_ERROR_NOT_SUPPORTED, "registering nothing returned %d", int(status));
    if (!works) SKIP("the driver refuses to register private memory");
    return PASS();
}
