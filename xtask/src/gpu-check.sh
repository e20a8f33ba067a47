#!/bin/bash
# Runs every test program and framework natively and through the shim on this machine's GPU, compares, and benchmarks.
#
#   OUT=DIR LIMIT_TOTAL_S=570 gpu-check.sh [native|shim|both] [PART|NAME-PART…]
#
# programs    every CUDA test program
# frameworks  PyTorch, Triton, CuPy, JAX, where python3 has them: jobs.tsv says which scripts, in which order
# nvml        nvidia-smi, nvidia-ml-py and PyTorch's queries
# many        eight programs at once; SHORT (100) short ones one after the other, which must leave nothing
# bench       vgpu-bench, with ROUNDS (3) rounds
# kills       programs, workers and daemons killed KILLS (20) times each
#
# Without a PART all of them, in this order; what no time is left for is listed as not run. Other words are parts of names:
# only programs and frameworks whose name contains one are run. Needs a GPU with its driver, bash, coreutils; no network, no
# toolchain. Writes summary.txt, which is also the last that is printed, logs.tar.gz and, after bench, bench.md and bench.tsv
# into $OUT (default: /tmp/vgpu-gpu). Exit status 0 when nothing failed through the shim that passed natively. DEVICE=software
# tries the script itself where there is no GPU, with a driver.sh that names the folder of another libcuda.so.1.
# shellcheck disable=SC1091,SC2154
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp/vgpu-gpu}
what=both
case ${1:-} in native | shim | both) what=$1; shift ;; esac
limit=${LIMIT_S:-60}
work=$(mktemp -d)
# shellcheck disable=SC2034
prefix=
. "$here/gpu-report.sh"
. "$here/driver.sh"
. "$here/gpu-frameworks.sh"
rm -f "$out"/{summary.txt,logs.tar.gz,bench.md,bench.tsv}
ln -sf libcuda.so.1 "$here/lib/libcuda.so"
chmod +x "$here"/bin/* "$here"/programs/* "$here"/tests/* 2>/dev/null

parts=() names=()
for word in "$@"; do
    case $word in
        programs | frameworks | nvml | many | bench | kills) parts+=("$word") ;;
        *) names+=("$word") ;;
    esac
done
if [ ${#parts[@]} -eq 0 ]; then
    parts=(programs frameworks)
    [ ${#names[@]} -gt 0 ] || parts+=(nvml many bench kills)
fi

# wanted NAME: whether the words on the command line ask for it.
wanted() {
    local part
    [ ${#names[@]} -gt 0 ] || return 0
    for part in "${names[@]}"; do [[ "$1" == *"$part"* ]] && return 0; done
    return 1
}
# on SIDE: whether this side is run.
on() { [ "$what" = both ] || [ "$what" = "$1" ]; }

devices() { PATH=$driver/../bin:$PATH nvidia-smi -L 2>/dev/null | sed 's/ (UUID.*//'; }
about="$(devices | tr '\n' ',') $driver/libcuda.so.1, $(uname -sr), $(nproc) processors"
echo "$about"

daemon=
finish() {
    stop_frameworks
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null; wait "$daemon" 2>/dev/null; fi
    rm -rf "$work"
}
trap finish EXIT
trap 'publish "ended by a signal"; exit 143' TERM INT
if on shim; then
    LD_LIBRARY_PATH=$driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
        "$here/bin/vhost-user-vgpu" --listen "$work/vgpu.sock" --device "${DEVICE:-cuda}" >"$logs/daemon.log" 2>&1 &
    daemon=$!
    for _ in $(seq 300); do [ -S "$work/vgpu.sock" ] && break; sleep 0.1; done
    if ! [ -S "$work/vgpu.sock" ]; then echo "gpu-check: the daemon does not listen:"; tail -n 5 "$logs/daemon.log"; exit 2; fi
fi

# libraries SIDE [FURTHER]: the loader's path of a side.
libraries() { if [ "$1" = native ]; then echo "${2:+$2:}$driver"; else echo "$here/lib${2:+:$2}"; fi; }

