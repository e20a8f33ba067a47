// Tensor maps: encoded, used by a kernel that loads boxes through them, pointed to another tensor; and what is refused.
// rules: 9
#include "../common/driver.h"

TEST("tensor_maps");

// One thread has the device fetch a box of 16 rows of 32 words; all threads store it.
static const char box_ptx[] = R"PTX(
.version 8.0
.target sm_90
.address_size 64

.visible .entry load_box(.param .align 64 .b8 map[128], .param .u64 out, .param .u32 x, .param .u32 y)
{
    .reg .pred %p<6>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<8>;
    .shared .align 128 .b8 box[2048];
    .shared .align 8 .b64 barrier;

    mov.u32 %r1, %tid.x;
    mov.u32 %r2, box;
    mov.u32 %r3, barrier;
    ld.param.u32 %r4, [x];
    ld.param.u32 %r5, [y];
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra ready;
    mbarrier.init.shared::cta.b64 [%r3], 1;
    fence.proxy.async.shared::cta;
ready:
    bar.sync 0;
    @%p1 bra wait;
    mov.b64 %rd1, map;
    cvta.param.u64 %rd2, %rd1;
    mbarrier.arrive.expect_tx.shared::cta.b64 %rd3, [%r3], 2048;
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd2, {%r4, %r5}], [%r3];
wait:
    mov.u32 %r6, 0;
again:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0;
    @%p2 bra arrived;
    add.u32 %r6, %r6, 1;
    setp.lt.u32 %p3, %r6, 1000000;
    @%p3 bra again;
    trap;
arrived:
    ld.param.u64 %rd4, [out];
    cvta.to.global.u64 %rd5, %rd4;
    mov.u32 %r7, %r1;
store:
    shl.b32 %r8, %r7, 2;
    add.u32 %r9, %r2, %r8;
    ld.shared.u32 %r10, [%r9];
    cvt.u64.u32 %rd6, %r8;
    add.u64 %rd7, %rd5, %rd6;
    st.global.u32 [%rd7], %r10;
    add.u32 %r7, %r7, 128;
    setp.lt.u32 %p4, %r7, 512;
    @%p4 bra store;
    ret;
}
)PTX";

static const unsigned columns = 64, rows = 48, box_columns = 32, box_rows = 16;

struct Parameters {
    CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_UINT32;
    cuuint32_t rank = 2;
    cuuint64_t dims[5] = {columns, rows, 1, 1, 1};
    cuuint64_t strides[4] = {columns * 4, columns * rows * 4, columns * rows * 4, columns * rows * 4};
    cuuint32_t box[5] = {box_columns, box_rows, 1, 1, 1};
    cuuint32_t steps[5] = {1, 1, 1, 1, 1};

    CUresult encode(CUtensorMap *map, CUdeviceptr address) const {
        return cuTensorMapEncodeTiled(map, type, rank, reinterpret_cast<void *>(address), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                                      CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    }
};

static void same_but_for_the_address(const CUtensorMap &a, const CUtensorMap &b) {
    for (int i = 1; i < 16; ++i)
        REQUIRE(a.opaque[i] == b.opaque[i], "word %d of two maps that differ by their address is %#llx and %#llx", i, (unsigned long long)a.opaque[i], (unsigned long long)b.opaque[i]);
}

// Loads the box at (x, y) through `map` and compares it with a tensor whose elements are `first + index`; what lies outside is 0.
static void load_and_check(CUfunction load, const CUtensorMap &map, CUdeviceptr out, unsigned first, int x, int y) {
    std::vector<unsigned> box(box_columns * box_rows, 0xdddddddd);
    CU(cuMemsetD32(out, 0xeeeeeeee, box.size()));
    CUtensorMap copy = map;
    void *parameters[] = {&copy, &out, &x, &y};
    CU(cuLaunchKernel(load, 1, 1, 1, 128, 1, 1, 0, nullptr, parameters, nullptr));
    CU(cuMemcpyDtoH(box.data(), out, box.size() * 4));
    for (int row = 0; row < int(box_rows); ++row)
        for (int column = 0; column < int(box_columns); ++column) {
            int tx = x + column, ty = y + row;
            bool inside = tx >= 0 && ty >= 0 && tx < int(columns) && ty < int(rows);
            unsigned expected = inside ? first + unsigned(ty) * columns + unsigned(tx) : 0;
            unsigned found = box[unsigned(row) * box_columns + unsigned(column)];
            REQUIRE(found == expected, "box at (%d, %d), row %d column %d is %u, expected %u", x, y, row, column, found, expected);
        }
}

int main() {
    Gpu gpu = open_gpu(test_name);
    alignas(64) CUtensorMap map, other, third;
    std::memset(&map, 0, sizeof map);
    CUdeviceptr a, b, out;
    const size_t bytes = columns * rows * 4;
    CU(cuMemAlloc(&a, bytes));
    CU(cuMemAlloc(&b, bytes));
    CU(cuMemAlloc(&out, box_columns * box_rows * 4));
    Parameters good;
    int supported = 0;
    CU(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_TENSOR_MAP_ACCESS_SUPPORTED, gpu.device));
    if (!supported) {
        CU_IS(good.encode(&map, a), CUDA_ERROR_NOT_SUPPORTED);
        if (!on_native_driver()) CU_IS(cuTensorMapReplaceAddress(&map, reinterpret_cast<void *>(a)), CUDA_ERROR_NOT_SUPPORTED);
        SKIP("the device has no tensor maps, and says so");
    }
    std::vector<unsigned> ramp(columns * rows);
    for (size_t i = 0; i < ramp.size(); ++i) ramp[i] = 1000 + unsigned(i);
    CU(cuMemcpyHtoD(a, ramp.data(), bytes));
    for (size_t i = 0; i < ramp.size(); ++i) ramp[i] = 500000 + unsigned(i);
    CU(cuMemcpyHtoD(b, ramp.data(), bytes));

