// A synchronous copy from pageable memory, then a launch on a NON_BLOCKING stream: the kernel sees the copied data, and
// the caller may overwrite its buffer as soon as the copy call has returned. All sizes of the inline and staged ways.
// rules: 9 12
#include <atomic>
#include <chrono>
#include <thread>

#include "../common/driver.h"

TEST("posted_copy_nonblocking");

// The synchronous copy of programs built with per-thread default streams.
extern "C" CUresult cuMemcpyHtoD_v2_ptds(CUdeviceptr to, const void *from, size_t bytes);

static std::atomic<bool> over{false};

// On the per-thread default stream nothing else would make other streams wait for the copy: it is over when the call
// returns, also where that stream is held up by the legacy one.
static void on_the_per_thread_stream() {
    CUdeviceptr device;
    std::vector<unsigned> host(5000, 7u);
    CU(cuMemAlloc(&device, host.size() * sizeof(unsigned)));
    for (size_t words : {size_t(1), size_t(100), host.size()}) {
        over.store(false);
        CU(cuLaunchHostFunc(CU_STREAM_LEGACY,
                            [](void *) {
                                std::this_thread::sleep_for(std::chrono::milliseconds(100));
                                over.store(true);
                            },
                            nullptr));
        CU(cuMemcpyHtoD_v2_ptds(device, host.data(), words * sizeof(unsigned)));
        REQUIRE(over.load(), "a copy of %zu words to the per-thread stream returned before it was done", words);
    }
    CU(cuMemFree(device));
}

int main(int argc, char **argv) {
    const int rounds = int(6 * scale_argument(argc, argv));
    Gpu gpu = open_gpu(test_name);
    CUfunction add_one = gpu.function("add_one", test_name);
    CUstream stream;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int words : {1, 16, 1000, 1024, 1025, 5000, 70000}) {
        CUdeviceptr device;
        unsigned *pinned;
        std::vector<unsigned> host(words);
        const size_t bytes = size_t(words) * sizeof(unsigned);
        CU(cuMemAlloc(&device, bytes));
        CU(cuMemAllocHost(reinterpret_cast<void **>(&pinned), bytes));
        for (int round = 0; round < rounds; ++round) {
            auto want = [&](int i) { return unsigned(round * 1000003 + i) + 1u; };
            for (int i = 0; i < words; ++i) host[i] = want(i) - 1u;
            if (round % 2)
                CU(cuMemcpyHtoD(device, host.data(), bytes));
            else
                CU(cuMemcpyHtoDAsync(device, host.data(), bytes, stream));
            std::memset(host.data(), 0xee, bytes);
            CU(launch(add_one, stream, words, device, words));
            CU(cuMemcpyDtoHAsync(pinned, device, bytes, stream));
            CU(cuStreamSynchronize(stream));
            for (int i = 0; i < words; ++i) REQUIRE(pinned[i] == want(i), "%d words, round %d, element %d: %#x, not %#x", words, round, i, pinned[i], want(i));
        }
        CU(cuMemFree(device));
        CU(cuMemFreeHost(pinned));
    }
    // Many copies in flight, far more than a staging area holds, before anyone waits.
    const int many = 300, each = 3000;
    CUdeviceptr device;
    std::vector<unsigned> host(each), out(size_t(many) * each);
    CU(cuMemAlloc(&device, out.size() * sizeof(unsigned)));
    for (int c = 0; c < many; ++c) {
        for (int i = 0; i < each; ++i) host[i] = unsigned(c * each + i) * 2654435761u;
        CU(cuMemcpyHtoDAsync(device + size_t(c) * each * sizeof(unsigned), host.data(), each * sizeof(unsigned), stream));
    }
    CU(cuStreamSynchronize(stream));
    CU(cuMemcpyDtoH(out.data(), device, out.size() * sizeof(unsigned)));
    for (size_t i = 0; i < out.size(); ++i) REQUIRE(out[i] == unsigned(i) * 2654435761u, "element %zu of many copies", i);
    // NVIDIA's own driver takes small pageable copies along and returns.
    if (!on_native_driver()) on_the_per_thread_stream();
    return PASS();
}
