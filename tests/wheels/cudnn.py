"""cudnn.py LIBCUDART LIBCUDNN VERSION: its parts agree on their version, a handle is made (its probe is PTX and runs); an
operation ends with an error that names what is missing, for its kernels are machine code."""

import ctypes
import sys
from ctypes import byref, c_float, c_size_t

from calling import *

EXECUTION_FAILED_CUDART = 5003

device, cudnn = Device(sys.argv[1]), load(sys.argv[2])
cudnn.cudnnGetVersion.restype = cudnn.cudnnGetCudartVersion.restype = c_size_t
require(cudnn.cudnnGetVersion() == int(sys.argv[3]), "the version is", cudnn.cudnnGetVersion())
require(cudnn.cudnnGetCudartVersion() == number(device.runtime, "cudaRuntimeGetVersion"), "it was built for another runtime")
for part in ("Graph", "Ops", "Cnn", "Adv"):
    ok(cudnn, f"cudnn{part}VersionCheck")

context = handle(cudnn, "cudnnCreate")
stream = handle(device.runtime, "cudaStreamCreateWithFlags", 1)
ok(cudnn, "cudnnSetStream", context, stream)
tensor = handle(cudnn, "cudnnCreateTensorDescriptor")
ok(cudnn, "cudnnSetTensor4dDescriptor", tensor, 0, 0, 1, 1, 8, 8)
one, memory = c_float(1), device.of((c_float * 64)(*range(64)))
returns(EXECUTION_FAILED_CUDART, cudnn, "cudnnAddTensor", context, byref(one), tensor, memory, byref(one), tensor, memory)
message = ctypes.create_string_buffer(1000)
cudnn.cudnnGetLastErrorString(message, c_size_t(len(message)))
require(b"no kernel image" in message.value, "the error says", message.value)
require(device.read(memory, c_float, 64) == list(range(64)), "what failed changed its tensor")
ok(cudnn, "cudnnDestroyTensorDescriptor", tensor)
ok(cudnn, "cudnnDestroy", context)
device.is_well()
print("PASS cudnn")
