#!/bin/bash
# Boots a guest under QEMU on this machine and runs every test program inside it, on this machine's GPU.
#
#   OUT=DIR gpu-guest.sh
#
# Needs a GPU with its driver, bash, coreutils, tar; no network, no KVM. Writes console.log, daemon.log and table.txt into
# $OUT (default: /tmp/vgpu-guest). Exit status 0 when every program passed or was skipped.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp/vgpu-guest}
work=$(mktemp -d)
mkdir -p "$out"
tar -xzf "$here/content.tar.gz" -C "$work" || exit 2
driver=
for folder in $(ldconfig -p 2>/dev/null | sed -n 's,.*libcuda\.so\.1.* => \(.*\)/[^/]*$,\1,p') \
    /usr/local/nvidia/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64; do
    if [ -e "$folder/libcuda.so.1" ]; then driver=$folder; break; fi
done
if [ -z "$driver" ]; then echo "gpu-guest: no NVIDIA driver on this machine" >&2; exit 2; fi
LD_LIBRARY_PATH=$driver "$work/bin/vhost-user-vgpu" --vhost-user "$work/vgpu.sock" --device cuda >"$out/daemon.log" 2>&1 &
daemon=$!
trap 'kill $daemon 2>/dev/null; wait $daemon 2>/dev/null; rm -rf "$work"' EXIT
for _ in $(seq 300); do [ -S "$work/vgpu.sock" ] && break; sleep 0.1; done
timeout -k 5 "${LIMIT_S:-500}" "$work/bin/qemu" -accel tcg,thread=multi -cpu max -M q35,memory-backend=mem -smp "${PROCESSORS:-2}" -m 4096M \
    -object memory-backend-memfd,id=mem,size=4096M,share=on -nodefaults -no-user-config -display none -no-reboot \
    -serial stdio -kernel "$work/guest/kernel" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable no_timer_check nokaslr mitigations=off cryptomgr.notests random.trust_cpu=on hugepages=900 ${APPEND:-}" \
    -chardev "socket,id=vgpu,path=$work/vgpu.sock,reconnect-ms=100" -device vhost-user-vgpu-pci,chardev=vgpu \
    2>"$out/qemu.log" </dev/null | tr -d '\r' >"$out/console.log"
# The last line of each program is its verdict.
awk '/^RUN-BEGIN/ { name = $2; last = "" } /^RUN-STATUS/ { printf "%-40s %-4s %s\n", name, $2, last; next } { last = $0 }' \
    "$out/console.log" >"$out/table.txt"
passed=$(grep -c ' PASS ' "$out/table.txt"); skipped=$(grep -c ' SKIP ' "$out/table.txt"); wanted=$(wc -l <"$work/names")
grep -v ' PASS ' "$out/table.txt"
echo "in the guest, on the GPU: $passed passed, $((wanted - passed - skipped)) failed, $skipped skipped"
[ $((passed + skipped)) -eq "$wanted" ]
