// Textures and surfaces: sampled and written by kernels, over arrays, mipmaps, linear and pitched memory.
// variants: 13-static 12-shared
// rules: 12
#include <vector>

#include "../common/runtime.h"

TEST("textures");

static const int width = 64, height = 40;

__global__ void sample(cudaTextureObject_t texture, float *out, float dx, float dy) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x < width) out[y * width + x] = tex2D<float>(texture, float(x) + dx, float(y) + dy);
}

__global__ void fetch(cudaTextureObject_t texture, unsigned *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = tex1Dfetch<unsigned>(texture, n - 1 - i);
}

__global__ void sample_level(cudaTextureObject_t texture, float *out, float level) {
    *out = tex2DLod<float>(texture, 0.5f, 0.5f, level);
}

__global__ void sample_volume(cudaTextureObject_t texture, float *out, int side) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < side * side * side) out[i] = tex3D<float>(texture, float(i % side) + 0.5f, float(i / side % side) + 0.5f, float(i / side / side) + 0.5f);
}

__global__ void write_surface(cudaSurfaceObject_t surface) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x < width) surf2Dwrite(float(y * 1000 + x), surface, x * int(sizeof(float)), y);
}

static cudaTextureObject_t texture_of(const cudaResourceDesc &resource, cudaTextureFilterMode filter, cudaTextureReadMode read = cudaReadModeElementType) {
    cudaTextureDesc description = {};
    for (auto &mode : description.addressMode) mode = cudaAddressModeClamp;
    description.filterMode = filter;
    description.readMode = read;
    cudaTextureObject_t texture = 0;
    RT(cudaCreateTextureObject(&texture, &resource, &description, nullptr));
    return texture;
}

