"""cuBLAS, cuFFT, cuRAND, cuSOLVER and cuSPARSE through CuPy."""

import cupy
import cupyx.scipy.sparse
import numpy
from report import check, done, expect, result

random = numpy.random.default_rng(0)
a, b = random.random((90, 70)), random.random((70, 50))
x, y = cupy.asarray(a), cupy.asarray(b)
check("cuBLAS", result("cuBLAS", lambda: x @ y, 1e-12), a @ b, 1e-12)
check("cuBLAS, einsum", result("cuBLAS, einsum", lambda: cupy.einsum("ij,jk->ki", x, y), 1e-12), (a @ b).T, 1e-12)
check("cuFFT", result("cuFFT", lambda: cupy.fft.fft2(x), 1e-10), numpy.fft.fft2(a), 1e-10)
check("cuFFT, real", result("cuFFT, real", lambda: cupy.fft.irfft(cupy.fft.rfft(x), n=70), 1e-10), a, 1e-10)
square = a[:70] @ a[:70].T + numpy.eye(70)
s = cupy.asarray(square)
check("cuSOLVER, solve", result("cuSOLVER, solve", lambda: cupy.linalg.solve(s, y), 1e-8), numpy.linalg.solve(square, b), 1e-8)
check("cuSOLVER, eigenvalues", result("cuSOLVER, eigenvalues", lambda: cupy.linalg.eigvalsh(s), 1e-8), numpy.linalg.eigvalsh(square), 1e-8)
check("cuSOLVER, SVD", result("cuSOLVER, SVD", lambda: cupy.linalg.svd(x, compute_uv=False), 1e-9), numpy.linalg.svd(a, compute_uv=False), 1e-9)
check("cuSOLVER, cholesky", result("cuSOLVER, cholesky", lambda: cupy.linalg.cholesky(s), 1e-9), numpy.linalg.cholesky(square), 1e-9)
thin = a * (a < 0.1)
csr = cupyx.scipy.sparse.csr_matrix(cupy.asarray(thin))
check("cuSPARSE, product", result("cuSPARSE, product", lambda: csr @ y, 1e-12, exact=False), thin @ b, 1e-12)
check("cuSPARSE, vector", result("cuSPARSE, vector", lambda: csr @ y[:, 0], 1e-12, exact=False), thin @ b[:, 0], 1e-12)
check("cuSPARSE, transposed", csr.T.toarray(), thin.T, 0)


def numbers(kind):
    return kind(cupy.random.RandomState(seed=11))


for name, kind in (
    ("uniform", lambda r: r.random_sample(4000)), ("normal", lambda r: r.standard_normal(4000)),
    ("float normal", lambda r: r.standard_normal(4000, dtype=cupy.float32)), ("integers", lambda r: r.randint(0, 1000, 4000)),
):
    got = result(f"cuRAND, {name}", lambda: numbers(kind))
    expect(f"cuRAND, {name}, they differ", len(numpy.unique(got)) > 500)
done()
