"""Training in PyTorch against its CPU: a convolutional net and a transformer, forward and backward, four optimisers, and
mixed precision."""

import torch
from report import DEVICE, check, done, expect, result

nn = torch.nn
torch.backends.cudnn.deterministic = True
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def conv_net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, 100)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        return self.head(self.layers(self.embedding(tokens), mask=mask)).flatten(0, 1)


def batch(make, device):
    torch.manual_seed(2)
    net = make()
    if make is conv_net:
        x, y = torch.randn(16, 3, 24, 24), torch.randint(0, 10, (16,))
    else:
        x, y = torch.randint(0, 100, (4, 32)), torch.randint(0, 100, (128,))
    return net.to(device), x.to(device), y.to(device)


def gradients(make, device):
    """Loss and all gradients, in one row."""
    net, x, y = batch(make, device)
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    return torch.cat([loss.view(1), *(p.grad.reshape(-1) for p in net.parameters())])


def losses(make, device, optimiser, steps=8, autocast=None):
    net, x, y = batch(make, device)
    optimiser, found = optimiser(net.parameters()), []
    scaler = torch.amp.GradScaler(device, enabled=autocast is torch.float16 and device == "cuda")
    for _ in range(steps):
        with torch.autocast(device, dtype=autocast, enabled=autocast is not None):
            loss = nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        found.append(loss.detach().float())
    return torch.stack(found)


for name, make in (("conv net", conv_net), ("transformer", Transformer)):
    # Embeddings and attention add gradients up by atomics.
    got = result(f"{name}, gradients", lambda: gradients(make, DEVICE), 1e-3, exact=make is conv_net)
    check(f"{name}, gradients", got, gradients(make, "cpu"), 1e-3)
OPTIMISERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9), "Adam": lambda p: torch.optim.Adam(p, 1e-3),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True), "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3, foreach=True),
}
for name, optimiser in OPTIMISERS.items():
    got = result(f"losses, {name}", lambda: losses(Transformer, DEVICE, optimiser), 1e-2, exact=False)
    check(f"losses, {name}", got, losses(Transformer, "cpu", optimiser), 1e-2)
exact = losses(Transformer, "cpu", OPTIMISERS["Adam"])
for dtype in (torch.bfloat16, torch.float16):
    if DEVICE == "cpu" and dtype is torch.float16:
        continue
    name = f"losses, autocast {str(dtype)[6:]}"
    got = result(name, lambda: losses(Transformer, DEVICE, OPTIMISERS["Adam"], autocast=dtype), 5e-2, exact=False)
    check(name, got, exact, 5e-2)
    expect(f"{name}, it learns", got[-1] < got[0])
done()
