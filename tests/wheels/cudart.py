"""cudart.py LIBCUDART VERSION: devices, memory, streams, events and errors through a shared libcudart."""

import ctypes
import sys
from ctypes import byref, c_char_p, c_float, c_size_t, c_void_p

from calling import *

runtime = load(sys.argv[1])
version = number(runtime, "cudaRuntimeGetVersion")
require(version == int(sys.argv[2]), "the runtime says that it is", version)
require(number(runtime, "cudaDriverGetVersion") == 13000, "the driver is another")
require(number(runtime, "cudaGetDeviceCount") == 1, "there is not one device")

SIZE = 1 << 20
source = ctypes.create_string_buffer(bytes(index * 7 % 251 for index in range(SIZE)), SIZE)
stream = handle(runtime, "cudaStreamCreateWithFlags", 1)
begin, end = handle(runtime, "cudaEventCreate"), handle(runtime, "cudaEventCreate")
first = handle(runtime, "cudaMalloc", c_size_t(SIZE))
second = handle(runtime, "cudaMallocAsync", c_size_t(SIZE), stream)
pinned = handle(runtime, "cudaMallocHost", c_size_t(SIZE))
ok(runtime, "cudaEventRecord", begin, stream)
ok(runtime, "cudaMemcpyAsync", first, source, c_size_t(SIZE), COPY_TO_DEVICE, stream)
ok(runtime, "cudaMemsetAsync", second, 0x5A, c_size_t(SIZE), stream)
ok(runtime, "cudaMemcpyAsync", c_void_p(second.value + 16), first, c_size_t(SIZE - 16), COPY_ON_DEVICE, stream)
ok(runtime, "cudaMemcpyAsync", pinned, second, c_size_t(SIZE), COPY_FROM_DEVICE, stream)
ok(runtime, "cudaEventRecord", end, stream)
ok(runtime, "cudaEventSynchronize", end)
require(ctypes.string_at(pinned, SIZE) == b"\x5a" * 16 + source.raw[:-16], "the stream's copies are wrong")
elapsed = c_float(-1)
ok(runtime, "cudaEventElapsedTime", byref(elapsed), begin, end)
require(elapsed.value >= 0, "time went back")
back = ctypes.create_string_buffer(SIZE)
ok(runtime, "cudaMemcpy", back, first, c_size_t(SIZE), COPY_FROM_DEVICE)
require(back.raw == source.raw, "the copy back is wrong")

returns(1, runtime, "cudaMemcpy", back, c_void_p(16), c_size_t(16), COPY_FROM_DEVICE)
runtime.cudaGetErrorName.restype = c_char_p
require(runtime.cudaGetErrorName(1) == b"cudaErrorInvalidValue", "an error has another name")
returns(1, runtime, "cudaGetLastError")
returns(0, runtime, "cudaGetLastError")
ok(runtime, "cudaFreeAsync", second, stream)
ok(runtime, "cudaStreamSynchronize", stream)
for function, what in [("EventDestroy", begin), ("EventDestroy", end), ("StreamDestroy", stream), ("Free", first), ("FreeHost", pinned)]:
    ok(runtime, "cuda" + function, what)
ok(runtime, "cudaDeviceReset")
print("PASS cudart")
