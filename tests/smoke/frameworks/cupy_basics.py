"""CuPy: elementwise kernels, reductions, products, sorting, and a raw kernel compiled by NVRTC."""
import cupy
import numpy

kernel = cupy.RawKernel('extern "C" __global__ void scale(float *x, float by) { x[blockIdx.x * 64 + threadIdx.x] *= by; }', "scale")
h = numpy.random.default_rng(0).random((64, 64), dtype=numpy.float32)
d = cupy.asarray(h)
kernel((64,), (64,), (d, numpy.float32(2)))
good = (
    numpy.array_equal(d.get(), h * 2)
    and numpy.allclose((d @ d).get(), (h * 2) @ (h * 2), rtol=1e-3)
    and numpy.array_equal(cupy.sort(d, axis=1).get(), numpy.sort(h * 2, axis=1))
    and numpy.allclose(float(cupy.sin(d).sum()), numpy.sin(h * 2).sum(), rtol=1e-3)
)
print("PASS cupy_basics" if good else "FAIL cupy_basics")
