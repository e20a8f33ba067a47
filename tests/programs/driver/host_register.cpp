// cuMemHostRegister of the program's own memory: private anonymous pages keep their content and work in place both while
// registered and after, and what lies beside them on their pages does; shared, read-only and stack memory either works or is
// refused, and is never lost. Where the device says that it registers no memory, all is refused.
// rules: 14 16 17
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "../common/driver.h"

TEST("host_register");

static CUfunction add_one;

// Refused: natively, whose choice of the code is not documented, by any error.
#define REFUSED(call, expected)                                                                             \
    do {                                                                                                    \
        CUresult status_ = (call);                                                                          \
        REQUIRE(on_native_driver() ? status_ != CUDA_SUCCESS : status_ == (expected), "%s returned %d (%s)", \
                #call, int(status_), error_name(status_));                                                  \
    } while (0)

static void *map(size_t bytes) {
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED, "mmap failed");
    return memory;
}

// The device adds one to each word, in place.
static void use(unsigned *words, int n, const char *kind) {
    CUdeviceptr device;
    CU(cuMemHostGetDevicePointer(&device, words, 0));
    for (int i = 0; i < n; ++i) words[i] = unsigned(i);
    CU(launch(add_one, nullptr, n, device, n));
    CU(cuCtxSynchronize());
    for (int i = 0; i < n; ++i) REQUIRE(words[i] == unsigned(i) + 1, "%s: word %d is %u", kind, i, words[i]);
}

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
    const int n = int(bytes / 4);
    auto *words = reinterpret_cast<unsigned *>(memory);
    use(words, n, kind);
    CU_IS(cuMemHostRegister(memory, bytes, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    CU(cuMemHostUnregister(memory));
    for (int i = 0; i < n; ++i) REQUIRE(words[i] == unsigned(i) + 1, "%s: unregistering lost word %d", kind, i);
    CU_IS(cuMemHostUnregister(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    return true;
}

// Registered memory that lies across pages: what is beside it stays, both ways, and is the program's own.
static void neighbours() {
    const size_t bytes = 4 * 4096;
    auto *memory = static_cast<unsigned char *>(map(bytes));
    unsigned char *first = memory + 1024, *behind = memory + 3 * 4096 + 512;
    std::memset(memory, 0x31, bytes);
    CU(cuMemHostRegister(first, size_t(behind - first), 0));
    std::memset(memory, 0x32, 1024);
    behind[0] = 0x33;
    use(reinterpret_cast<unsigned *>(first), int((behind - first) / 4), "unaligned memory");
    for (int i = 0; i < 1024; ++i) REQUIRE(memory[i] == 0x32, "byte %d before the range is %#x", i, memory[i]);
    REQUIRE(behind[0] == 0x33 && behind[1] == 0x31, "behind the range: %#x %#x", behind[0], behind[1]);
    if (!on_native_driver()) CU_IS(cuMemHostUnregister(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    CU(cuMemHostUnregister(first));
    REQUIRE(memory[0] == 0x32 && behind[0] == 0x33 && behind[1] == 0x31, "unregistering changed what is beside: %#x %#x %#x", memory[0], behind[0], behind[1]);
    REQUIRE(munmap(memory, bytes) == 0, "munmap failed");
}

// What the driver says of an address inside, and copies from there to there.
static void attributes_and_copies(CUcontext context) {
    const size_t bytes = 64 << 10;
    auto *memory = static_cast<unsigned char *>(map(bytes));
    CU(cuMemHostRegister(memory, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP));
    CUmemorytype type = CUmemorytype(0);
    CUcontext of = nullptr;
    CUdeviceptr device = 0;
    void *host = nullptr;
    auto inside = reinterpret_cast<CUdeviceptr>(memory + 100);
    CU(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, inside));
    CU(cuPointerGetAttribute(&of, CU_POINTER_ATTRIBUTE_CONTEXT, inside));
    CU(cuPointerGetAttribute(&device, CU_POINTER_ATTRIBUTE_DEVICE_POINTER, inside));
    CU(cuPointerGetAttribute(&host, CU_POINTER_ATTRIBUTE_HOST_POINTER, inside));
    REQUIRE(type == CU_MEMORYTYPE_HOST && of == context && host == memory + 100, "type %d, context %p, host pointer %p", int(type), static_cast<void *>(of), host);
    int same = 0;
    CU(cuDeviceGetAttribute(&same, CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 0));
    REQUIRE(!same || device == inside, "the device address is %#llx", device);
    unsigned flags = 0;
    CU(cuMemHostGetFlags(&flags, memory));
    CUdeviceptr there;
    CU(cuMemAlloc(&there, bytes));
    for (size_t i = 0; i < bytes; ++i) memory[i] = static_cast<unsigned char>(i * 13);
    CU(cuMemcpyHtoDAsync(there, memory, bytes, nullptr));
    CU(cuStreamSynchronize(nullptr));
    std::memset(memory, 0, bytes);
    CU(cuMemcpyDtoHAsync(memory + 4096, there + 4096, bytes - 4096, nullptr));
    CU(cuMemcpyDtoH(memory, there, 4096));
    CU(cuStreamSynchronize(nullptr));
    for (size_t i = 0; i < bytes; ++i) REQUIRE(memory[i] == static_cast<unsigned char>(i * 13), "byte %zu came back as %#x", i, memory[i]);
    CU(cuMemsetD8(device, 0x77, 50));
    CU(cuCtxSynchronize());
    REQUIRE(memory[149] == 0x77 && memory[150] == static_cast<unsigned char>(150 * 13), "the fill went elsewhere");
    REFUSED(cuMemFreeHost(memory), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemHostUnregister(memory));
    CU_IS(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, inside), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree(there));
    REQUIRE(munmap(memory, bytes) == 0, "munmap failed");
}

static void wrong_calls() {
    const size_t bytes = 16 * 4096;
    auto *memory = static_cast<unsigned char *>(map(bytes));
    std::memset(memory, 5, bytes);
    CU_IS(cuMemHostRegister(nullptr, 4096, 0), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemHostRegister(memory, 0, 0), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemHostRegister(memory, 4096, 0x100), CUDA_ERROR_INVALID_VALUE);
    REFUSED(cuMemHostUnregister(nullptr), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemHostUnregister(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    CUdeviceptr device;
    REFUSED(cuMemHostGetDevicePointer(&device, memory, 0), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemHostRegister(memory + 4 * 4096, 4 * 4096, 0));
    // Before it and into it, all of it and more, inside of it, and from it on.
    REFUSED(cuMemHostRegister(memory + 3 * 4096, 2 * 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    REFUSED(cuMemHostRegister(memory, bytes, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    REFUSED(cuMemHostRegister(memory + 5 * 4096, 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    REFUSED(cuMemHostRegister(memory + 7 * 4096, 2 * 4096, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    CU(cuMemHostRegister(memory + 8 * 4096, 4096, 0));
    CU(cuMemHostUnregister(memory + 8 * 4096));
    CU(cuMemHostUnregister(memory + 4 * 4096));
    for (size_t i = 0; i < bytes; ++i) REQUIRE(memory[i] == 5, "byte %zu is %d", i, memory[i]);
    if (!on_native_driver()) {
        // Memory of other devices and read-only memory are not served.
        CU_IS(cuMemHostRegister(memory, 4096, CU_MEMHOSTREGISTER_IOMEMORY), CUDA_ERROR_NOT_SUPPORTED);
        CU_IS(cuMemHostRegister(memory, 4096, CU_MEMHOSTREGISTER_READ_ONLY), CUDA_ERROR_NOT_SUPPORTED);
    }
    REQUIRE(munmap(memory, bytes) == 0, "munmap failed");
}

// A child gets a copy of its own, as of all private memory.
static void forked() {
    const size_t bytes = 8 * 4096;
    auto *memory = static_cast<unsigned char *>(map(bytes));
    std::memset(memory, 0x41, bytes);
    CU(cuMemHostRegister(memory, bytes, 0));
    pid_t child = fork();
    if (child == 0) {
        for (size_t i = 0; i < bytes; ++i)
            if (memory[i] != 0x41) _exit(1);
        std::memset(memory, 0x42, bytes);
        _exit(0);
    }
    int status = -1;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0, "the child ended with %#x", unsigned(status));
    for (size_t i = 0; i < bytes; ++i) REQUIRE(memory[i] == 0x41, "a child changed byte %zu of its parent", i);
    use(reinterpret_cast<unsigned *>(memory), int(bytes / 4), "memory after a fork");
    CU(cuMemHostUnregister(memory));
    REQUIRE(munmap(memory, bytes) == 0, "munmap failed");
}

// The same with memory of the C library's allocator, which has its own and the neighbours' data on the same pages.
static void forked_from_the_heap() {
    std::vector<std::vector<unsigned char>> all;
    for (int i = 0; i < 32; ++i) all.emplace_back(6000 + 8 * i, static_cast<unsigned char>(i));
    std::vector<void *> registered;
    for (auto &one : all)
        if (cuMemHostRegister(one.data(), one.size(), 0) == CUDA_SUCCESS) registered.push_back(one.data());
    REQUIRE(!registered.empty(), "nothing was registered");
    pid_t child = fork();
    if (child == 0) {
        std::vector<unsigned char> more(100000, 1);
        for (size_t i = 0; i < all.size(); ++i)
            for (unsigned char byte : all[i])
                if (byte != i) _exit(1);
        for (auto &one : all) one.assign(one.size(), 0xff);
        _exit(more[99999] == 1 ? 0 : 2);
    }
    int status = -1;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0, "the child ended with %#x", unsigned(status));
    for (size_t i = 0; i < all.size(); ++i)
        for (unsigned char byte : all[i]) REQUIRE(byte == i, "a child changed buffer %zu of its parent", i);
    for (void *one : registered) CU(cuMemHostUnregister(one));
}

// Registrations end with their context; the memory stays.
static void context_ends(CUdevice device) {
    const size_t bytes = 8 * 4096;
    auto *memory = static_cast<unsigned char *>(map(bytes));
    std::memset(memory, 0x51, bytes);
    CUcontext before, brief;
    CU(cuCtxGetCurrent(&before));
#if CUDA_VERSION >= 13000
    CU(cuCtxCreate(&brief, nullptr, 0, device));
#else
    CU(cuCtxCreate(&brief, 0, device));
#endif
    CU(cuMemHostRegister(memory, bytes, 0));
    CU(cuCtxDestroy(brief));
    CU(cuCtxSetCurrent(before));
    for (size_t i = 0; i < bytes; ++i) REQUIRE(memory[i] == 0x51, "the end of a context changed byte %zu", i);
    memory[0] = 0x52;
    REFUSED(cuMemHostUnregister(memory), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    CU(cuMemHostRegister(memory, bytes, 0));
    REQUIRE(memory[0] == 0x52, "registering again lost a store");
    CU(cuMemHostUnregister(memory));
    REQUIRE(munmap(memory, bytes) == 0, "munmap failed");
}

// What the program unmaps while it is registered is gone, but nothing that comes in its place is.
static void unmapped_meanwhile() {
    if (on_native_driver()) return;
    const size_t bytes = 4 * 4096;
    auto *memory = static_cast<unsigned char *>(map(bytes));
    CU(cuMemHostRegister(memory, bytes, 0));
    void *other = mmap(memory, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    REQUIRE(other == memory, "mmap failed");
    std::memset(memory, 0x61, bytes);
    CU(cuMemHostUnregister(memory));
    for (size_t i = 0; i < bytes; ++i) REQUIRE(memory[i] == 0x61, "byte %zu of other memory is %#x", i, memory[i]);
    REQUIRE(munmap(memory, bytes) == 0, "munmap failed");
}

int main() {
    Gpu gpu = open_gpu(test_name);
    add_one = gpu.function("add_one", test_name);
    int supported = 0;
    CU(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, gpu.device));
    const size_t bytes = 256 << 10;
    auto *anonymous = static_cast<unsigned char *>(map(bytes));
    bool works = in_place(anonymous, bytes, "private anonymous memory");
    REQUIRE(works || !supported, "the device says that it registers memory");
    if (works) in_place(anonymous, bytes, "the same memory again");
    REQUIRE(munmap(anonymous, bytes) == 0, "munmap failed");

    int memfd = memfd_create("host_register", 0);
    REQUIRE(memfd >= 0 && ftruncate(memfd, off_t(bytes)) == 0, "memfd_create failed");
    auto *shared = static_cast<unsigned char *>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0));
    in_place(shared, bytes, "shared memory");
    // The file and its mapping are still one.
    shared[100] = 0x42;
    unsigned char seen = 0;
    REQUIRE(pread(memfd, &seen, 1, 100) == 1 && seen == 0x42, "shared memory is no longer shared: %#x", seen);

    unsigned char local[8192];
    in_place(local, sizeof local, "the stack");
    auto *readable = static_cast<unsigned char *>(mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, memfd, 0));
    CUresult status = cuMemHostRegister(readable, bytes, 0);
    REQUIRE((on_native_driver() || status != CUDA_SUCCESS) && readable[100] == 0x42, "read-only memory: %d", int(status));
    std::vector<unsigned char> heap(3 * 4096 + 100);
    in_place(heap.data() + 16, 2 * 4096, "unaligned heap memory");
    status = cuMemHostRegister(nullptr, 4096, 0);
    REQUIRE(status == CUDA_ERROR_INVALID_VALUE, "registering nothing returned %d", int(status));
    if (!works) SKIP("the driver refuses to register private memory");
    neighbours();
    attributes_and_copies(gpu.context);
    wrong_calls();
    forked();
    forked_from_the_heap();
    context_ends(gpu.device);
    unmapped_meanwhile();
    return PASS();
}
