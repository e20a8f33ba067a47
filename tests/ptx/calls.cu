// Functions, function pointers, recursion, tables, constants, printf and assert.
#include "device.h"

__constant__ float weights[5] = {0.1f, 0.2f, 0.4f, 0.2f, 0.1f};
__device__ int counter = 17;
__device__ int table[8] = {3, 1, 4, 1, 5};
__device__ int *inside = table + 2;

extern "C" __global__ void convolve(const float *in, float *out, int n) {
    int i = global_index();
    if (i >= n) return;
    float sum = 0;
    for (int k = -2; k <= 2; k++) {
        int at = i + k < 0 ? 0 : i + k >= n ? n - 1 : i + k;
        sum += weights[k + 2] * in[at];
    }
    out[i] = sum;
}

extern "C" __global__ void globals(int *out) {
    int i = threadIdx.x;
    out[i] = inside[i & 1] * 100 + table[i & 7] + (i == 0 ? counter : 0);
    if (i == 0) counter = 99;
}

__attribute__((noinline)) __device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

extern "C" __global__ void recursion(int *out) { out[threadIdx.x] = fibonacci(threadIdx.x % 13); }

__attribute__((noinline)) __device__ int deeper(volatile int *p, int n) {
    if (*p == 77) return n;
    int result = deeper(p, n + 1);
    *p = result;
    return result + 1;
}

extern "C" __global__ void endless_recursion(int *out) { out[0] = deeper(out, 1); }

__attribute__((noinline)) __device__ int add(int a, int b) { return a + b; }
__attribute__((noinline)) __device__ int subtract(int a, int b) { return a - b; }
__attribute__((noinline)) __device__ int multiply(int a, int b) { return a * b; }
typedef int (*Operation)(int, int);
__device__ Operation operations[3] = {add, subtract, multiply};

extern "C" __global__ void function_pointers(int *out) {
    int i = threadIdx.x;
    out[i] = operations[i % 3](i, 7);
}

struct Shape {
    __device__ virtual int area(int scale) const = 0;
};
struct Square : Shape {
    int side;
    __device__ Square(int s) : side(s) {}
    __device__ __attribute__((noinline)) int area(int scale) const override { return side * side * scale; }
};
struct Bar : Shape {
    int a, b;
    __device__ Bar(int a, int b) : a(a), b(b) {}
    __device__ __attribute__((noinline)) int area(int scale) const override { return a * b + scale; }
};

extern "C" __global__ void virtual_functions(int *out) {
    int i = threadIdx.x;
    Square square(i);
    Bar bar(i, 3);
    const Shape *volatile shape = i & 1 ? (const Shape *)&square : (const Shape *)&bar;
    out[i] = shape->area(2);
}

struct Message {
    int number;
    double value;
    const char *text;
    long long big;
};

extern "C" __global__ void print() {
    if (threadIdx.x % 16 == 3) {
        Message m = {(int)threadIdx.x, threadIdx.x * 0.5, "lane", 1ll << 40};
        vprintf("thread %03d value %6.2f %s %lld 100%%\n", &m);
    }
}

extern "C" __global__ void check(const int *in) {
    if (in[threadIdx.x] < 0) __assertfail("in[i] >= 0", "calls.cu", 87, "check", 1);
}

extern "C" __global__ void trap() {
    if (threadIdx.x == 5) __builtin_trap();
}

extern "C" __global__ void forever(volatile int *flag) {
    while (*flag == 0) {
    }
}

extern "C" __global__ void out_of_bounds(int *p, int at) { p[at] = 1; }

extern "C" __global__ void misaligned(char *p) { *(volatile int *)(p + 1) = 1; }
