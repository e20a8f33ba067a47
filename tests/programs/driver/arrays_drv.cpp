// Arrays by the driver API: creation, descriptors, copies between arrays and every kind of memory, mipmap levels, objects
// over them, and what is refused.
// rules: 12 19
#include "../common/driver.h"

TEST("arrays_drv");

static void same(const std::vector<unsigned> &found, const std::vector<unsigned> &expected, const char *what) {
    for (size_t i = 0; i < expected.size(); ++i) REQUIRE(found[i] == expected[i], "%s: word %zu is %u, expected %u", what, i, found[i], expected[i]);
}

static std::vector<unsigned> ramp(size_t n, unsigned first) {
    std::vector<unsigned> words(n);
    for (size_t i = 0; i < n; ++i) words[i] = first + unsigned(i) * 3u;
    return words;
}

int main() {
    Gpu gpu = open_gpu(test_name);
    // One dimension.
    const size_t n = 3000, bytes = n * 4;
    CUDA_ARRAY_DESCRIPTOR line = {n, 0, CU_AD_FORMAT_UNSIGNED_INT32, 1};
    CUarray a, b;
    CU_OR_SKIP(cuArrayCreate(&a, &line));
    CU(cuArrayCreate(&b, &line));
    CUDA_ARRAY_DESCRIPTOR told = {};
    CU(cuArrayGetDescriptor(&told, a));
    REQUIRE(told.Width == n && told.Height == 0 && told.Format == CU_AD_FORMAT_UNSIGNED_INT32 && told.NumChannels == 1, "descriptor %zu x %zu, format %d, %u channels", told.Width,
            told.Height, int(told.Format), told.NumChannels);
    CUdeviceptr device;
    void *pinned;
    CUstream stream;
    CU(cuMemAlloc(&device, bytes));
    CU(cuMemAllocHost(&pinned, bytes));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    std::vector<unsigned> in = ramp(n, 100), out(n);
    CU(cuMemcpyHtoA(a, 0, in.data(), bytes));
    CU(cuMemcpyAtoH(out.data(), a, 0, bytes));
    same(out, in, "there and back");
    CU(cuMemcpyAtoA(b, 0, a, 0, bytes));
    CU(cuMemcpyAtoD(device, b, 0, bytes));
    CU(cuMemcpyDtoH(out.data(), device, bytes));
    same(out, in, "array to array to device");
    in = ramp(n, 900);
    CU(cuMemcpyHtoD(device, in.data(), bytes));
    CU(cuMemcpyDtoA(a, 0, device, bytes));
    std::fill(out.begin(), out.end(), 0u);
    CU(cuMemcpyAtoH(out.data(), a, 400, bytes - 400));
    same(std::vector<unsigned>(out.begin(), out.begin() + long(n) - 100), std::vector<unsigned>(in.begin() + 100, in.end()), "from an offset");
    // Asynchronous, from pinned and from pageable memory.
    in = ramp(n, 7);
    std::memcpy(pinned, in.data(), bytes);
    CU(cuMemcpyHtoAAsync(a, 0, pinned, bytes, stream));
    CU(cuMemcpyAtoHAsync(out.data(), a, 0, bytes, stream));
    CU(cuStreamSynchronize(stream));
    same(out, in, "asynchronously, from pinned memory");
    in = ramp(n, 70);
    CU(cuMemcpyHtoAAsync(b, 0, in.data(), bytes, stream));
    std::memset(pinned, 0, bytes);
    CU(cuMemcpyAtoHAsync(pinned, b, 0, bytes, stream));
    CU(cuStreamSynchronize(stream));
    std::memcpy(out.data(), pinned, bytes);
    same(out, in, "asynchronously, to pinned memory");

    // Three dimensions: a box into the middle of an array, and back out of it, pageable rows packed and unpacked.
    const size_t width = 37, height = 11, depth = 5;
    CUDA_ARRAY3D_DESCRIPTOR box = {width, height, depth, CU_AD_FORMAT_UNSIGNED_INT32, 1, CUDA_ARRAY3D_SURFACE_LDST};
    CUarray volume;
    CU(cuArray3DCreate(&volume, &box));
    CUDA_ARRAY3D_DESCRIPTOR told_box = {};
    CU(cuArray3DGetDescriptor(&told_box, volume));
    REQUIRE(told_box.Width == width && told_box.Height == height && told_box.Depth == depth && told_box.Flags == CUDA_ARRAY3D_SURFACE_LDST, "descriptor %zu x %zu x %zu, flags %#x", told_box.Width,
            told_box.Height, told_box.Depth, told_box.Flags);
    std::vector<unsigned> whole = ramp(width * height * depth, 5), part = ramp(10 * 4 * 3, 100000);
    CUDA_MEMCPY3D copy = {};
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = whole.data();
    copy.srcPitch = width * 4;
    copy.srcHeight = height;
    copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.dstArray = volume;
    copy.WidthInBytes = width * 4;
    copy.Height = height;
    copy.Depth = depth;
    CU(cuMemcpy3D(&copy));
    copy.srcHost = part.data();
    copy.srcPitch = 40;
    copy.srcHeight = 4;
    copy.dstXInBytes = 20;
    copy.dstY = 6;
    copy.dstZ = 2;
    copy.WidthInBytes = 40;
    copy.Height = 4;
    copy.Depth = 3;
    CU(cuMemcpy3D(&copy));
    for (size_t z = 0; z < 3; ++z)
        for (size_t y = 0; y < 4; ++y)
            for (size_t x = 0; x < 10; ++x) whole[((z + 2) * height + y + 6) * width + x + 5] = part[(z * 4 + y) * 10 + x];
    std::vector<unsigned> back(whole.size());
    CUDA_MEMCPY3D out_of = {};
    out_of.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    out_of.srcArray = volume;
    out_of.dstMemoryType = CU_MEMORYTYPE_HOST;
    out_of.dstHost = back.data();
    out_of.dstPitch = width * 4;
    out_of.dstHeight = height;
    out_of.WidthInBytes = width * 4;
    out_of.Height = height;
    out_of.Depth = depth;
    CU(cuMemcpy3D(&out_of));
    same(back, whole, "a box in a volume");
    // A slice of it by way of device memory.
    CUDA_MEMCPY3D slice = out_of;
    slice.srcZ = 3;
    slice.Depth = 1;
    slice.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    slice.dstHost = nullptr;
    slice.dstDevice = device;
    CU(cuMemcpy3DAsync(&slice, stream));
    CU(cuStreamSynchronize(stream));
    std::vector<unsigned> flat(width * height);
    CU(cuMemcpyDtoH(flat.data(), device, flat.size() * 4));
    same(flat, std::vector<unsigned>(whole.begin() + 3 * long(width * height), whole.begin() + 4 * long(width * height)), "a slice");
    slice.WidthInBytes = width * 4 + 4;
    CU_IS(cuMemcpy3D(&slice), CUDA_ERROR_INVALID_VALUE);

    // Mipmaps: levels are arrays of their own.
    CUmipmappedArray mipmapped;
    CUDA_ARRAY3D_DESCRIPTOR square = {32, 32, 0, CU_AD_FORMAT_UNSIGNED_INT32, 1, 0};
    CU(cuMipmappedArrayCreate(&mipmapped, &square, 3));
    for (unsigned level = 0; level < 3; ++level) {
        CUarray array;
        CU(cuMipmappedArrayGetLevel(&array, mipmapped, level));
        CU(cuArrayGetDescriptor(&told, array));
        REQUIRE(told.Width == 32u >> level && told.Height == 32u >> level, "level %u is %zu x %zu", level, told.Width, told.Height);
        const size_t side = 32u >> level;
        std::vector<unsigned> texels = ramp(side * side, level * 1000), read(side * side);
        CUDA_MEMCPY2D flat_copy = {};
        flat_copy.srcMemoryType = CU_MEMORYTYPE_HOST;
        flat_copy.srcHost = texels.data();
        flat_copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
        flat_copy.dstArray = array;
        flat_copy.srcPitch = flat_copy.WidthInBytes = side * 4;
        flat_copy.Height = side;
        CU(cuMemcpy2D(&flat_copy));
        CUDA_MEMCPY2D flat_back = {};
        flat_back.srcMemoryType = CU_MEMORYTYPE_ARRAY;
        flat_back.srcArray = array;
        flat_back.dstMemoryType = CU_MEMORYTYPE_HOST;
        flat_back.dstHost = read.data();
        flat_back.dstPitch = flat_back.WidthInBytes = side * 4;
        flat_back.Height = side;
        CU(cuMemcpy2D(&flat_back));
        same(read, texels, "a level");
    }
    CUarray none;
    CU_IS(cuMipmappedArrayGetLevel(&none, mipmapped, 3), CUDA_ERROR_INVALID_VALUE);

    // Objects tell what they were made of.
    CUDA_RESOURCE_DESC resource = {}, resource_told = {};
    CUDA_TEXTURE_DESC texture = {}, texture_told = {};
    resource.resType = CU_RESOURCE_TYPE_LINEAR;
    resource.res.linear.devPtr = device;
    resource.res.linear.format = CU_AD_FORMAT_UNSIGNED_INT32;
    resource.res.linear.numChannels = 1;
    resource.res.linear.sizeInBytes = bytes;
    texture.filterMode = CU_TR_FILTER_MODE_POINT;
    texture.flags = CU_TRSF_READ_AS_INTEGER;
    CUtexObject object;
    CU(cuTexObjectCreate(&object, &resource, &texture, nullptr));
    CU(cuTexObjectGetResourceDesc(&resource_told, object));
    REQUIRE(resource_told.resType == CU_RESOURCE_TYPE_LINEAR && resource_told.res.linear.devPtr == device && resource_told.res.linear.sizeInBytes == bytes, "resource of type %d at %#llx, %zu bytes",
            int(resource_told.resType), (unsigned long long)resource_told.res.linear.devPtr, resource_told.res.linear.sizeInBytes);
    CU(cuTexObjectGetTextureDesc(&texture_told, object));
    REQUIRE(texture_told.flags == texture.flags && texture_told.filterMode == texture.filterMode, "texture flags %#x, filter %d", texture_told.flags, int(texture_told.filterMode));
    CU(cuTexObjectDestroy(object));
    CUDA_RESOURCE_DESC of_array = {}, of_array_told = {};
    of_array.resType = CU_RESOURCE_TYPE_ARRAY;
    of_array.res.array.hArray = volume;
    CUsurfObject surface;
    CU(cuSurfObjectCreate(&surface, &of_array));
    CU(cuSurfObjectGetResourceDesc(&of_array_told, surface));
    REQUIRE(of_array_told.resType == CU_RESOURCE_TYPE_ARRAY && of_array_told.res.array.hArray == volume, "the surface's array is %p, not %p", static_cast<void *>(of_array_told.res.array.hArray),
            static_cast<void *>(volume));
    CU(cuSurfObjectDestroy(surface));

    // What is refused.
    CUDA_ARRAY_DESCRIPTOR empty = {0, 0, CU_AD_FORMAT_UNSIGNED_INT32, 1};
    CU_IS(cuArrayCreate(&none, &empty), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuArrayCreate(nullptr, &line), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuArrayCreate(&none, nullptr), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuTexObjectCreate(&object, nullptr, &texture, nullptr), CUDA_ERROR_INVALID_VALUE);
    CU_IS(cuMemcpyHtoA(a, 0, in.data(), bytes + 4), CUDA_ERROR_INVALID_VALUE);
    if (!on_native_driver()) {
        // Forged and dead handles, and addresses of nobody.
        auto forged = reinterpret_cast<CUarray>(in.data());
        REQUIRE(cuArrayDestroy(forged) != CUDA_SUCCESS, "a forged array was destroyed");
        REQUIRE(cuArrayGetDescriptor(&told, forged) != CUDA_SUCCESS, "a forged array has a descriptor");
        REQUIRE(cuMemcpyAtoH(out.data(), forged, 0, 4) != CUDA_SUCCESS, "copied from a forged array");
        of_array.res.array.hArray = forged;
        REQUIRE(cuSurfObjectCreate(&surface, &of_array) != CUDA_SUCCESS, "a surface over a forged array");
        resource.res.linear.devPtr = CUdeviceptr(in.data());
        REQUIRE(cuTexObjectCreate(&object, &resource, &texture, nullptr) != CUDA_SUCCESS, "a texture over the program's own memory");
        REQUIRE(cuTexObjectDestroy(CUtexObject(12345)) != CUDA_SUCCESS, "a forged texture was destroyed");
    }
    CU(cuMipmappedArrayDestroy(mipmapped));
    for (CUarray array : {a, b, volume}) CU(cuArrayDestroy(array));
    if (!on_native_driver()) {
        REQUIRE(cuArrayDestroy(a) != CUDA_SUCCESS, "an array was destroyed twice");
        REQUIRE(cuMemcpyAtoH(out.data(), a, 0, 4) != CUDA_SUCCESS, "copied from a dead array");
    }
    CU(cuMemFreeHost(pinned));
    CU(cuMemFree(device));
    CU(cuStreamDestroy(stream));
    CU(cuModuleUnload(gpu.module));
    CU(cuDevicePrimaryCtxRelease(gpu.device));
    return PASS();
}
