"""PyTorch's memory: its counts, the device's, an allocation that cannot be served, and pinned memory."""

import torch
from report import ON_GPU, check, done, expect, skip

if not ON_GPU:
    skip("these counts are CUDA's")
MIB = 1 << 20
cuda = torch.cuda
cuda.init()
torch.zeros(1, device="cuda")
cuda.synchronize()
free, total = cuda.mem_get_info()
expect("free and total", 0 < free < total, f"{free} of {total}")
before = cuda.memory_allocated()
block = torch.empty(256 * MIB, dtype=torch.uint8, device="cuda")
expect("allocated", cuda.memory_allocated() - before == 256 * MIB)
expect("reserved", cuda.memory_reserved() >= cuda.memory_allocated())
expect("less is free", free - cuda.mem_get_info()[0] >= 256 * MIB, str(cuda.mem_get_info()))
stats = cuda.memory_stats()
expect("peak", stats["allocated_bytes.all.peak"] >= 256 * MIB and stats["num_ooms"] == 0)
del block
cuda.empty_cache()
expect("free again", cuda.mem_get_info()[0] >= free - 64 * MIB, str(cuda.mem_get_info()))
try:
    torch.empty(total + (1 << 40), dtype=torch.uint8, device="cuda")
    expect("out of memory is said", False)
except cuda.OutOfMemoryError:
    expect("out of memory is said", cuda.memory_stats()["num_ooms"] == 1)
x = torch.arange(1000, device="cuda")
check("and all goes on", x * 2, torch.arange(1000) * 2, 0)
blocks = [torch.full((n,), n, dtype=torch.int32, device="cuda") for n in range(1, 400)]
expect("many blocks", all(int(b.sum()) == n * n for n, b in enumerate(blocks, 1)))
expect("a snapshot lists segments", len(cuda.memory_snapshot()) > 0)
pinned = [torch.randn(n * 1000).pin_memory() for n in range(1, 30)]
expect("pinned", all(p.is_pinned() for p in pinned) and not torch.randn(9).is_pinned())
check("pinned copies", torch.cat([p.cuda(non_blocking=True) for p in pinned]), torch.cat(pinned), 0)
cuda.reset_peak_memory_stats()
expect("peak is forgotten", cuda.max_memory_allocated() == cuda.memory_allocated())
done()
