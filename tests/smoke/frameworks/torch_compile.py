"""torch.compile: Triton's kernels, compiled in the program's own process."""
import torch

function = torch.compile(lambda x: (x.sin() + x.cos()).relu().sum(1))
x = torch.randn(100, 1000, device="cuda")
error = (function(x) - (x.sin() + x.cos()).relu().sum(1)).abs().max().item()
print("PASS torch_compile" if error < 1e-2 else f"FAIL torch_compile: differs by {error}")
