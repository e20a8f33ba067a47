# What a test tells the shell of a guest whose init is systemd. Services read from a pipe that never ends.
mkfifo /run/hold 2>/dev/null
exec 3<>/run/hold

# service NAME LINE...: a service of these lines, run as a user without any right that exists only while it runs.
service() {
    file=/etc/systemd/system/$1.service
    shift
    printf '%s\n' '[Service]' DynamicUser=yes "$@" >$file
    systemctl daemon-reload
}

# active UNIT: waits until the unit is active.
active() {
    for i in $(seq 300); do
        [ "$(systemctl is-active $1)" = active ] && return
        sleep 0.2
    done
    journalctl -n 30 -u $1
    return 1
}

# said NAME: what the service has printed since its last start, if it runs or has failed.
said() {
    journalctl -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID $1)
}

# begun NAME: starts the service and waits for the client's first verified round.
begun() {
    systemctl start $1
    for i in $(seq 200); do
        said $1 | grep -q ^ready && return
        sleep 0.2
    done
    said $1; journalctl -n 30 -u vgpu-agent
    return 1
}

# over NAME: waits for the service's end, and says how its program ended.
over() {
    for i in $(seq 300); do
        case $(systemctl is-active $1) in
            failed | inactive) said $1 | grep '^done\|^error\|^mismatch'; echo "status $(systemctl show -P ExecMainStatus $1)"; return ;;
        esac
        sleep 0.2
    done
    systemctl status -l $1
    return 1
}

# served NAME: the oneshot service succeeds, at once or as soon as somebody serves again.
served() {
    for i in $(seq 40); do
        systemctl start $1 2>/dev/null && return
        sleep 0.5
    done
    said $1; journalctl -n 30
    return 1
}

# shut_in PID FOLDER: the process sees a system that cannot be written to but in that folder, and a /tmp of its own.
shut_in() {
    touch /tmp/outside
    for path in /usr /etc /var /root /home; do
        nsenter -t $1 -m touch $path/x 2>/dev/null && echo "$path is writable" && return 1
    done
    nsenter -t $1 -m ls /tmp/outside 2>/dev/null && return 1
    nsenter -t $1 -m touch $2/x && nsenter -t $1 -m rm $2/x
}

# tree: each path of the system with its type, permissions, owner and target, each file of /etc with its content, and what the
# loader knows.
tree() {
    find /etc /usr /opt /var -xdev ! -path '/var/log/*' ! -path '/var/tmp/*' -exec stat -c '%f %u %N' {} + | sort
    find /etc -xdev -type f ! -name ld.so.cache -exec md5sum {} + | sort
    ldconfig -p
}
