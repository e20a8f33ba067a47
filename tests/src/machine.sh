# What a test tells the guest's shell to do with programs, each of which has a NAME and runs as the unprivileged user.

# says NAME TEXT: waits until the program has printed a line that begins with TEXT.
says() {
    for i in $(seq 400); do
        grep -q "^\($2\)" /tmp/$1.out 2>/dev/null && return
        sleep 0.2
    done
    echo "$1 does not say $2:"; cat /tmp/$1.out; tail -n 30 /tmp/agent.log; return 1
}

# start NAME MODE: starts the client, whose input stays open until `finish`.
start() {
    rm -f /tmp/$1.*
    mkfifo /tmp/$1.in
    sleep 9999 >/tmp/$1.in &
    echo $! >/tmp/$1.holder
    {
        su user -c "echo \$\$ >/tmp/$1.pid; exec /bin/e2e-client $2 /opt/vgpu/libcuda.so.1" </tmp/$1.in >/tmp/$1.out 2>&1
        echo "status $?" >>/tmp/$1.out
    } &
}

# begin NAME MODE: starts the client and waits for its first verified round.
begin() {
    start $1 $2
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
