"""PyTorch against its own CPU results: products in several precisions, convolution, attention, FFT, linear algebra,
sorting, pinned memory, autograd, optimisers, CUDA graphs, streams. Prints one line per check; the last one is PASS."""
import torch

torch.manual_seed(0)
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
failed = []


def check(name, got, want, tolerance):
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    error = (got - want).abs().max().item()
    good = got.shape == want.shape and error <= tolerance
    print(name, "ok" if good else f"FAILED: differs by {error}")
    if not good:
        failed.append(name)


def everywhere(name, function, *inputs, tolerance=1e-4):
    check(name, function(*(i.cuda() for i in inputs)), function(*inputs), tolerance)


a, b = torch.randn(129, 257), torch.randn(257, 65)
everywhere("matmul f32", torch.matmul, a, b, tolerance=1e-3)
everywhere("matmul f64", torch.matmul, a.double(), b.double(), tolerance=1e-10)
check("matmul f16", (a.cuda().half() @ b.cuda().half()), a.half().float() @ b.half().float(), 0.1)
check("matmul bf16", (a.cuda().bfloat16() @ b.cuda().bfloat16()), a.bfloat16().float() @ b.bfloat16().float(), 0.5)
everywhere("conv2d", torch.nn.functional.conv2d, torch.randn(4, 8, 33, 31), torch.randn(16, 8, 3, 3), tolerance=1e-3)
everywhere("softmax", lambda x: x.softmax(1), a)
everywhere("sum, cumsum", lambda x: x.cumsum(0).sum(1), a, tolerance=1e-2)
everywhere("index", lambda x: x[torch.arange(128, -1, -1, device=x.device)][:, ::3], a, tolerance=0)
everywhere("sort", lambda x: x.sort(1)[0], a, tolerance=0)
everywhere("fft", lambda x: torch.view_as_real(torch.fft.fft(x)), a, tolerance=1e-3)
everywhere("svd", torch.linalg.svdvals, torch.randn(40, 30), tolerance=1e-3)
everywhere("solve", torch.linalg.solve, torch.eye(50) * 9 + torch.randn(50, 50) / 9, torch.randn(50, 3))
q = torch.randn(2, 4, 64, 32)
attention = torch.nn.functional.scaled_dot_product_attention
check("attention f16", attention(*(q.cuda().half(),) * 3), attention(q, q, q), 0.02)
pinned = torch.randn(100_000).pin_memory()
check("pinned copies", pinned.cuda(non_blocking=True).cpu(), pinned, 0)


def train(device):
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(20, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1)).to(device)
    adam = torch.optim.Adam(net.parameters(), 0.01)
    x = torch.linspace(-1, 1, 640).view(32, 20).to(device)
    for _ in range(50):
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return loss.view(1)


check("training, Adam", train("cuda"), train("cpu"), 1e-2)
stream, y = torch.cuda.Stream(), torch.zeros(1000, device="cuda")
with torch.cuda.stream(stream):
    y.add_(1)
torch.cuda.current_stream().wait_stream(stream)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y.add_(1)
for _ in range(5):
    graph.replay()
check("CUDA graph", y, torch.full((1000,), 6.0), 0)
free, total = torch.cuda.mem_get_info()
if not 0 < free <= total:
    failed.append("memory info")
print("FAIL torch_basics: " + ", ".join(failed) if failed else "PASS torch_basics")
