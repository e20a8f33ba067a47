"""What eager PyTorch costs: microseconds of a small training step and of a loop of small kernels with one answer, as
`SPEED name number` lines; the least of five rounds."""
import time

import torch

net = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).cuda()
sgd = torch.optim.SGD(net.parameters(), 0.1)
x, a = torch.ones(64, 256, device="cuda"), torch.ones(64, 64, device="cuda")


def step():
    loss = net(x).square().mean()
    sgd.zero_grad()
    loss.backward()
    sgd.step()


def decode():
    b = a
    for _ in range(10):
        b = b * 1.0001 + 0.5
    b[0, 0].item()


for name, function in ("train_step_us", step), ("decode_loop_us", decode):
    rounds = []
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(200):
            function()
        torch.cuda.synchronize()
        rounds.append((time.perf_counter() - start) / 200 * 1e6)
    print(f"SPEED {name} {min(rounds[1:]):.0f}")
print("PASS torch_speed")
