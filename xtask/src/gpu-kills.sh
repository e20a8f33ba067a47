#!/bin/bash
# Kills programs, workers and daemons at random moments while they work on this machine's GPU, KILLS times each (200), and
# checks that survivors are told, bystanders are undisturbed, and no process, device memory or socket is left.
#
#   OUT=DIR KILLS=N gpu-kills.sh
#
# Needs a GPU with its driver; no network, no toolchain. The kinds run beside each other, each with a daemon of its own.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-/tmp/vgpu-gpu}
mkdir -p "$out"
chmod +x "$here"/bin/* "$here"/tests/* 2>/dev/null
. "$here/driver.sh"

smi() { PATH=$driver/../bin:$PATH nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1; }
# Beside gpu-check.sh there is a daemon already.
ours() { pgrep -c 'vhost-user-vgpu|vgpu-worker|e2e-client'; }
before=$(smi) others=$(ours)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

export VGPU_DIST=$here VGPU_E2E_CLIENT=$here/tests/e2e-client VGPU_E2E_DEVICE=${DEVICE:-cuda} VGPU_E2E_KILLS=${KILLS:-200}
export LD_LIBRARY_PATH=$driver TMPDIR=$scratch
status=0 jobs=()
for test in a_killed_program_leaves_nothing_and_disturbs_nobody a_program_killed_while_it_connects_leaves_nothing \
    a_program_whose_worker_is_killed_gets_an_error \
    a_program_whose_daemon_is_killed_ends_or_gets_an_error_and_a_new_daemon_serves \
    a_daemon_told_to_end_ends_cleanly_with_clients_connected; do
    timeout -k 5 "${LIMIT_S:-500}" "$here/tests/sudden_death" --exact "$test" --nocapture >"$out/kills-$test.log" 2>&1 &
    jobs+=("$! $test")
done
for job in "${jobs[@]}"; do
    test=${job#* }
    if wait "${job%% *}"; then verdict=pass; else verdict=FAIL; status=1; fi
    echo "$test: $verdict"
    grep -h '^slowest\|panicked\|SEED' -A1 "$out/kills-$test.log" | sed 's/^/    /'
done

for _ in $(seq 30); do
    after=$(smi)
    [ "$after" -le "$before" ] && break
    sleep 0.5
done
left=$(($(ours) - others))
files=$(find "$scratch" -mindepth 1 | wc -l)
echo "device memory in use before $before MiB, after $after MiB; processes left: $left; files left: $files"
[ "$after" -le "$before" ] && [ "$left" -le 0 ] && [ "$files" -eq 0 ] || status=1
exit $status
