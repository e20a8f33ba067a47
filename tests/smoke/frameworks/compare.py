"""Holds what a script printed in one run against what it printed in another.

    compare.py NATIVE SHIM

Prints one line, `same, …`, or `DIFFERENT: what`, followed by ` | ` and ratios of times, shim over native. Exit status 1 when
it is different.
"""

import math
import sys


def read(path):
    results, speeds, verdict = {}, {}, ""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            if line.startswith("RESULT ") and len(words) >= 5:
                results[words[1]] = words[2:]
            elif line.startswith("SPEED ") and len(words) == 3:
                speeds[words[1]] = float(words[2])
            elif line.startswith(("PASS ", "FAIL ", "SKIP ")):
                verdict = words[0]
    return results, speeds, verdict


def difference(native, shim):
    """Why two results differ, or nothing."""
    kind, tolerance, digest, *values = native
    if digest == shim[2]:
        return None
    pairs = list(zip(map(float, values), map(float, shim[3:])))
    largest = max([1.0, *(abs(a) for a, _ in pairs if math.isfinite(a))])
    gap = max((abs(a - b) / largest for a, b in pairs if a != b and not (a != a and b != b)), default=0.0)
    gap = gap if gap == gap else math.inf
    if kind == "exact":
        return f"bits, values by {gap:.2g}"
    if len(values) != len(shim[3:]) or gap > float(tolerance):
        return f"by {gap:.2g}, more than {tolerance}"
    return None


def main(native_path, shim_path):
    (native, fast, first), (shim, slow, second) = read(native_path), read(shim_path)
    wrong = []
    if first == second == "PASS":
        wrong += [f"{name} missing" for name in native if name not in shim]
    for name, result in native.items():
        why = name in shim and difference(result, shim[name])
        if why:
            wrong.append(f"{name} {why}")
    ratios = [f"{name} {slow[name] / fast[name]:.2f}x" for name in fast if name in slow and fast[name] > 0]
    alike = sum(name in shim for name in native)
    bits = sum(name in shim and native[name][2] == shim[name][2] for name in native)
    same = f"same, {bits} of {alike} in all bits" if alike else "nothing to compare"
    text = f"DIFFERENT: {'; '.join(wrong)[:160]}" if wrong else same
    print(f"{text} | {', '.join(ratios)}" if ratios else text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
