"""cublas.py LIBCUDART LIBCUBLAS LIBCUBLASLT: vectors are copied; handles end with the library's error, for its kernels are machine code."""

import sys
from ctypes import byref, c_float, c_int64, c_size_t, c_uint64, c_void_p

from calling import *

NOT_INITIALIZED, ALLOC_FAILED, INVALID_VALUE = 1, 3, 7
INVALID = (NOT_INITIALIZED, INVALID_VALUE)
COUNT = 64

device, cublas, lt = Device(sys.argv[1]), load(sys.argv[2]), load(sys.argv[3])
lt.cublasLtGetVersion.restype = c_size_t
version = number(cublas, "cublasGetVersion_v2", None)
require(version == lt.cublasLtGetVersion(), "cuBLAS and cuBLASLt are of different versions")

vector = (c_float * COUNT)(*range(COUNT))
memory, back = device.room(4 * COUNT), (c_float * COUNT)()
ok(cublas, "cublasSetVector", COUNT, 4, vector, 1, memory, 1)
ok(cublas, "cublasGetVector", COUNT, 4, memory, 1, back, 1)
require(list(back) == list(vector), "the vector came back changed")

handle_ = c_void_p()
returns(ALLOC_FAILED, cublas, "cublasCreate_v2", byref(handle_))
one, zero = c_float(1), c_float(0)
status = cublas.cublasSgemm_v2(handle_, 0, 0, 8, 8, 8, byref(one), memory, 8, memory, 8, byref(zero), memory, 8)
require(status in INVALID, "a product without a handle returns", status)

status = lt.cublasLtCreate(byref(handle_))
require(status in (NOT_INITIALIZED, ALLOC_FAILED), "cublasLtCreate returns", status)
description, preference = c_void_p(), c_void_p()
ok(lt, "cublasLtMatmulDescCreate", byref(description), 68, 0)
layout = handle(lt, "cublasLtMatrixLayoutCreate", 0, c_uint64(8), c_uint64(8), c_int64(8))
status = lt.cublasLtMatmul(
    handle_, description, byref(one), memory, layout, memory, layout, byref(zero), memory, layout, memory, layout, None, None, c_size_t(0), None
)
require(status in INVALID, "a product without a handle returns", status)
device.is_well()
print("PASS cublas")
