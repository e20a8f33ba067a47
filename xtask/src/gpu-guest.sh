#!/bin/bash
# Boots guests under QEMU on this machine and runs CUDA programs inside them, on this machine's GPU.
#
#   OUT=DIR LIMIT_TOTAL_S=570 gpu-guest.sh [PART…]
#
# view      the guest's own view: the device's name and memory, kernel modules, files
# copies    what CPUs copy for copies of pinned and of pageable memory, counted by library and worker
# programs  every test program; several minutes under emulation
# pair      two guests at once, then one of the two QEMUs is killed
# bench     round trips, wake-ups and launches as distributions, with 1, 2 and 4 processors
#
# Without a PART all of them, in this order; what no time is left for is listed as not run. Needs a GPU with its driver, bash,
# coreutils, tar; no network; KVM where it works. Writes guest-summary.txt, which is also the last that is printed, and
# guest-logs.tar.gz, with each guest's console and each daemon's log, into $OUT (default: /tmp/vgpu-guest). DEVICE=software
# does without a GPU. Exit status 0 when everything passed or was skipped.
# shellcheck disable=SC1091,SC2154,SC2034
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp/vgpu-guest}
device=${DEVICE:-cuda}
limit=${LIMIT_S:-500}
work=$(mktemp -d)
prefix=guest-
. "$here/gpu-report.sh"
rm -f "$out"/guest-{summary.txt,logs.tar.gz}
tar -xzf "$here/content.tar.gz" -C "$work" || exit 2
daemons=() status=-
cleanup() {
    for file in "$work"/*.pid; do [ -e "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null; done
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'publish "ended by a signal"; exit 143' TERM INT
# wrong NAME WHAT, right NAME [REMARK]: results of the part that runs.
wrong() { record "$part" "$1" none FAIL - "$2"; }
right() { record "$part" "$1" none pass - "${2:-}"; }

driver=
if [ "$device" = cuda ]; then . "$here/driver.sh"; fi

# serve NAME: a daemon at $work/NAME.sock; its process in $daemon.
serve() {
    rm -f "$work/$1.sock"
    LD_LIBRARY_PATH=$driver "$work/bin/vhost-user-vgpu" --vhost-user "$work/$1.sock" --device "$device" >"$logs/$1.daemon.log" 2>&1 &
    daemon=$!
    daemons+=("$daemon")
    for _ in $(seq 300); do [ -S "$work/$1.sock" ] && return; sleep 0.1; done
    wrong "$1" "its daemon does not listen: $(tail -n 1 "$logs/$1.daemon.log")"
    return 1
}

# qemu NAME WORD PROCESSORS MEMORY-MIB PAGES: becomes a guest that does WORD.
qemu() {
    exec "$work/bin/qemu" $accelerator -M q35,memory-backend=mem -smp "$3" -m "$4M" -pidfile "$work/$1.pid" \
        -object "memory-backend-memfd,id=mem,size=$4M,share=on" -nodefaults -no-user-config -display none -no-reboot \
        -serial "file:$logs/$1.console" -kernel "$work/guest/kernel" -initrd "$work/initramfs" \
        -append "console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable no_timer_check nokaslr mitigations=off cryptomgr.notests random.trust_cpu=on hugepages=$5 vgpu=$2 ${APPEND:-}" \
        -chardev "socket,id=vgpu,path=$work/$1.sock,reconnect-ms=100" -device vhost-user-vgpu-pci,chardev=vgpu \
        2>"$logs/$1.qemu.log" </dev/null
}

# guest NAME WORD PROCESSORS MEMORY-MIB PAGES: a daemon and a guest to its end. Its status in $status, its console without
# carriage returns in $logs/NAME.console.
guest() {
    serve "$1" || return
    rm -f "$logs/$1.console"
    ( qemu "$@" ) &
    local boot=$!
    watch "$1" "$boot"
    kill "$daemon" 2>/dev/null
}

# watch NAME PROCESS: waits for a guest's end, for $limit seconds at most, and no longer than the whole run may take.
watch() {
    local until=$((SECONDS + $(within "$limit")))
    while kill -0 "$2" 2>/dev/null && [ $SECONDS -lt $until ]; do sleep 0.2; done
    kill -9 "$2" 2>/dev/null
    wait "$2" 2>/dev/null
    sed -i 's/\r//g' "$logs/$1.console"
    status=$(sed -n 's/^GUEST-EXIT //p' "$logs/$1.console")
    [ -z "$status" ] || return
    status=-
    if [ "$(left)" -eq 0 ]; then not_run "$part" "guest $1" "cut off at the end of the whole run"; return; fi
    wrong "guest $1" "it did not come to its end: $(tail -qn 2 "$logs/$1.console" "$logs/$1.qemu.log" | tr '\n' ' ')"
}

# rows NAME: the last line of each program in a guest is its verdict.
rows() {
    awk '/^RUN-BEGIN/ { name = $2; last = "" } /^RUN-STATUS/ { printf "%-40s %-4s %s\n", name, $2, last; next } { last = $0 }' "$logs/$1.console"
}

# children PROCESS: how many processes it has below it.
children() { cat /proc/"$1"/task/*/children 2>/dev/null | wc -w; }

