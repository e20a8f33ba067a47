"""What a step of training and of decoding asks of the driver: calls, crossings to the worker, and waits, each counted by
VGPU_STATS in processes that make few steps and many. Natively nothing is counted, and the answers are compared."""

import os
import re
import sys
import tempfile

import torch
from report import DEVICE, done, expect, note

FEW, MANY = 20, 120


def train():
    torch.manual_seed(4)
    net = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)).to(DEVICE)
    sgd = torch.optim.SGD(net.parameters(), 0.01)
    x = torch.ones(64, 256, device=DEVICE)

    def step():
        loss = net(x).square().mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        return loss.detach()

    return step


def train_transformer():
    torch.manual_seed(4)
    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    net = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to(DEVICE)
    adam = torch.optim.AdamW(net.parameters(), 1e-4)
    x = torch.ones(4, 32, 128, device=DEVICE)

    def step():
        loss = net(x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return step


def decode():
    torch.manual_seed(4)
    layers = [torch.randn(256, 256, device=DEVICE) / 16 for _ in range(8)]
    state = torch.ones(1, 256, device=DEVICE)

    def step():
        nonlocal state
        for weight in layers:
            state = torch.nn.functional.layer_norm(state + (state @ weight).relu(), (256,))
        return int(state.argmax())

    return step


def counted(make, steps, path):
    """The totals of a process that makes so many steps; nothing where the driver's library does not count."""
    process = os.fork()
    if process == 0:
        os.environ["VGPU_STATS"], os.environ["VGPU_LOG"] = "1", path
        step = make()
        for _ in range(steps):
            answer = step()
        sys.exit(0 if float(answer) == float(answer) else 1)
    expect(f"{make.__name__}, {steps} steps", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0)
    totals = [0, 0, 0]
    if os.path.exists(path):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                row = re.match(r"vgpu\[\d+\]: cu\w+ +(\d+) +(\d+) +(\d+) +[\d.]+$", line)
                totals = [a + int(b) for a, b in zip(totals, row.groups())] if row else totals
    return totals


with tempfile.TemporaryDirectory() as folder:
    for make in (train, train_transformer, decode):
        few, many = (counted(make, steps, f"{folder}/{make.__name__}.{steps}") for steps in (FEW, MANY))
        if many[0]:
            calls, crossed, waited = ((b - a) / (MANY - FEW) for a, b in zip(few, many))
            note(f"per step of {make.__name__}: {calls:.1f} calls, {crossed:.1f} crossed, {waited:.2f} waited")
done()