    CUmodule module;
    CUfunction load;
    CU(cuModuleLoadData(&module, box_ptx));
    CU(cuModuleGetFunction(&load, module, "load_box"));

    CU(good.encode(&map, a));
    for (auto at : {std::pair<int, int>{0, 0}, {16, 8}, {32, 32}, {48, 40}, {-8, -4}}) load_and_check(load, map, out, 1000, at.first, at.second);
    // The second encoding of the same parameters, and the first one for another tensor.
    CU(good.encode(&other, a));
    REQUIRE(std::memcmp(&map, &other, sizeof map) == 0, "the same parameters gave two maps: address %#llx and %#llx", (unsigned long long)map.opaque[0], (unsigned long long)other.opaque[0]);
    CU(good.encode(&other, b));
    same_but_for_the_address(map, other);
    REQUIRE(other.opaque[0] == b, "the address of the second map is %#llx, not %#llx", (unsigned long long)other.opaque[0], (unsigned long long)b);
    load_and_check(load, other, out, 500000, 16, 16);
    // Replacing the address gives what encoding with that address gives.
    third = map;
    CU(cuTensorMapReplaceAddress(&third, reinterpret_cast<void *>(b)));
    REQUIRE(std::memcmp(&third, &other, sizeof third) == 0, "a replaced address gives another map");
    load_and_check(load, third, out, 500000, 0, 30);
    // Alignments of 16 and 32 bytes, both good for this map, encoded one after the other.
    for (CUdeviceptr offset : {CUdeviceptr(16), CUdeviceptr(32), CUdeviceptr(48)}) {
        CU(good.encode(&other, a + offset));
        REQUIRE(other.opaque[0] == a + offset, "address %#llx", (unsigned long long)other.opaque[0]);
        same_but_for_the_address(map, other);
        third = map;
        CU(cuTensorMapReplaceAddress(&third, reinterpret_cast<void *>(a + offset)));
        REQUIRE(std::memcmp(&third, &other, sizeof third) == 0, "a replaced address at an offset of %llu gives another map", (unsigned long long)offset);
    }
    // Parameters that differ only a little do not share a map.
    Parameters narrow = good;
    narrow.box[0] = 16;
    CU(narrow.encode(&other, a));
    REQUIRE(std::memcmp(&map, &other, sizeof map) != 0, "two boxes share a map");
    CU(good.encode(&third, a));
    REQUIRE(std::memcmp(&map, &third, sizeof map) == 0, "the first map is not found again");

    // Im2col: only that the driver takes it, and that the address is where it belongs.
    const cuuint64_t image[4] = {64, 16, 16, 2}, image_strides[3] = {64 * 2, 64 * 2 * 16, 64 * 2 * 16 * 16};
    const int lower[2] = {-1, -1}, upper[2] = {-1, -1};
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    CU(cuTensorMapEncodeIm2col(&other, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4, reinterpret_cast<void *>(a), image, image_strides, lower, upper, 32, 64, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                               CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
    REQUIRE(other.opaque[0] == a, "the address of an im2col map is %#llx", (unsigned long long)other.opaque[0]);

    // What is refused, and leaves a good map good.
    // NVIDIA's driver dereferences a null map.
    if (!on_native_driver()) {
        CU_IS(good.encode(nullptr, a), CUDA_ERROR_INVALID_VALUE);
        CU_IS(cuTensorMapReplaceAddress(nullptr, reinterpret_cast<void *>(a)), CUDA_ERROR_INVALID_VALUE);
    }
    CU_IS(good.encode(&other, a + 8), CUDA_ERROR_INVALID_VALUE);
    for (cuuint32_t rank : {0u, 6u}) {
        Parameters bad = good;
        bad.rank = rank;
        CU_IS(bad.encode(&other, a), CUDA_ERROR_INVALID_VALUE);
    }
    Parameters bad = good;
    bad.strides[0] = columns * 4 + 8;
    CU_IS(bad.encode(&other, a), CUDA_ERROR_INVALID_VALUE);
    bad = good;
    bad.box[1] = 257;
    CU_IS(bad.encode(&other, a), CUDA_ERROR_INVALID_VALUE);
    bad = good;
    bad.dims[1] = 0;
    CU_IS(bad.encode(&other, a), CUDA_ERROR_INVALID_VALUE);
    CU(cuCtxSetCurrent(nullptr));
    CU_IS(good.encode(&other, a), CUDA_ERROR_INVALID_CONTEXT);
    CU(cuCtxSetCurrent(gpu.context));
    CU(good.encode(&map, a));
    load_and_check(load, map, out, 1000, 4, 4);
    CU(cuModuleUnload(module));
    for (CUdeviceptr p : {a, b, out}) CU(cuMemFree(p));
    CU(cuDevicePrimaryCtxRelease(gpu.device));
    return PASS();
}
