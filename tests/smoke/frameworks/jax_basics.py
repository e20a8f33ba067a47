"""JAX: jit, grad, scan, and a product, against NumPy."""
import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
import jax
import jax.numpy as jnp
import numpy

assert jax.devices()[0].platform == "gpu", jax.devices()
x = numpy.random.default_rng(0).random((128, 128), dtype=numpy.float32)
product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))(x)
gradient = jax.grad(lambda a: (jnp.tanh(a) ** 2).sum())(x)
last, _ = jax.lax.scan(lambda carry, row: (carry * 0.5 + row, None), jnp.zeros(128), x)
want = numpy.zeros(128)
for row in x:
    want = want * 0.5 + row
t = numpy.tanh(x)
good = (
    numpy.allclose(product, x @ x, rtol=1e-3)
    and numpy.allclose(gradient, 2 * t * (1 - t * t), rtol=1e-3, atol=1e-5)
    and numpy.allclose(last, want, rtol=1e-4)
)
print("PASS jax_basics" if good else "FAIL jax_basics")
