// Memory that is freed in stream order and allocated again: it is the program's alone, a free that nobody saw yet counts as soon
// as somebody looks, and freed memory is no memory.
// rules: 9
#include <chrono>
#include <thread>

#include "../common/driver.h"

TEST("pool_reuse");

static CUmemoryPool pool;

static cuuint64_t used() {
    cuuint64_t bytes = 0;
    CU(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &bytes));
    return bytes;
}

static unsigned long long id_of(CUdeviceptr memory) {
    unsigned long long id = 0;
    CU(cuPointerGetAttribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, memory));
    return id;
}

int main() {
    Gpu gpu = open_gpu(test_name);
    int supported = 0;
    CU(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, gpu.device));
    if (!supported) SKIP("the device has no memory pools");
    CUmemPoolProps properties = {};
    properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = gpu.device;
    CU(cuMemPoolCreate(&pool, &properties));
    CUfunction fill = gpu.function("fill", test_name);
    CUstream stream, other;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    const int n = 1000;
    const size_t size = n * sizeof(unsigned);
    unsigned *host;
    CU(cuMemAllocHost(reinterpret_cast<void **>(&host), 64 * size));

    // Several sizes at once, freed in another order than allocated: no two live ones overlap, and each holds what was written.
    for (unsigned round = 0; round < 100; ++round) {
        CUdeviceptr memory[8];
        for (unsigned i = 0; i < 8; ++i) {
            CU(cuMemAllocFromPoolAsync(&memory[i], size * (1 + i % 3), pool, stream));
            CU(launch(fill, stream, n, memory[i], round * 8 + i, n));
        }
        for (unsigned i = 0; i < 8; ++i) {
            for (unsigned j = 0; j < i; ++j)
                REQUIRE(memory[i] + size * (1 + i % 3) <= memory[j] || memory[j] + size * (1 + j % 3) <= memory[i], "round %u: %u and %u overlap", round, i, j);
            CU(cuMemcpyDtoHAsync(host + n * i, memory[i], size, stream));
        }
        for (unsigned i = 0; i < 8; ++i) CU(cuMemFreeAsync(memory[(i * 3 + round) % 8], stream));
        if (round % 7 == 0) {
            CU(cuStreamSynchronize(stream));
            for (unsigned i = 0; i < 8; ++i)
                REQUIRE(host[n * i] == round * 8 + i && host[n * i + n - 1] == round * 8 + i, "round %u: %u holds %u", round, i, host[n * i]);
            REQUIRE(used() == 0, "round %u: %llu bytes are in use", round, static_cast<unsigned long long>(used()));
        }
    }

    // A new allocation is another one, wherever it lies.
    CUdeviceptr one, two;
    CU(cuMemAllocFromPoolAsync(&one, size, pool, stream));
    unsigned long long first = id_of(one);
    CU(cuMemFreeAsync(one, stream));
    CU(cuMemAllocFromPoolAsync(&two, size, pool, stream));
    REQUIRE(id_of(two) != first, "two allocations have the id %llu", first);
    CU(cuMemFreeAsync(two, stream));

    // Freed is freed: a second time is refused, and so is a plain free.
    if (!on_native_driver()) {
        REQUIRE(cuMemFreeAsync(two, stream) != CUDA_SUCCESS, "freed twice");
        CU(cuStreamSynchronize(stream));
        REQUIRE(cuMemFree(two) != CUDA_SUCCESS, "freed three times");
    }

    // Another stream is another order: it gets memory that is free for it, and what ran on the first one is unharmed.
    for (unsigned round = 0; round < 50; ++round) {
        CU(cuMemAllocFromPoolAsync(&one, size, pool, stream));
        CU(launch(fill, stream, n, one, round, n));
        CU(cuMemcpyDtoHAsync(host, one, size, stream));
        CU(cuMemFreeAsync(one, stream));
        CU(cuMemAllocFromPoolAsync(&two, size, pool, other));
        CU(launch(fill, other, n, two, ~round, n));
        CU(cuMemcpyDtoHAsync(host + n, two, size, other));
        CU(cuMemFreeAsync(two, other));
        CU(cuStreamSynchronize(stream));
        CU(cuStreamSynchronize(other));
        REQUIRE(host[0] == round && host[n - 1] == round && host[n] == ~round, "round %u: %u and %u", round, host[0], host[n]);
    }
    REQUIRE(used() == 0, "two streams left %llu bytes in use", static_cast<unsigned long long>(used()));

    // A thread that frees on its own default stream and ends; a stream that is destroyed behind a free.
    std::thread([&] {
        CU(cuCtxSetCurrent(gpu.context));
        CUdeviceptr memory;
        CU(cuMemAllocFromPoolAsync(&memory, size, pool, CU_STREAM_PER_THREAD));
        CU(cuMemFreeAsync(memory, CU_STREAM_PER_THREAD));
    }).join();
    CU(cuMemAllocFromPoolAsync(&one, size, pool, other));
    CU(cuMemFreeAsync(one, other));
    CU(cuStreamDestroy(other));
    CU(cuCtxSynchronize());
    REQUIRE(used() == 0, "what ended left %llu bytes in use", static_cast<unsigned long long>(used()));

    // Threads at once: a stream that is destroyed takes no free with it that another thread was about to send, and no thread
    // gets what another one holds.
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < 4; ++number)
        threads.emplace_back([&, number] {
            CU(cuCtxSetCurrent(gpu.context));
            unsigned *own = host + n * number;
            for (unsigned round = 0; round < 40; ++round) {
                CUstream mine;
                CUdeviceptr memory[2];
                CU(cuStreamCreate(&mine, CU_STREAM_NON_BLOCKING));
                for (unsigned i = 0; i < 3; ++i) {
                    CU(cuMemAllocFromPoolAsync(&memory[0], size, pool, mine));
                    CU(cuMemAllocFromPoolAsync(&memory[1], size, pool, mine));
                    CU(launch(fill, mine, n, memory[0], number * 1000 + round, n));
                    CU(launch(fill, mine, n, memory[1], 7u, n));
                    // What a destroyed stream still has to do would come into the next round's bytes.
                    if (round % 2) CU(cuMemcpyDtoHAsync(own, memory[0], size, mine));
                    CU(cuMemFreeAsync(memory[1], mine));
                    CU(cuMemFreeAsync(memory[0], mine));
                }
                if (round % 2) {
                    CU(cuStreamSynchronize(mine));
                    REQUIRE(own[0] == number * 1000 + round && own[n - 1] == own[0], "thread %u round %u: %u", number, round, own[0]);
                }
                CU(cuStreamDestroy(mine));
            }
        });
    for (std::thread &thread : threads) thread.join();
    for (int look = 0; look < 3000 && used() != 0; ++look) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    REQUIRE(used() == 0, "four threads left %llu bytes in use", static_cast<unsigned long long>(used()));

    // Free memory of the device, once seen, has what was freed.
    size_t before, after, all;
    CU(cuMemGetInfo(&before, &all));
    CU(cuMemAllocFromPoolAsync(&one, size_t(32) << 20, pool, stream));
    CU(cuMemFreeAsync(one, stream));
    CU(cuStreamSynchronize(stream));
    CU(cuMemGetInfo(&after, &all));
    REQUIRE(after + (size_t(4) << 20) >= before, "%zu bytes were free and %zu are", before, after);

    // A pool that goes takes what was freed into it along.
    CU(cuMemAllocFromPoolAsync(&one, size, pool, stream));
    CU(cuMemFreeAsync(one, stream));
    CU(cuMemPoolDestroy(pool));
    CU(cuStreamSynchronize(stream));
    CU(cuMemAllocAsync(&one, size, stream));
    CU(launch(fill, stream, n, one, 5u, n));
    CU(cuMemcpyDtoHAsync(host, one, size, stream));
    CU(cuMemFreeAsync(one, stream));
    CU(cuStreamSynchronize(stream));
    REQUIRE(host[n - 1] == 5, "memory of the device's own pool holds %u", host[n - 1]);
    return PASS();
}
