"""What the scripts of this folder print, in a form that compare.py can hold against another run's.

    CHECK name ok | CHECK name FAILED: why      against this process's own CPU; a failure fails the script
    RESULT name exact|near TOLERANCE DIGEST VALUES…   against the other run: bits if `exact`, else VALUES to TOLERANCE
    SPEED name MICROSECONDS                      becomes a ratio
    NOTE text                                    for the reader

and at the end `PASS name`, `FAIL name: why` or `SKIP name: why`.
"""

import hashlib
import os
import pathlib
import sys

import numpy

# `cpu` tries a script's logic on a machine without a GPU; what only a GPU can do is skipped there.
DEVICE = os.environ.get("FRAMEWORKS_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
NAME = os.environ.get("FRAMEWORKS_NAME") or pathlib.Path(sys.argv[0]).stem

_failed = []


def array(value):
    """A NumPy array of a tensor of any framework, in a type that NumPy has; on complex numbers their parts."""
    if hasattr(value, "detach"):  # PyTorch
        value = value.detach()
        if value.is_sparse or value.layout.__str__() == "torch.sparse_csr":
            value = value.to_dense()
        if value.is_floating_point() and value.element_size() < 4:
            value = value.float()
        value = value.cpu().resolve_conj().numpy()
    elif hasattr(value, "get") and hasattr(value, "dtype"):  # CuPy
        value = value.get()
    value = numpy.ascontiguousarray(value)
    return value.view(value.real.dtype) if numpy.iscomplexobj(value) else value


def largest_difference(got, want):
    """The largest difference of two arrays, relative to the largest of the second, at least 1."""
    got, want = array(got).astype(numpy.float64), array(want).astype(numpy.float64)
    if got.shape != want.shape:
        return float("inf")
    if got.size == 0:
        return 0.0
    error = numpy.abs(got - want).max() / max(1.0, numpy.abs(want).max())
    return float(error) if numpy.isfinite(error) else float("inf")


def check(name, got, want, tolerance):
    """Holds a result against the one computed on the CPU."""
    error = largest_difference(got, want)
    expect(name, error <= tolerance, f"differs by {error:.3g} of the largest")


def expect(name, good, why="is not so"):
    """Holds a truth."""
    print(f"CHECK {name} ok" if good else f"CHECK {name} FAILED: {why}", flush=True)
    if not good:
        _failed.append(name)


def result(name, function, tolerance=0.0, exact=True):
    """Computes something twice. If both have the same bits, and nothing but chance could choose another way in another
    process (`exact`), the other run must have them, too; else its values may differ by `tolerance` of the largest."""
    first, second = array(function()), array(function())
    digests = [hashlib.sha256(a.tobytes()).hexdigest()[:16] for a in (first, second)]
    if tolerance:
        expect(f"{name}, repeated", largest_difference(second, first) <= tolerance, "the second time it is another")
    exact = exact and digests[0] == digests[1]
    flat = first.astype(numpy.float64).ravel()
    chosen = flat[numpy.linspace(0, flat.size - 1, min(flat.size, 24)).astype(int)] if flat.size else flat
    values = [flat.mean(), numpy.abs(flat).mean(), *chosen] if flat.size else []
    label = name.replace(" ", "_")
    print("RESULT", label, "exact" if exact else "near", tolerance, digests[0], *(f"{v:.9g}" for v in values), flush=True)
    return first


def speed(name, microseconds):
    print(f"SPEED {name} {microseconds:.1f}", flush=True)


def note(text):
    print(f"NOTE {text}", flush=True)


def skip(why):
    """Ends the script: it cannot be tried here."""
    print(f"SKIP {NAME}: {' '.join(str(why).split())[:200]}", flush=True)
    sys.exit(0)


def refused(error):
    """Whether an exception says that the driver does not support something, as opposed to failing at it."""
    text = str(error).lower()
    return "not supported" in text or "notsupported" in text or "not_supported" in text


def done():
    """The verdict; to be called last."""
    print(f"FAIL {NAME}: {', '.join(_failed)[:200]}" if _failed else f"PASS {NAME}", flush=True)
    sys.exit(1 if _failed else 0)
