#!/bin/bash
# Runs a prebuilt llama.cpp natively and through the shim on this machine's GPU: the same model, the same tokens, the same
# bits, and how long a token takes.
#
#   OUT=DIR ROUNDS=N llama-1/gpu-llama.sh
#
# Lies in `llama-1`, beside the folders `llama-2` and `gpu`: they travel one by one, since one call carries only so much.
# Needs a GPU with its driver, python3 with numpy, libcublas and libcudart 13 (PyTorch's will do), xz; no network.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
out=${OUT:-/tmp/vgpu-llama}
mkdir -p "$out"
. "$here/gpu/driver.sh"
work=$(mktemp -d)
daemon=
trap '[ -n "$daemon" ] && kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null; rm -rf "$work"' EXIT

cp "$here"/llama-2/lib/* "$work/" && cat "$here"/llama-*/libggml-cuda.so.xz.* | xz -dc >"$work/libggml-cuda.so" || exit 2
libraries=$(python3 - <<'PY'
import glob, os, sysconfig
found = []
for name in ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"):
    for root in {sysconfig.get_paths()["purelib"], "/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"}:
        hits = glob.glob(f"{root}/**/{name}", recursive=True)
        if hits:
            found.append(os.path.dirname(hits[0]))
            break
print(":".join(dict.fromkeys(found)))
PY
)
echo "runtime libraries: $libraries"
chmod +x "$here"/gpu/bin/* "$here/llama-1/decode" 2>/dev/null
LD_LIBRARY_PATH=$driver "$here/gpu/bin/vhost-user-vgpu" --listen "$work/vgpu.sock" --device cuda >"$out/llama-daemon.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do [ -S "$work/vgpu.sock" ] && break; sleep 0.1; done

status=0
for kind in f16 q8_0; do
    PYTHONPATH=$here/llama-1/python python3 "$here/llama-1/make_model.py" "$work/$kind.gguf" $kind || exit 2
    for round in $(seq "${ROUNDS:-3}"); do
        for side in native shim; do
            path=$driver; [ $side = shim ] && path=$here/gpu/lib
            LD_LIBRARY_PATH=$path:$libraries VGPU_SOCKET=$work/vgpu.sock VGPU_STATS=${VGPU_STATS:-} VGPU_LOG=1 timeout -k 5 120 \
                "$here/llama-1/decode" "$work" libllama.cuda.b6673.so libggml.cuda.b6673.so "$work/$kind.gguf" 257 \
                >"$work/$side" 2>"$out/llama-$kind-$side.err"
            code=$?
            [ $code -eq 0 ] || { echo "$kind $side: status $code"; tail -n 5 "$out/llama-$kind-$side.err"; status=1; }
            grep ^SPEED "$work/$side" | sed "s/^SPEED/$kind $side/" >>"$work/speed"
        done
        grep -h '^device' "$work/native" "$work/shim" | sort | uniq -c
        if cmp -s <(grep -v ^SPEED "$work/native") <(grep -v ^SPEED "$work/shim"); then
            echo "$kind round $round: same tokens, same bits: $(grep logits "$work/shim")"
        else
            echo "$kind round $round: DIFFERENT"; status=1
            diff <(grep -v ^SPEED "$work/native") <(grep -v ^SPEED "$work/shim") | cut -c1-200
        fi
    done
done
sort "$work/speed" | awk '
    { key = $1 " " $3; value = $4; if (!((key, $2) in best) || value < best[key, $2]) best[key, $2] = value; keys[key] = 1 }
    END { for (key in keys) printf "%-16s best native %.6f s, shim %.6f s, ratio of times %.3f\n", key,
          best[key, "native"], best[key, "shim"], best[key, "shim"] / best[key, "native"] }' | sort | tee "$out/llama.txt"
cat "$work/speed" >>"$out/llama.txt"
exit $status
