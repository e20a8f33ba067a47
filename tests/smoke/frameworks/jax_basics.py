"""JAX: jit, grad, vmap, scan, products, convolution, FFT, linear algebra and random numbers against NumPy; a training step."""

import os
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
if os.environ.get("FRAMEWORKS_DEVICE", "cuda") == "cpu":
    os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp
import numpy
from report import ON_GPU, check, done, expect, result, speed

expect("JAX found the GPU", not ON_GPU or jax.devices()[0].platform == "gpu", str(jax.devices()))
x = numpy.random.default_rng(0).random((128, 128), dtype=numpy.float32)
there = jax.device_put(x)
product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
# XLA tries algorithms of cuBLAS and cuDNN and takes the fastest, which chance may decide: `exact=False` there.
check("product", result("product", lambda: product(there), 1e-4, exact=False), x @ x, 1e-4)
t = numpy.tanh(x)
gradient = jax.grad(lambda a: (jnp.tanh(a) ** 2).sum())
check("gradient", result("gradient", lambda: gradient(there), 1e-4), 2 * t * (1 - t * t), 1e-4)
want = numpy.zeros(128)
for row in x:
    want = want * 0.5 + row
scan = jax.jit(lambda a: jax.lax.scan(lambda carry, row: (carry * 0.5 + row, None), jnp.zeros(128), a)[0])
check("scan", result("scan", lambda: scan(there), 1e-4), want, 1e-4)
check("vmap", jax.vmap(lambda row: jnp.sort(row)[::-1].cumsum())(there), numpy.sort(x, 1)[:, ::-1].cumsum(1), 1e-4)
check("FFT", result("FFT", lambda: jnp.abs(jnp.fft.fft(there)), 1e-4), numpy.abs(numpy.fft.fft(x)), 1e-4)
spd = (x @ x.T / 128 + numpy.eye(128)).astype(numpy.float32)
check("solve", result("solve", lambda: jnp.linalg.solve(jnp.asarray(spd), there), 1e-3, exact=False), numpy.linalg.solve(spd, x), 1e-3)
image = numpy.random.default_rng(1).random((1, 1, 12, 12), dtype=numpy.float32)
kernel = numpy.ones((1, 1, 3, 3), dtype=numpy.float32)
want = sum(image[0, 0, i:i + 10, j:j + 10] for i in range(3) for j in range(3))
convolution = jax.jit(lambda i, k: jax.lax.conv(i, k, (1, 1), "VALID", precision="highest"))
check("convolution", result("convolution", lambda: convolution(image, kernel)[0, 0], 1e-4, exact=False), want, 1e-4)
result("random", lambda: jax.random.normal(jax.random.key(7), (1000,)))


@jax.jit
def step(weights, a, y):
    loss, slopes = jax.value_and_grad(lambda w: jnp.mean((jnp.tanh(a @ w[0]) @ w[1] - y) ** 2))(weights)
    return loss, [w - 0.1 * s for w, s in zip(weights, slopes)]


weights = [jnp.ones((128, 64)) / 200, jnp.ones((64, 1)) / 64]
goal = jnp.asarray(x.sum(1, keepdims=True) / 64)
losses, rounds = [], []
for turn in range(5):
    start = time.perf_counter()
    for _ in range(50):
        loss, weights = step(weights, there, goal)
    losses.append(float(loss))
    rounds.append((time.perf_counter() - start) / 50 * 1e6)
expect("it learns", losses[-1] < losses[0], str(losses))
speed("jax_step_us", min(rounds[1:]))
done()
