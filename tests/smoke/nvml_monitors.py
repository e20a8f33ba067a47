"""NVML as other people's monitors use it: nvidia-ml-py, gpustat and nvitop from PyPI, unmodified, beside libcuda in the same
process. The first argument is the list of names that NVIDIA's library exports."""

import ctypes
import inspect
import os
import subprocess
import sys
import threading
import time

import pynvml as nvml


def require(condition, *what):
    if not condition:
        print("FAIL nvml_monitors:", *what)
        sys.exit(1)


def raises(error, call, *arguments):
    try:
        call(*arguments)
    except error:
        return
    require(False, f"{call.__name__}{arguments} does not raise {error}")


def exports(names):
    library = ctypes.CDLL("libnvidia-ml.so.1")
    for name in names:
        require(hasattr(library, name), name, "is not exported")
    text = library.nvmlErrorString
    text.restype = ctypes.c_char_p
    require(text(9) == b"Driver Not Loaded", "nvmlErrorString before nvmlInit")
    # Everything that is refused, and what is not, survives being called too early.
    for name in names:
        if name.startswith("nvmlDeviceGet") and name not in ("nvmlDeviceGetHandleByIndex",):
            function = getattr(library, name)
            require(function(None, None, None, None) != 0, name, "succeeds before nvmlInit")


def count_fds():
    return len(os.listdir("/proc/self/fd"))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def loops():
    """What Ollama does for every look at free memory."""
    libc = ctypes.CDLL(None)
    libc.dlopen.restype = ctypes.c_void_p
    libc.dlclose.argtypes = [ctypes.c_void_p]
    libc.dlsym.restype = ctypes.c_void_p
    libc.dlsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    uuid = ctypes.create_string_buffer(device_uuid.encode())

    def call(library, name, *arguments):
        function = ctypes.CFUNCTYPE(ctypes.c_int)(libc.dlsym(library, name))
        status = function(*arguments)
        require(status == 0, name, "returned", status)

    def once():
        library = ctypes.c_void_p(libc.dlopen(b"libnvidia-ml.so.1", os.RTLD_LAZY))
        call(library, b"nvmlInit_v2")
        handle, memory = ctypes.c_void_p(), (ctypes.c_ulonglong * 3)()
        call(library, b"nvmlDeviceGetHandleByUUID", uuid, ctypes.byref(handle))
        call(library, b"nvmlDeviceGetMemoryInfo", handle, memory)
        require(memory[0] > 0, "no memory")
        call(library, b"nvmlShutdown")
        libc.dlclose(library)

    for _ in range(100):
        once()
    fds, memory, threads = count_fds(), resident(), len(os.listdir("/proc/self/task"))
    for _ in range(1000):
        once()
    require(count_fds() == fds, "descriptors", fds, "became", count_fds())
    require(resident() < memory + (2 << 20), "memory", memory, "became", resident())
    require(len(os.listdir("/proc/self/task")) == threads, "threads are left")


def every_question_about_a_device(device):
    """Each of nvidia-ml-py's functions that asks one thing of a device is answered or refused, and nothing else."""
    asked = refused = 0
    for name, function in sorted(vars(nvml).items()):
        if not name.startswith("nvmlDeviceGet") or not inspect.isfunction(function):
            continue
        required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if len(required) != 1 or name.startswith("nvmlDeviceGetHandleBy"):
            continue
        asked += 1
        try:
            function(device)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            refused += 1
    require(asked > 80, "only", asked, "functions were tried")
    print(asked, "questions,", refused, "refused")
    for refusal in (nvml.nvmlDeviceGetUtilizationRates, nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetSerial):
        raises(nvml.NVMLError_NotSupported, refusal, device)


def reach(device):
    """A device reaches its own memory: what NCCL asks of every pair before anything else."""
    for capability in (0, 1, 3):  # read, write, atomics; the constants of nvidia-ml-py are tuples
        status = nvml.nvmlDeviceGetP2PStatus(device, device, capability)
        require(status == 0, "a device does not reach itself:", status)


def events(device):
    """Sets of events can be made, and stay empty."""
    made = nvml.nvmlEventSetCreate()
    raises(nvml.NVMLError_NotSupported, nvml.nvmlDeviceRegisterEvents, device, nvml.nvmlEventTypeXidCriticalError, made)
    start = time.monotonic()
    raises(nvml.NVMLError_Timeout, nvml.nvmlEventSetWait_v2, made, 1100)
    require(time.monotonic() - start >= 1.1, "nvmlEventSetWait returns early")
    nvml.nvmlEventSetFree(made)
    raises(nvml.NVMLError_InvalidArgument, nvml.nvmlEventSetFree, made)
    raises(nvml.NVMLError_InvalidArgument, nvml.nvmlEventSetWait_v2, made, 0)


def private_table():
    """What nvidia-smi does at its start and for each line it prints."""
    table, handle = ctypes.POINTER(ctypes.c_size_t)(), ctypes.c_void_p()
    library = ctypes.CDLL("libnvidia-ml.so.1")
    id = bytes.fromhex("c4fe3e6cc98f6c4ea327ee696e12f7c4")
    require(library.nvmlInternalGetExportTable(ctypes.byref(table), id) == 0, "the private table")
    slot = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    status = slot(table[81])(0, ctypes.addressof(handle), 0x22)
    require(status == 0 and handle.value, "a handle by slot 81:", status)
    status = slot(table[26])(*(ctypes.cast(text, ctypes.c_void_p) for text in (b"%s: %s\n", b"stdout", b"a line")))
    require(status == 0, "a line for the log by slot 26:", status)
    require(slot(table[1])(None, None, None) == 3, "a slot that is not known is not refused")