int main() {
    const cudaChannelFormatDesc channel = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    RT_OR_SKIP(cudaMallocArray(&array, &channel, width, height, cudaArraySurfaceLoadStore));
    cudaChannelFormatDesc told;
    cudaExtent extent;
    unsigned flags = 0;
    RT(cudaArrayGetInfo(&told, &extent, &flags, array));
    REQUIRE(extent.width == width && extent.height == height && told.x == 32 && told.f == cudaChannelFormatKindFloat && flags == cudaArraySurfaceLoadStore,
            "an array of %zu x %zu, %d bits, kind %d, flags %#x", extent.width, extent.height, told.x, int(told.f), flags);
    std::vector<float> in(width * height), out(width * height);
    for (size_t i = 0; i < in.size(); ++i) in[i] = float(i % 97) * 4.0f;
    RT(cudaMemcpy2DToArray(array, 0, 0, in.data(), width * sizeof(float), width * sizeof(float), height, cudaMemcpyHostToDevice));
    float *device;
    RT(cudaMalloc(&device, out.size() * sizeof(float)));
    const dim3 grid((width + 31) / 32, height);

    // Points, and the mean of two neighbours.
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaTextureObject_t points = texture_of(resource, cudaFilterModePoint), linear = texture_of(resource, cudaFilterModeLinear);
    sample<<<grid, 32>>>(points, device, 0.5f, 0.5f);
    RT(cudaMemcpy(out.data(), device, out.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < out.size(); ++i) REQUIRE(out[i] == in[i], "point %zu is %g, expected %g", i, out[i], in[i]);
    sample<<<grid, 32>>>(linear, device, 1.0f, 0.5f);
    RT(cudaMemcpy(out.data(), device, out.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) {
            float expected = (in[y * width + x] + in[y * width + (x + 1 < width ? x + 1 : x)]) / 2;
            REQUIRE(out[y * width + x] == expected, "mean at (%d, %d) is %g, expected %g", x, y, out[y * width + x], expected);
        }
    cudaResourceDesc resource_told;
    RT(cudaGetTextureObjectResourceDesc(&resource_told, points));
    REQUIRE(resource_told.resType == cudaResourceTypeArray && resource_told.res.array.array == array, "the texture's resource is of type %d", int(resource_told.resType));

    // A kernel writes the array through a surface; the host reads it.
    cudaSurfaceObject_t surface;
    RT(cudaCreateSurfaceObject(&surface, &resource));
    write_surface<<<grid, 32>>>(surface);
    RT(cudaMemcpy2DFromArray(out.data(), width * sizeof(float), array, 0, 0, width * sizeof(float), height, cudaMemcpyDeviceToHost));
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) REQUIRE(out[y * width + x] == float(y * 1000 + x), "surface at (%d, %d) is %g", x, y, out[y * width + x]);
    RT(cudaDestroySurfaceObject(surface));

    // Linear memory, read backwards.
    const int n = 5000;
    std::vector<unsigned> words(n), backwards(n);
    for (int i = 0; i < n; ++i) words[i] = unsigned(i) * 7u;
    unsigned *source, *target;
    RT(cudaMalloc(&source, n * sizeof(unsigned)));
    RT(cudaMalloc(&target, n * sizeof(unsigned)));
    RT(cudaMemcpy(source, words.data(), n * sizeof(unsigned), cudaMemcpyHostToDevice));
    cudaResourceDesc flat = {};
    flat.resType = cudaResourceTypeLinear;
    flat.res.linear.devPtr = source;
    flat.res.linear.desc = cudaCreateChannelDesc<unsigned>();
    flat.res.linear.sizeInBytes = n * sizeof(unsigned);
    cudaTextureObject_t fetched = texture_of(flat, cudaFilterModePoint);
    fetch<<<(n + 127) / 128, 128>>>(fetched, target, n);
    RT(cudaMemcpy(backwards.data(), target, n * sizeof(unsigned), cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) REQUIRE(backwards[i] == words[n - 1 - i], "word %d is %u", i, backwards[i]);

    // Pitched memory.
    float *rows;
    size_t pitch;
    RT(cudaMallocPitch(&rows, &pitch, width * sizeof(float), height));
    RT(cudaMemcpy2D(rows, pitch, in.data(), width * sizeof(float), width * sizeof(float), height, cudaMemcpyHostToDevice));
    cudaResourceDesc pitched = {};
    pitched.resType = cudaResourceTypePitch2D;
    pitched.res.pitch2D.devPtr = rows;
    pitched.res.pitch2D.desc = channel;
    pitched.res.pitch2D.width = width;
    pitched.res.pitch2D.height = height;
    pitched.res.pitch2D.pitchInBytes = pitch;
    cudaTextureObject_t over_rows = texture_of(pitched, cudaFilterModePoint);
    sample<<<grid, 32>>>(over_rows, device, 0.5f, 0.5f);
    RT(cudaMemcpy(out.data(), device, out.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < out.size(); ++i) REQUIRE(out[i] == in[i], "pitched point %zu is %g, expected %g", i, out[i], in[i]);

    // A volume, filled from pinned memory in a stream.
    const int side = 12;
    cudaArray_t volume;
    RT(cudaMalloc3DArray(&volume, &channel, make_cudaExtent(side, side, side)));
    float *pinned;
    RT(cudaMallocHost(&pinned, side * side * side * sizeof(float)));
    for (int i = 0; i < side * side * side; ++i) pinned[i] = float(i) * 0.25f;
    cudaMemcpy3DParms copy = {};
    copy.srcPtr = make_cudaPitchedPtr(pinned, side * sizeof(float), side, side);
    copy.dstArray = volume;
    copy.extent = make_cudaExtent(side, side, side);
    copy.kind = cudaMemcpyHostToDevice;
    cudaStream_t stream;
    RT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    RT(cudaMemcpy3DAsync(&copy, stream));
    cudaResourceDesc deep = {};
    deep.resType = cudaResourceTypeArray;
    deep.res.array.array = volume;
    cudaTextureObject_t over_volume = texture_of(deep, cudaFilterModePoint);
    sample_volume<<<(side * side * side + 127) / 128, 128, 0, stream>>>(over_volume, device, side);
    RT(cudaStreamSynchronize(stream));
    std::vector<float> texels(side * side * side);
    RT(cudaMemcpy(texels.data(), device, texels.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < texels.size(); ++i) REQUIRE(texels[i] == float(i) * 0.25f, "texel %zu of the volume is %g", i, texels[i]);

    // Levels of a mipmap, each of one value.
    cudaMipmappedArray_t mipmapped;
    RT(cudaMallocMipmappedArray(&mipmapped, &channel, make_cudaExtent(16, 16, 0), 3));
    for (unsigned level = 0; level < 3; ++level) {
        cudaArray_t part;
        RT(cudaGetMipmappedArrayLevel(&part, mipmapped, level));
        const size_t edge = 16u >> level;
        std::vector<float> same(edge * edge, 10.0f + float(level));
        RT(cudaMemcpy2DToArray(part, 0, 0, same.data(), edge * sizeof(float), edge * sizeof(float), edge, cudaMemcpyHostToDevice));
    }
    cudaResourceDesc levels = {};
    levels.resType = cudaResourceTypeMipmappedArray;
    levels.res.mipmap.mipmap = mipmapped;
    cudaTextureDesc description = {};
    for (auto &mode : description.addressMode) mode = cudaAddressModeClamp;
    description.filterMode = cudaFilterModePoint;
    description.mipmapFilterMode = cudaFilterModePoint;
    description.maxMipmapLevelClamp = 2;
    description.normalizedCoords = 1;
    cudaTextureObject_t over_levels;
    RT(cudaCreateTextureObject(&over_levels, &levels, &description, nullptr));
    for (int level = 0; level < 3; ++level) {
        float found = 0;
        sample_level<<<1, 1>>>(over_levels, device, float(level));
        RT(cudaMemcpy(&found, device, sizeof found, cudaMemcpyDeviceToHost));
        REQUIRE(found == 10.0f + float(level), "level %d reads %g", level, found);
    }

    for (cudaTextureObject_t texture : {points, linear, fetched, over_rows, over_volume, over_levels}) RT(cudaDestroyTextureObject(texture));
    RT(cudaFreeMipmappedArray(mipmapped));
    RT(cudaFreeArray(volume));
    RT(cudaFreeArray(array));
    RT(cudaFreeHost(pinned));
    RT(cudaStreamDestroy(stream));
    for (void *memory : {static_cast<void *>(device), static_cast<void *>(source), static_cast<void *>(target), static_cast<void *>(rows)}) RT(cudaFree(memory));
    return PASS();
}
