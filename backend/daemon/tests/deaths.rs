//! Every way in which one side can end, and what the others make of it.

mod common;

use common::{Daemon, until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;
use vgpu_channel::link::{Hello, LinkStatus, Socket, Welcome};
use vgpu_protocol::number::internal;
use zerocopy::{FromBytes, IntoBytes};

fn alive(pid: i32) -> bool {
    // A zombie is not alive, but answers signals.
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
        && !std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.contains(") Z "))
}

#[test]
fn a_client_that_goes_takes_its_worker_along() {
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    let workers = daemon.workers();
    assert_eq!(workers.len(), 1);
    drop(client);
    until(|| daemon.workers().is_empty());
    assert!(!alive(workers[0]));
}

#[test]
fn a_worker_that_dies_ends_its_client_only() {
    let daemon = Daemon::start(&[]);
    let victim = daemon.connect();
    let worker = daemon.workers()[0];
    kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    until(|| victim.channel.is_gone(true));
    drop(victim);
    let other = daemon.connect();
    assert_eq!(other.call(internal::PING, &[]).0.0, 0);
}

/// No worker's number on the page of permits.
const NONSENSE: u32 = 0xdead_beef;

/// The daemon's page of permits to spin.
fn permit_page(daemon: &Daemon) -> std::fs::File {
    let folder = format!("/proc/{}/fd", daemon.child.id());
    let page = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            std::fs::read_link(path)
                .is_ok_and(|name| name.to_string_lossy().starts_with("/memfd:vgpu-spin"))
        });
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(page.expect("the daemon has a page of permits"))
        .unwrap()
}

#[test]
fn permits_to_spin_that_a_worker_held_are_free_when_it_is_gone() {
    let daemon = Daemon::start(&[]);
    let page = permit_page(&daemon);
    let permits = page.metadata().unwrap().len() / 64;
    let cpus = vgpu_channel::wait::usable_cpus() as u64;
    assert_eq!(permits, (cpus / 2).max(1));
    let write = |number: u32| {
        for word in 0..permits {
            page.write_all_at(&number.to_le_bytes(), word * 64).unwrap();
        }
    };
    let held_by = |number: u32| {
        (0..permits)
            .filter(|at| {
                let mut word = [0; 4];
                page.read_exact_at(&mut word, at * 64).unwrap();
                u32::from_le_bytes(word) == number
            })
            .count() as u64
    };
    let client = daemon.connect();
    // A worker that has answered spins for the next call, with a permit.
    until(|| {
        assert_eq!(client.call(internal::PING, &[]).0.0, 0);
        held_by(1) > 0
    });
    drop(client);
    until(|| daemon.workers().is_empty() && held_by(0) == permits);
    // The third worker's own number is 3.
    for number in [NONSENSE, 3] {
        let client = daemon.connect();
        write(number);
        for _ in 0..100 {
            assert_eq!(client.call(internal::PING, &[]).0.0, 0);
        }
        assert!(
            number != NONSENSE || held_by(number) == permits,
            "a worker took what was not free"
        );
        let worker = Pid::from_raw(daemon.workers()[0]).unwrap();
        kill_process(worker, Signal::KILL).unwrap();
        until(|| held_by(0) == permits);
    }
    assert_eq!(daemon.connect().call(internal::PING, &[]).0.0, 0);
}

#[test]
fn a_corrupt_ring_ends_its_channel_only() {
    let daemon = Daemon::start(&[]);
    let hostile = daemon.connect();
    // A published record with an impossible length, at the position that comes next.
    let control = hostile.channel.segments().list()[0].address;
    let position = hostile.channel.ring_head();
    let mut record = [0xff_u8; 64];
    record[..8].copy_from_slice(&(position + 1).to_le_bytes());
    let slot = control + 4096 + position % 8192 * 64;
    hostile.channel.copy_in(slot + 8, &record[8..]).unwrap();
    hostile.channel.copy_in(slot, &record[..8]).unwrap();
    hostile.channel.ring_doorbell();
    until(|| hostile.channel.is_gone(true));
    drop(hostile);
    assert_eq!(daemon.connect().call(internal::PING, &[]).0.0, 0);
}

