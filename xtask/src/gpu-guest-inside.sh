# Root's part in a guest of `gpu-guest.sh`. The word `vgpu=` of the kernel's command line says what is done.
word=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^vgpu=//p')
libraries=/opt/vgpu:/opt/runtimes
FEW="device_query.13-shared vector_add.13-shared matmul_tiled.13-static graphs_capture.13-static reduce_shuffle.13-static memory_drv"
failed=0

# once FILE: runs a program as the unprivileged user.
once() {
    echo "RUN-BEGIN $1"
    su user -c "cd /tmp; LD_LIBRARY_PATH=$libraries timeout -k 5 180 /opt/programs/$1 2>/tmp/stderr </dev/null"
    status=$?
    [ $status -eq 0 ] || failed=1
    echo "RUN-STATUS $status"
    tail -n 5 /tmp/stderr
    echo RUN-END
}

# as_user COMMAND: with our library.
as_user() { su user -c "LD_LIBRARY_PATH=$libraries $1"; }

# holders: user and command of each process that has a file of the device open or mapped.
holders() {
    for process in /proc/[0-9]*; do
        if { ls -l $process/fd; cat $process/maps; } 2>/dev/null | grep -qE '/sys/.*/(resource[0-9]*|config)|/dev/(vfio|mem)'; then
            echo "user $(awk '/^Uid/ { print $2 }' $process/status): $(tr '\0' ' ' <$process/cmdline)"
        fi
    done
}

view() {
    echo "guest: $(uname -srm), $(nproc) processors"
    echo "kernel modules loaded: $(wc -l </proc/modules), of NVIDIA: $(grep -c -i nvidia /proc/modules)"
    echo "device files of NVIDIA: $(ls /dev | grep -c -i nvidia)"
    echo "files named after NVIDIA or CUDA's libraries:"
    find / \( -path /proc -o -path /sys \) -prune -o \( -iname '*nvidia*' -o -name 'libcuda*' -o -name 'libnv*' \) -print | sed 's/^/  /'
    echo "processes that hold the device, with a program of user $(id -u user) running:"
    su user -c "LD_LIBRARY_PATH=$libraries exec /opt/programs/matmul_tiled.13-static >/dev/null 2>&1" &
    sleep 1
    holders | sed 's/^/  /'
    wait $!
    once device_query.13-shared
}

agent || exit 1
case $word in
    view) view ;;
    programs) su user -c /bin/run-programs || failed=1 ;;
    few) for round in $(seq 3); do for file in $FEW; do once $file; done; echo "ROUND $round"; done ;;
    forever) round=0; while :; do for file in $FEW; do once $file; done; round=$((round + 1)); echo "ROUND $round"; done ;;
    copies)
        once copy_counts
        for kind in pinned pageable; do
            echo "--- $kind"
            as_user "VGPU_STATS=1 /opt/programs/copy_counts $kind" || failed=1
        done
        ;;
    bench)
        echo "processors: $(nproc)"
        as_user 'vgpu-bench latency' || failed=1
        as_user 'vgpu-bench measure --only launch' || failed=1
        as_user 'vgpu-bench measure --only pinned' || failed=1
        ;;
    *) echo "nothing to do: $word" ;;
esac
tail -n 20 /tmp/agent.log | sed 's/^/agent: /'
exit $failed
