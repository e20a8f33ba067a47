"""CuPy for CUDA 11: a libcudart 11.8 linked into somebody else's library runs a kernel that NVRTC 11.8 compiles."""

import cupy
import numpy
from cupy.cuda import runtime

assert runtime.runtimeGetVersion() == 11080, runtime.runtimeGetVersion()
with open("/proc/self/maps") as maps:
    assert "libcudart" not in maps.read(), "the runtime is not the static one"
assert runtime.getDeviceCount() >= 1

COUNT = 10_000
axpy = cupy.RawKernel(
    r"""
    extern "C" __global__ void axpy(float a, const float *x, float *y, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) y[i] = a * x[i] + y[i];
    }
    """,
    "axpy",
)
x = cupy.asarray(numpy.arange(COUNT, dtype=numpy.float32))
stream = cupy.cuda.Stream(non_blocking=True)
with stream:
    y = cupy.asarray(numpy.ones(COUNT, dtype=numpy.float32))
    axpy(((COUNT + 255) // 256,), (256,), (numpy.float32(2), x, y, numpy.int32(COUNT)))
    done = cupy.cuda.Event()
    done.record()
done.synchronize()
assert numpy.array_equal(y.get(), numpy.arange(COUNT, dtype=numpy.float32) * 2 + 1)
print("PASS cupy_static_runtime")
