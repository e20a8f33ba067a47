// Memory and an event shared with another process: what the event covers is visible there, or sharing is refused cleanly.
// rules: 5
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "../common/driver.h"

TEST("ipc_events");

extern char **environ;

static std::string hex(const void *bytes, size_t size) {
    std::string text;
    char two[3];
    for (size_t i = 0; i < size; ++i) {
        std::snprintf(two, sizeof two, "%02x", unsigned(static_cast<const unsigned char *>(bytes)[i]));
        text += two;
    }
    return text;
}

static void unhex(const char *text, void *bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) {
        unsigned value = 0;
        std::sscanf(text + 2 * i, "%2x", &value);
        static_cast<unsigned char *>(bytes)[i] = static_cast<unsigned char>(value);
    }
}

static int child(char **argv) {
    CUipcMemHandle memory_handle;
    CUipcEventHandle event_handle;
    unhex(argv[2], &memory_handle, sizeof memory_handle);
    unhex(argv[3], &event_handle, sizeof event_handle);
    open_gpu(test_name);
    CUdeviceptr words;
    CUevent event;
    CUstream stream;
    unsigned host = 0;
    int shares = 0;
    CU(cuDeviceGetAttribute(&shares, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, 0));
    REQUIRE(shares, "events are shared, and the attribute says that they cannot be");
    CU(cuIpcOpenMemHandle(&words, memory_handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
    CU(cuIpcOpenEventHandle(&event, event_handle));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    // The other process's stream is held: its record is not reached, whoever asks.
    CU_IS(cuEventQuery(event), CUDA_ERROR_NOT_READY);
    CU(cuStreamWaitEvent(stream, event, 0));
    CU_IS(cuStreamQuery(stream), CUDA_ERROR_NOT_READY);
    REQUIRE(write(3, "", 1) == 1, "the other process is gone");
    CU(cuEventSynchronize(event));
    CU(cuEventQuery(event));
    CU(cuMemcpyDtoHAsync(&host, words, 4, stream));
    CU(cuStreamSynchronize(stream));
    REQUIRE(host == 4321, "the other process sees %u", host);
    CU(cuIpcCloseMemHandle(words));
    CU(cuEventDestroy(event));
    return 0;
}

// Holds a stream until the other process writes, or ends.
static void hold(void *pipe) {
    char byte;
    while (read(*static_cast<int *>(pipe), &byte, 1) < 0) {}
}

// A device that shares nothing refuses all of it, and hands out nothing that looks like a handle.
static void refuses_everything(CUdeviceptr words) {
    CUipcMemHandle memory_handle = {};
    CUipcEventHandle event_handle = {};
    CUevent event;
    CUdeviceptr opened = 0;
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    const CUresult memory = cuIpcGetMemHandle(&memory_handle, words), plain = cuIpcGetEventHandle(&event_handle, event);
    const CUresult open_memory = cuIpcOpenMemHandle(&opened, memory_handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    REQUIRE(memory != CUDA_SUCCESS && plain != CUDA_SUCCESS && open_memory != CUDA_SUCCESS && opened == 0,
            "sharing is refused in part only: %d for memory, %d for an event, %d for a handle of zeros", int(memory), int(plain), int(open_memory));
    CUevent other = nullptr;
    const CUresult open_event = cuIpcOpenEventHandle(&other, event_handle);
    REQUIRE(open_event != CUDA_SUCCESS && other == nullptr, "an event was opened by a handle of zeros");
    CU(cuEventDestroy(event));
}

int main(int argc, char **argv) {
    if (argc > 3 && std::strcmp(argv[1], "child") == 0) return child(argv);
    Gpu gpu = open_gpu(test_name);
    CUdeviceptr words;
    CUevent event;
    CUstream stream;
    CUipcMemHandle memory_handle;
    CUipcEventHandle event_handle;
    CU(cuMemAlloc(&words, 2 << 20));
    CU(cuMemsetD32(words, 0, 4));
    int shares = 0;
    CU(cuDeviceGetAttribute(&shares, CU_DEVICE_ATTRIBUTE_IPC_EVENT_SUPPORTED, gpu.device));
    if (!shares) {
        if (!on_native_driver()) refuses_everything(words);
        SKIP("the device shares no events");
    }
    CU(cuIpcGetMemHandle(&memory_handle, words));
    CU(cuEventCreate(&event, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING));
    CU(cuIpcGetEventHandle(&event_handle, event));
    CUevent own = nullptr;
    REQUIRE(cuIpcOpenEventHandle(&own, event_handle) != CUDA_SUCCESS || on_native_driver(), "an event was opened in its own process");
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    int ends[2];
    REQUIRE(pipe(ends) == 0, "no pipe");
    CU(cuLaunchHostFunc(stream, hold, &ends[0]));
    CU(launch(gpu.function("fill", test_name), stream, 1, words, 4321u, 1));
    CU(cuEventRecord(event, stream));
    std::string memory_text = hex(&memory_handle, sizeof memory_handle), event_text = hex(&event_handle, sizeof event_handle);
    char *arguments[] = {argv[0], const_cast<char *>("child"), memory_text.data(), event_text.data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 3);
    pid_t pid;
    REQUIRE(posix_spawn(&pid, argv[0], &actions, nullptr, arguments, environ) == 0, "posix_spawn failed");
    close(ends[1]);
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the other process ended with %#x", unsigned(status));
    CU(cuStreamSynchronize(stream));
    return PASS();
}
