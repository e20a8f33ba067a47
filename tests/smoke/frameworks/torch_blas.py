"""cuBLAS and cuBLASLt through PyTorch: products in every precision, batches, bias epilogues, integers, and 8-bit floats."""

import time

import torch
from report import DEVICE, ON_GPU, check, done, note, refused, result, speed

torch.manual_seed(0)
a, b = torch.randn(257, 384), torch.randn(384, 129)
want = a.double() @ b.double()
for name, dtype, tolerance in (
    ("f32", torch.float32, 1e-5), ("f64", torch.float64, 1e-12), ("f16", torch.float16, 5e-3), ("bf16", torch.bfloat16, 4e-2),
):
    torch.backends.cuda.matmul.allow_tf32 = False
    x, y = a.to(DEVICE, dtype), b.to(DEVICE, dtype)
    check(f"product {name}", result(f"product {name}", lambda: x @ y, tolerance), want, tolerance)
torch.backends.cuda.matmul.allow_tf32 = True
x, y = a.to(DEVICE), b.to(DEVICE)
check("product tf32", result("product tf32", lambda: x @ y, 2e-3), want, 2e-3)
torch.backends.cuda.matmul.allow_tf32 = False
check("vector", result("vector", lambda: x @ y[:, 0], 1e-5), want[:, 0], 1e-5)
bias = torch.randn(129)
check("bias", result("bias", lambda: torch.addmm(bias.to(DEVICE), x, y), 1e-5), want + bias, 1e-5)
half = [t.to(DEVICE, torch.float16) for t in (bias, a, b)]
check("bias f16, Lt", result("bias f16, Lt", lambda: torch.nn.functional.linear(half[1], half[2].t().contiguous(), half[0]), 5e-3),
      want + bias, 5e-3)
p, q = torch.randn(7, 33, 65), torch.randn(7, 65, 17)
check("batches", result("batches", lambda: torch.bmm(p.to(DEVICE), q.to(DEVICE)), 1e-5), torch.bmm(p, q), 1e-5)
check("complex", result("complex", lambda: torch.complex(x, x) @ torch.complex(y, -y), 1e-5), torch.complex(a, a) @ torch.complex(b, -b), 1e-5)
i, j = (torch.randint(-100, 100, shape, dtype=torch.int8) for shape in ((64, 128), (128, 32)))
check("int8, Lt", result("int8, Lt", lambda: torch._int_mm(i.to(DEVICE), j.to(DEVICE))), i.int() @ j.int(), 0)
if ON_GPU:
    eights = [t.to(DEVICE).to(torch.float8_e4m3fn) for t in (torch.randn(128, 256), torch.randn(64, 256))]
    one = torch.ones((), device=DEVICE)
    try:
        got = result("f8, Lt", lambda: torch._scaled_mm(eights[0], eights[1].t(), scale_a=one * 0.5, scale_b=one * 2, out_dtype=torch.bfloat16), 1e-2)
        check("f8, Lt", got, eights[0].float().cpu() @ eights[1].float().cpu().t(), 1e-2)
    except RuntimeError as error:
        if torch.cuda.get_device_capability() >= (8, 9):
            raise
        note(f"f8: this device has none: {refused(error) or error}")
    large = torch.randn(4096, 4096, device=DEVICE, dtype=torch.bfloat16)
    times = []
    for _ in range(12):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(5):
            large @ large
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 5 * 1e6)
    speed("product_4096_bf16_us", min(times))
done()