#[test]
fn sigterm_ends_everything_in_order() {
    let mut daemon = Daemon::start(&[]);
    let client = daemon.connect();
    let workers = daemon.workers();
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(workers.iter().all(|&worker| !alive(worker)));
    assert!(!daemon.socket().exists());
    until(|| client.channel.is_gone(true));
}

#[test]
fn a_killed_daemon_leaves_no_worker_and_no_socket() {
    let mut daemon = Daemon::start(&[]);
    let client = daemon.connect();
    let workers = daemon.workers();
    daemon.signal(Signal::KILL);
    daemon.wait();
    until(|| !workers.iter().any(|&worker| alive(worker)));
    until(|| client.channel.is_gone(true));
    assert!(!daemon.socket().exists());
    drop(client);
    daemon.restart();
    assert_eq!(daemon.connect().call(internal::PING, &[]).0.0, 0);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let mut daemon = Daemon::start(&[]);
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(daemon.socket().exists());
    daemon.restart();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-vgpu"))
        .args(["--device", "software", "--listen"])
        .arg(daemon.socket())
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(daemon.listens());
}

#[test]
fn silent_and_talkative_strangers_hold_up_nobody() {
    let daemon = Daemon::start(&["--max-clients-per-user", "40"]);
    let connect = || Socket::connect(&daemon.socket(), Duration::from_secs(5)).unwrap();
    let silent: Vec<Socket> = (0..8).map(|_| connect()).collect();
    let garbage = connect();
    garbage.send(&[0x41; 64], &[]).unwrap();
    let with_descriptor = connect();
    let hello = Hello::new(0, 0);
    let null = std::fs::File::open("/dev/null").unwrap();
    with_descriptor
        .send(hello.as_bytes(), &[std::os::fd::AsFd::as_fd(&null)])
        .unwrap();
    for _ in 0..100 {
        drop(connect());
    }
    let client = daemon.connect();
    assert_eq!(client.call(internal::PING, &[]).0.0, 0);
    until(|| garbage.is_gone() && with_descriptor.is_gone());
    until(|| silent.iter().all(Socket::is_gone));
    assert_eq!(client.call(internal::PING, &[]).0.0, 0);
}

#[test]
fn more_clients_than_allowed_are_told_so() {
    let daemon = Daemon::start(&["--max-clients", "1"]);
    // The connection that saw the daemon listen may take a moment to be forgotten.
    let mut first = None;
    until(|| {
        first = daemon.try_connect().ok();
        first.is_some()
    });
    let socket = Socket::connect(&daemon.socket(), Duration::from_secs(5)).unwrap();
    socket.send(Hello::new(0, 0).as_bytes(), &[]).unwrap();
    let (bytes, fds) = socket
        .receive_with_fds::<{ size_of::<Welcome>() }>(common::LONG)
        .unwrap();
    let welcome = Welcome::read_from_bytes(&bytes).unwrap();
    assert_eq!(LinkStatus::from_word(welcome.status), LinkStatus::Busy);
    assert!(fds.is_empty());
    drop(first);
}

/// Says hello and gives the answer's status, and the socket, which keeps a client's place.
fn knock(path: &std::path::Path) -> (LinkStatus, Socket) {
    let socket = Socket::connect(path, Duration::from_secs(5)).unwrap();
    socket.send(Hello::new(0, 0).as_bytes(), &[]).unwrap();
    let (bytes, _) = socket
        .receive_with_fds::<{ size_of::<Welcome>() }>(common::LONG)
        .unwrap();
    let welcome = Welcome::read_from_bytes(&bytes).unwrap();
    (LinkStatus::from_word(welcome.status), socket)
}

#[test]
fn a_user_with_too_many_clients_is_told_so_and_others_are_served() {
    let daemon = Daemon::start(&["--max-clients", "8", "--max-clients-per-user", "2"]);
    // The connection that saw the daemon listen may take a moment to be forgotten.
    let mut mine = Vec::new();
    until(|| {
        let (status, socket) = knock(&daemon.socket());
        if status == LinkStatus::Ok {
            mine.push(socket);
        }
        mine.len() == 2
    });
    assert_eq!(knock(&daemon.socket()).0, LinkStatus::Busy);
    if rustix::process::geteuid().is_root() {
        let folder = daemon.socket().parent().unwrap().to_owned();
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        let path = daemon.socket();
        let other = std::thread::spawn(move || {
            let nobody = rustix::process::Uid::from_raw(65_534);
            // Of this thread only, which does nothing but connect and then ends.
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            knock(&path).0
        });
        assert_eq!(other.join().unwrap(), LinkStatus::Ok);
    }
    assert_eq!(knock(&daemon.socket()).0, LinkStatus::Busy);
    // A place that was given back is free again.
    drop(mine.pop());
    until(|| knock(&daemon.socket()).0 == LinkStatus::Ok);
}

