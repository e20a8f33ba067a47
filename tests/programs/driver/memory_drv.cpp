// Every copy and memset of the driver API, around the sizes where an implementation changes its way (inline, staged,
// zero-copy), at every alignment, with guard bytes on both sides.
// rules: 12 14
#include "../common/driver.h"

TEST("memory_drv");

using Bytes = std::vector<unsigned char>;

static Bytes pattern(size_t size, unsigned seed) {
    Bytes bytes(size);
    Random random{seed | 1u};
    for (auto &b : bytes) b = static_cast<unsigned char>(random.next() >> 7);
    return bytes;
}

constexpr size_t kGuard = 64;

// Host to device, device to device, device to host, with `offset` added to both the host and the device address.
static void there_and_back(CUdeviceptr a, CUdeviceptr b, CUstream stream, size_t size, size_t offset, int way) {
    Bytes in = pattern(size + offset, unsigned(size * 8 + offset)), out(size + offset + kGuard, 0xa5);
    CUdeviceptr from = a + kGuard + offset, to = b + kGuard + 3 * offset;
    CU(cuMemsetD8(b, 0x3c, kGuard + 3 * offset));
    CU(cuMemsetD8(to + size, 0x3c, kGuard));
    switch (way) {
        case 0:
            CU(cuMemcpyHtoD(from, in.data() + offset, size));
            CU(cuMemcpyDtoD(to, from, size));
            CU(cuMemcpyDtoH(out.data() + offset, to, size));
            break;
        case 1:
            CU(cuMemcpyHtoDAsync(from, in.data() + offset, size, stream));
            CU(cuMemcpyDtoDAsync(to, from, size, stream));
            CU(cuMemcpyDtoHAsync(out.data() + offset, to, size, stream));
            CU(cuStreamSynchronize(stream));
            break;
        default:
            CU(cuMemcpy(from, CUdeviceptr(in.data() + offset), size));
            CU(cuMemcpyAsync(to, from, size, stream));
            CU(cuStreamSynchronize(stream));
            CU(cuMemcpy(CUdeviceptr(out.data() + offset), to, size));
    }
    REQUIRE(std::memcmp(out.data() + offset, in.data() + offset, size) == 0, "way %d: %zu bytes at offset %zu differ", way, size, offset);
    for (size_t i = 0; i < offset; ++i) REQUIRE(out[i] == 0xa5, "way %d: %zu bytes wrote before the host buffer", way, size);
    for (size_t i = offset + size; i < out.size(); ++i) REQUIRE(out[i] == 0xa5, "way %d: %zu bytes wrote past the host buffer", way, size);
    Bytes guard(kGuard);
    CU(cuMemcpyDtoH(guard.data(), to + size, kGuard));
    for (unsigned char g : guard) REQUIRE(g == 0x3c, "way %d: %zu bytes wrote past the device range", way, size);
    CU(cuMemcpyDtoH(guard.data(), to - kGuard, kGuard));
    for (unsigned char g : guard) REQUIRE(g == 0x3c, "way %d: %zu bytes wrote before the device range", way, size);
}

