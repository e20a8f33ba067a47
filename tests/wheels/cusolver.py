"""cusolver.py LIBCUDART LIBCUSOLVER: a handle ends with an error, for the kernels of cuSOLVER and of cuBLAS below it are machine code."""

import sys
from ctypes import byref, c_void_p

from calling import *

INTERNAL_ERROR, NOT_INITIALIZED = 7, 1

device, cusolver = Device(sys.argv[1]), load(sys.argv[2])
require(number(cusolver, "cusolverGetVersion") > 11000, "the version is wrong")
solver, size = c_void_p(), c_int()
returns(INTERNAL_ERROR, cusolver, "cusolverDnCreate", byref(solver))
returns(NOT_INITIALIZED, cusolver, "cusolverDnSgetrf_bufferSize", None, 8, 8, device.room(256), 8, byref(size))
device.is_well()
print("PASS cusolver")
