# What a test tells the guest's shell to do with programs, each of which has a NAME and runs as the unprivileged user.

# says NAME TEXT: waits until the program has printed a line that begins with TEXT.
says() {
    for i in $(seq 400); do
        grep -q "^\($2\)" /tmp/$1.out 2>/dev/null && return
        sleep 0.2
    done
    echo "$1 does not say $2:"; cat /tmp/$1.out; tail -n 30 /tmp/agent.log; return 1
}

# open_input NAME: an input for a program, which stays open until `finish`.
open_input() {
    rm -f /tmp/$1.*
    mkfifo /tmp/$1.in
    sleep 9999 >/tmp/$1.in &
    echo $! >/tmp/$1.holder
}

# start NAME MODE [SECONDS]: starts the client, which goes on until `finish`.
start() {
    open_input $1
    {
        su user -c "echo \$\$ >/tmp/$1.pid; exec /bin/e2e-client $2 /opt/vgpu/libcuda.so.1 $3" </tmp/$1.in >/tmp/$1.out 2>&1
        echo "status $?" >>/tmp/$1.out
    } &
}

# begin NAME MODE [SECONDS]: starts the client and waits for its first verified round.
begin() {
    start $1 $2 $3
    says $1 'ready\|status' && grep -q ^ready /tmp/$1.out && return
    cat /tmp/$1.out; tail -n 30 /tmp/agent.log; return 1
}

# ended NAME: waits for the client's end, and shows what it printed in one line.
ended() {
    says $1 status || return 1
    kill $(cat /tmp/$1.holder)
    tr '\n' ' ' </tmp/$1.out; echo
}

# finish NAME: lets the client end by itself.
finish() {
    kill $(cat /tmp/$1.holder) 2>/dev/null
    says $1 status || return 1
    tr '\n' ' ' </tmp/$1.out; echo
}

# works: a new client verifies its numbers, at once or as soon as the agent has recovered.
works() {
    for attempt in $(seq 40); do
        start next launch
        says next 'ready\|status' || return 1
        if grep -q ^ready /tmp/next.out; then finish next; return; fi
        kill $(cat /tmp/next.holder)
        sleep 0.5
    done
    cat /tmp/next.out; tail -n 30 /tmp/agent.log; return 1
}

# shared NAME...: the page frames of programs that the host may write to.
shared() {
    vgpu-witness frames $(for name; do cat /tmp/$name.pid; done)
}

# hold NAME COUNT: fills pages of the pool and says which; `finish NAME` says whether one was written to.
hold() {
    open_input $1
    { vgpu-witness hold $2 </tmp/$1.in >/tmp/$1.out 2>&1; echo "status $?" >>/tmp/$1.out; } &
    says $1 'held\|status' && grep ^held /tmp/$1.out && return
    cat /tmp/$1.out; return 1
}

# master BYTE: writes the low byte of the device's PCI command register: 2 takes it from the bus, 6 puts it there again.
master() {
    device=$(dirname $(grep -l 0x10f0 /sys/bus/pci/devices/*/device))
    printf "\\$1" | dd of=$device/config bs=1 seek=4 conv=notrunc 2>/dev/null
}

# total_pages COUNT: waits until the pool has that many pages.
total_pages() {
    for i in $(seq 300); do
        total=$(awk '/HugePages_Total/ { print $2 }' /proc/meminfo)
        [ $total -eq $1 ] && return
        sleep 0.2
    done
    grep Huge /proc/meminfo; tail -n 30 /tmp/agent.log; return 1
}

# holders: user and command of each process that has a file of the device open or mapped.
holders() {
    for process in /proc/[0-9]*; do
        if { ls -l $process/fd; cat $process/maps; } 2>/dev/null | grep -qE '/sys/.*/(resource[0-9]*|config)|/dev/(vfio|mem)'; then
            echo "$(awk '/^Uid/ { print $2 }' $process/status) $(tr '\0' ' ' <$process/cmdline)"
        fi
    done
}

# one PATTERN: the first process with PATTERN in its command line.
one() {
    for process in /proc/[0-9]*; do
        if tr '\0' ' ' <$process/cmdline 2>/dev/null | grep -q "$1"; then
            echo ${process#/proc/}; return
        fi
    done
    return 1
}
