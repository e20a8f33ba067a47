"""PyTorch's own kernels against its CPU: elementwise functions, reductions, indexing, sorting, random numbers."""

import torch
from report import DEVICE, check, done, expect, result

torch.manual_seed(0)
x = torch.randn(173, 291)
rows = torch.randint(0, 173, (400,))


def everywhere(name, function, *inputs, tolerance=1e-5, exact=True):
    there = [t.to(DEVICE) for t in inputs]
    check(name, result(name, lambda: function(*there), tolerance, exact), function(*inputs), tolerance)


F = torch.nn.functional
everywhere("transcendental", lambda t: t.sin() * t.exp() + t.abs().log1p().tanh() - t.erf(), x)
everywhere("activations", lambda t: F.gelu(t) + F.silu(t) + t.sigmoid() + F.softplus(t), x)
for dtype in (torch.float64, torch.int64, torch.int16, torch.uint8, torch.bool):
    everywhere(f"arithmetic {str(dtype)[6:]}", lambda t: (t + t.flip(0)) * t, (x * 9).abs().to(dtype), tolerance=1e-12)
for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
    everywhere(f"arithmetic {str(dtype)[6:]}", lambda t: t * 1.5 + t.flip(1), x.to(dtype), tolerance=tolerance)
everywhere("sums", lambda t: torch.cat([t.sum(0), t.mean(1), t.var(1), t.norm().view(1)]), x)
everywhere("extremes", lambda t: torch.cat([t.max(0)[0], t.min(1)[0], t.argmax(1).float(), t.median(1)[0]]), x, tolerance=0)
everywhere("scans", lambda t: t.cumsum(1) + t.cumprod(0), x, tolerance=1e-4)
everywhere("softmax, norms", lambda t: t.softmax(1) + F.layer_norm(t, (291,)) + F.log_softmax(t, 0), x)
everywhere("index", lambda t, i: t[i][:, ::3], x, rows, tolerance=0)
everywhere("boolean index", lambda t: t[t > 1], x, tolerance=0)
everywhere("nonzero", lambda t: (t > 1).nonzero(), x, tolerance=0)
everywhere("gather", lambda t, i: t.gather(0, i[:291].expand(50, 291)), x, rows, tolerance=0)
# Floating-point additions by atomics come in any order; of integers it does not matter.
everywhere("index_add", lambda t, i: torch.zeros_like(t).index_add(0, i, t[i]), x, rows, exact=False)
everywhere("integers added by index", lambda i: torch.zeros(173, dtype=torch.int64, device=i.device).scatter_add(0, i, i), rows, tolerance=0)
everywhere("put", lambda t: t.masked_fill(t < 0, 7).clamp(max=2).roll(3, 1).tril(), x, tolerance=0)
everywhere("sort", lambda t: t.sort(1)[0] + t.topk(5, 0)[0][:1], x, tolerance=0)
everywhere("unique", lambda i: torch.cat(torch.unique(i, return_counts=True)), rows, tolerance=0)
everywhere("histogram", lambda i: torch.bincount(i, minlength=173), rows, tolerance=0)
everywhere("embedding", lambda i, t: F.embedding(i, t), rows, x, tolerance=0)
everywhere("interpolate", lambda t: F.interpolate(t[None, None], scale_factor=1.7, mode="bilinear"), x, tolerance=1e-3)
everywhere("strides", lambda t: t.t().contiguous().view(-1)[::7].unfold(0, 5, 3).sum(1), x)
everywhere("cat, stack", lambda t: torch.cat([torch.stack([t, t * 2]).flatten(0, 1), t]), x, tolerance=0)


def numbers(kind):
    torch.manual_seed(5)
    return kind().float()


for name, kind in (
    ("uniform", lambda: torch.rand(5000, device=DEVICE)), ("normal", lambda: torch.randn(5000, device=DEVICE)),
    ("permutation", lambda: torch.randperm(5000, device=DEVICE)), ("bernoulli", lambda: torch.full((5000,), 0.3, device=DEVICE).bernoulli()),
    ("multinomial", lambda: torch.multinomial(torch.ones(50, device=DEVICE), 2000, True)), ("dropout", lambda: F.dropout(torch.ones(5000, device=DEVICE))),
):
    result(f"random, {name}", lambda: numbers(kind))
expect("random, mean", abs(numbers(lambda: torch.randn(100_000, device=DEVICE)).mean().item()) < 0.02)
done()
