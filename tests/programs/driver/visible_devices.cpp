// CUDA_VISIBLE_DEVICES in all its spellings, each in a fresh process.
// rules: 21
#include <spawn.h>
#include <sys/wait.h>

#include <string>

#include "../common/driver.h"

TEST("visible_devices");

extern char **environ;

// The exit status of a child that saw this many devices; 100 when cuInit said NO_DEVICE.
static int devices_seen(const char *program, const char *setting) {
    std::vector<std::string> text;
    for (char **e = environ; *e; ++e)
        if (std::strncmp(*e, "CUDA_VISIBLE_DEVICES=", 21) != 0) text.push_back(*e);
    if (setting) text.push_back(std::string("CUDA_VISIBLE_DEVICES=") + setting);
    std::vector<char *> environment;
    for (auto &t : text) environment.push_back(t.data());
    environment.push_back(nullptr);
    char *arguments[] = {const_cast<char *>(program), const_cast<char *>("count"), nullptr};
    pid_t child;
    REQUIRE(posix_spawn(&child, program, nullptr, nullptr, arguments, environment.data()) == 0, "posix_spawn failed");
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status), "the child crashed for CUDA_VISIBLE_DEVICES=%s", setting ? setting : "(unset)");
    return WEXITSTATUS(status);
}

static int count_devices() {
    CUresult status = cuInit(0);
    if (status == CUDA_ERROR_NO_DEVICE) return 100;
    // A device named twice.
    if (status == CUDA_ERROR_INVALID_DEVICE) return 101;
    if (status != CUDA_SUCCESS) return 200;
    int count = 0;
    if (cuDeviceGetCount(&count) != CUDA_SUCCESS) return 201;
    // What is visible can be used.
    CUcontext context;
    CUdeviceptr p;
    if (cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context) || cuMemAlloc(&p, 64)) return 202;
    return count;
}

int main(int argc, char **argv) {
    if (argc > 1 && std::strcmp(argv[1], "count") == 0) return count_devices();
    const int all = devices_seen(argv[0], nullptr);
    REQUIRE(all >= 1 && all < 100, "%d devices without the variable", all);
    CU(cuInit(0));
    CUuuid uuid;
    CU(cuDeviceGetUuid(&uuid, 0));
    char name[64] = "GPU-";
    for (int i = 0, at = 4; i < 16; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) name[at++] = '-';
        at += std::snprintf(name + at, 3, "%02x", unsigned(static_cast<unsigned char>(uuid.bytes[i])));
    }
    struct {
        std::string setting;
        int want;
    } cases[] = {
        {"0", 1},      {"", 100},   {"-1", 100},  {"4711", 100}, {"0,-1", 1}, {"-1,0", 100}, {"0,0", 101}, {"no such device", 100}, {name, 1}, {std::string(name).substr(0, 12), 1},
        {"GPU-ffffffff-ffff-ffff-ffff-ffffffffffff", 100},
    };
    for (const auto &one : cases) {
        int seen = devices_seen(argv[0], one.setting.c_str());
        REQUIRE(seen == one.want, "CUDA_VISIBLE_DEVICES='%s' shows %d, not %d", one.setting.c_str(), seen, one.want);
    }
    return PASS();
}
