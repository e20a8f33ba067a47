"""nvjitlink.py LIBNVJITLINK: links PTX to machine code, which the software device refuses by its error."""

import ctypes
import sys
from ctypes import c_char_p, c_size_t, c_void_p, byref

from calling import *

PTX = b""".version 7.0
.target sm_80
.address_size 64
.visible .entry store(.param .u64 to) {
    .reg .b64 %to;
    ld.param.u64 %to, [to];
    st.global.u32 [%to], 7;
    ret;
}
"""
INPUT_PTX = 2

linker, driver = load(sys.argv[1]), load("libcuda.so.1")
link = handle(linker, "nvJitLinkCreate", 1, (c_char_p * 1)(b"-arch=sm_80"))
ok(linker, "nvJitLinkAddData", link, INPUT_PTX, PTX, c_size_t(len(PTX) + 1), b"store")
ok(linker, "nvJitLinkComplete", link)
cubin = ctypes.create_string_buffer(number(linker, "nvJitLinkGetLinkedCubinSize", link, kind=c_size_t))
ok(linker, "nvJitLinkGetLinkedCubin", link, cubin)
require(cubin.raw[:4] == b"\x7fELF", "what was linked is no machine code")
ok(linker, "nvJitLinkDestroy", byref(link))

ok(driver, "cuInit", 0)
context = handle(driver, "cuDevicePrimaryCtxRetain", 0)
ok(driver, "cuCtxSetCurrent", context)
module = c_void_p()
returns(NO_BINARY, driver, "cuModuleLoadData", byref(module), cubin)
ok(driver, "cuModuleLoadData", byref(module), PTX)
print("PASS nvjitlink")
