#!/bin/bash
# Runs every test program and framework natively and through the shim on this machine's GPU, compares, and benchmarks.
#
#   OUT=DIR gpu-check.sh [native|shim|both] [NAME-PART]
#
# Needs a GPU with its driver, bash and coreutils; no network, no toolchain. Writes into $OUT (default: /tmp/vgpu-gpu):
# table.txt, native.log, shim.log, daemon.log, bench.log. Exit status 0 when nothing failed through the shim that passed
# natively.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp/vgpu-gpu}
what=${1:-both}
part=${2:-}
limit=${LIMIT_S:-60}
work=$(mktemp -d)
mkdir -p "$out"
rm -f "$out"/{native,shim,daemon,bench}.log "$out/table.txt"
ln -sf libcuda.so.1 "$here/lib/libcuda.so"
chmod +x "$here"/bin/* "$here"/programs/* 2>/dev/null

. "$here/driver.sh"
{ echo "driver library: $driver/libcuda.so.1"; "$driver/../bin/nvidia-smi" -L 2>/dev/null || nvidia-smi -L 2>/dev/null; uname -srm; nproc; } | tee "$out/table.txt"

daemon=
stop_daemon() { if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null; fi; }
trap 'stop_daemon; rm -rf "$work"' EXIT
if [ "$what" != native ]; then
    LD_LIBRARY_PATH=$driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        "$here/bin/vhost-user-vgpu" --listen "$work/vgpu.sock" --device cuda >"$out/daemon.log" 2>&1 &
    daemon=$!
    for _ in $(seq 300); do [ -S "$work/vgpu.sock" ] && break; sleep 0.1; done
    if ! [ -S "$work/vgpu.sock" ]; then echo "gpu-check: the daemon does not listen:"; tail -n 5 "$out/daemon.log"; exit 2; fi
fi

# one SIDE FILE NAME ENVIRONMENT ARGUMENTS: runs a program, prints "verdict seconds reason".
one() {
    local side=$1 file=$2 name=$3 environment=$4 arguments=$5 start status last verdict
    [ "$environment" = - ] && environment=
    [ "$arguments" = - ] && arguments=
    local libraries=$here/programs/runtimes
    if [ "$side" = native ]; then
        libraries=$libraries:$driver; environment="$environment VGPU_E2E_NATIVE=1"
    else
        libraries=$here/lib:$libraries; environment="$environment VGPU_SOCKET=$work/vgpu.sock"
    fi
    start=$(date +%s.%N)
    # Words of environment and arguments are split on purpose.
    # shellcheck disable=SC2086
    env LD_LIBRARY_PATH="$libraries" $environment timeout -k 5 "$limit" "$here/programs/$file" $arguments \
        >"$work/stdout" 2>"$work/stderr" </dev/null
    status=$?
    local seconds; seconds=$(echo "$start $(date +%s.%N)" | awk '{printf "%.2f", $2 - $1}')
    last=$(tail -n 1 "$work/stdout")
    if [ $status -eq 0 ] && [ "$last" = "PASS $name" ]; then
        verdict=pass
        if [ -e "$here/programs/$name.expected" ] && ! cmp -s "$work/stdout" "$here/programs/$name.expected"; then
            verdict=FAIL; last="output differs from $name.expected"
        fi
    elif [ $status -eq 77 ]; then verdict=skip
    else verdict=FAIL; [ -n "$last" ] || last="status $status"; fi
    { echo "== $file $environment $arguments: $verdict, status $status, $seconds s"; tail -n 40 "$work/stdout"; tail -n 20 "$work/stderr"; } >>"$out/$side.log"
    cp "$work/stdout" "$work/stdout.$side"
    [ "$verdict" = pass ] && last=
    printf '%s\t%s\t%s\n' "$verdict" "$seconds" "$last"
}

native_pass=0 shim_pass=0 worse=0 skipped=0
printf '%-40s %-6s %8s %-6s %8s  %s\n' program native seconds shim seconds remark | tee -a "$out/table.txt"
while IFS=$'\t' read -r file name environment arguments; do
    [[ "$file" == *"$part"* ]] || continue
    n=- ns=- nr= s=- ss=- sr=
    if [ "$what" != shim ]; then IFS=$'\t' read -r n ns nr < <(one native "$file" "$name" "$environment" "$arguments"); fi
    if [ "$what" != native ]; then IFS=$'\t' read -r s ss sr < <(one shim "$file" "$name" "$environment" "$arguments"); fi
    remark=
    [ -n "$nr" ] && remark="native: $nr"
    [ -n "$sr" ] && remark="${remark:+$remark; }shim: $sr"
    [ "$n" = pass ] && native_pass=$((native_pass + 1))
    [ "$s" = pass ] && shim_pass=$((shim_pass + 1))
    [ "$s" = skip ] && skipped=$((skipped + 1))
    [ "$s" = FAIL ] && worse=$((worse + 1))
    label=$file; [ "$environment" = - ] || label="$file $environment"
    printf '%-40s %-6s %8s %-6s %8s  %s\n' "$label" "$n" "$ns" "$s" "$ss" "$remark" | tee -a "$out/table.txt"
done <"$here/programs/runs.tsv"
echo "native: $native_pass passed; shim: $shim_pass passed, $worse failed, $skipped skipped" | tee -a "$out/table.txt"

# Frameworks, where this machine has them: `SPEED` lines of both sides become a ratio.
for script in "$here"/frameworks/*.py; do
    name=$(basename "$script" .py)
    [[ "$name" == *"$part"* ]] || continue
    module=${name%%_*}
    if ! python3 -c "import $module" 2>/dev/null; then
        echo "$name: not run, python3 has no $module here" | tee -a "$out/table.txt"
        continue
    fi
    for side in native shim; do
        [ "$what" = both ] || [ "$what" = "$side" ] || continue
        libraries=$driver; [ "$side" = native ] || libraries=$here/lib
        start=$(date +%s.%N)
        env LD_LIBRARY_PATH="$libraries" VGPU_SOCKET="$work/vgpu.sock" VGPU_LOG=1 timeout -k 5 180 \
            python3 "$script" >"$work/stdout.$side" 2>"$work/stderr" </dev/null
        seconds=$(echo "$start $(date +%s.%N)" | awk '{printf "%.1f", $2 - $1}')
        last=$(tail -n 1 "$work/stdout.$side")
        { echo "== $name, $seconds s"; cat "$work/stdout.$side"; tail -n 30 "$work/stderr"; } >>"$out/$side.log"
        printf '%-40s %-6s %8s  %s\n' "$name" "$side" "$seconds" "$last" | tee -a "$out/table.txt"
        [ "$side" = native ] || [ "$last" = "PASS $name" ] || worse=$((worse + 1))
    done
    if [ "$what" = both ]; then
        awk '/^SPEED/ { if (NR == FNR) native[$2] = $3; else printf "  %s: native %s, shim %s, %.2f x\n", $2, native[$2], $3, $3 / native[$2] }' \
            "$work/stdout.native" "$work/stdout.shim" | tee -a "$out/table.txt"
    fi
done

# nvidia-smi and the queries of others, where they are compared in parts: `gpu-check.sh both nvml` runs nothing else.
if [ "$what" = both ] && { [ -z "$part" ] || [ "$part" = nvml ]; }; then
    "$here/gpu-nvml.sh" "$driver" "$work/vgpu.sock" "$out" 2>&1 | tee -a "$out/table.txt"
    worse=$((worse + PIPESTATUS[0]))
fi

if [ -x "$here/bin/vgpu-bench" ] && [ "$what" = both ] && [ -z "$part" ]; then
    LD_LIBRARY_PATH=$here/lib VGPU_SOCKET=$work/vgpu.sock VGPU_NATIVE_DRIVER=$driver/libcuda.so.1 \
        timeout -k 5 300 "$here/bin/vgpu-bench" compare --rounds "${ROUNDS:-3}" --raw "$out/bench.tsv" --markdown "$out/bench.md" 2>&1 |
        tee "$out/bench.log"
fi
[ "$worse" -eq 0 ]
