"""What NVML and PyTorch say of the first device, one fact a line, to be compared between NVIDIA's libraries and ours.

Lines that begin with `~` are of the moment, or not for clients to know, and may differ. No other line may."""

import inspect
import sys

import pynvml as nvml


def show(name, call, *arguments):
    try:
        value = call(*arguments)
        text = repr({k: getattr(value, k) for k, _ in value._fields_}) if hasattr(value, "_fields_") else repr(value)
    except Exception as error:  # whatever it is, it is the answer
        text = f"{type(error).__name__}({error})"
    return f"{name}: {' '.join(text.split())}"


# What must agree: the same device, found in every way.
SAME = (
    "Name", "UUID", "Index", "MinorNumber", "PciInfo", "PciInfo_v3", "Brand", "Architecture",
    "CudaComputeCapability", "ComputeMode", "NumGpuCores", "MemoryBusWidth", "BoardPartNumber", "VbiosVersion",
    "MaxPcieLinkGeneration", "MaxPcieLinkWidth", "GraphicsRunningProcesses",
)


def nvml_facts():
    nvml.nvmlInit()
    print(show("driver", nvml.nvmlSystemGetDriverVersion))
    print(show("nvml", nvml.nvmlSystemGetNVMLVersion))
    print(show("cuda", nvml.nvmlSystemGetCudaDriverVersion))
    print(show("count", nvml.nvmlDeviceGetCount))
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    print("memory total:", memory.total)
    print("~memory free:", memory.free, "used:", memory.used)
    second = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
    print("memory total, reserved:", second.total, second.reserved)
    for name in SAME:
        print(show(name, vars(nvml)["nvmlDeviceGet" + name], device))
    for name, function in sorted(vars(nvml).items()):
        short = name.removeprefix("nvmlDeviceGet")
        if short == name or short in SAME or not inspect.isfunction(function) or short.startswith("HandleBy"):
            continue
        required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if len(required) == 1:
            print("~" + show(short, function, device))
    uuid = nvml.nvmlDeviceGetUUID(device)
    bus = nvml.nvmlDeviceGetPciInfo(device).busId
    for text, find in ((uuid, nvml.nvmlDeviceGetHandleByUUID), (bus, nvml.nvmlDeviceGetHandleByPciBusId)):
        print("found by", text + ":", nvml.nvmlDeviceGetIndex(find(text)))
    nvml.nvmlShutdown()


def torch_facts():
    import torch

    print("torch", torch.__version__, "devices:", torch.cuda.device_count(), torch.cuda._device_count_nvml())
    print(show("properties", torch.cuda.get_device_properties, 0))
    print(show("uuid", lambda: str(torch.cuda.get_device_properties(0).uuid)))  # its repr is an address
    print(show("uuids by NVML", torch.cuda._raw_device_uuid_nvml))
    print(show("NVML index", torch.cuda._get_nvml_device_index, None))
    print(show("capability", torch.cuda.get_device_capability, 0))
    print(show("name", torch.cuda.get_device_name, 0))
    free, total = torch.cuda.mem_get_info()
    print("total:", total)
    print("~free:", free)
    block = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    print("256 MiB less:", free - torch.cuda.mem_get_info()[0] >= 256 << 20)
    device = nvml_device()
    seen = any(free - nvml.nvmlDeviceGetMemoryInfo(device).free >= 256 << 20 or pause() for _ in range(100))
    print("256 MiB less by NVML:", seen)
    print("~", show("processes", torch.cuda.list_gpu_processes))
    for name in ("utilization", "temperature", "power_draw", "clock_rate", "memory_usage"):
        print("~", show(name, getattr(torch.cuda, name)))
    del block


def nvml_device():
    nvml.nvmlInit()
    return nvml.nvmlDeviceGetHandleByIndex(0)


def pause():
    import time

    time.sleep(0.02)
    return False


if __name__ == "__main__":
    {"nvml": nvml_facts, "torch": torch_facts}[sys.argv[1]]()
