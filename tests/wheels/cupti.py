"""cupti.py LIBCUDART LIBCUPTI LIBNVTX: profiling is refused by CUPTI's own errors and disturbs nothing; NVTX's marks go nowhere."""

import ctypes
import sys
from ctypes import byref, c_int, c_uint32, c_void_p

from calling import *

# What of CUPTI's errors means that the driver's tables for tools are not there.
REFUSED = {1: "INVALID_PARAMETER", 15: "NOT_INITIALIZED"}
RUNTIME_API, ACTIVITY_KERNEL = 3, 3

device, cupti, nvtx = Device(sys.argv[1]), load(sys.argv[2]), load(sys.argv[3])
seen = []
callback = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_uint32, c_void_p)(lambda *arguments: seen.append(arguments))
subscriber = c_void_p()
for function, *arguments in [
    ("cuptiSubscribe", byref(subscriber), callback, None),
    ("cuptiEnableDomain", 1, subscriber, RUNTIME_API),
    ("cuptiActivityEnable", ACTIVITY_KERNEL),
]:
    status = getattr(cupti, function)(*arguments)
    require(status in REFUSED, function, "returns", status)
device.is_well()
require(not seen, "a callback was called")
nvtx.nvtxRangePushA(b"range")
nvtx.nvtxMarkA(b"mark")
nvtx.nvtxRangePop()
device.is_well()
print("PASS cupti")
