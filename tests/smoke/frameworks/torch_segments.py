"""PyTorch's expandable segments, which reserve addresses and map memory into them, set as users set them."""

import os
import sys

SETTING = "expandable_segments:True"
if os.environ.get("PYTORCH_CUDA_ALLOC_CONF") != SETTING:
    # The allocator reads it when it is loaded.
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = SETTING
    os.execv(sys.executable, [sys.executable, os.path.abspath(sys.argv[0])])

import torch
from report import ON_GPU, check, done, expect, refused, skip

if not ON_GPU:
    skip("the allocator is CUDA's")
try:
    first = torch.zeros(1 << 20, device="cuda")
    torch.cuda.synchronize()
except RuntimeError as error:
    if not refused(error):
        raise
    skip(error)
expect("a segment is expandable", any(s["is_expandable"] for s in torch.cuda.memory_snapshot()))
total = 0
for turn in range(12):
    # Each is larger than the last, which a segment of fixed size could not serve from what was freed.
    block = torch.full(((turn + 1) << 20,), turn, device="cuda", dtype=torch.int32)
    total += int(block.sum())
    del block
expect("sums", total == sum(t * ((t + 1) << 20) for t in range(12)), str(total))
expect("little is reserved", torch.cuda.memory_reserved() <= 256 << 20, str(torch.cuda.memory_reserved()))
del first
torch.cuda.empty_cache()
expect("all is given back", torch.cuda.memory_reserved() <= 4 << 20, str(torch.cuda.memory_reserved()))
x = torch.randn(300, 300)
check("and all goes on", x.cuda() @ x.cuda(), x @ x, 1e-3)
done()
