#!/bin/bash
# Pauses, resets, reboots and replaces guests whose programs work on this machine's GPU, and checks that channels live or end
# as they should and that no page is written to afterwards: the tests of tests/tests/virtual_machine.rs, with a real device.
#
#   OUT=DIR gpu-life.sh [NAME...]
#
# NAMEs are parts of names of tests; without any, those of a guest's life. Needs a GPU with its driver, bash, coreutils, tar;
# no network, no KVM, and root if the driver does. DEVICE=software runs the same without a GPU. Writes life.log into $OUT
# (default: /tmp/vgpu-guest). Exit status 0 when every test passed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp/vgpu-guest}
device=${DEVICE:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
tar -xzf "$here/content.tar.gz" -C "$work" || exit 2
if [ "$device" = cuda ]; then
    driver=
    for folder in $(ldconfig -p 2>/dev/null | sed -n 's,.*libcuda\.so\.1.* => \(.*\)/[^/]*$,\1,p') \
        /usr/local/nvidia/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64; do
        if [ -e "$folder/libcuda.so.1" ]; then driver=$folder; break; fi
    done
    if [ -z "$driver" ]; then echo "gpu-life: no NVIDIA driver on this machine" >&2; exit 2; fi
    export LD_LIBRARY_PATH=$driver
fi
if [ $# -eq 0 ]; then
    set -- programs_go_on_after_a_pause a_reset_under_load_leaves_no_worker_behind \
        a_guest_that_reboots_by_itself_leaves_no_worker_behind a_kernel_started_by_kexec_finds_no_page_written_to \
        a_device_taken_from_the_bus_ends_its_channels no_page_is_written_to_after_it_was_given_back
fi
export VGPU_DIST=$work/life/dist VGPU_GUEST=$work/guest VGPU_QEMU=$work/bin/qemu
export VGPU_E2E_PROGRAMS=$work/life/programs VGPU_E2E_DEVICE=$device
unset VGPU_QEMU_DEVICE
timeout -k 5 "${LIMIT_S:-560}" "$work/life/virtual_machine" --test-threads "${THREADS:-3}" "$@" >"$out/life.log" 2>&1
status=$?
grep -E '^test |panicked|^Error|^error' "$out/life.log"
[ $status -eq 0 ] && ! grep -q '^test result: ok. 0 passed' "$out/life.log"
