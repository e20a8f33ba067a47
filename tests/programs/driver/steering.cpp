// Where allocations lie: device, pinned and stream-ordered memory shares no address with another allocation nor with any
// mapping of the program's own, whether made before cuInit, between allocations, or afterwards, and even where the
// program asks the kernel for the very address. The program's memory keeps its contents throughout.
// rules: 14
#include <sys/mman.h>

#include <fstream>
#include <string>

#include "../common/driver.h"

TEST("steering");

struct Range {
    uintptr_t from, to;
    char access[5];
    std::string what;
    bool meets(uintptr_t start, uintptr_t end) const { return from < end && start < to; }
    // Addresses kept for the driver are mapped without any access; nobody's data can be there.
    bool accessible() const { return std::strncmp(access, "---", 3) != 0; }
};

static std::vector<Range> mappings() {
    std::vector<Range> all;
    std::ifstream file("/proc/self/maps");
    for (std::string line; std::getline(file, line);) {
        unsigned long from, to;
        Range range{};
        REQUIRE(std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, range.access) == 3, "a line of /proc/self/maps reads %s", line.c_str());
        range.from = from;
        range.to = to;
        range.what = line;
        all.push_back(range);
    }
    REQUIRE(!all.empty(), "/proc/self/maps is empty");
    return all;
}

// Memory of the program's own, filled with a pattern of its number.
struct Own {
    unsigned char *data;
    size_t bytes;
};
static std::vector<Own> owned;

static void own(size_t bytes, void *hint = nullptr) {
    void *at = mmap(hint, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED, "mmap of %zu bytes failed", bytes);
    auto *data = static_cast<unsigned char *>(at);
    // An overlap from either side would hit the first or the last page.
    std::memset(data, int(owned.size() % 251) + 1, 4096);
    std::memset(data + bytes - 4096, int(owned.size() % 251) + 1, 4096);
    owned.push_back({data, bytes});
}

static void own_is_intact(const char *when) {
    for (size_t i = 0; i < owned.size(); ++i)
        for (size_t at : {size_t(0), size_t(4095), owned[i].bytes - 4096, owned[i].bytes - 1})
            REQUIRE(owned[i].data[at] == i % 251 + 1, "%s: the program's mapping %zu was overwritten at byte %zu", when, i, at);
}

enum Kind { DEVICE, PINNED, ORDERED };
static const char *const kind_names[] = {"device", "pinned", "stream-ordered"};
struct Allocation {
    uintptr_t from, to;
    Kind kind;
};
static std::vector<Allocation> live;

static void note(Kind kind, uintptr_t from, size_t bytes, const std::vector<Range> &before) {
    const uintptr_t to = from + bytes;
    for (const Allocation &other : live)
        REQUIRE(to <= other.from || other.to <= from, "%s memory %#zx-%#zx overlaps %s memory %#zx-%#zx", kind_names[kind], from, to, kind_names[other.kind], other.from, other.to);
    for (const Own &mine : owned) {
        auto start = reinterpret_cast<uintptr_t>(mine.data);
        REQUIRE(to <= start || start + mine.bytes <= from, "%s memory %#zx-%#zx overlaps the program's mapping %#zx-%#zx", kind_names[kind], from, to, start, start + mine.bytes);
    }
    // Of what was there before the first allocation, only what nobody can access may be taken.
    for (const Range &range : before)
        REQUIRE(!range.accessible() || !range.meets(from, to), "%s memory %#zx-%#zx lies in: %s", kind_names[kind], from, to, range.what.c_str());
    live.push_back({from, to, kind});
}

// No mapping that can be accessed lies where device memory does: the processor could take one for the other.
// NVIDIA's driver may map what it likes there.
static void device_addresses_are_free(const char *when) {
    if (on_native_driver()) return;
    for (const Range &range : mappings()) {
        if (!range.accessible()) continue;
        for (const Allocation &a : live)
            REQUIRE(a.kind == PINNED || !range.meets(a.from, a.to), "%s: %s memory %#zx-%#zx is mapped: %s", when, kind_names[a.kind], a.from, a.to, range.what.c_str());
    }
}

