"""cuDNN through PyTorch: convolutions forward and backward, batch norm, pooling, and recurrent networks."""

import torch
from report import DEVICE, ON_GPU, check, done, expect, result

torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.benchmark = False
torch.backends.cudnn.deterministic = True
if ON_GPU:
    expect("cuDNN is there", torch.backends.cudnn.is_available())


def forward_and_back(module, shape, device):
    """Output, gradient of the input and of the first parameter, in one row."""
    torch.manual_seed(1)
    module = module().to(device)
    x = torch.randn(shape).to(device).requires_grad_()
    y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    y.square().mean().backward()
    return torch.cat([t.reshape(-1) for t in (y, x.grad, next(module.parameters()).grad)])


nn = torch.nn
CASES = {
    "conv1d": (lambda: nn.Conv1d(6, 10, 5, padding=2), (3, 6, 101)),
    "conv2d": (lambda: nn.Conv2d(8, 16, 3, padding=1), (4, 8, 33, 31)),
    "conv2d, strides": (lambda: nn.Conv2d(8, 16, 3, stride=2, dilation=2), (4, 8, 33, 31)),
    "conv2d, groups": (lambda: nn.Conv2d(8, 16, 3, groups=8), (4, 8, 21, 23)),
    "conv3d": (lambda: nn.Conv3d(3, 5, 3), (2, 3, 9, 10, 11)),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 4, stride=2), (2, 8, 15, 17)),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)), (4, 4, 20, 20)),
    "LSTM": (lambda: nn.LSTM(12, 20, num_layers=2, bidirectional=True), (9, 4, 12)),
    "GRU": (lambda: nn.GRU(12, 20), (9, 4, 12)),
}
for name, (module, shape) in CASES.items():
    got = result(name, lambda: forward_and_back(module, shape, DEVICE), 1e-4)
    check(name, got, forward_and_back(module, shape, "cpu"), 1e-4)
x, w = torch.randn(4, 8, 32, 32), torch.randn(16, 8, 3, 3)
for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 4e-2)):
    name = f"conv2d {str(dtype)[6:]}, channels last"
    xs = x.to(DEVICE, dtype).to(memory_format=torch.channels_last)
    got = result(name, lambda: nn.functional.conv2d(xs, w.to(DEVICE, dtype)), tolerance)
    check(name, got, nn.functional.conv2d(x, w), tolerance)
done()
