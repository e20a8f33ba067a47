"""CUDA graphs, streams and events in PyTorch: a captured training step, graphed callables, side streams, timing."""

import time

import torch
from report import ON_GPU, check, done, expect, result, skip, speed

if not ON_GPU:
    skip("graphs and streams are CUDA's")
nn = torch.nn


def setting():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 1)).cuda()
    return net, torch.optim.SGD(net.parameters(), 0.05), torch.randn(128, 32, device="cuda"), torch.randn(128, 1, device="cuda")


def step(net, optimiser, x, y):
    optimiser.zero_grad(set_to_none=False)
    loss = (net(x) - y).square().mean()
    loss.backward()
    optimiser.step()
    return loss


def eager(steps):
    arguments = setting()
    return torch.stack([step(*arguments).detach() for _ in range(steps)])


def captured(steps):
    """The same steps: three on a side stream to warm up, one captured, which executes nothing, then replays."""
    arguments = setting()
    found, side = [], torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found += [step(*arguments).detach().clone() for _ in range(3)]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(*arguments)
    for _ in range(steps - 3):
        graph.replay()
        found.append(loss.detach().clone())
    return torch.stack(found)


check("captured step", result("captured step", lambda: captured(20), 1e-5), eager(20), 1e-5)
net, _, x, _ = setting()
with torch.no_grad():  # a live graph would tie its gradients to this stream
    want = net(x)
graphed = torch.cuda.make_graphed_callables(net, (x,))
check("graphed callable", graphed(x), want, 1e-6)

streams = [torch.cuda.Stream() for _ in range(4)]
blocks = [torch.full((1 << 16,), float(i), device="cuda") for i in range(4)]
for turn in range(10):
    for i, stream in enumerate(streams):
        stream.wait_stream(torch.cuda.current_stream() if turn == 0 else streams[i - 1])
        with torch.cuda.stream(stream):
            blocks[i] = blocks[i] + (blocks[i - 1].mean() if turn else 1)
            blocks[i].record_stream(streams[(i + 1) % 4])
torch.cuda.synchronize()
# In each turn a stream waits for its neighbour's work of the turn before and of this one.
values = [float(i) + 1 for i in range(4)]
for turn in range(1, 10):
    for i in range(4):
        values[i] += values[i - 1]
check("order between streams", torch.stack([b[0] for b in blocks]), torch.tensor(values), 1e-5)

first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
first.record()
torch.cuda._sleep(100_000_000)
last.record()
expect("an event is not done before its work", not last.query())
last.synchronize()
expect("time between events", 10 < first.elapsed_time(last) < 2000, f"{first.elapsed_time(last)} ms")
large = torch.empty(32 << 20, dtype=torch.uint8).pin_memory()
large.copy_(torch.arange(32 << 20, dtype=torch.int64) % 251)
with torch.cuda.stream(streams[0]):
    there = large.to("cuda", non_blocking=True)
    back = torch.empty_like(large, pin_memory=True).copy_(there, non_blocking=True)
streams[0].synchronize()
expect("pinned copies on a stream", torch.equal(back, large))

arguments = setting()
graph = torch.cuda.CUDAGraph()
step(*arguments)
with torch.cuda.graph(graph):
    step(*arguments)
times = []
for _ in range(6):
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(200):
        graph.replay()
    torch.cuda.synchronize()
    times.append((time.perf_counter() - start) / 200 * 1e6)
speed("graphed_step_us", min(times))
done()
