// The kernels that the driver-API programs load: as PTX text and as a fatbin, embedded by the build.

template <int N>
struct Words {
    unsigned words[N];
};
template <int N>
__device__ void sum_words(const Words<N> &given, unsigned *out) {
    unsigned sum = 0;
    for (int i = 0; i < N; ++i) sum = sum * 31u + given.words[i];
    *out = sum;
}

extern "C" {

__device__ unsigned launches_seen = 7;
__constant__ unsigned table[8];

__global__ void vector_add(const float *a, const float *b, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

__global__ void fill(unsigned *out, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = value;
}

// out[i] = value + i, so that no two elements agree by accident.
__global__ void fill_ramp(unsigned *out, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = value + static_cast<unsigned>(i);
}

__global__ void add_one(unsigned *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += 1;
}

// data[i] = data[i] * 3 + value: does not commute, so a wrong order shows.
__global__ void chain(unsigned *data, unsigned value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 3u + value;
}

__global__ void use_table(unsigned *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = table[i % 8];
    if (i == 0) atomicAdd(&launches_seen, 1u);
}

// Keeps one thread busy for `rounds` dependent steps.
__global__ void busy(unsigned *out, unsigned rounds) {
    unsigned x = 12345u;
    for (unsigned i = 0; i < rounds; ++i) x = x * 1664525u + 1013904223u;
    if (threadIdx.x == 0 && blockIdx.x == 0) *out = x;
}

__global__ void store_to(unsigned long long address) {
    *reinterpret_cast<volatile unsigned *>(address) = 1u;
}

__global__ void trap_always() { asm volatile("trap;"); }

// Small values of every width, in an order that needs padding.
__global__ void mixed_parameters(char a, double b, short c, unsigned *out, long long d) {
    out[0] = static_cast<unsigned>(static_cast<unsigned char>(a));
    out[1] = static_cast<unsigned>(b * 2.0);
    out[2] = static_cast<unsigned>(static_cast<unsigned short>(c));
    out[3] = static_cast<unsigned>(d);
    out[4] = static_cast<unsigned>(d >> 32);
}

struct Large {
    unsigned words[900];
};

// 3,600 bytes of parameters: far more than travels inside one record of any queue.
__global__ void sum_large(Large large, unsigned *out) {
    unsigned sum = 0;
    for (int i = 0; i < 900; ++i) sum = sum * 31u + large.words[i];
    *out = sum;
}

// Parameters as long as short records of a queue are, and a little longer: 400, 408 and 464 bytes with the pointer.
__global__ void sum_98(Words<98> given, unsigned *out) { sum_words(given, out); }
__global__ void sum_100(Words<100> given, unsigned *out) { sum_words(given, out); }
__global__ void sum_114(Words<114> given, unsigned *out) { sum_words(given, out); }

__global__ void shared_reverse(unsigned *data) {
    extern __shared__ unsigned tile[];
    tile[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// As many registers as the compiler needs for 1,024 threads at most.
__global__ void __launch_bounds__(256) at_most_256_threads(unsigned *out) { *out = blockDim.x; }

}  // extern "C"
