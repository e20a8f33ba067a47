// c = a + b, checked element by element, with a size that is no multiple of the block.
// variants: 13-static 13-shared 12-static 12-shared 11-shared
// rules: 9 10 12
#include <vector>

#include "../common/runtime.h"

TEST("vector_add");

__global__ void add(const float *a, const float *b, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

int main(int argc, char **argv) {
    const int n = int(100003 * scale_argument(argc, argv));
    std::vector<float> a(n), b(n), c(n, -1.0f);
    Random random;
    for (int i = 0; i < n; ++i) {
        a[i] = random.uniform();
        b[i] = random.uniform();
    }
    float *da, *db, *dc;
    RT(cudaMalloc(&da, n * sizeof(float)));
    RT(cudaMalloc(&db, n * sizeof(float)));
    RT(cudaMalloc(&dc, n * sizeof(float)));
    RT(cudaMemcpy(da, a.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    RT(cudaMemcpy(db, b.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    add<<<(n + 255) / 256, 256>>>(da, db, dc, n);
    RT(cudaGetLastError());
    RT(cudaMemcpy(c.data(), dc, n * sizeof(float), cudaMemcpyDeviceToHost));
    for (int i = 0; i < n; ++i) REQUIRE(c[i] == a[i] + b[i], "element %d is %g, not %g", i, c[i], a[i] + b[i]);
    RT(cudaFree(da));
    RT(cudaFree(db));
    RT(cudaFree(dc));
    return PASS();
}
