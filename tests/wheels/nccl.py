"""nccl.py LIBCUDART LIBNCCL VERSION: a communicator of one device, which asks NVML as well, and a sum over it."""

import sys
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_void_p

from calling import *

FLOAT, SUM, COUNT = 7, 0, 1024

device, nccl = Device(sys.argv[1]), load(sys.argv[2])
require(number(nccl, "ncclGetVersion") == int(sys.argv[3]), "the version is another")
nccl.ncclGetLastError.restype = c_char_p
group = c_void_p()
status = nccl.ncclCommInitAll(byref(group), 1, (c_int * 1)(0))
require(status == 0, "no communicator:", status, nccl.ncclGetLastError(None))
require(number(nccl, "ncclCommCount", group) == 1, "it has not one member")
require(number(nccl, "ncclCommCuDevice", group) == 0, "its device is another")
values = (c_float * COUNT)(*range(COUNT))
source, result = device.of(values), device.room(4 * COUNT)
ok(nccl, "ncclAllReduce", source, result, c_size_t(COUNT), FLOAT, SUM, group, None)
ok(device.runtime, "cudaDeviceSynchronize")
require(device.read(result, c_float, COUNT) == list(values), "the sum over one device is wrong")
ok(nccl, "ncclCommDestroy", group)
device.is_well()
print("PASS nccl")
