"""curand.py LIBCUDART LIBCURAND: numbers on the host are right; the device's generators end with an error, for their kernels are
machine code."""

import sys
from ctypes import byref, c_float, c_size_t, c_uint64, c_void_p

from calling import *

XORWOW = 100
LAUNCH_FAILURE, INITIALIZATION_FAILED = 201, 203
COUNT = 4096

device, curand = Device(sys.argv[1]), load(sys.argv[2])
version = number(curand, "curandGetVersion")


def on_host():
    generator = handle(curand, "curandCreateGeneratorHost", XORWOW)
    ok(curand, "curandSetPseudoRandomGeneratorSeed", generator, c_uint64(7))
    numbers = (c_float * COUNT)()
    ok(curand, "curandGenerateUniform", generator, numbers, c_size_t(COUNT))
    ok(curand, "curandDestroyGenerator", generator)
    return list(numbers)


numbers = on_host()
require(numbers == on_host(), "the same seed gives other numbers")
require(0 < min(numbers) and max(numbers) <= 1, "a number is out of its range")
require(abs(sum(numbers) / COUNT - 0.5) < 0.05, "the numbers are not even")

generator = c_void_p()
if version < 10400:
    generator = handle(curand, "curandCreateGenerator", XORWOW)
    returns(LAUNCH_FAILURE, curand, "curandGenerateUniform", generator, device.room(4 * COUNT), c_size_t(COUNT))
    ok(curand, "curandDestroyGenerator", generator)
else:
    returns(INITIALIZATION_FAILED, curand, "curandCreateGenerator", byref(generator), XORWOW)
device.is_well()
print("PASS curand")
