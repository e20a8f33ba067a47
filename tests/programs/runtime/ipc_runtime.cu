// The runtime's interprocess calls: memory and an event of this process, used by another one.
// variants: 13-static 12-shared 11-shared
// rules: 5
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "../common/runtime.h"

TEST("ipc_runtime");

extern char **environ;

struct Shared {
    cudaIpcMemHandle_t memory;
    cudaIpcEventHandle_t event;
};

__global__ void add(int *at, int value) { at[threadIdx.x] += value; }

static int other() {
    Shared shared;
    REQUIRE(read(3, &shared, sizeof shared) == ssize_t(sizeof shared), "nothing was shared");
    int *words;
    cudaEvent_t event;
    RT(cudaIpcOpenMemHandle(reinterpret_cast<void **>(&words), shared.memory, cudaIpcMemLazyEnablePeerAccess));
    RT(cudaIpcOpenEventHandle(&event, shared.event));
    RT(cudaStreamWaitEvent(nullptr, event, 0));
    add<<<1, 32>>>(words, 100);
    RT(cudaDeviceSynchronize());
    RT(cudaIpcCloseMemHandle(words));
    RT(cudaEventDestroy(event));
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && std::strcmp(argv[1], "other") == 0) return other();
    int *words;
    cudaEvent_t event;
    Shared shared;
    RT(cudaMalloc(&words, 32 * sizeof(int)));
    RT(cudaMemset(words, 0, 32 * sizeof(int)));
    RT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventInterprocess));
    RT(cudaIpcGetMemHandle(&shared.memory, words));
    RT(cudaIpcGetEventHandle(&shared.event, event));
    add<<<1, 32>>>(words, 1);
    RT(cudaEventRecord(event));
    int ends[2];
    REQUIRE(pipe(ends) == 0 && write(ends[1], &shared, sizeof shared) == ssize_t(sizeof shared), "no pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], 3);
    char *arguments[] = {argv[0], const_cast<char *>("other"), nullptr};
    pid_t pid;
    REQUIRE(posix_spawn(&pid, argv[0], &actions, nullptr, arguments, environ) == 0, "posix_spawn failed");
    int status = 0;
    REQUIRE(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the other process ended with %#x", unsigned(status));
    int seen[32];
    RT(cudaMemcpy(seen, words, sizeof seen, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 32; ++i) REQUIRE(seen[i] == 101, "word %d is %d", i, seen[i]);
    RT(cudaFree(words));
    return PASS();
}
