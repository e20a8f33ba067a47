#!/bin/bash
# Boots guests under QEMU on this machine and runs CUDA programs inside them, on this machine's GPU.
#
#   OUT=DIR gpu-guest.sh [PART…]
#
# view      the guest's own view: the device's name and memory, kernel modules, files
# copies    what CPUs copy for copies of pinned and of pageable memory, counted by library and worker
# bench     round trips, wake-ups and launches as distributions, with 1, 2 and 4 processors
# pair      two guests at once, then one of the two QEMUs is killed
# programs  every test program; several minutes under emulation
#
# Without a PART all of them, in this order. Needs a GPU with its driver, bash, coreutils, tar; no network; KVM where it
# works. Writes each guest's console, each daemon's log and table.txt into $OUT (default: /tmp/vgpu-guest). DEVICE=software
# does without a GPU. Exit status 0 when everything passed or was skipped.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp/vgpu-guest}
device=${DEVICE:-cuda}
limit=${LIMIT_S:-500}
work=$(mktemp -d)
mkdir -p "$out"
tar -xzf "$here/content.tar.gz" -C "$work" || exit 2
daemons=()
cleanup() {
    for file in "$work"/*.pid; do [ -e "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null; done
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    rm -rf "$work"
}
trap cleanup EXIT
failed=0
wrong() { echo "FAILED: $*"; failed=1; }

driver=
if [ "$device" = cuda ]; then
    for folder in $(ldconfig -p 2>/dev/null | sed -n 's,.*libcuda\.so\.1.* => \(.*\)/[^/]*$,\1,p') \
        /usr/local/nvidia/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64; do
        if [ -e "$folder/libcuda.so.1" ]; then driver=$folder; break; fi
    done
    if [ -z "$driver" ]; then echo "gpu-guest: no NVIDIA driver on this machine" >&2; exit 2; fi
fi

# serve NAME: a daemon at $work/NAME.sock; its process in $daemon.
serve() {
    rm -f "$work/$1.sock"
    LD_LIBRARY_PATH=$driver "$work/bin/vhost-user-vgpu" --vhost-user "$work/$1.sock" --device "$device" >"$out/$1.daemon.log" 2>&1 &
    daemon=$!
    daemons+=("$daemon")
    for _ in $(seq 300); do [ -S "$work/$1.sock" ] && return; sleep 0.1; done
    wrong "the daemon of $1 does not listen: $(tail -n 1 "$out/$1.daemon.log")"
    return 1
}

# qemu NAME WORD PROCESSORS MEMORY-MIB PAGES: becomes a guest that does WORD.
qemu() {
    exec "$work/bin/qemu" $accelerator -M q35,memory-backend=mem -smp "$3" -m "$4M" -pidfile "$work/$1.pid" \
        -object "memory-backend-memfd,id=mem,size=$4M,share=on" -nodefaults -no-user-config -display none -no-reboot \
        -serial "file:$out/$1.console" -kernel "$work/guest/kernel" -initrd "$work/initramfs" \
        -append "console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable no_timer_check nokaslr mitigations=off cryptomgr.notests random.trust_cpu=on hugepages=$5 vgpu=$2 ${APPEND:-}" \
        -chardev "socket,id=vgpu,path=$work/$1.sock,reconnect-ms=100" -device vhost-user-vgpu-pci,chardev=vgpu \
        2>"$out/$1.qemu.log" </dev/null
}

# guest NAME WORD PROCESSORS MEMORY-MIB PAGES: a daemon and a guest to its end. Its status in $status, its console without
# carriage returns in $out/NAME.console.
guest() {
    serve "$1" || return
    rm -f "$out/$1.console"
    ( qemu "$@" ) &
    local boot=$!
    watch "$1" "$boot"
    kill "$daemon" 2>/dev/null
}

# watch NAME PROCESS: waits for a guest's end, for $limit seconds at most.
watch() {
    for _ in $(seq $((limit * 5))); do kill -0 "$2" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$2" 2>/dev/null
    wait "$2" 2>/dev/null
    sed -i 's/\r//g' "$out/$1.console"
    status=$(sed -n 's/^GUEST-EXIT //p' "$out/$1.console")
    if [ -z "$status" ]; then
        status=-
        wrong "guest $1 did not come to its end: $(tail -n 3 "$out/$1.console" "$out/$1.qemu.log")"
    fi
}

# rows NAME: the last line of each program in a guest is its verdict.
rows() {
    awk '/^RUN-BEGIN/ { name = $2; last = "" } /^RUN-STATUS/ { printf "%-40s %-4s %s\n", name, $2, last; next } { last = $0 }' "$out/$1.console"
}

# children PROCESS: how many processes it has below it.
children() { cat /proc/"$1"/task/*/children 2>/dev/null | wc -w; }

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
echo "accelerator: $accelerator; this machine: $(uname -sr), $(nproc) processors"