static void memsets(CUdeviceptr d, CUstream stream) {
    Bytes out(4096);
    auto read = [&] { CU(cuMemcpyDtoH(out.data(), d, out.size())); };
    // The fill is asynchronous to the host, and the streams used here do not wait for the legacy one.
    auto clear = [&] {
        CU(cuMemsetD8(d, 0, out.size()));
        CU(cuStreamSynchronize(nullptr));
    };
    for (size_t count : {size_t(0), size_t(1), size_t(3), size_t(64), size_t(1001)}) {
        clear();
        CU(cuMemsetD8(d + 5, 0xab, count));
        read();
        for (size_t i = 0; i < out.size(); ++i) REQUIRE(out[i] == (i >= 5 && i < 5 + count ? 0xab : 0), "D8 count %zu byte %zu", count, i);
        clear();
        CU(cuMemsetD16Async(d + 6, 0x1234, count, stream));
        CU(cuStreamSynchronize(stream));
        read();
        for (size_t i = 0; i < out.size(); ++i) {
            unsigned char want = i >= 6 && i < 6 + 2 * count ? (i % 2 ? 0x12 : 0x34) : 0;
            REQUIRE(out[i] == want, "D16 count %zu byte %zu", count, i);
        }
        if (count * 4 + 8 > out.size()) continue;
        clear();
        CU(cuMemsetD32(d + 8, 0x04030201u, count));
        read();
        for (size_t i = 0; i < out.size(); ++i) {
            unsigned char want = i >= 8 && i < 8 + 4 * count ? static_cast<unsigned char>(i % 4 + 1) : 0;
            REQUIRE(out[i] == want, "D32 count %zu byte %zu", count, i);
        }
    }
    CU_IS(cuMemsetD32(d + 2, 1, 1), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemsetD16(d + 1, 1, 1), CUDA_ERROR_INVALID_VALUE);
    clear();
    CU(cuMemsetD2D32(d, 256, 0x01010101u, 10, 7));
    CU(cuMemsetD2D8Async(d + 2048, 100, 9, 33, 4, stream));
    CU(cuStreamSynchronize(stream));
    read();
    for (size_t i = 0; i < out.size(); ++i) {
        unsigned char want = 0;
        if (i < 7 * 256 && i % 256 < 40) want = 1;
        if (i >= 2048 && i < 2048 + 400 && (i - 2048) % 100 < 33) want = 9;
        REQUIRE(out[i] == want, "2D memset byte %zu is %u, not %u", i, out[i], want);
    }
}

static void shapes(CUstream stream) {
    CUdeviceptr d;
    size_t pitch = 0;
    const size_t width = 117, rows = 43, host_pitch = 130;
    CU(cuMemAllocPitch(&d, &pitch, width, rows, 4));
    REQUIRE(pitch >= width, "pitch %zu", pitch);
    Bytes in = pattern(host_pitch * rows, 5), out(host_pitch * rows, 0xee);
    CUDA_MEMCPY2D copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = in.data();
    copy.srcPitch = host_pitch;
    copy.srcXInBytes = 7;
    copy.srcY = 3;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = d;
    copy.dstPitch = pitch;
    copy.dstXInBytes = 2;
    copy.dstY = 1;
    copy.WidthInBytes = 90;
    copy.Height = 37;
    CU(cuMemcpy2D(&copy));
    CUDA_MEMCPY2D back = {};
    back.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    back.srcDevice = d;
    back.srcPitch = pitch;
    back.srcXInBytes = 2;
    back.srcY = 1;
    back.dstMemoryType = CU_MEMORYTYPE_HOST;
    back.dstHost = out.data();
    back.dstPitch = host_pitch;
    back.dstXInBytes = 7;
    back.dstY = 3;
    back.WidthInBytes = 90;
    back.Height = 37;
    CU(cuMemcpy2DAsync(&back, stream));
    CU(cuStreamSynchronize(stream));
    for (size_t y = 0; y < rows; ++y)
        for (size_t x = 0; x < host_pitch; ++x) {
            bool inside = x >= 7 && x < 97 && y >= 3 && y < 40;
            unsigned char want = inside ? in[y * host_pitch + x] : 0xee;
            REQUIRE(out[y * host_pitch + x] == want, "2D byte (%zu,%zu)", x, y);
        }
    // cudart uses a host-to-host 2D copy as its asynchronous host copy.
    Bytes copied(in.size(), 0);
    CUDA_MEMCPY2D host = {};
    host.srcMemoryType = host.dstMemoryType = CU_MEMORYTYPE_HOST;
    host.srcHost = in.data();
    host.dstHost = copied.data();
    host.srcPitch = host.dstPitch = host.WidthInBytes = host_pitch;
    host.Height = rows;
    CU(cuMemcpy2DAsync(&host, stream));
    CU(cuStreamSynchronize(stream));
    REQUIRE(copied == in, "a host-to-host 2D copy differs");
    back.WidthInBytes = pitch + 1;
    CU_IS(cuMemcpy2D(&back), CUDA_ERROR_INVALID_VALUE);
    CU(cuMemFree(d));

    const size_t w = 20, h = 12, depth = 5;
    CUdeviceptr box;
    CU(cuMemAlloc(&box, w * h * depth));
    Bytes box_in = pattern(w * h * depth, 6), box_out(w * h * depth, 0);
    CUDA_MEMCPY3D three = {};
    three.srcMemoryType = CU_MEMORYTYPE_HOST;
    three.srcHost = box_in.data();
    three.srcPitch = w;
    three.srcHeight = h;
    three.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    three.dstDevice = box;
    three.dstPitch = w;
    three.dstHeight = h;
    three.WidthInBytes = w;
    three.Height = h;
    three.Depth = depth;
    CU(cuMemcpy3D(&three));
    CUDA_MEMCPY3D three_back = {};
    three_back.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    three_back.srcDevice = box;
    three_back.srcPitch = w;
    three_back.srcHeight = h;
    three_back.srcXInBytes = 4;
    three_back.srcZ = 1;
    three_back.dstMemoryType = CU_MEMORYTYPE_HOST;
    three_back.dstHost = box_out.data();
    three_back.dstPitch = w;
    three_back.dstHeight = h;
    three_back.WidthInBytes = 8;
    three_back.Height = h;
    three_back.Depth = 3;
    CU(cuMemcpy3DAsync(&three_back, stream));
    CU(cuStreamSynchronize(stream));
    for (size_t z = 0; z < 3; ++z)
        for (size_t y = 0; y < h; ++y)
            for (size_t x = 0; x < 8; ++x)
                REQUIRE(box_out[(z * h + y) * w + x] == box_in[((z + 1) * h + y) * w + x + 4], "3D byte (%zu,%zu,%zu)", x, y, z);
    CU(cuMemFree(box));
}

