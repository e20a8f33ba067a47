// Pitched and three-dimensional copies in every direction, compared byte for byte, with guard bytes around them.
// variants: 13-static 12-shared
// rules: 12
#include <vector>

#include "../common/runtime.h"

TEST("memcpy_shapes");

using Bytes = std::vector<unsigned char>;

static Bytes pattern(size_t size, unsigned seed) {
    Bytes bytes(size);
    Random random{seed};
    for (auto &b : bytes) b = static_cast<unsigned char>(random.next());
    return bytes;
}

static void check_rows(const Bytes &got, size_t got_pitch, const Bytes &want, size_t want_pitch, size_t width, size_t rows, const char *what) {
    for (size_t y = 0; y < rows; ++y)
        for (size_t x = 0; x < width; ++x)
            REQUIRE(got[y * got_pitch + x] == want[y * want_pitch + x], "%s: byte (%zu,%zu) differs", what, x, y);
}

static void two_dimensions(size_t width, size_t rows, size_t host_pitch, bool pinned) {
    unsigned char *a, *b;
    size_t pitch_a, pitch_b;
    RT(cudaMallocPitch(&a, &pitch_a, width, rows));
    RT(cudaMallocPitch(&b, &pitch_b, width + 3, rows));
    REQUIRE(pitch_a >= width && pitch_a % 32 == 0, "pitch %zu for width %zu", pitch_a, width);
    Bytes in = pattern(host_pitch * rows, unsigned(width * 31 + rows)), out(host_pitch * rows, 0xee);
    unsigned char *source = in.data();
    if (pinned) {
        RT(cudaMallocHost(&source, in.size()));
        std::memcpy(source, in.data(), in.size());
    }
    RT(cudaMemset2D(a, pitch_a, 0x11, width, rows));
    RT(cudaMemcpy2D(a, pitch_a, source, host_pitch, width, rows, cudaMemcpyHostToDevice));
    RT(cudaMemcpy2DAsync(b, pitch_b, a, pitch_a, width, rows, cudaMemcpyDeviceToDevice, 0));
    RT(cudaMemcpy2D(out.data(), host_pitch, b, pitch_b, width, rows, cudaMemcpyDeviceToHost));
    check_rows(out, host_pitch, in, host_pitch, width, rows, "2D");
    for (size_t y = 0; y < rows; ++y)
        for (size_t x = width; x < host_pitch; ++x)
            REQUIRE(out[y * host_pitch + x] == 0xee, "2D: the copy wrote past the width at (%zu,%zu)", x, y);
    if (pinned) RT(cudaFreeHost(source));
    RT(cudaFree(a));
    RT(cudaFree(b));
}

int main() {
    two_dimensions(1, 1, 1, false);
    two_dimensions(100, 37, 128, false);
    two_dimensions(333, 65, 333, false);
    two_dimensions(1024, 64, 1027, true);
    two_dimensions(4097, 300, 5000, false);
    RT_IS(cudaMemcpy2D(nullptr, 4, nullptr, 4, 8, 2, cudaMemcpyHostToDevice), cudaErrorInvalidPitchValue);

    const size_t width = 50, height = 20, depth = 9;
    Bytes in = pattern(width * height * depth, 99), out(in.size(), 0);
    cudaPitchedPtr device;
    RT(cudaMalloc3D(&device, make_cudaExtent(width, height, depth)));
    RT(cudaMemset3D(device, 0, make_cudaExtent(width, height, depth)));
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(in.data(), width, width, height);
    copy.dstPtr = device;
    // A sub-box with an offset in every direction.
    copy.srcPos = make_cudaPos(3, 2, 1);
    copy.dstPos = make_cudaPos(4, 5, 2);
    copy.extent = make_cudaExtent(30, 11, 6);
    copy.kind = cudaMemcpyHostToDevice;
    RT(cudaMemcpy3D(&copy));
    cudaMemcpy3DParms back = {};
    back.srcPtr = device;
    back.dstPtr = make_cudaPitchedPtr(out.data(), width, width, height);
    back.extent = make_cudaExtent(width, height, depth);
    back.kind = cudaMemcpyDeviceToHost;
    RT(cudaMemcpy3DAsync(&back, 0));
    RT(cudaStreamSynchronize(0));
    for (size_t z = 0; z < depth; ++z)
        for (size_t y = 0; y < height; ++y)
            for (size_t x = 0; x < width; ++x) {
                bool inside = x >= 4 && x < 34 && y >= 5 && y < 16 && z >= 2 && z < 8;
                unsigned char want = inside ? in[((z - 1) * height + (y - 3)) * width + (x - 1)] : 0;
                REQUIRE(out[(z * height + y) * width + x] == want, "3D: byte (%zu,%zu,%zu) differs", x, y, z);
            }

    // Host to host, and the direction found from the addresses.
    Bytes third(in.size());
    RT(cudaMemcpy(third.data(), in.data(), in.size(), cudaMemcpyHostToHost));
    REQUIRE(third == in, "a host-to-host copy differs");
    unsigned char *flat;
    RT(cudaMalloc(&flat, in.size()));
    RT(cudaMemcpy(flat, in.data(), in.size(), cudaMemcpyDefault));
    third.assign(in.size(), 0);
    RT(cudaMemcpy(third.data(), flat, in.size(), cudaMemcpyDefault));
    REQUIRE(third == in, "a copy in the default direction differs");
    return PASS();
}
