"""cusparse.py LIBCUDART LIBCUSPARSE: descriptors are made; a handle ends with an error, for the library's kernels are machine code."""

import sys
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_void_p

from calling import *

NOT_INITIALIZED = 1
COUNT, INDEX_32, REAL_32 = 64, 2, 0

device, cusparse = Device(sys.argv[1]), load(sys.argv[2])
sparse = c_void_p()
returns(NOT_INITIALIZED, cusparse, "cusparseCreate", byref(sparse))
vector = handle(cusparse, "cusparseCreateDnVec", c_int64(COUNT), device.room(4 * COUNT), REAL_32)
rows = device.of((c_int * (COUNT + 1))(*range(COUNT + 1)))
matrix = handle(
    cusparse, "cusparseCreateCsr", *[c_int64(COUNT)] * 3, rows, rows, device.room(4 * COUNT), INDEX_32, INDEX_32, 0, REAL_32
)
ok(cusparse, "cusparseDestroySpMat", matrix)
ok(cusparse, "cusparseDestroyDnVec", vector)
device.is_well()
print("PASS cusparse")
