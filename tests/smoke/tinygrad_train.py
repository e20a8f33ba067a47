"""Trains a small network with unmodified tinygrad (NVRTC compiles its kernels) and checks every step against numpy.

Prints `PASS tinygrad_train` or `FAIL tinygrad_train: why`, like every test program.
"""

import sys

import numpy as np
from tinygrad import Context, Device, Tensor
from tinygrad.nn.optim import SGD

STEPS, SAMPLES, INPUTS, HIDDEN, CLASSES, RATE = 15, 64, 20, 24, 5, 0.2


def check(condition, message):
    if not condition:
        print(f"FAIL tinygrad_train: {message}", flush=True)
        sys.exit(1)


def numpy_training(x, labels, w1, w2):
    """The same network by hand: linear, ReLU, linear, softmax cross-entropy, plain gradient descent."""
    w1, w2, losses = w1.astype(np.float64), w2.astype(np.float64), []
    rows = np.arange(len(x))
    for _ in range(STEPS):
        pre = x @ w1
        hidden = np.maximum(pre, 0)
        logits = hidden @ w2
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probability = shifted / shifted.sum(axis=1, keepdims=True)
        losses.append(-np.log(probability[rows, labels]).mean())
        slope = probability.copy()
        slope[rows, labels] -= 1
        slope /= len(x)
        back = (slope @ w2.T) * (pre > 0)
        w2 -= RATE * hidden.T @ slope
        w1 -= RATE * x.T @ back
    return losses, w1, w2


def tinygrad_training(x, labels, w1, w2):
    inputs, targets = Tensor(x), Tensor(labels)
    t1, t2 = Tensor(w1.copy()), Tensor(w2.copy())
    for weight in (t1, t2):
        weight.requires_grad = True
    optimizer, losses = SGD([t1, t2], lr=RATE), []
    with Context(TRAINING=1):
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (inputs @ t1).relu().matmul(t2).sparse_categorical_crossentropy(targets)
            # Before the step: tinygrad is lazy, and a loss computed after it would be that of the new weights.
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
    return losses, t1.numpy(), t2.numpy()


def convolution(rng):
    image = rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    kernel = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    got = Tensor(image).conv2d(Tensor(kernel)).numpy()
    want = np.zeros((2, 4, 7, 7))
    for dy in range(3):
        for dx in range(3):
            want += np.einsum("nchw,oc->nohw", image[:, :, dy:dy + 7, dx:dx + 7].astype(np.float64), kernel[:, :, dy, dx])
    check(np.allclose(got, want, rtol=1e-4, atol=1e-4), f"the convolution is off by {np.abs(got - want).max():g}")


def main():
    expected = sys.argv[1] if len(sys.argv) > 1 else "CUDA"
    check(Device.DEFAULT == expected, f"tinygrad chose {Device.DEFAULT}, not {expected}")
    rng = np.random.default_rng(7)
    x = rng.standard_normal((SAMPLES, INPUTS)).astype(np.float32)
    labels = (x[:, :CLASSES].argmax(axis=1)).astype(np.int32)
    w1 = (rng.standard_normal((INPUTS, HIDDEN)) / INPUTS**0.5).astype(np.float32)
    w2 = (rng.standard_normal((HIDDEN, CLASSES)) / HIDDEN**0.5).astype(np.float32)
    want, want1, want2 = numpy_training(x, labels, w1, w2)
    got, got1, got2 = tinygrad_training(x, labels, w1, w2)
    for step, (a, b) in enumerate(zip(got, want)):
        check(abs(a - b) <= 1e-3 * abs(b), f"the loss of step {step} is {a:g}, numpy says {b:g}")
    check(got[-1] < 0.9 * got[0], f"the loss went from {got[0]:g} to {got[-1]:g} only")
    check(np.allclose(got1, want1, rtol=1e-2, atol=1e-3), f"first weights off by {np.abs(got1 - want1).max():g}")
    check(np.allclose(got2, want2, rtol=1e-2, atol=1e-3), f"second weights off by {np.abs(got2 - want2).max():g}")
    convolution(rng)
    big = Tensor(rng.standard_normal((128, 96)).astype(np.float32))
    check(np.allclose((big @ big.T).softmax(axis=1).sum(axis=1).numpy(), 1, rtol=1e-4), "softmax rows do not add up to one")
    print(f"loss {got[0]:.4f} -> {got[-1]:.4f} in {STEPS} steps on {Device.DEFAULT}")
    print("PASS tinygrad_train", flush=True)


main()