static void own_is_apart(const char *when) {
    for (const Own &mine : owned) {
        auto start = reinterpret_cast<uintptr_t>(mine.data);
        for (const Allocation &a : live)
            REQUIRE(a.to <= start || start + mine.bytes <= a.from, "%s: the kernel gave the program %#zx-%#zx, where %s memory lies", when, start, start + mine.bytes, kind_names[a.kind]);
    }
}

int main() {
    Random random;
    // Before anything is reserved, also in the range that the shim would take first: it has to take another one.
    for (uintptr_t hint : {uintptr_t(0x4000'1000'0000), uintptr_t(0x1000'0000'0000), uintptr_t(0x6000'0000'0000)})
        own(4 << 20, reinterpret_cast<void *>(hint));
    for (int i = 0; i < 32; ++i) own(4096 * (1 + random.next() % 600));
    const std::vector<Range> at_start = mappings();

    Gpu gpu = open_gpu(test_name);
    int pools = 0;
    CU(cuDeviceGetAttribute(&pools, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, gpu.device));
    CUstream stream;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));

    std::vector<CUdeviceptr> device, ordered;
    std::vector<void *> pinned;
    for (unsigned round = 0; round < 24; ++round) {
        // Sizes on both sides of every granularity there is: sub-page, 64 KiB, 2 MiB.
        const size_t sizes[] = {1 + random.next() % 5000, 60000 + random.next() % 10000, (2u << 20) - 2048 + random.next() % 4096};
        for (size_t bytes : sizes) {
            CUdeviceptr p = 0;
            void *h = nullptr;
            CU(cuMemAlloc(&p, bytes));
            note(DEVICE, p, bytes, at_start);
            device.push_back(p);
            CU(cuMemHostAlloc(&h, bytes, round % 2 ? CU_MEMHOSTALLOC_PORTABLE : CU_MEMHOSTALLOC_DEVICEMAP));
            note(PINNED, reinterpret_cast<uintptr_t>(h), bytes, at_start);
            pinned.push_back(h);
            if (pools) {
                CU(cuMemAllocAsync(&p, bytes, stream));
                note(ORDERED, p, bytes, at_start);
                ordered.push_back(p);
                CU(cuMemsetD8Async(p, 0xcc, bytes, stream));
            }
            CU(cuMemsetD8(device.back(), 0xaa, bytes));
            std::memset(h, 0xbb, bytes);
        }
        // The program goes on mapping in between, and asks for the very places of a pointer of each kind.
        own(4096 * (1 + random.next() % 600));
        own(1 << 20, reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(pinned.back()) & ~uintptr_t(4095)));
        // What NVIDIA's driver maps where only its GPU looks is its own affair.
        if (on_native_driver()) continue;
        own(1 << 20, reinterpret_cast<void *>(device.back() & ~CUdeviceptr(4095)));
        if (pools) own(1 << 20, reinterpret_cast<void *>(ordered.back() & ~CUdeviceptr(4095)));
    }
    CU(cuStreamSynchronize(stream));
    own_is_apart("after the allocations");
    device_addresses_are_free("after the allocations");
    own_is_intact("after the allocations");
    // A large one, which needs more than what the driver holds ready.
    CUdeviceptr large = 0;
    CU(cuMemAlloc(&large, 192 << 20));
    note(DEVICE, large, 192 << 20, at_start);
    CU(cuMemsetD8(large + (191 << 20), 1, 1 << 20));
    for (int i = 0; i < 64; ++i) own(4096 * (1 + random.next() % 2000));
    own_is_apart("after a large allocation");
    device_addresses_are_free("after a large allocation");
    for (size_t i = 0; i < live.size(); ++i) {
        if (live[i].kind != PINNED) continue;
        auto *bytes = reinterpret_cast<unsigned char *>(live[i].from);
        REQUIRE(bytes[0] == 0xbb && bytes[live[i].to - live[i].from - 1] == 0xbb, "pinned allocation %zu was overwritten", i);
    }

    CU(cuMemFree(large));
    for (CUdeviceptr p : ordered) CU(cuMemFreeAsync(p, stream));
    CU(cuStreamSynchronize(stream));
    for (CUdeviceptr p : device) CU(cuMemFree(p));
    for (void *h : pinned) CU(cuMemFreeHost(h));
    own_is_intact("after freeing everything");
    for (const Own &mine : owned) REQUIRE(munmap(mine.data, mine.bytes) == 0, "munmap failed: the mapping was split");
    return PASS();
}