# one SIDE FILE NAME ENVIRONMENT ARGUMENTS: runs a program, prints "verdict seconds reason".
one() {
    local side=$1 file=$2 name=$3 environment=$4 arguments=$5 start status last verdict cap
    [ "$environment" = - ] && environment=
    [ "$arguments" = - ] && arguments=
    if [ "$side" = native ]; then environment="$environment VGPU_E2E_NATIVE=1"; else environment="$environment VGPU_SOCKET=$work/vgpu.sock"; fi
    cap=$(within "$limit")
    start=$(now)
    # Words of environment and arguments are split on purpose.
    # shellcheck disable=SC2086
    env LD_LIBRARY_PATH="$(libraries "$side" "$here/programs/runtimes")" $environment timeout -k 5 "$cap" "$here/programs/$file" $arguments \
        >"$work/stdout" 2>"$work/stderr" </dev/null
    status=$?
    local seconds; seconds=$(since "$start")
    last=$(tail -n 1 "$work/stdout")
    if [ $status -eq 0 ] && [ "$last" = "PASS $name" ]; then
        verdict=pass
        if [ -e "$here/programs/$name.expected" ] && ! cmp -s "$work/stdout" "$here/programs/$name.expected"; then
            verdict=FAIL; last="output differs from $name.expected"
        fi
    elif [ $status -eq 77 ]; then verdict=skip
    elif [ $status -eq 124 ] && [ "$cap" -lt "$limit" ]; then verdict=none; last="cut off at the end of the whole run"
    else verdict=FAIL; [ -n "$last" ] || last="status $status"; fi
    { echo "== $file $environment $arguments: $verdict, status $status, $seconds s"; tail -n 40 "$work/stdout"; tail -n 20 "$work/stderr"; } >>"$logs/$side.log"
    [ "$verdict" = pass ] && last=
    printf '%s\t%s\t%s\n' "$verdict" "$seconds" "$last"
}

programs() {
    local file name environment arguments n ns nr s ss sr remark count=0
    while IFS=$'\t' read -r file name environment arguments; do
        wanted "$file" || continue
        local label=$file; [ "$environment" = - ] || label="$file $environment"
        if [ "$(left)" -lt 4 ]; then not_run programs "$label" "no time left"; continue; fi
        n=none ns=- nr='' s=none ss=- sr=''
        if on native; then IFS=$'\t' read -r n ns nr < <(one native "$file" "$name" "$environment" "$arguments"); fi
        if on shim; then IFS=$'\t' read -r s ss sr < <(one shim "$file" "$name" "$environment" "$arguments"); fi
        remark=
        [ -n "$nr" ] && remark="native: $nr"
        [ -n "$sr" ] && remark="${remark:+$remark; }shim: $sr"
        [ "$n $s" = "pass pass" ] || ns=-
        record programs "$label" "$n" "$s" "$(ratio "$ns" "$ss")" "$remark"
        count=$((count + 1))
        [ $((count % 25)) -ne 0 ] || publish "in programs"
    done <"$here/programs/runs.tsv"
}

nvml() {
    [ "$what" = both ] || { not_run nvml queries "it compares both sides"; return; }
    [ "$(left)" -ge 60 ] || { not_run nvml queries "no time left"; return; }
    timeout -k 5 "$(left)" "$here/gpu-nvml.sh" "$driver" "$work/vgpu.sock" "$logs" >"$logs/nvml.txt" 2>&1
    local status=$?
    grep -E '^nvml: .*(and must not|natively|not shown|not run)' "$logs/nvml.txt"
    local verdict=pass; [ $status -eq 0 ] || verdict=FAIL
    record nvml queries pass $verdict - "$(grep -c 'same on both sides' "$logs/nvml.txt") same, $(grep -c 'differs in' "$logs/nvml.txt") differ, $status of those that must not"
}

