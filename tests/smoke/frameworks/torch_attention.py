"""Scaled dot-product attention with each of PyTorch's backends, forward and backward, causal and not."""

import torch
from report import DEVICE, ON_GPU, check, done, note, result
from torch.nn.attention import SDPBackend, sdpa_kernel

torch.manual_seed(0)
inputs = [torch.randn(2, 4, 128, 64) for _ in range(3)]


def attend(device, dtype, causal):
    """Output and gradients, in one row."""
    q, k, v = (t.clone().to(device, dtype).requires_grad_() for t in inputs)
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    y.float().square().sum().backward()
    return torch.cat([t.float().reshape(-1) for t in (y, q.grad, k.grad, v.grad)])


backends = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
if ON_GPU:
    backends |= {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
for causal in (False, True):
    want = attend("cpu", torch.float32, causal)
    for name, backend in backends.items():
        label = f"{name}{', causal' if causal else ''}"
        try:
            with sdpa_kernel(backend):
                # The backward passes add up in the order in which blocks come.
                got = result(label, lambda: attend(DEVICE, torch.float16 if ON_GPU else torch.float32, causal), 1e-2, exact=False)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            note(f"{label}: PyTorch has no such kernel for this device")
            continue
        check(label, got, want, 1e-2)
done()
