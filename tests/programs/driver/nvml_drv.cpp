// NVML and the driver speak of the same device: name, UUID, PCI address, memory. What a process allocates is seen by NVML.
// Initialisation is counted, belongs to the process, and survives unloading.
#include <dlfcn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <string>

#include "../common/driver.h"

TEST("nvml_drv");

// The few declarations of NVML's header that are needed here.
typedef void *Device;
struct Memory {
    unsigned long long total, free, used;
};
struct Process {
    unsigned pid;
    unsigned long long bytes;
    unsigned instance, compute_instance;
};
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

static void *library;

template <typename Function>
static Function find(const char *name) {
    void *found = dlsym(library, name);
    REQUIRE(found, "%s is not exported", name);
    return reinterpret_cast<Function>(found);
}

static const char *text(int status) { return find<const char *(*)(int)>("nvmlErrorString")(status); }

#define NVML_IS(expected, name, types, ...)                                                            \
    do {                                                                                               \
        int status_ = find<int(*) types>(name)(__VA_ARGS__);                                           \
        if (status_ != (expected)) FAIL("%s returned %d (%s), expected %d", name, status_, text(status_), \
                                        expected);                                                     \
    } while (0)
#define NVML(name, types, ...) NVML_IS(SUCCESS, name, types, __VA_ARGS__)

static Device device() {
    Device device = nullptr;
    NVML("nvmlDeviceGetHandleByIndex_v2", (unsigned, Device *), 0, &device);
    return device;
}

static Memory memory() {
    Memory memory{};
    NVML("nvmlDeviceGetMemoryInfo", (Device, Memory *), device(), &memory);
    REQUIRE(memory.used + memory.free == memory.total, "%llu used and %llu free of %llu", memory.used,
            memory.free, memory.total);
    return memory;
}

static std::string answer(const char *name, Device device) {
    char buffer[128] = "";
    NVML_IS(INSUFFICIENT_SIZE, name, (Device, char *, unsigned), device, buffer, 2);
    NVML(name, (Device, char *, unsigned), device, buffer, sizeof buffer);
    return buffer;
}

static void counted() {
    NVML_IS(UNINITIALIZED, "nvmlShutdown", ());
    unsigned count = 0;
    NVML_IS(UNINITIALIZED, "nvmlDeviceGetCount_v2", (unsigned *), &count);
    NVML("nvmlInit_v2", ());
    NVML("nvmlInit", ());
    NVML("nvmlShutdown", ());
    NVML("nvmlDeviceGetCount_v2", (unsigned *), &count);
    REQUIRE(count >= 1, "%u devices", count);
    NVML("nvmlShutdown", ());
    NVML_IS(UNINITIALIZED, "nvmlDeviceGetCount_v2", (unsigned *), &count);
    for (int round = 0; round < 20; round++) {
        NVML("nvmlInit_v2", ());
        memory();
        NVML("nvmlShutdown", ());
        dlclose(library);
        library = dlopen("libnvidia-ml.so.1", RTLD_LAZY);
        REQUIRE(library, "it does not load again: %s", dlerror());
    }
}

// A forked child of an initialised process initialises for itself.
static void forked() {
    NVML("nvmlInit_v2", ());
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        NVML("nvmlInit_v2", ());
        memory();
        NVML("nvmlShutdown", ());
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    REQUIRE(status == 0, "the child ended with %d", status);
    NVML("nvmlShutdown", ());
}

int main() {
    library = dlopen("libnvidia-ml.so.1", RTLD_LAZY);
    if (!library && on_native_driver()) SKIP("no NVML here: %s", dlerror());
    REQUIRE(library, "%s", dlerror());
    counted();
    forked();
    NVML("nvmlInit_v2", ());
    CU(cuInit(0));
    CUdevice first;
    char bus[32], name[128];
    CUuuid uuid;
    size_t total = 0, free = 0;
    CU(cuDeviceGet(&first, 0));
    CU(cuDeviceGetPCIBusId(bus, sizeof bus, first));
    CU(cuDeviceGetName(name, sizeof name, first));
    CU(cuDeviceGetUuid(&uuid, first));
    CU(cuDeviceTotalMem(&total, first));
    int version = 0, nvml_version = 0;
    CU(cuDriverGetVersion(&version));
    NVML("nvmlSystemGetCudaDriverVersion_v2", (int *), &nvml_version);
    REQUIRE(version == nvml_version, "CUDA %d here, %d there", version, nvml_version);

    Device found = nullptr, by_uuid = nullptr;
    NVML("nvmlDeviceGetHandleByPciBusId_v2", (const char *, Device *), bus, &found);
    std::string id = answer("nvmlDeviceGetUUID", found);
    std::string expected = "GPU-";
    for (int at = 0; at < 16; at++) {
        char hex[4];
        snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char>(uuid.bytes[at]));
        expected += hex;
        if (at == 3 || at == 5 || at == 7 || at == 9) expected += "-";
    }
    REQUIRE(id == expected, "UUID %s here, %s there", expected.c_str(), id.c_str());
    REQUIRE(answer("nvmlDeviceGetName", found) == name, "another name than %s", name);
    NVML("nvmlDeviceGetHandleByUUID", (const char *, Device *), id.c_str(), &by_uuid);
    REQUIRE(found == by_uuid, "UUID and PCI address lead to two devices");
    NVML_IS(NOT_FOUND, "nvmlDeviceGetHandleByUUID", (const char *, Device *),
            "GPU-00000000-0000-0000-0000-000000000000", &by_uuid);
    if (!on_native_driver()) {
        NVML_IS(INVALID_ARGUMENT, "nvmlDeviceGetIndex", (Device, unsigned *), &total, nullptr);
    }
    Memory before = memory();
    // NVML counts what the driver keeps for itself too.
    REQUIRE(before.total >= total && before.total - total < total / 16,
            "%zu bytes here, %llu there", total, before.total);

    CUcontext context;
    CUdeviceptr block;
    size_t bytes = 48 << 20;
    CU(cuDevicePrimaryCtxRetain(&context, first));
    CU(cuCtxSetCurrent(context));
    CU(cuMemAlloc(&block, bytes));
    CU(cuMemGetInfo(&free, &total));
    REQUIRE(free < total, "nothing is used");
    // What is looked up on a real device may be half a second old.
    bool seen = false;
    for (int attempt = 0; attempt < 300 && !seen; attempt++) {
        seen = memory().free + bytes <= before.free;
        if (!seen) usleep(10000);
    }
    REQUIRE(seen, "NVML does not see an allocation of %zu bytes", bytes);
    // NVIDIA's library shows a process in a container nothing of itself.
    if (!on_native_driver()) {
        Process list[64];
        unsigned count = 0;
        NVML_IS(INSUFFICIENT_SIZE, "nvmlDeviceGetComputeRunningProcesses_v3", (Device, unsigned *, Process *), found,
                &count, nullptr);
        count = 64;
        NVML("nvmlDeviceGetComputeRunningProcesses_v3", (Device, unsigned *, Process *), found, &count, list);
        bool own = false;
        for (unsigned at = 0; at < count; at++) {
            own = own || (list[at].pid == static_cast<unsigned>(getpid()) && list[at].bytes >= bytes);
        }
        REQUIRE(own, "this process is not among %u", count);
    }
    CU(cuMemFree(block));
    CU(cuDevicePrimaryCtxRelease(first));
    NVML("nvmlShutdown", ());
    return PASS();
}
