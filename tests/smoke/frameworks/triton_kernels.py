"""Triton: elementwise, a softmax, a tiled product, atomics and an autotuned kernel, each against PyTorch."""

import torch
import triton
import triton.language as tl
from report import DEVICE, check, done, result

torch.backends.cuda.matmul.allow_tf32 = False
torch.manual_seed(0)


@triton.jit
def scale(x, y, n, by, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n)
    tl.store(y + at, value * by + tl.exp(-value * value), mask=at < n)


@triton.jit
def softmax(x, y, columns, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * columns + at, mask=at < columns, other=-float("inf"))
    power = tl.exp(row - tl.max(row, 0))
    tl.store(y + tl.program_id(0) * columns + at, power / tl.sum(power, 0), mask=at < columns)


@triton.jit
def product(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TILE: tl.constexpr):
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for k in range(0, K, TILE):
        inner = k + tl.arange(0, TILE)
        total += tl.dot(tl.load(a + rows[:, None] * K + inner[None, :]), tl.load(b + inner[:, None] * N + columns[None, :]))
    tl.store(c + rows[:, None] * N + columns[None, :], total)


@triton.jit
def count(x, counts, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(counts + tl.load(x + at, mask=at < n, other=0), 1, mask=at < n)


@triton.autotune([triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((256, 2), (1024, 4))], key=["n"])
@triton.jit
def add(x, y, z, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(z + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


def into(target, kernel, grid, *arguments, **constants):
    kernel[grid](*arguments, **constants)
    return target


x = torch.randn(10_007, device=DEVICE)
y = torch.empty_like(x)
check("elementwise", result("elementwise", lambda: into(y, scale, (10,), x, y, 10_007, 1.5, BLOCK=1024), 1e-5), x * 1.5 + (-x * x).exp(), 1e-5)
m = torch.randn(37, 300, device=DEVICE)
s = torch.empty_like(m)
check("softmax", result("softmax", lambda: into(s, softmax, (37,), m, s, 300, BLOCK=512), 1e-5), m.softmax(1), 1e-5)
a, b = (torch.randn(128, 128, device=DEVICE, dtype=torch.float16) for _ in range(2))
c = torch.empty(128, 128, device=DEVICE)
check("product", result("product", lambda: into(c, product, (4, 4), a, b, c, 128, 128, 128, TILE=32), 1e-3), a.float() @ b.float(), 1e-3)
v = torch.randint(0, 50, (5000,), device=DEVICE, dtype=torch.int32)


def counted():
    counts = torch.zeros(50, device=DEVICE, dtype=torch.int32)
    return into(counts, count, (10,), v, counts, 5000, BLOCK=512)


check("atomics", result("atomics", counted), torch.bincount(v, minlength=50), 0)
if DEVICE == "cuda":  # Triton's interpreter does not tune
    z = torch.empty_like(x)
    grid = lambda meta: (triton.cdiv(10_007, meta["BLOCK"]),)
    check("autotuned", result("autotuned", lambda: into(z, add, grid, x, y, z, 10_007), 0), x + y, 0)
done()