def forks():
    child = os.fork()
    if child == 0:
        try:
            nvml.nvmlDeviceGetCount()
        except nvml.NVMLError_Uninitialized:
            library = ctypes.CDLL("libnvidia-ml.so.1")
            os._exit(library.nvmlInit_v2() or library.nvmlShutdown())
        os._exit(99)
    require(os.waitpid(child, 0)[1] == 0, "a forked child does not initialise anew")


def many_threads():
    failures = []

    def work():
        try:
            for _ in range(20):
                nvml.nvmlInit()
                nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(0))
                nvml.nvmlShutdown()
        except Exception as error:  # any is a failure of the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(not failures, failures)


def same_as_libcuda(device):
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name, *arguments):
        status = getattr(cuda, name)(*arguments)
        require(status == 0, name, "returned", status)

    call("cuInit", 0)
    ordinal, number = ctypes.c_int(), ctypes.c_int()
    bus, uuid, name = (ctypes.create_string_buffer(size) for size in (32, 16, 128))
    total, free = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuDeviceGet", ctypes.byref(ordinal), 0)
    call("cuDeviceGetUuid", uuid, ordinal)
    call("cuDeviceGetPCIBusId", bus, 32, ordinal)
    call("cuDeviceGetName", name, 128, ordinal)
    call("cuDeviceTotalMem_v2", ctypes.byref(total), ordinal)
    call("cuDriverGetVersion", ctypes.byref(number))
    hex_digits = uuid.raw.hex()
    cuts = (0, 8, 12, 16, 20, 32)
    expected = "GPU-" + "-".join(hex_digits[a:b] for a, b in zip(cuts, cuts[1:]))
    require(nvml.nvmlDeviceGetUUID(device) == expected, "UUID", expected)
    require(nvml.nvmlDeviceGetName(device) == name.value.decode(), "name", name.value)
    require(nvml.nvmlSystemGetCudaDriverVersion() == number.value, "CUDA version")
    require(int(nvml.nvmlSystemGetDriverVersion().split(".")[0]) >= 570, "driver version")
    pci = nvml.nvmlDeviceGetPciInfo(device)
    require(pci.busIdLegacy.lower() == bus.value.decode().lower(), "PCI", pci.busIdLegacy, bus.value)
    require(pci.busId.lower() == "0000" + bus.value.decode().lower(), "PCI", pci.busId)
    for same in (
        nvml.nvmlDeviceGetHandleByUUID(expected),
        nvml.nvmlDeviceGetHandleByPciBusId(bus.value.decode()),
    ):
        require(nvml.nvmlDeviceGetIndex(same) == 0, "handles")
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    require(memory.total == total.value, "memory", memory.total, total.value)
    require(memory.used + memory.free == memory.total, "memory", memory)
    second = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
    require(second.total == memory.total, "memory of the second version")
    raises(nvml.NVMLError, nvml.nvmlDeviceGetMemoryInfo, device, 0x03000028)

    context, block = ctypes.c_void_p(), ctypes.c_uint64()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
    call("cuCtxSetCurrent", context)
    call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(32 << 20))
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    seen = nvml.nvmlDeviceGetMemoryInfo(device)
    require(seen.free == free.value, "free", seen.free, free.value)
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(device)
    require([p.pid for p in processes] == [os.getpid()], "processes", processes)
    require(processes[0].usedGpuMemory == 32 << 20, "memory of a process", processes[0])
    require(nvml.nvmlDeviceGetGraphicsRunningProcesses(device) == [], "graphics processes")
    return name.value.decode()


def monitor(*arguments):
    result = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60
    )
    require(result.returncode == 0, arguments, result.stdout, result.stderr)
    # A long name is cut on the left.
    require(device_name[-12:] in result.stdout, arguments, "shows", result.stdout)
    return result.stdout


def without_backend():
    environment = dict(os.environ, VGPU_SOCKET="/nonexistent/vgpu.sock")
    environment.pop("VGPU_LOG", None)
    code = "import pynvml as n\ntry: n.nvmlInit()\nexcept n.NVMLError_DriverNotLoaded: print('not loaded')"
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    require(result.stdout == "not loaded\n" and result.stderr == "", "without backend", result)
    require(time.monotonic() - start < 30, "without backend it takes long")


def hidden_devices():
    """NVML counts devices that CUDA_VISIBLE_DEVICES hides."""
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="-1")
    code = "import pynvml as n\nn.nvmlInit()\nprint(n.nvmlDeviceGetCount())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    require(result.stdout == "1\n", "hidden devices", result)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        exports(file.read().split())
    raises(nvml.NVMLError_Uninitialized, nvml.nvmlShutdown)
    nvml.nvmlInit()
    first = nvml.nvmlDeviceGetHandleByIndex(0)
    device_uuid = nvml.nvmlDeviceGetUUID(first)
    device_name = nvml.nvmlDeviceGetName(first)
    forks()
    loops()
    many_threads()
    every_question_about_a_device(first)
    reach(first)
    events(first)
    private_table()
    same_as_libcuda(first)
    monitor("gpustat", "--show-pid")
    require(str(os.getpid()) in monitor("nvitop", "--once"), "nvitop does not show this process")
    hidden_devices()
    without_backend()
    nvml.nvmlShutdown()
    print("PASS nvml_monitors")
