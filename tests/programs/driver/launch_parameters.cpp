// Parameters of every width and of 3,600 bytes, by pointer array and as one packed buffer; dynamic shared memory; and
// that parameters are copied by the launch call, so the caller may reuse their memory at once.
// rules: 9 10 13
#include <cstddef>

#include "../common/driver.h"

TEST("launch_parameters");

struct Large {
    unsigned words[900];
};

static unsigned sum_of(const Large &large) {
    unsigned sum = 0;
    for (unsigned word : large.words) sum = sum * 31u + word;
    return sum;
}

int main() {
    Gpu gpu = open_gpu(test_name);
    CUfunction mixed = gpu.function("mixed_parameters", test_name), large_sum = gpu.function("sum_large", test_name),
               reverse = gpu.function("shared_reverse", test_name), chain = gpu.function("chain", test_name);
    CUdeviceptr out;
    unsigned host[64] = {};
    CU(cuMemAlloc(&out, 4096));

    char a = char(0x91);
    double b = 1234.5;
    short c = -2;
    long long d = 0x123456789abcdef0ll;
    void *parameters[] = {&a, &b, &c, &out, &d};
    auto check_mixed = [&] {
        CU(cuMemcpyDtoH(host, out, 5 * sizeof(unsigned)));
        REQUIRE(host[0] == 0x91 && host[1] == 2469 && host[2] == 0xfffe && host[3] == 0x9abcdef0u && host[4] == 0x12345678u,
                "parameters arrived as %#x %u %#x %#x %#x", host[0], host[1], host[2], host[3], host[4]);
        CU(cuMemsetD8(out, 0xff, 64));
    };
    CU(cuLaunchKernel(mixed, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr));
    check_mixed();

    struct Packed {
        char a;
        alignas(8) double b;
        short c;
        alignas(8) CUdeviceptr out;
        alignas(8) long long d;
    } packed = {a, b, c, out, d};
    size_t size = sizeof packed;
    void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
    CU(cuLaunchKernel(mixed, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra));
    check_mixed();
    // Both ways at once is a mistake of the caller's.
    CU_IS(cuLaunchKernel(mixed, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, extra), CUDA_ERROR_INVALID_VALUE);

    // What the driver says about the layout agrees with the C++ layout.
    const size_t offsets[] = {offsetof(Packed, a), offsetof(Packed, b), offsetof(Packed, c), offsetof(Packed, out), offsetof(Packed, d)};
    const size_t sizes[] = {1, 8, 2, 8, 8};
    for (size_t i = 0; i < 5; ++i) {
        size_t offset = 0, bytes = 0;
        CU(cuFuncGetParamInfo(mixed, i, &offset, &bytes));
        REQUIRE(offset == offsets[i] && bytes == sizes[i], "parameter %zu: offset %zu size %zu", i, offset, bytes);
    }
    size_t offset, bytes;
    CU_IS(cuFuncGetParamInfo(mixed, 5, &offset, &bytes), CUDA_ERROR_INVALID_VALUE);

    // Large parameters, many in flight, each from memory that is overwritten right after the call.
    Large large;
    unsigned want[64];
    for (unsigned i = 0; i < 64; ++i) {
        Random random{i + 1};
        for (unsigned &word : large.words) word = random.next();
        want[i] = sum_of(large);
        CUdeviceptr slot = out + i * sizeof(unsigned);
        if (i % 2) {
            void *pointers[] = {&large, &slot};
            CU(cuLaunchKernel(large_sum, 1, 1, 1, 1, 1, 1, 0, nullptr, pointers, nullptr));
        } else {
            struct {
                Large large;
                CUdeviceptr slot;
            } both = {large, slot};
            size_t both_size = sizeof both;
            void *buffer[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &both, CU_LAUNCH_PARAM_BUFFER_SIZE, &both_size, CU_LAUNCH_PARAM_END};
            CU(cuLaunchKernel(large_sum, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, buffer));
            std::memset(&both, 0xee, sizeof both);
        }
        std::memset(&large, 0xee, sizeof large);
    }
    CU(cuMemcpyDtoH(host, out, sizeof host));
    for (int i = 0; i < 64; ++i) REQUIRE(host[i] == want[i], "launch %d summed %#x, not %#x", i, host[i], want[i]);

    // Blocks of every length near that of the longest short record, and pageable copies likewise, in flight together.
    const struct {
        CUfunction function;
        unsigned count;
    } near_limit[] = {
        {gpu.function("sum_98", test_name), 98},
        {gpu.function("sum_100", test_name), 100},
        {gpu.function("sum_114", test_name), 114},
    };
    for (unsigned round = 0; round < 300; ++round) {
        const auto &kernel = near_limit[round % 3];
        Random random{round + 1};
        for (unsigned &word : large.words) word = random.next();
        unsigned sum = 0;
        for (unsigned i = 0; i < kernel.count; ++i) sum = sum * 31u + large.words[i];
        want[round % 64] = sum;
        CUdeviceptr slot = out + (round % 64) * sizeof(unsigned);
        void *pointers[] = {&large, &slot};
        CU(cuLaunchKernel(kernel.function, 1, 1, 1, 1, 1, 1, 0, nullptr, pointers, nullptr));
        std::memset(&large, 0xee, sizeof large);
    }
    CU(cuMemcpyDtoH(host, out, sizeof host));
    for (int i = 0; i < 64; ++i) REQUIRE(host[i] == want[i], "slot %d holds %#x, not %#x", i, host[i], want[i]);
    unsigned char bytes_in[600], bytes_out[600];
    for (size_t length = 380; length <= sizeof bytes_in; ++length) {
        Random random{unsigned(length)};
        for (size_t i = 0; i < length; ++i) bytes_out[i] = bytes_in[i] = static_cast<unsigned char>(random.next() >> 16);
        CU(cuMemcpyHtoDAsync(out + 1024, bytes_in, length, nullptr));
        std::memset(bytes_in, 0xee, sizeof bytes_in);
        CU(cuMemcpyDtoH(bytes_in, out + 1024, length));
        REQUIRE(std::memcmp(bytes_in, bytes_out, length) == 0, "a copy of %zu bytes arrived changed", length);
    }

    // The same stack slot holds another value for every launch.
    CU(cuMemsetD32(out, 1, 1));
    unsigned expected = 1;
    for (unsigned i = 0; i < 500; ++i) {
        CU(launch(chain, nullptr, 1, out, i, 1));
        expected = expected * 3u + i;
    }
    CU(cuMemcpyDtoH(host, out, 4));
    REQUIRE(host[0] == expected, "500 launches gave %u, not %u", host[0], expected);

    for (unsigned i = 0; i < 64; ++i) host[i] = i;
    CU(cuMemcpyHtoD(out, host, sizeof host));
    void *one[] = {&out};
    CU(cuLaunchKernel(reverse, 1, 1, 1, 64, 1, 1, 64 * sizeof(unsigned), nullptr, one, nullptr));
    CU(cuMemcpyDtoH(host, out, sizeof host));
    for (unsigned i = 0; i < 64; ++i) REQUIRE(host[i] == 63 - i, "element %u is %u", i, host[i]);

    CUlaunchConfig config = {};
    config.gridDimX = config.gridDimY = config.gridDimZ = config.blockDimY = config.blockDimZ = 1;
    config.blockDimX = 64;
    config.sharedMemBytes = 64 * sizeof(unsigned);
    CU(cuLaunchKernelEx(&config, reverse, one, nullptr));
    CU(cuMemcpyDtoH(host, out, sizeof host));
    for (unsigned i = 0; i < 64; ++i) REQUIRE(host[i] == i, "element %u is %u after cuLaunchKernelEx", i, host[i]);
    return PASS();
}
