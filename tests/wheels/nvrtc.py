"""nvrtc.py LIBNVRTC: a kernel with a template, a constant, shared memory and an atomic operation, compiled to PTX and run."""

import ctypes
import sys
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint64, c_void_p, cast, pointer

from calling import *

SOURCE = b"""
template <typename T> __device__ T twice(T x) { return x + x; }
__constant__ float bias = 0.5f;
extern "C" __global__ void reduce(const float *x, float *out, int n) {
    __shared__ float part[128];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += twice(x[i]) + bias;
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int k = 64; k; k /= 2) {
        if (threadIdx.x < k) part[threadIdx.x] += part[threadIdx.x + k];
        __syncthreads();
    }
    if (!threadIdx.x) atomicAdd(out, part[0]);
}
"""
COUNT = 10_000

nvrtc, driver = load(sys.argv[1]), load("libcuda.so.1")


def text(kind, program):
    size = number(nvrtc, f"nvrtcGet{kind}Size", program, kind=c_size_t)
    buffer = ctypes.create_string_buffer(size)
    ok(nvrtc, f"nvrtcGet{kind}", program, buffer)
    return buffer.value


def compile(source, result=0):
    program = handle(nvrtc, "nvrtcCreateProgram", source, b"reduce.cu", 0, None, None)
    returns(result, nvrtc, "nvrtcCompileProgram", program, 1, (c_char_p * 1)(b"--gpu-architecture=compute_80"))
    return program


require(b"nonsense" in text("ProgramLog", compile(b"__global__ void f() { nonsense; }", 6)), "an error is not named")
ptx = text("PTX", compile(SOURCE))
require(b".target sm_80" in ptx and b"reduce" in ptx, "no PTX came of it:", ptx[:80])

ok(driver, "cuInit", 0)
context = handle(driver, "cuDevicePrimaryCtxRetain", 0)
ok(driver, "cuCtxSetCurrent", context)
module = handle(driver, "cuModuleLoadData", ptx)
function = handle(driver, "cuModuleGetFunction", module, b"reduce")
values = (c_float * COUNT)(*[index % 7 for index in range(COUNT)])
x, out = c_uint64(), c_uint64()
ok(driver, "cuMemAlloc_v2", byref(x), c_size_t(ctypes.sizeof(values)))
ok(driver, "cuMemAlloc_v2", byref(out), c_size_t(4))
ok(driver, "cuMemcpyHtoD_v2", x, values, c_size_t(ctypes.sizeof(values)))
ok(driver, "cuMemsetD8_v2", out, 0, c_size_t(4))
parameters = (c_void_p * 3)(*[cast(pointer(value), c_void_p) for value in (x, out, c_int(COUNT))])
ok(driver, "cuLaunchKernel", function, 4, 1, 1, 128, 1, 1, 0, None, parameters, None)
sum_ = c_float()
ok(driver, "cuMemcpyDtoH_v2", byref(sum_), out, c_size_t(4))
require(sum_.value == 2 * sum(values) + COUNT * 0.5, "the sum is", sum_.value)
print("PASS nvrtc")
