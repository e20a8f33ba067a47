"""torch.compile: Triton's kernels, compiled in the program's own process; a training step; with CUDA graphs."""

import torch
from report import DEVICE, ON_GPU, check, done

torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = False
x = torch.randn(100, 1000, device=DEVICE)
pointwise = torch.compile(lambda t: (t.sin() + t.cos()).relu().sum(1))
check("elementwise and reduction", pointwise(x), (x.sin() + x.cos()).relu().sum(1), 1e-4)

net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.LayerNorm(128), torch.nn.Linear(128, 10)).to(DEVICE)
a = torch.randn(32, 64, device=DEVICE)
gradients = []
for function in (net, torch.compile(net)):
    net.zero_grad()
    function(a).square().mean().backward()
    gradients.append(torch.cat([p.grad.reshape(-1) for p in net.parameters()]))
check("gradients", gradients[1], gradients[0], 1e-4)
if ON_GPU:
    graphed = torch.compile(lambda t: t.softmax(1) * 2 + 1, mode="reduce-overhead")
    for _ in range(4):
        got = graphed(x).clone()
    check("with CUDA graphs", got, x.softmax(1) * 2 + 1, 1e-5)
done()
