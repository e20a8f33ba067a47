// Memory shared with other processes: the rules of its handles, and what happens when one side goes.
// rules: 5
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "../common/driver.h"

TEST("ipc_memory");

extern char **environ;

static const size_t bytes = 3 << 20;

static std::string hex(const void *at, size_t size) {
    std::string text;
    char two[3];
    for (size_t i = 0; i < size; ++i) {
        std::snprintf(two, sizeof two, "%02x", unsigned(static_cast<const unsigned char *>(at)[i]));
        text += two;
    }
    return text;
}

static void unhex(const char *text, void *at, size_t size) {
    for (size_t i = 0; i < size; ++i) {
        unsigned value = 0;
        std::sscanf(text + 2 * i, "%2x", &value);
        static_cast<unsigned char *>(at)[i] = static_cast<unsigned char>(value);
    }
}

// Another process of this program, and a pipe that it writes to.
struct Other {
    pid_t pid = 0;
    int from = -1;

    std::string line() {
        std::string text;
        char c;
        while (read(from, &c, 1) == 1 && c != '\n') text += c;
        return text;
    }
    void ends_well() {
        int status = 0;
        REQUIRE(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the other process ended with %#x", unsigned(status));
        close(from);
    }
};

static Other start(char **argv, const char *role, std::string argument) {
    int ends[2];
    REQUIRE(pipe(ends) == 0, "no pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 3);
    char *arguments[] = {argv[0], const_cast<char *>(role), argument.data(), nullptr};
    Other other;
    REQUIRE(posix_spawn(&other.pid, argv[0], &actions, nullptr, arguments, environ) == 0, "posix_spawn failed");
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    other.from = ends[0];
    return other;
}

static void say(const std::string &text) {
    const std::string line = text + "\n";
    REQUIRE(write(3, line.data(), line.size()) == ssize_t(line.size()), "the pipe is closed");
}

// Opens, reads, writes and closes what the first process shares.
static int importer(const char *text) {
    CUipcMemHandle handle;
    unhex(text, &handle, sizeof handle);
    Gpu gpu = open_gpu(test_name);
    CUdeviceptr first = 0, again = 0, base = 0;
    CU_IS(cuIpcOpenMemHandle(&first, handle, 0), CUDA_ERROR_INVALID_VALUE);
    CU(cuIpcOpenMemHandle(&first, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    CU(cuIpcOpenMemHandle(&again, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    REQUIRE(first == again, "opened twice: %#llx, %#llx", first, again);
    size_t size = 0;
    CU(cuMemGetAddressRange(&base, &size, first + 4096));
    REQUIRE(base == first && size >= bytes, "base %#llx of %#llx, %zu bytes", base, first, size);
    unsigned kind = 0;
    CU(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, first));
    REQUIRE(kind == CU_MEMORYTYPE_DEVICE, "memory of type %u", kind);
    // What the exporter filled, the end of it included.
    std::vector<unsigned> seen(bytes / 4);
    CU(cuMemcpyDtoH(seen.data(), first, bytes));
    for (size_t i = 0; i < seen.size(); ++i) REQUIRE(seen[i] == 77, "word %zu is %u", i, seen[i]);
    // A kernel of this process writes to it.
    CU(launch(gpu.function("fill", test_name), nullptr, 256, first, 4321u, 256));
    CU(cuCtxSynchronize());
    const unsigned last = 99;
    CU(cuMemcpyHtoD(first + bytes - 4, &last, 4));
    CU(cuCtxSynchronize());
    REQUIRE(cuMemFree(first) != CUDA_SUCCESS, "memory of another process was freed");
    CU(cuIpcCloseMemHandle(first));
    CU(cuMemcpyDtoH(seen.data(), again, 4));
    CU(cuIpcCloseMemHandle(again));
    CU_IS(cuIpcCloseMemHandle(again), CUDA_ERROR_INVALID_VALUE);
    // What is closed is nobody's address any more; a native driver may keep the mapping.
    if (!on_native_driver()) REQUIRE(cuMemcpyDtoH(seen.data(), again, 4) != CUDA_SUCCESS, "closed memory can be read");
    return 0;
}

// Tries what nobody gave out, or what is no longer there.
static int stranger(const char *text) {
    CUipcMemHandle handle;
    unhex(text, &handle, sizeof handle);
    open_gpu(test_name);
    CUdeviceptr opened = 0;
    CU_IS(cuIpcOpenMemHandle(&opened, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), CUDA_ERROR_INVALID_VALUE);
    REQUIRE(opened == 0, "a pointer was given: %#llx", opened);
    return 0;
}

// Shares memory, says so, and is killed.
static int victim() {
    open_gpu(test_name);
    CUdeviceptr memory;
    CUevent event;
    CUipcMemHandle handle;
    CUipcEventHandle event_handle;
    CU(cuMemAlloc(&memory, bytes));
    CU(cuMemsetD32(memory, 5, bytes / 4));
    CU(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
    CU(cuCtxSynchronize());
    CU(cuIpcGetMemHandle(&handle, memory));
    CU(cuIpcGetEventHandle(&event_handle, event));
    say(hex(&handle, sizeof handle) + hex(&event_handle, sizeof event_handle));
    for (;;) pause();
}

static void exporter_is_killed(char **argv) {
    Other other = start(argv, "victim", "");
    const std::string line = other.line();
    REQUIRE(line.size() == 2 * (sizeof(CUipcMemHandle) + sizeof(CUipcEventHandle)), "the other process says '%s'", line.c_str());
    CUipcMemHandle handle;
    CUipcEventHandle event_handle;
    unhex(line.c_str(), &handle, sizeof handle);
    unhex(line.c_str() + 2 * sizeof handle, &event_handle, sizeof event_handle);
    CUdeviceptr memory, later = 0;
    CUevent event, event_later = nullptr;
    unsigned word = 0;
    CU(cuIpcOpenMemHandle(&memory, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    CU(cuMemcpyDtoH(&word, memory + bytes - 4, 4));
    REQUIRE(word == 5, "the other process's memory holds %u", word);
    CU(cuIpcOpenEventHandle(&event, event_handle));
    CU(cuEventSynchronize(event));
    REQUIRE(kill(other.pid, SIGKILL) == 0 && waitpid(other.pid, nullptr, 0) == other.pid, "the other process cannot be killed");
    close(other.from);
    // Its handles die with it, which takes the backend a moment to see. What is open stays usable until it is closed.
    CUresult status = CUDA_SUCCESS;
    for (int i = 0; i < 500 && status == CUDA_SUCCESS; ++i) {
        status = cuIpcOpenMemHandle(&later, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
        if (status == CUDA_SUCCESS) CU(cuIpcCloseMemHandle(later));
        usleep(10000);
    }
    REQUIRE(status != CUDA_SUCCESS, "memory of a dead process can be opened");
    REQUIRE(cuIpcOpenEventHandle(&event_later, event_handle) != CUDA_SUCCESS, "an event of a dead process can be opened");
    CU(cuMemcpyDtoH(&word, memory, 4));
    CU(cuEventSynchronize(event));
    CU(cuEventDestroy(event));
    CU(cuIpcCloseMemHandle(memory));
}

int main(int argc, char **argv) {
    if (argc > 2 && std::strcmp(argv[1], "importer") == 0) return importer(argv[2]);
    if (argc > 2 && std::strcmp(argv[1], "stranger") == 0) return stranger(argv[2]);
    if (argc > 2 && std::strcmp(argv[1], "victim") == 0) return victim();
    open_gpu(test_name);
    CUdeviceptr memory;
    CUipcMemHandle handle, inner;
    CU(cuMemAlloc(&memory, bytes));
    CU(cuMemsetD32(memory, 77, bytes / 4));
    CU(cuCtxSynchronize());
    CU_OR_SKIP(cuIpcGetMemHandle(&handle, memory));
    unsigned capable = 0;
    CU(cuPointerGetAttribute(&capable, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, memory));
    REQUIRE(capable, "memory was shared, and the attribute says that it cannot be");

    // An address inside names the whole allocation, and the same one has one name.
    CU(cuIpcGetMemHandle(&inner, memory + 4096));
    if (!on_native_driver()) REQUIRE(std::memcmp(&inner, &handle, sizeof handle) == 0, "one allocation has two names");
    start(argv, "importer", hex(&inner, sizeof inner)).ends_well();
    unsigned word = 0;
    CU(cuMemcpyDtoH(&word, memory + 4 * 255, 4));
    REQUIRE(word == 4321, "the other process's kernel wrote %u", word);
    CU(cuMemcpyDtoH(&word, memory + bytes - 4, 4));
    REQUIRE(word == 99, "the other process copied %u", word);
    start(argv, "importer", [&] {
        CU(cuMemsetD32(memory, 77, bytes / 4));
        CU(cuCtxSynchronize());
        return hex(&handle, sizeof handle);
    }()).ends_well();

    // The process that shares cannot open.
    CUdeviceptr own = 0;
    CU_IS(cuIpcOpenMemHandle(&own, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), CUDA_ERROR_INVALID_CONTEXT);
    CU_IS(cuIpcCloseMemHandle(memory), CUDA_ERROR_INVALID_VALUE);

    // What was never allocated, and host memory, have no name.
    void *host;
    int local = 0;
    CU(cuMemHostAlloc(&host, 4096, 0));
    REQUIRE(cuIpcGetMemHandle(&inner, reinterpret_cast<CUdeviceptr>(host)) != CUDA_SUCCESS, "host memory was shared");
    if (!on_native_driver()) REQUIRE(cuIpcGetMemHandle(&inner, reinterpret_cast<CUdeviceptr>(&local)) != CUDA_SUCCESS, "memory of the program was shared");
    CU(cuMemFreeHost(host));

    // A timed event is not for other processes.
    CUevent event;
    CUipcEventHandle event_handle;
    CU_IS(cuEventCreate(&event, CU_EVENT_INTERPROCESS), CUDA_ERROR_INVALID_VALUE);
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    REQUIRE(cuIpcGetEventHandle(&event_handle, event) != CUDA_SUCCESS, "an event of this process alone was shared");
    CU(cuEventDestroy(event));

    exporter_is_killed(argv);

    // Forged names, and those of memory that is gone: only a driver that checks survives them for sure.
    if (!on_native_driver()) {
        CUipcMemHandle forged = handle;
        forged.reserved[7] = char(forged.reserved[7] ^ 1);
        start(argv, "stranger", hex(&forged, sizeof forged)).ends_well();
        forged = handle;
        forged.reserved[sizeof forged - 1] = 1;
        start(argv, "stranger", hex(&forged, sizeof forged)).ends_well();
        std::memset(&forged, 0, sizeof forged);
        start(argv, "stranger", hex(&forged, sizeof forged)).ends_well();
    }
    CU(cuMemFree(memory));
    if (!on_native_driver()) {
        start(argv, "stranger", hex(&handle, sizeof handle)).ends_well();
        // The same address again is other memory, with a name of its own.
        CU(cuMemAlloc(&memory, bytes));
        CU(cuIpcGetMemHandle(&inner, memory));
        REQUIRE(std::memcmp(&inner, &handle, sizeof handle) != 0, "new memory has the name of what is gone");
        CU(cuMemFree(memory));
    }
    return PASS();
}