#[test]
fn a_worker_holds_nothing_of_the_daemons_but_its_own_channel() {
    // Without close-on-exec, so that the daemon inherits it: what a careless service manager does.
    let secret = tempfile::NamedTempFile::new().unwrap();
    let inherited = rustix::io::dup(secret.as_file()).unwrap();
    let daemon = Daemon::start(&[]);
    let client = daemon.connect();
    assert_eq!(client.call(internal::PING, &[]).0.0, 0);
    let worker = daemon.workers()[0];
    drop(inherited);
    let Ok(entries) = std::fs::read_dir(format!("/proc/{worker}/fd")) else {
        // Not dumpable, so only root may look.
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    let held: Vec<String> = entries
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    let foreign: Vec<&String> = held
        .iter()
        .filter(|target| {
            !["/memfd:", "anon_inode:", "socket:", "pipe:", "/dev/null"]
                .iter()
                .any(|own| target.starts_with(own))
        })
        .collect();
    assert!(foreign.is_empty(), "the worker holds {foreign:?}");
    // Sockets: the link to the daemon and nothing that listens. Pipes: its log.
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = daemon.socket().display().to_string();
    let listening = sockets.lines().filter(|line| line.ends_with(&path));
    for line in listening {
        let inode = line.split_whitespace().nth(6).unwrap();
        assert!(
            !held.contains(&format!("socket:[{inode}]")),
            "the worker holds the socket of the daemon or of a client"
        );
    }
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    for entry in environment.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        let name = entry.split('=').next().unwrap_or_default();
        assert!(
            name.is_empty() || name == "LD_LIBRARY_PATH" || name.starts_with("CUDA_"),
            "the worker has {entry} from the daemon"
        );
    }
    // Executed anew: its command line is its own, not the daemon's.
    let line = std::fs::read(format!("/proc/{worker}/cmdline")).unwrap();
    let line = String::from_utf8_lossy(&line);
    assert!(
        line.contains("worker") && !line.contains("--listen"),
        "{line}"
    );
}

#[test]
fn an_idle_daemon_ends_when_asked_to() {
    let mut daemon = Daemon::start(&["--idle-exit", "1"]);
    let client = daemon.connect();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(client.call(internal::PING, &[]).0.0, 0);
    drop(client);
    assert!(daemon.wait().success());
    assert!(!daemon.socket().exists());
}

#[test]
fn a_log_that_nobody_reads_keeps_no_client_waiting() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    // The smallest there is, and full: every further line would be waited for.
    rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    while rustix::io::write(&write, &[b'x'; 512]).is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    let daemon = Daemon::with_log(&["--log-level", "debug"], write);
    for _ in 0..3 {
        let client = daemon.connect();
        client.retain();
    }
    let mut daemon = daemon;
    daemon.signal(Signal::TERM);
    // It does not wait for its log for ever either.
    assert!(daemon.wait().success());
    drop(read);
}

#[test]
fn greeters_that_vanish_at_any_moment_keep_no_other_one_waiting() {
    let daemon = Daemon::start(&["--log-level", "error"]);
    for round in 0..30 {
        let vanishing: Vec<_> = (0..4)
            .map(|stage| {
                let path = daemon.socket();
                std::thread::spawn(move || {
                    let socket = Socket::connect(&path, Duration::from_secs(5)).unwrap();
                    if stage > 0 {
                        socket.send(Hello::new(0, 0).as_bytes(), &[]).unwrap();
                    }
                    // While its memory is made, its worker starts, it is welcomed.
                    std::thread::sleep(Duration::from_millis(stage * (round + 1)));
                })
            })
            .collect();
        let client = daemon.connect();
        assert_eq!(client.call(internal::PING, &[]).0.0, 0, "round {round}");
        drop(client);
        for greeter in vanishing {
            greeter.join().unwrap();
        }
    }
    until(|| daemon.workers().is_empty());
}
