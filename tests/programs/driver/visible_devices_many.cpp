// CUDA_VISIBLE_DEVICES with several devices: which are seen, in which order, and that each is the one it is named as. Every
// setting is tried in a fresh process, which uses what it sees. With one device the settings that need two are left out.
// devices: 2
// rules: 21
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "../common/driver.h"

TEST("visible_devices_many");

extern char **environ;

// A device by what does not change with the setting.
struct Identity {
    std::string uuid, bus;
    bool operator==(const Identity &other) const { return uuid == other.uuid && bus == other.bus; }
};

static std::string uuid_text(const CUuuid &uuid) {
    char text[64] = "GPU-";
    for (int i = 0, at = 4; i < 16; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text[at++] = '-';
        at += std::snprintf(text + at, 3, "%02x", unsigned(static_cast<unsigned char>(uuid.bytes[i])));
    }
    return text;
}

// Uses the device: what its context allocates belongs to it and takes and gives data.
static void use(int ordinal) {
    CUdevice device, of_context;
    CUcontext context;
    CUdeviceptr memory;
    int owner = -1;
    unsigned value = 0;
    CU(cuDeviceGet(&device, ordinal));
    CU(cuDevicePrimaryCtxRetain(&context, device));
    CU(cuCtxSetCurrent(context));
    CU(cuCtxGetDevice(&of_context));
    REQUIRE(of_context == device, "the context of device %d is one of device %d", ordinal, int(of_context));
    CU(cuMemAlloc(&memory, 64));
    CU(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, memory));
    REQUIRE(owner == ordinal, "memory of device %d is on device %d", ordinal, owner);
    CU(cuMemsetD32(memory, 0x1000u + unsigned(ordinal), 16));
    CU(cuMemcpyDtoH(&value, memory + 60, sizeof value));
    REQUIRE(value == 0x1000u + unsigned(ordinal), "device %d reads %#x", ordinal, value);
    CU(cuMemFree(memory));
    CU(cuDevicePrimaryCtxRelease(device));
}

// One line per visible device.
static int list_devices() {
    const CUresult status = cuInit(0);
    // None, or one named twice.
    if (status == CUDA_ERROR_NO_DEVICE || status == CUDA_ERROR_INVALID_DEVICE) return 100;
    CU(status);
    int count = 0;
    CU(cuDeviceGetCount(&count));
    for (int ordinal = 0; ordinal < count; ++ordinal) {
        CUuuid uuid;
        char bus[32] = {};
        CUdevice found = -1, beyond;
        CU(cuDeviceGetUuid(&uuid, ordinal));
        CU(cuDeviceGetPCIBusId(bus, sizeof bus, ordinal));
        CU(cuDeviceGetByPCIBusId(&found, bus));
        REQUIRE(found == ordinal, "%s is device %d and found as device %d", bus, ordinal, int(found));
        CU_IS(cuDeviceGet(&beyond, count), CUDA_ERROR_INVALID_DEVICE);
        use(ordinal);
        std::printf("device %s %s\n", uuid_text(uuid).c_str(), bus);
    }
    std::fflush(stdout);
    return 0;
}

// What a process with this setting sees.
static std::vector<Identity> devices_seen(const char *program, const char *setting) {
    std::vector<std::string> text;
    for (char **e = environ; *e; ++e)
        if (std::strncmp(*e, "CUDA_VISIBLE_DEVICES=", 21) != 0) text.push_back(*e);
    if (setting) text.push_back(std::string("CUDA_VISIBLE_DEVICES=") + setting);
    std::vector<char *> environment;
    for (auto &t : text) environment.push_back(t.data());
    environment.push_back(nullptr);
    char *arguments[] = {const_cast<char *>(program), const_cast<char *>("list"), nullptr};
    int ends[2];
    REQUIRE(pipe(ends) == 0, "pipe failed");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    pid_t child;
    REQUIRE(posix_spawn(&child, program, &actions, nullptr, arguments, environment.data()) == 0, "posix_spawn failed");
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    std::string output;
    char buffer[4096];
    for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) output.append(buffer, size_t(got));
    close(ends[0]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status), "the child crashed for CUDA_VISIBLE_DEVICES=%s", setting ? setting : "(unset)");
    REQUIRE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 100, "CUDA_VISIBLE_DEVICES=%s: %s", setting ? setting : "(unset)", output.c_str());
    std::vector<Identity> seen;
    for (size_t at = 0, end; (end = output.find('\n', at)) != std::string::npos; at = end + 1) {
        char uuid[64], bus[64];
        if (std::sscanf(output.substr(at, end - at).c_str(), "device %63s %63s", uuid, bus) == 2) seen.push_back({uuid, bus});
    }
    return seen;
}

