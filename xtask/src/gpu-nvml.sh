#!/bin/bash
# The machine's own nvidia-smi, nvidia-ml-py and PyTorch's queries, natively and through our libnvidia-ml.so.1.
#
#   gpu-nvml.sh DRIVER-FOLDER SOCKET OUT
#
# Called by gpu-check.sh once its daemon listens. Writes into OUT/nvml: what each printed on either side, the differences,
# and refused.txt, which names every function and private slot that was asked for and refused. A line of the summary for
# each. Exit status: how many of those that must agree do not.
set -u
here=$(cd "$(dirname "$0")" && pwd)
driver=$1 socket=$2 out=$3/nvml
mkdir -p "$out"
smi=
for file in "$driver/../bin/nvidia-smi" /usr/local/nvidia/bin/nvidia-smi /usr/lib/wsl/lib/nvidia-smi "$(command -v nvidia-smi)"; do
    if [ -x "$file" ]; then smi=$file; break; fi
done
worse=0

# both NAME COMMAND…: on either side, into NAME.native and NAME.shim, errors apart.
both() {
    local name=$1 side libraries; shift
    for side in native shim; do
        libraries=$driver; [ "$side" = native ] || libraries=$here/lib:$driver
        env LD_LIBRARY_PATH="$libraries" VGPU_SOCKET="$socket" VGPU_LOG=1 PYTHONPATH="$here/python" \
            timeout -k 5 60 "$@" >"$out/$name.$side" 2>"$out/$name.$side.err" </dev/null
        echo "exit status $?" >>"$out/$name.$side"
    done
}
# same NAME [must]: compares what does not begin with `~`.
same() {
    local name=$1
    if diff <(grep -v '^~' "$out/$name.native") <(grep -v '^~' "$out/$name.shim") >"$out/$name.diff"; then
        echo "nvml: $name: same on both sides"
    else
        echo "nvml: $name: differs in $(grep -c '^>' "$out/$name.diff") lines${2:+, and must not}"
        [ -z "${2:-}" ] || worse=$((worse + 1))
    fi
}

# runs NAME: the same exit status on both sides is a must.
runs() {
    if [ "$(tail -n 1 "$out/$1.native")" != "$(tail -n 1 "$out/$1.shim")" ]; then
        echo "nvml: $1: $(tail -n 1 "$out/$1.shim"), natively $(tail -n 1 "$out/$1.native")"
        worse=$((worse + 1))
    fi
}

if [ -n "$smi" ]; then
    both smi-list "$smi" -L; same smi-list must
    both smi-csv "$smi" --query-gpu=name,uuid,memory.total,driver_version,pci.bus_id --format=csv; same smi-csv must
    both smi-table "$smi"; same smi-table; runs smi-table
    both smi-q "$smi" -q; same smi-q; runs smi-q
    both smi-apps "$smi" --query-compute-apps=pid,name,used_memory --format=csv; same smi-apps; runs smi-apps
    head -n 40 "$out/smi-table.shim"
    # With a process that computes: its line must be there.
    LD_LIBRARY_PATH=$here/lib VGPU_SOCKET=$socket timeout 20 python3 -c '
import ctypes, os, time
cuda = ctypes.CDLL("libcuda.so.1"); context, block = ctypes.c_void_p(), ctypes.c_uint64()
print(os.getpid(), cuda.cuInit(0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), cuda.cuCtxSetCurrent(context),
      cuda.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(1 << 30)), flush=True)
time.sleep(12)' >"$out/holder.txt" 2>&1 &
    holder=$!
    sleep 5
    both smi-held "$smi"
    echo "nvml: smi-held: a process with 1 GiB, by our nvidia-smi:"; grep -E 'MiB' "$out/smi-held.shim"
    process=$(cut -d " " -f 1 "$out/holder.txt")
    if ! grep -qw "${process:-none}" "$out/smi-held.shim"; then
        echo "nvml: smi-held: the process is not shown"; worse=$((worse + 1))
    fi
    kill "$holder" 2>/dev/null; wait "$holder" 2>/dev/null
else
    echo "nvml: nvidia-smi: not run, there is none here"
fi
if command -v python3 >/dev/null; then
    both pynvml python3 "$here/python/gpu_nvml.py" nvml; same pynvml must
    if python3 -c 'import torch' 2>/dev/null; then both torch python3 "$here/python/gpu_nvml.py" torch; same torch must; fi
else
    echo "nvml: nvidia-ml-py, torch: not run, there is no python3 here"
fi
grep -hE 'is not supported|has no private table|no answer' "$out"/*.shim.err 2>/dev/null |
    sed 's/^vgpu\[[0-9]*\]: //' | sort | uniq -c | sort -rn >"$out/refused.txt"
echo "nvml: $(wc -l <"$out/refused.txt") functions or slots were refused: $out/refused.txt"
for file in "$out"/*.diff; do if [ -s "$file" ]; then echo "-- $(basename "$file")"; head -n 40 "$file"; fi; done
exit "$worse"
