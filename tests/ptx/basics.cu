// The everyday kernels: one thread per element, tiles in shared memory, loops and branches.
#include "device.h"

extern "C" __global__ void vector_add(const float *a, const float *b, float *c, int n) {
    int i = global_index();
    if (i < n) c[i] = a[i] + b[i];
}

extern "C" __global__ void saxpy(float k, const float *x, float *y, int n) {
    for (int i = global_index(); i < n; i += blockDim.x * gridDim.x) y[i] = k * x[i] + y[i];
}

#define TILE 16
extern "C" __global__ void matmul(const float *a, const float *b, float *c, int n) {
    __shared__ float ta[TILE][TILE], tb[TILE][TILE];
    int x = threadIdx.x, y = threadIdx.y;
    int col = blockIdx.x * TILE + x, row = blockIdx.y * TILE + y;
    float sum = 0;
    for (int t = 0; t < n; t += TILE) {
        ta[y][x] = a[row * n + t + x];
        tb[y][x] = b[(t + y) * n + col];
        __syncthreads();
        for (int k = 0; k < TILE; k++) sum += ta[y][k] * tb[k][x];
        __syncthreads();
    }
    c[row * n + col] = sum;
}

extern "C" __global__ void transpose(const uint *in, uint *out, int width, int height) {
    __shared__ uint tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += blockDim.y)
        if (x < width && y + k < height) tile[threadIdx.y + k][threadIdx.x] = in[(y + k) * width + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (int k = 0; k < 32; k += blockDim.y)
        if (x < height && y + k < width) out[(y + k) * height + x] = tile[threadIdx.x][threadIdx.y + k];
}

extern "C" __global__ void mandelbrot(int *out, int width, int height, int limit) {
    int i = global_index();
    if (i >= width * height) return;
    double cx = (double)(i % width) / width * 3.0 - 2.25, cy = (double)(i / width) / height * 2.5 - 1.25;
    double x = 0, y = 0;
    int n = 0;
    while (n < limit && x * x + y * y < 4.0) {
        double t = x * x - y * y + cx;
        y = 2 * x * y + cy;
        x = t;
        n++;
    }
    out[i] = n;
}

struct Body {
    double x, y, z, mass;
};

extern "C" __global__ void nbody(const Body *bodies, double *force, int n) {
    int i = global_index();
    if (i >= n) return;
    double fx = 0, fy = 0, fz = 0;
    for (int j = 0; j < n; j++) {
        double dx = bodies[j].x - bodies[i].x, dy = bodies[j].y - bodies[i].y, dz = bodies[j].z - bodies[i].z;
        double r2 = dx * dx + dy * dy + dz * dz + 1e-3;
        double inverse = 1.0 / __builtin_sqrt(r2);
        double s = bodies[j].mass * inverse * inverse * inverse;
        fx += s * dx;
        fy += s * dy;
        fz += s * dz;
    }
    force[3 * i] = fx;
    force[3 * i + 1] = fy;
    force[3 * i + 2] = fz;
}

// Every path through nested branches and loops with uneven trip counts.
extern "C" __global__ void divergence(int *out, int n) {
    int i = global_index();
    if (i >= n) return;
    int v = i;
    for (int k = 0; k < i % 7; k++) {
        if (k & 1) {
            v = v * 3 + 1;
            if (v % 5 == 0) continue;
        } else {
            v ^= k << 3;
        }
        if (v % 11 == 3) break;
        v += 7;
    }
    switch (i % 6) {
    case 0: v += 100; break;
    case 1: v -= 100; break;
    case 2: v *= 5;
    case 3: v ^= 0x55; break;
    case 4: return;
    default: v = -v;
    }
    out[i] = v;
}

// An array that is indexed by data, so that it must live in local memory.
extern "C" __global__ void local_array(const int *order, int *out) {
    int values[16];
    int i = global_index();
    for (int k = 0; k < 16; k++) values[order[k]] = k * i;
    int sum = 0;
    for (int k = 0; k < 16; k++) sum = sum * 3 + values[(order[k] + i) & 15];
    out[i] = sum;
}

struct Settings {
    int factor;
    char shift;
    short bias;
    long long wide[3];
};

extern "C" __global__ void struct_param(Settings s, long long *out, int which) {
    int i = global_index();
    out[i] = (long long)i * s.factor + (s.bias >> s.shift) + s.wide[(which + i) % 3];
}
