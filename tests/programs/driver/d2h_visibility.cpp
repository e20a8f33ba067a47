// A completed stream or event means that the copied bytes are there, the last ones too: checked at once, many times,
// for pinned and pageable targets, several sizes, waiting in every way.
// rules: 4 12
#include "../common/driver.h"

TEST("d2h_visibility");

int main(int argc, char **argv) {
    const unsigned rounds = unsigned(1200 * scale_argument(argc, argv));
    Gpu gpu = open_gpu(test_name);
    CUfunction ramp = gpu.function("fill_ramp", test_name);
    CUstream stream;
    CUevent event;
    CUdeviceptr device;
    unsigned *pinned;
    const int most = 16384;
    std::vector<unsigned> pageable(most);
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CU(cuMemAlloc(&device, most * sizeof(unsigned)));
    CU(cuMemAllocHost(reinterpret_cast<void **>(&pinned), most * sizeof(unsigned)));
    const int sizes[] = {1, 15, 16, 17, 255, 1024, 1025, 4099};
    for (unsigned round = 0; round < rounds; ++round) {
        const int n = round % 100 == 99 ? most : sizes[round % 8];
        unsigned *target = round % 3 ? pinned : pageable.data();
        volatile unsigned *last = &target[n - 1];
        target[0] = *last = ~0u;
        CU(launch(ramp, stream, n, device, round, n));
        CU(cuMemcpyDtoHAsync(target, device, size_t(n) * sizeof(unsigned), stream));
        switch (round % 4) {
            case 0:
                CU(cuStreamSynchronize(stream));
                break;
            case 1: {
                CUresult status;
                while ((status = cuStreamQuery(stream)) == CUDA_ERROR_NOT_READY) {
                }
                CU(status);
                break;
            }
            case 2:
                CU(cuEventRecord(event, stream));
                CU(cuEventSynchronize(event));
                break;
            default: {
                CU(cuEventRecord(event, stream));
                CUresult status;
                while ((status = cuEventQuery(event)) == CUDA_ERROR_NOT_READY) {
                }
                CU(status);
            }
        }
        REQUIRE(*last == round + unsigned(n - 1), "round %u: the last of %d words is %#x", round, n, *last);
        REQUIRE(target[0] == round, "round %u: the first of %d words is %#x", round, n, target[0]);
        REQUIRE(target[n / 2] == round + unsigned(n / 2), "round %u: the middle of %d words is %#x", round, n, target[n / 2]);
    }
    return PASS();
}