// A prefix of a device's UUID that no other device has, of eight digits at least.
static std::string unique_prefix(const std::vector<Identity> &all, size_t which) {
    for (size_t len = 12;; ++len) {
        const std::string prefix = all[which].uuid.substr(0, len);
        size_t fitting = 0;
        for (const auto &one : all) fitting += one.uuid.compare(0, len, prefix) == 0;
        if (fitting == 1 || prefix.size() < len) return prefix;
    }
}

struct Case {
    std::string setting;
    // How it is printed: UUIDs differ from machine to machine.
    std::string name;
    std::vector<size_t> want;
    // Whether CUDA's documentation says so; what it does not say is demanded of our driver only, and printed of NVIDIA's.
    bool documented = true;
};

int main(int argc, char **argv) {
    if (argc > 1 && std::strcmp(argv[1], "list") == 0) return list_devices();
    const std::vector<Identity> all = devices_seen(argv[0], nullptr);
    REQUIRE(!all.empty(), "no device without the variable");
    const size_t last = all.size() - 1;
    const std::string beyond = std::to_string(all.size() + 5);
    std::vector<Case> cases = {
        {"0," + beyond, "0,BAD", {0}},
        {beyond + ",0", "BAD,0", {}},
        {all[0].uuid, "UUID0", {0}},
        {unique_prefix(all, 0), "PREFIX0", {0}},
        {"0,0", "0,0", {}, false},
        {all[0].uuid + ",0", "UUID0,0", {}, false},
    };
    if (last > 0) {
        const std::string n = std::to_string(last), uuids = all[last].uuid + "," + all[0].uuid;
        const std::vector<Case> more = {
            {n, "LAST", {last}},
            {n + ",0", "LAST,0", {last, 0}},
            {"0," + n, "0,LAST", {0, last}},
            {"0," + beyond + "," + n, "0,BAD,LAST", {0}},
            {"0,-1," + n, "0,-1,LAST", {0}},
            {n + ",-1,0", "LAST,-1,0", {last}},
            {all[last].uuid, "UUIDLAST", {last}},
            {uuids, "UUIDLAST,UUID0", {last, 0}},
            {unique_prefix(all, last), "PREFIXLAST", {last}},
            {unique_prefix(all, last) + "," + unique_prefix(all, 0), "PREFIXLAST,PREFIX0", {last, 0}},
            {all[last].uuid + ",GPU-ffffffff-ffff-ffff-ffff-ffffffffffff," + all[0].uuid, "UUIDLAST,UNKNOWN,UUID0", {last}},
            {"0," + n + ",0", "0,LAST,0", {}, false},
            {"GPU-", "GPU-", {}, false},
        };
        cases.insert(cases.end(), more.begin(), more.end());
    }
    for (const auto &one : cases) {
        const auto seen = devices_seen(argv[0], one.setting.c_str());
        std::string places;
        for (const auto &device : seen) {
            size_t at = 0;
            while (at < all.size() && !(all[at] == device)) ++at;
            REQUIRE(at < all.size(), "'%s' shows a device that is not there without it", one.name.c_str());
            places += " " + (at == last && last > 0 ? "LAST" : std::to_string(at));
        }
        std::string want;
        for (size_t at : one.want) want += " " + (at == last && last > 0 ? "LAST" : std::to_string(at));
        std::printf("%s shows%s\n", one.name.c_str(), places.empty() ? " nothing" : places.c_str());
        if (one.documented || !on_native_driver())
            REQUIRE(places == want, "'%s' (%s) shows%s instead of%s", one.name.c_str(), one.setting.c_str(), places.c_str(), want.c_str());
    }
    if (last == 0) std::printf("one device: orders and lists of several were not tried\n");
    return PASS();
}