# eight SIDE: eight programs at once; prints "seconds", and a line into $work/eight.SIDE for each that did not pass.
eight() {
    local side=$1 start processes=() job name
    : >"$work/eight.$side"
    start=$(now)
    for job in "${jobs[@]}"; do
        name=${job##*/}; name=${name%.py}
        # Frameworks bring runtimes of their own.
        local command=("$job") further=$here/programs/runtimes
        [[ "$job" != *.py ]] || command=(python3 "$job") further=
        env LD_LIBRARY_PATH="$(libraries "$side" "$further")" VGPU_SOCKET="$work/vgpu.sock" \
            timeout -k 5 "$(within 150)" "${command[@]}" >"$logs/eight.$side.$name.out" 2>"$logs/eight.$side.$name.err" </dev/null &
        processes+=("$! $name")
    done
    for job in "${processes[@]}"; do
        name=${job#* }
        wait "${job%% *}"
        local status=$?
        if [ $status -ne 0 ] || ! tail -n 1 "$logs/eight.$side.$name.out" | grep -q "^PASS ${name%%.*}"; then
            echo "$side $name: status $status, $(tail -n 1 "$logs/eight.$side.$name.out")" >>"$work/eight.$side"
        fi
    done
    since "$start"
}

# Megabytes in use on the first device.
used() { PATH=$driver/../bin:$PATH nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null | head -n 1; }

many() {
    local jobs=() name
    for name in torch cupy jax; do
        python3 -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$name'))" 2>/dev/null && jobs+=("$here/frameworks/${name}_basics.py")
    done
    for name in matmul_tiled.13-static nbody.13-static streams_overlap.13-shared graphs_capture.13-static memory_drv scan.13-static host_callbacks.13-static histogram.13-static; do
        [ ${#jobs[@]} -lt 8 ] && [ -e "$here/programs/$name" ] && jobs+=("$here/programs/$name")
    done
    if [ "$(left)" -lt 60 ]; then
        not_run many "eight at once" "no time left"
    else
        local n=none ns=- s=none ss=-
        if on native; then ns=$(eight native); n=pass; [ -s "$work/eight.native" ] && n=FAIL; fi
        if on shim; then ss=$(eight shim); s=pass; [ -s "$work/eight.shim" ] && s=FAIL; fi
        record many "eight at once" $n $s "$(ratio "$ns" "$ss")" "${#jobs[@]} programs, native $ns s, shim $ss s$(cat "$work"/eight.* 2>/dev/null | tr '\n' ';' | sed 's/^/: /' | cut -c1-300)"
    fi
    on shim || return 0
    local count=${SHORT:-100}
    if [ "$(left)" -lt $((20 + count / 2)) ]; then not_run many "short programs" "no time left for $count"; return; fi
    local before after start native verdict=pass
    before=$(used)
    start=$(now)
    for _ in 1 2 3 4 5 6 7 8; do LD_LIBRARY_PATH=$driver timeout 20 "$here/tests/e2e-client" once >/dev/null 2>&1; done
    native=$(since "$start" | awk '{ print $1 / 8 }')
    LD_LIBRARY_PATH=$driver VGPU_DIST=$here VGPU_E2E_CLIENT=$here/tests/e2e-client VGPU_E2E_DEVICE=${DEVICE:-cuda} VGPU_E2E_PROCESSES=$count \
        timeout -k 5 "$(left)" "$here/tests/many_clients" --test-threads 1 --nocapture eight_programs short_programs >"$logs/many.log" 2>&1 || verdict=FAIL
    grep -oE 'eight programs: .*|[0-9]+ short programs in .*' "$logs/many.log"
    grep -A2 panicked "$logs/many.log"
    for _ in $(seq 20); do
        after=$(used)
        [ "${after:-0}" -le "${before:-0}" ] && break
        sleep 0.5
    done
    [ "${after:-0}" -le "${before:-0}" ] || verdict=FAIL
    local each; each=$(sed -n 's/.*[0-9] short programs in \([0-9.]*\)s;.*/\1/p' "$logs/many.log" | awk -v n="$count" '{ print $1 / n }')
    record many "short programs" none $verdict "$(ratio "$native" "$each")" "$count of them, ${each:-?} s each, natively $native s; device memory in use ${before:-?} MiB before, ${after:-?} after"
}

bench() {
    [ "$what" = both ] || { not_run bench vgpu-bench "it compares both sides"; return; }
    [ "$(left)" -ge 90 ] || { not_run bench vgpu-bench "no time left"; return; }
    LD_LIBRARY_PATH=$here/lib VGPU_SOCKET=$work/vgpu.sock VGPU_NATIVE_DRIVER=$driver/libcuda.so.1 \
        timeout -k 5 "$(within 300)" "$here/bin/vgpu-bench" compare --rounds "${ROUNDS:-3}" --raw "$out/bench.tsv" --markdown "$out/bench.md" >"$logs/bench.log" 2>&1
    local status=$? verdict=pass
    [ $status -eq 0 ] || verdict=FAIL
    [ $status -ne 124 ] || verdict=none
    record bench vgpu-bench none $verdict - "status $status; $(grep -h '^Targets met' "$out/bench.md" "$logs/bench.log" 2>/dev/null | head -n 1)"
}

kills() {
    on shim || { not_run kills "sudden deaths" "the shim's side only"; return; }
    [ "$(left)" -ge 60 ] || { not_run kills "sudden deaths" "no time left"; return; }
    local verdict=pass
    OUT=$logs KILLS=${KILLS:-20} LIMIT_S=$(($(left) - 20)) "$here/gpu-kills.sh" >"$logs/kills.txt" 2>&1 || verdict=FAIL
    record kills "sudden deaths" none $verdict - "$(grep -c ': pass' "$logs/kills.txt") of 5 tests; $(tail -n 1 "$logs/kills.txt" | cut -c1-200)"
}

for part in "${parts[@]}"; do
    $part
    publish "after $part"
done
publish complete
cat "$out/summary.txt"
[ "$(failures)" -eq 0 ]