int main() {
    open_gpu(test_name);
    CUstream stream;
    CUdeviceptr a, b;
    const size_t room = (1 << 20) + 4096;
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuMemAlloc(&a, room));
    CU(cuMemAlloc(&b, room));
    REQUIRE(a % 256 == 0 && b % 256 == 0, "allocations are not aligned to 256 bytes");
    for (size_t base : {size_t(0), size_t(4), size_t(64), size_t(512), size_t(4096), size_t(16384), size_t(65536), size_t(262144), size_t(1) << 20})
        for (int delta = -1; delta <= 1; ++delta) {
            if (base == 0 && delta < 0) continue;
            const size_t size = base + size_t(delta);
            for (int way = 0; way < 3; ++way) there_and_back(a, b, stream, size, 0, way);
        }
    for (size_t offset : {size_t(1), size_t(2), size_t(3), size_t(7), size_t(13), size_t(63)})
        for (size_t size : {size_t(1), size_t(5), size_t(129), size_t(5000), size_t(70001)})
            for (int way = 0; way < 3; ++way) there_and_back(a, b, stream, size, offset, way);
    memsets(a, stream);
    shapes(stream);

    CUdeviceptr base;
    size_t size;
    CU(cuMemGetAddressRange(&base, &size, a + 12345));
    REQUIRE(base == a && size == room, "the address range is %zu bytes", size);
    size_t before = 0, during = 0, after = 0, total = 0;
    CUdeviceptr large;
    CU(cuMemGetInfo(&before, &total));
    CU(cuMemAlloc(&large, 64 << 20));
    CU(cuMemGetInfo(&during, &total));
    CU(cuMemFree(large));
    CU(cuMemGetInfo(&after, &total));
    // Another process may share the GPU, so only this process's own 64 MiB must show.
    REQUIRE(before <= total && during < before && after > during, "free memory: %zu, %zu, %zu of %zu", before, during, after, total);

    // Many small allocations: distinct, usable, and reusable after they are freed.
    std::vector<CUdeviceptr> many(500);
    for (size_t round = 0; round < 2; ++round) {
        for (size_t i = 0; i < many.size(); ++i) {
            CU(cuMemAlloc(&many[i], 1 + i * 37));
            CU(cuMemsetD8(many[i], static_cast<unsigned char>(i), 1 + i * 37));
        }
        for (size_t i = 0; i < many.size(); ++i) {
            unsigned char last = 0;
            CU(cuMemcpyDtoH(&last, many[i] + i * 37, 1));
            REQUIRE(last == static_cast<unsigned char>(i), "allocation %zu was overwritten", i);
            CU(cuMemFree(many[i]));
        }
    }
    return PASS();
}
