"""Calls of C libraries for the scripts beside this one. Each is run with the shim and the real libraries in LD_LIBRARY_PATH, on the
software device; it is given the libraries' names and its last line is `PASS NAME`."""

import ctypes
from ctypes import byref, c_int, c_size_t, c_void_p

COPY_TO_DEVICE, COPY_FROM_DEVICE, COPY_ON_DEVICE = 1, 2, 3
NO_BINARY = 209  # cudaErrorNoKernelImageForDevice, CUDA_ERROR_NO_BINARY_FOR_GPU


def load(name):
    return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)


def require(condition, *why):
    if not condition:
        raise AssertionError(" ".join(map(str, why)))


def returns(code, library, function, *arguments):
    """Calls `function`, which must return `code`."""
    result = getattr(library, function)(*arguments)
    require(result == code, function, "returns", result, "instead of", code)


def ok(library, function, *arguments):
    returns(0, library, function, *arguments)


def number(library, function, *before, kind=c_int):
    """What `function` stores at its last argument."""
    value = kind()
    ok(library, function, *before, byref(value))
    return value.value


def handle(library, function, *after):
    """What `function` stores at its first argument."""
    value = c_void_p()
    ok(library, function, byref(value), *after)
    require(value.value, function, "gives null")
    return value


class Device:
    """Memory of the device through the runtime `name`."""

    def __init__(self, name):
        self.runtime = load(name)

    def of(self, array):
        """A copy of a ctypes array."""
        memory = self.room(ctypes.sizeof(array))
        ok(self.runtime, "cudaMemcpy", memory, array, c_size_t(ctypes.sizeof(array)), COPY_TO_DEVICE)
        return memory

    def room(self, size):
        return handle(self.runtime, "cudaMalloc", c_size_t(size))

    def read(self, memory, kind, count):
        array = (kind * count)()
        ok(self.runtime, "cudaMemcpy", array, memory, c_size_t(ctypes.sizeof(array)), COPY_FROM_DEVICE)
        return list(array)

    def is_well(self):
        """Nothing is left over of what failed, and memory can still be had and written."""
        self.runtime.cudaGetLastError()
        ok(self.runtime, "cudaDeviceSynchronize")
        array = (c_int * 64)(*range(64))
        require(self.read(self.of(array), c_int, 64) == list(array), "the device lost what was copied to it")
