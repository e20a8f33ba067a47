// Large pageable copies may use helper threads: at most four, never running the program's signal handlers, and gone
// again soon after.
// rules: 23
#include <dirent.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "../common/driver.h"

TEST("copier_threads");

static std::set<std::string> threads() {
    std::set<std::string> found;
    DIR *folder = opendir("/proc/self/task");
    REQUIRE(folder, "no /proc/self/task");
    while (dirent *entry = readdir(folder))
        if (entry->d_name[0] != '.') found.insert(entry->d_name);
    closedir(folder);
    return found;
}

// Whether the thread blocks SIGUSR1 and SIGCHLD, as told by its status file; true when it has just ended.
static bool blocks_signals(const std::string &thread) {
    std::ifstream status("/proc/self/task/" + thread + "/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("SigBlk:", 0) == 0) {
            unsigned long long mask = std::strtoull(line.c_str() + 7, nullptr, 16);
            return (mask >> 9 & 1) && (mask >> 16 & 1);
        }
    return true;
}

int main() {
    open_gpu(test_name);
    const size_t bytes = 24 << 20;
    std::vector<unsigned char> in(bytes), out(bytes);
    CUdeviceptr device;
    CU(cuMemAlloc(&device, bytes));
    const std::set<std::string> before = threads();
    std::set<std::string> extra;
    for (unsigned round = 0; round < 3; ++round) {
        for (size_t i = 0; i < bytes; i += 4093) in[i] = static_cast<unsigned char>(i + round);
        CU(cuMemcpyHtoD(device, in.data(), bytes));
        CU(cuMemcpyDtoH(out.data(), device, bytes));
        REQUIRE(in == out, "round %u: the copies differ", round);
        for (const auto &thread : threads())
            if (!before.count(thread)) extra.insert(thread);
    }
    if (!on_native_driver()) {
        REQUIRE(extra.size() <= 4, "%zu helper threads", extra.size());
        for (const auto &thread : extra) REQUIRE(blocks_signals(thread), "helper thread %s takes signals", thread.c_str());
        for (int tries = 0; threads().size() > before.size(); ++tries) {
            REQUIRE(tries < 100, "helper threads are left after 10 s");
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
        }
    }
    return PASS();
}
