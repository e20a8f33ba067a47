"""What a driver library knows: `lookup.py LIBCUDA LIBNVIDIA_ML`, a line `NAME VERSION` for each question on standard input.

The answer's line is the export that cuGetProcAddress gives for that name and version, or `exported` for a name that only the
loader's dlsym knows, or `-`. Version 0 asks dlsym alone. No backend is needed.
"""

import ctypes
import sys

cuda = ctypes.CDLL(sys.argv[1])
nvml = ctypes.CDLL(sys.argv[2])


def exported(library, name):
    try:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    except AttributeError:
        return None


def by_address(name, version):
    address, status = ctypes.c_void_p(), ctypes.c_int(-1)
    code = cuda.cuGetProcAddress_v2(
        name.encode(), ctypes.byref(address), version, ctypes.c_uint64(0), ctypes.byref(status)
    )
    assert code == 0, f"cuGetProcAddress returns {code} for {name}"
    assert (status.value == 0) == bool(address.value), f"{name}: status {status.value}, address {address.value}"
    if not address.value:
        return None
    for suffix in ("", "_v2", "_v3", "_v4"):
        if exported(cuda, name + suffix) == address.value:
            return name + suffix
    raise AssertionError(f"{name} at {version} is none of the exports of that name")


for line in sys.stdin:
    name, version = line.split()
    library = nvml if name.startswith("nvml") else cuda
    answer = by_address(name, int(version)) if library is cuda and version != "0" else None
    print(answer or ("exported" if exported(library, name) else "-"))