part=kvm
tcg="-accel tcg,thread=multi -cpu max"
accelerator="-accel kvm -cpu host"
# KVM works where a guest boots with it, whatever /dev/kvm says. The shell's own word on a QEMU that aborts is not shown.
if [ -w /dev/kvm ] && serve kvm; then
    {
        ( qemu kvm nothing 1 512 64 ) &
        probe=$!
        for _ in $(seq 300); do kill -0 $probe || break; sleep 0.2; done
        kill -9 $probe
        wait $probe
    } 2>/dev/null
    kill "$daemon" 2>/dev/null
    grep -q '^GUEST-UP' "$out/kvm.console" 2>/dev/null || accelerator=$tcg
else
    accelerator=$tcg
fi
about="accelerator: $accelerator; this machine: $(uname -sr), $(nproc) processors"
echo "$about"

# ended NAME: the verdict on a guest by its own exit status. One that did not come to its end has its result already.
ended() { case $status in 0) right "$1" ;; -) ;; *) wrong "$1" "status $status" ;; esac }

view() {
    guest view view 2 1536 200
    echo "--- what the guest sees"
    sed -n '/^GUEST-UP/,/^RUN-END/p' "$logs/view.console" | grep -v '^\(GUEST\|RUN\)-'
    ended "the guest's view"
}

copies() {
    guest copies copies 2 2048 300
    echo "--- copies, by the counts of the library in the guest and of the worker"
    sed -n '/^RUN-BEGIN/,/^agent:/p' "$logs/copies.console" | grep -v '^\(RUN-\|agent:\)'
    ended "counts of copies"
}

bench() {
    local processors
    for processors in ${PROCESSORS:-1 2 4}; do
        if [ "$(left)" -lt 60 ]; then not_run bench "$processors processors" "no time left"; continue; fi
        guest "bench$processors" bench "$processors" 4096 900
        echo "--- $processors processors in the guest"
        sed -n '/^processors:/,/^agent:/p' "$logs/bench$processors.console" | grep -v '^agent:' | tee "$out/guest-bench$processors.txt"
        ended "$processors processors"
    done
}

# few NAME: the verdict on a guest that runs six programs three times.
few() {
    local passed; passed=$(rows "$1" | grep -c ' PASS ')
    if [ "$status" = 0 ] && [ "$passed" -eq 18 ]; then right "guest $1" "18 of 18 runs"
    elif [ "$status" != - ]; then wrong "guest $1" "$passed of 18 runs passed, status $status"; fi
}

pair() {
    local name one two victim other bereaved count
    for name in one two; do serve $name || return; done
    ( qemu one few 1 2048 300 ) & one=$!
    ( qemu two few 1 2048 300 ) & two=$!
    for name in one two; do
        watch $name "${!name}"
        few $name
    done
    if [ "$(left)" -lt 60 ]; then not_run pair "a QEMU is killed" "no time left"; return; fi
    for name in victim other; do
        serve $name || return
        [ $name = victim ] && bereaved=$daemon
    done
    ( qemu victim forever 1 2048 300 ) & victim=$!
    ( qemu other few 1 2048 300 ) & other=$!
    # Killed in the middle of a program of its second round.
    local until=$((SECONDS + $(within "$limit")))
    until grep -q '^ROUND 1' "$logs/victim.console" 2>/dev/null || [ $SECONDS -ge $until ]; do sleep 0.2; done
    for _ in $(seq 100); do [ "$(children "$bereaved")" -gt 0 ] && break; sleep 0.05; done
    count=$(children "$bereaved")
    echo "victim: killed in its second round with $count workers, the other has finished $(grep -c '^RUN-STATUS' "$logs/other.console") runs"
    kill -9 $victim; wait $victim 2>/dev/null
    for _ in $(seq 100); do [ "$(children "$bereaved")" -eq 0 ] && break; sleep 0.1; done
    if kill -0 "$bereaved" 2>/dev/null && [ "$(children "$bereaved")" -eq 0 ]; then
        right "the daemon of a killed QEMU" "it lives, none of $count workers left"
    else
        wrong "the daemon of a killed QEMU" "$(kill -0 "$bereaved" 2>/dev/null && echo lives || echo "is gone"), $(children "$bereaved") workers left"
    fi
    watch other $other
    few other
}

programs() {
    local name row first code last
    guest programs programs "${PROCESSORS:-2}" 4096 900
    rows programs >"$logs/programs.txt"
    # A program with several settings has several runs under one name: they come in the order of the names.
    while IFS=$'\t' read -r name row; do
        read -r first code last <<<"$row"
        if [ -z "$row" ]; then
            if [ "$(left)" -eq 0 ]; then not_run programs "$name" "no time left"; else wrong "$name" "it was not run"; fi
            continue
        fi
        [ "$first" = "${name%% *}" ] || last="the guest ran $first instead"
        case $last in
            PASS*) right "$name" ;;
            SKIP*) record programs "$name" none skip - "${last#*: }" ;;
            *) wrong "$name" "status $code, $last" ;;
        esac
    done < <(paste "$work/names" "$logs/programs.txt")
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(view copies programs pair bench)
for part in "${parts[@]}"; do
    case $part in
        view | copies | bench | pair | programs) ;;
        *) echo "gpu-guest: no part is called $part" >&2; exit 2 ;;
    esac
    if [ "$(left)" -lt 60 ]; then not_run "$part" "all of it" "no time left"; continue; fi
    $part
    publish "after $part"
done
publish complete
cat "$out/guest-summary.txt"
[ "$(failures)" -eq 0 ]