view() {
    guest view view 2 1536 200
    echo "--- what the guest sees"
    sed -n '/^GUEST-UP/,/^RUN-END/p' "$out/view.console" | grep -v '^\(GUEST\|RUN\)-'
    [ "$status" = 0 ] || wrong "view: status $status"
}

copies() {
    guest copies copies 2 2048 300
    echo "--- copies, by the counts of the library in the guest and of the worker"
    sed -n '/^RUN-BEGIN/,/^agent:/p' "$out/copies.console" | grep -v '^\(RUN-\|agent:\)'
    [ "$status" = 0 ] || wrong "copies: status $status"
}

bench() {
    for processors in ${PROCESSORS:-1 2 4}; do
        guest "bench$processors" bench "$processors" 4096 900
        echo "--- $processors processors in the guest"
        sed -n '/^processors:/,/^agent:/p' "$out/bench$processors.console" | grep -v '^agent:'
        [ "$status" = 0 ] || wrong "bench with $processors processors: status $status"
    done
}

pair() {
    echo "--- two guests at once"
    local name
    for name in one two; do
        serve $name || return
        rm -f "$out/$name.console"
    done
    ( qemu one few 1 2048 300 ) & local one=$!
    ( qemu two few 1 2048 300 ) & local two=$!
    for name in one two; do
        watch $name "${!name}"
        rows $name >>"$out/table.txt"
        echo "guest $name: $(rows $name | grep -c ' PASS ') of 18 runs passed, status $status"
        [ "$status" = 0 ] && [ "$(rows $name | grep -c ' PASS ')" -eq 18 ] || wrong "guest $name"
    done
    echo "--- two guests, and one of the QEMUs is killed"
    for name in victim other; do
        serve $name || return
        rm -f "$out/$name.console"
        [ $name = victim ] && local bereaved=$daemon
    done
    ( qemu victim forever 1 2048 300 ) & local victim=$!
    ( qemu other few 1 2048 300 ) & local other=$!
    # Killed in the middle of a program of its second round.
    for _ in $(seq $((limit * 5))); do grep -q '^ROUND 1' "$out/victim.console" 2>/dev/null && break; sleep 0.2; done
    for _ in $(seq 100); do [ "$(children "$bereaved")" -gt 0 ] && break; sleep 0.05; done
    echo "victim: killed in its second round with $(children "$bereaved") workers, the other has finished $(grep -c '^RUN-STATUS' "$out/other.console") runs"
    kill -9 $victim; wait $victim 2>/dev/null
    for _ in $(seq 100); do [ "$(children "$bereaved")" -eq 0 ] && break; sleep 0.1; done
    echo "its daemon: $(kill -0 "$bereaved" 2>/dev/null && echo lives || echo "is gone"), $(children "$bereaved") workers left"
    kill -0 "$bereaved" 2>/dev/null && [ "$(children "$bereaved")" -eq 0 ] || wrong "the killed guest's daemon"
    watch other $other
    echo "guest other: $(rows other | grep -c ' PASS ') of 18 runs passed, status $status"
    [ "$status" = 0 ] && [ "$(rows other | grep -c ' PASS ')" -eq 18 ] || wrong "the other guest"
}

programs() {
    guest programs programs "${PROCESSORS:-2}" 4096 900
    rows programs >"$out/programs.txt"
    cat "$out/programs.txt" >>"$out/table.txt"
    local passed skipped wanted
    passed=$(grep -c ' PASS ' "$out/programs.txt"); skipped=$(grep -c ' SKIP ' "$out/programs.txt"); wanted=$(wc -l <"$work/names")
    grep -v ' PASS ' "$out/programs.txt"
    echo "in the guest, on the device: $passed passed, $((wanted - passed - skipped)) failed, $skipped skipped"
    [ $((passed + skipped)) -eq "$wanted" ] || wrong programs
}

: >"$out/table.txt"
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(view copies bench pair programs)
for part in "${parts[@]}"; do
    case $part in
        view | copies | bench | pair | programs) $part ;;
        *) echo "gpu-guest: no part is called $part" >&2; exit 2 ;;
    esac
done
[ $failed -eq 0 ] && echo "gpu-guest: everything passed"
exit $failed
