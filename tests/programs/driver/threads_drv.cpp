// Eight threads with their own streams and one with none: current contexts are per thread, launches arrive in each
// thread's order, and what one thread launched before telling another is done before what the other launches.
// rules: 1 2 11 13
#include <atomic>
#include <thread>

#include "../common/driver.h"

TEST("threads_drv");

int main(int argc, char **argv) {
    const unsigned rounds = unsigned(300 * scale_argument(argc, argv));
    Gpu gpu = open_gpu(test_name);
    CUfunction chain = gpu.function("chain", test_name);
    std::vector<std::thread> threads;
    for (unsigned id = 0; id < 8; ++id)
        threads.emplace_back([&, id] {
            CUcontext current = gpu.context;
            CU(cuCtxGetCurrent(&current));
            REQUIRE(current == nullptr, "thread %u starts with a context", id);
            CUdeviceptr early;
            CU_IS(cuMemAlloc(&early, 4), CUDA_ERROR_INVALID_CONTEXT);
            CU(cuCtxSetCurrent(gpu.context));
            CUstream stream = nullptr;
            if (id != 0) CU(cuStreamCreate(&stream, id % 2 ? CU_STREAM_NON_BLOCKING : CU_STREAM_DEFAULT));
            CUdeviceptr words;
            unsigned host[200], want = 0;
            CU(cuMemAlloc(&words, sizeof host));
            CU(cuMemsetD8Async(words, 0, sizeof host, stream));
            for (unsigned r = 0; r < rounds; ++r) {
                CU(launch(chain, stream, 200, words, r * 8 + id, 200));
                want = want * 3u + r * 8 + id;
                if (r % 100 == 99) {
                    CU(cuMemcpyDtoHAsync(host, words, sizeof host, stream));
                    CU(cuStreamSynchronize(stream));
                    for (unsigned i = 0; i < 200; ++i) REQUIRE(host[i] == want, "thread %u round %u: %u, not %u", id, r, host[i], want);
                }
            }
            CU(cuMemFree(words));
            if (stream) CU(cuStreamDestroy(stream));
        });
    for (auto &t : threads) t.join();

    // Two threads take turns on one stream, handing over by an atomic: the order of the calls is the order of the work.
    CUstream shared;
    CUdeviceptr word;
    std::atomic<unsigned> turn{0};
    CU(cuStreamCreate(&shared, CU_STREAM_NON_BLOCKING));
    CU(cuMemAlloc(&word, 4));
    CU(cuMemsetD32Async(word, 0, 1, shared));
    auto alternate = [&](unsigned parity) {
        CU(cuCtxSetCurrent(gpu.context));
        for (unsigned i = parity; i < rounds; i += 2) {
            while (turn.load(std::memory_order_acquire) != i) std::this_thread::yield();
            CU(launch(chain, shared, 1, word, i, 1));
            turn.store(i + 1, std::memory_order_release);
        }
    };
    std::thread even(alternate, 0u), odd(alternate, 1u);
    even.join();
    odd.join();
    unsigned host = 0, want = 0;
    for (unsigned i = 0; i < rounds; ++i) want = want * 3u + i;
    CU(cuMemcpyDtoHAsync(&host, word, 4, shared));
    CU(cuStreamSynchronize(shared));
    REQUIRE(host == want, "taking turns gave %u, not %u", host, want);

    // Many short-lived threads: what each needs is given back.
    for (unsigned i = 0; i < 300; ++i)
        std::thread([&] {
            CU(cuCtxSetCurrent(gpu.context));
            unsigned seen = 0;
            CU(launch(chain, shared, 1, word, i, 1));
            CU(cuStreamSynchronize(shared));
            CU(cuMemcpyDtoH(&seen, word, 4));
            want = want * 3u + i;
            REQUIRE(seen == want, "short-lived thread %u saw %u", i, seen);
        }).join();
    return PASS();
}
