// Several contexts of one device, and one of a second device if there is one, each driven by its own thread: a stream that
// is held up in one does not hold up the others, events order work across contexts in both directions, an event asked for
// under another context is not done too early, and contexts that go with work outstanding disturb nobody.
// devices: 2
// rules: 1 2 4 16
#include <atomic>
#include <chrono>
#include <thread>

#include "../common/driver.h"

TEST("contexts_parallel");

struct Place {
    CUcontext context = nullptr;
    CUfunction chain = nullptr, busy = nullptr;
    CUstream stream = nullptr;
    CUdeviceptr words = 0;
};

static std::atomic<bool> released{false}, finished{false};

static void CUDA_CB hold(void *) {
    while (!released.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

static void watch_for_deadlock() {
    std::thread([] {
        for (int i = 0; i < 600 && !finished.load(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        if (!finished.load()) FAIL("no progress within 60 s");
    }).detach();
}

static CUcontext create(CUdevice device) {
    CUcontext context = nullptr;
#if CUDA_VERSION >= 13000
    CU(cuCtxCreate(&context, nullptr, 0, device));
#else
    CU(cuCtxCreate(&context, 0, device));
#endif
    return context;
}

// Fills a place whose context is current.
static Place furnish(CUcontext context) {
    Place place;
    CUmodule module;
    place.context = context;
    CU(cuModuleLoadData(&module, kernels_fatbin));
    CU(cuModuleGetFunction(&place.chain, module, "chain"));
    CU(cuModuleGetFunction(&place.busy, module, "busy"));
    CU(cuStreamCreate(&place.stream, CU_STREAM_NON_BLOCKING));
    CU(cuMemAlloc(&place.words, 8192));
    CU(cuMemsetD8(place.words, 0, 8192));
    CU(cuCtxSynchronize());
    // First launches may load code; later ones shall not.
    CU(launch(place.chain, place.stream, 1, place.words + 4096, 0u, 1));
    CU(launch(place.busy, place.stream, 32, place.words + 4096, 1u));
    CU(cuStreamSynchronize(place.stream));
    return place;
}

static unsigned read_word(CUdeviceptr word) {
    unsigned host = 0;
    CU(cuMemcpyDtoH(&host, word, 4));
    return host;
}

static void work(const Place &place, unsigned rounds, unsigned seed) {
    CU(cuCtxSetCurrent(place.context));
    CU(cuMemsetD32Async(place.words, 0, 1, place.stream));
    unsigned want = 0;
    for (unsigned i = 0; i < rounds; ++i) {
        CU(launch(place.chain, place.stream, 1, place.words, i + seed, 1));
        want = want * 3u + i + seed;
        if (i % 100 == 99) CU(cuStreamSynchronize(place.stream));
    }
    CU(cuStreamSynchronize(place.stream));
    const unsigned got = read_word(place.words);
    REQUIRE(got == want, "context %u computed %u, not %u", seed, got, want);
}

int main(int argc, char **argv) {
    const unsigned rounds = unsigned(400 * scale_argument(argc, argv));
    watch_for_deadlock();
    CU(cuInit(0));
    int devices = 0;
    CU(cuDeviceGetCount(&devices));
    std::vector<Place> places;
    for (int device = 0; device < devices && device < 2; ++device) {
        CUcontext primary;
        CU(cuDevicePrimaryCtxRetain(&primary, device));
        CU(cuCtxSetCurrent(primary));
        places.push_back(furnish(primary));
    }
    for (int i = 0; i < 2; ++i) places.push_back(furnish(create(0)));
    Place &first = places[0], &last = places.back();

    // All at once.
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < places.size(); ++i) threads.emplace_back([&, i] { work(places[i], rounds, i); });
    for (auto &t : threads) t.join();

    // Each context in turn is full of commands that cannot run, as many as any stream takes here; all others go on.
    for (size_t held = 0; held < places.size(); ++held) {
        released.store(false);
        CU(cuCtxSetCurrent(places[held].context));
        CU(cuLaunchHostFunc(places[held].stream, hold, nullptr));
        for (unsigned i = 0; i < 700; ++i) CU(launch(places[held].chain, places[held].stream, 1, places[held].words + 64, i, 1));
        threads.clear();
        for (unsigned i = 0; i < places.size(); ++i)
            if (i != held) threads.emplace_back([&, i] { work(places[i], 200, i); });
        for (auto &t : threads) t.join();
        released.store(true);
        CU(cuStreamSynchronize(places[held].stream));
    }

    // A number goes back and forth between two contexts, by events only.
    CUevent to, fro;
    CU(cuCtxSetCurrent(first.context));
    CU(cuEventCreate(&to, CU_EVENT_DISABLE_TIMING));
    CU(cuMemsetD32Async(first.words, 1, 1, first.stream));
    CU(cuCtxSetCurrent(last.context));
    CU(cuEventCreate(&fro, CU_EVENT_DISABLE_TIMING));
    unsigned want = 1;
    for (unsigned i = 0; i < 100; ++i) {
        CU(cuCtxSetCurrent(first.context));
        if (i > 0) {
            CU(cuStreamWaitEvent(first.stream, fro, 0));
            CU(cuMemcpyPeerAsync(first.words, first.context, last.words, last.context, 4, first.stream));
        }
        CU(launch(first.chain, first.stream, 1, first.words, i, 1));
        CU(cuEventRecord(to, first.stream));
        CU(cuCtxSetCurrent(last.context));
        CU(cuStreamWaitEvent(last.stream, to, 0));
        CU(cuMemcpyPeerAsync(last.words, last.context, first.words, first.context, 4, last.stream));
        CU(launch(last.chain, last.stream, 1, last.words, i + 1000, 1));
        CU(cuEventRecord(fro, last.stream));
        want = (want * 3u + i) * 3u + i + 1000;
    }
    CU(cuStreamSynchronize(last.stream));
    const unsigned got = read_word(last.words);
    REQUIRE(got == want, "back and forth gave %u, not %u", got, want);

    // What one context was given is not done before it is, whoever asks.
    unsigned *host;
    CU(cuMemHostAlloc(reinterpret_cast<void **>(&host), 4, CU_MEMHOSTALLOC_PORTABLE));
    for (unsigned i = 0; i < 20; ++i) {
        *host = 0;
        CU(cuCtxSetCurrent(last.context));
        CU(cuMemsetD32Async(last.words, i + 5, 1, last.stream));
        CU(launch(last.busy, last.stream, 32, last.words + 64, 20000u));
        CU(cuMemcpyDtoHAsync(host, last.words, 4, last.stream));
        CU(cuEventRecord(fro, last.stream));
        CU(cuCtxSetCurrent(first.context));
        CUresult asked;
        while ((asked = cuEventQuery(fro)) == CUDA_ERROR_NOT_READY) std::this_thread::yield();
        CU(asked);
        REQUIRE(*static_cast<volatile unsigned *>(host) == i + 5, "the event is done, the copy is not: %u", *host);
    }

    // Contexts that go while they have something to do.
    for (unsigned i = 0; i < 8; ++i) {
        CUcontext brief = create(0);
        Place place = furnish(brief);
        for (unsigned k = 0; k < 300; ++k) CU(launch(place.chain, place.stream, 1, place.words, k, 1));
        CU(cuCtxDestroy(brief));
        work(places[i % places.size()], 50, i);
    }
    finished.store(true);
    return PASS();
}
