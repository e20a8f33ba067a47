"""CuPy: elementwise kernels, reductions, products, sorting, and kernels compiled by NVRTC: raw, templated, with streams."""

import cupy
import numpy
from report import check, done, expect, result

random = numpy.random.default_rng(0)
h = random.random((64, 64), dtype=numpy.float32)
d = cupy.asarray(h)
kernel = cupy.RawKernel('extern "C" __global__ void scale(float *x, float by) { x[blockIdx.x * 64 + threadIdx.x] *= by; }', "scale")
kernel((64,), (64,), (d, numpy.float32(2)))
h *= 2
check("raw kernel", d, h, 0)
check("product", result("product", lambda: d @ d, 1e-4), h @ h, 1e-4)
check("sort", cupy.sort(d, axis=1), numpy.sort(h, axis=1), 0)
check("sum", result("sum", lambda: cupy.sin(d).sum(axis=0), 1e-4), numpy.sin(h).sum(axis=0), 1e-4)
fused = cupy.ElementwiseKernel("float32 x, float32 y", "float32 z", "z = x > y ? x - y : x * y", "fused")
check("elementwise kernel", result("elementwise kernel", lambda: fused(d, d.T)), numpy.where(h > h.T, h - h.T, h * h.T), 1e-6)
norm = cupy.ReductionKernel("float32 x", "float32 y", "x * x", "a + b", "y = sqrt(a)", "0", "row_norm")
check("reduction kernel", result("reduction kernel", lambda: norm(d, axis=1), 1e-5), numpy.linalg.norm(h, axis=1), 1e-5)
module = cupy.RawModule(code="""
template<typename T> __global__ void fill(T *x, int n) {
    __shared__ T part[128];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    part[threadIdx.x] = T(threadIdx.x);
    __syncthreads();
    if (i < n) x[i] = part[127 - threadIdx.x] + T(i);
}""", options=("--std=c++17",), name_expressions=("fill<double>", "fill<int>"))
for name, kind in (("double", cupy.float64), ("int", cupy.int32)):
    x = cupy.zeros(1000, dtype=kind)
    module.get_function(f"fill<{name}>")((8,), (128,), (x, numpy.int32(1000)))
    check(f"templated kernel, {name}", x, 127 - numpy.arange(1000) % 128 + numpy.arange(1000), 0)
streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
parts = []
d.device.synchronize()
for number, stream in enumerate(streams):
    with stream:
        parts.append((d * number).sum())
for number, stream in enumerate(streams):
    stream.synchronize()
    check(f"stream {number}", parts[number], (h * number).sum(), 1e-4)
pool = cupy.get_default_memory_pool()
expect("the pool counts", pool.total_bytes() >= pool.used_bytes() > 0)
start, end = cupy.cuda.Event(), cupy.cuda.Event()
start.record()
d = d @ d
end.record()
end.synchronize()
expect("time between events", cupy.cuda.get_elapsed_time(start, end) >= 0)
done()
