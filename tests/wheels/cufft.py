"""cufft.py LIBCUDART LIBCUFFT: transforms, forwards and back, in one dimension and two. cuFFT carries PTX and finds its kernels
through a private table of the driver's, so all of it works."""

import cmath
import random
import sys
from ctypes import byref, c_float, c_int

from calling import *

C2C, FORWARD, INVERSE = 0x29, -1, 1

device, cufft = Device(sys.argv[1]), load(sys.argv[2])
require(number(cufft, "cufftGetVersion") > 11000, "the version is wrong")
draw = random.Random(1)


def flat(values):
    return (c_float * (2 * len(values)))(*[part for value in values for part in (value.real, value.imag)])


def numbers(memory, count):
    parts = device.read(memory, c_float, 2 * count)
    return [complex(*pair) for pair in zip(parts[::2], parts[1::2])]


def close(got, wanted, what):
    worst = max(abs(g - w) for g, w in zip(got, wanted))
    require(worst < 2e-4 * len(got), what, "is off by", worst)


def transform(values, along):
    count = len(values)
    return [sum(values[k] * cmath.exp(-2j * cmath.pi * j * k / count) for k in range(count)) for j in along]


# Powers of two, mixed radices, primes: kernels of different kinds.
for count in (8, 17, 100, 101, 256, 1000, 4096):
    values = [complex(draw.random(), draw.random()) for _ in range(count)]
    memory, plan = device.of(flat(values)), c_int(-1)
    ok(cufft, "cufftPlan1d", byref(plan), count, C2C, 1)
    ok(cufft, "cufftExecC2C", plan, memory, memory, FORWARD)
    close(numbers(memory, count), transform(values, range(min(count, 24))), f"a transform of {count}")
    ok(cufft, "cufftExecC2C", plan, memory, memory, INVERSE)
    close([value / count for value in numbers(memory, count)], values, f"a transform of {count} and back")
    ok(cufft, "cufftDestroy", plan)

ROWS, COLUMNS = 12, 20
values = [complex(draw.random(), draw.random()) for _ in range(ROWS * COLUMNS)]
rows = [transform(values[row * COLUMNS : (row + 1) * COLUMNS], range(COLUMNS)) for row in range(ROWS)]
columns = [transform([row[column] for row in rows], range(ROWS)) for column in range(COLUMNS)]
memory, plan = device.of(flat(values)), c_int(-1)
ok(cufft, "cufftPlan2d", byref(plan), ROWS, COLUMNS, C2C)
ok(cufft, "cufftExecC2C", plan, memory, memory, FORWARD)
wanted = [columns[at % COLUMNS][at // COLUMNS] for at in range(ROWS * COLUMNS)]
close(numbers(memory, ROWS * COLUMNS), wanted, "a transform in two dimensions")
device.is_well()
print("PASS cufft")
