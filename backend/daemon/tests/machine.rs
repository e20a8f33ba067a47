//! A virtual machine and the daemon: the whole of the link, the life of the machine, and guests that break the rules.

mod common;

use common::guest::{self, DIMM, Guest, HIGH, PAGE, control_pages, piece};
use common::{Client, Daemon, until};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use vgpu_channel::control::FEATURE_APART;
use vgpu_channel::link::message::{LinkStatus, Welcome};
use vgpu_channel::link::virtio::*;
use vgpu_channel::link::{Answer as QueryAnswer, Query};
use vgpu_protocol::cuda::CUresult;
use vgpu_protocol::facts::{DeviceFacts, ProcessFacts, QUERY_DEVICE, QUERY_PROCESSES};
use vgpu_protocol::number::{call, internal};
use vgpu_protocol::wire::*;
use zerocopy::{FromBytes, IntoBytes};

fn boot() -> (Daemon, Guest) {
    boot_with(&[])
}

fn boot_with(arguments: &[&str]) -> (Daemon, Guest) {
    let daemon = Daemon::for_machine(arguments);
    let guest = Guest::boot(&daemon.machine_socket());
    assert_eq!(guest.hello(1), LinkStatus::Ok);
    (daemon, guest)
}

fn ping(client: &Client) {
    assert_eq!(client.call(internal::PING, &[]).0, CUresult::SUCCESS);
}

/// Sends bytes to the device and back, through shared memory of the channel.
fn round_trip(client: &Client, bytes: &[u8]) {
    let (device, len) = (client.alloc(bytes.len() as u64), bytes.len() as u64);
    let source = client.share(bytes);
    let copy = CopyIn {
        dst: device,
        src: source.addr,
        len,
        stream: 0,
    };
    client.post(call::cuMemcpyHtoDAsync_v2, 0, &[copy.as_bytes()]);
    let result = client.share(&vec![0; bytes.len()]);
    let copy = CopyOut {
        dst: result.addr,
        src: device,
        len,
        stream: 0,
    };
    client.post(call::cuMemcpyDtoHAsync_v2, 0, &[copy.as_bytes()]);
    client.flush(0);
    assert!(client.read(result) == bytes, "bytes came back changed");
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// How many of the daemon's workers map RAM of the guest.
fn mapping(daemon: &Daemon) -> usize {
    let maps = |pid: &&i32| {
        std::fs::read_to_string(format!("/proc/{pid}/maps"))
            .is_ok_and(|maps| maps.contains("guest-ram"))
    };
    daemon.workers().iter().filter(maps).count()
}

/// They are huge and scattered: the pages behind one in its file are somebody else's.
#[test]
fn pages_of_a_machine_are_mapped_nowhere_else() {
    const HOST_REGISTER_SUPPORTED: usize = 99;
    let (_daemon, guest) = boot();
    let (_, client) = guest.open();
    client.retain();
    let snapshot = client.channel.snapshot();
    let (_, devices) = Snapshot::read_from_prefix(&snapshot).unwrap();
    let (device, _) = DeviceSnapshot::read_from_prefix(devices).unwrap();
    assert_eq!(device.attributes[HOST_REGISTER_SUPPORTED], 0);
    // As if a client did not look: even where pages of 2 MiB would fit.
    let register = RegisterHost {
        address: 0x7e12_3440_0000,
        bytes: 2 << 20,
        block: client.channel.alloc(2 << 20, 2 << 20).unwrap(),
        ..RegisterHost::default()
    };
    assert_eq!(
        client.refusal(call::cuMemHostRegister_v2, &[register.as_bytes()]),
        CUresult::INVALID_VALUE
    );
}

#[test]
fn the_worker_of_a_machine_says_that_its_cpus_are_its_own() {
    let (_daemon, guest) = boot();
    let (_, client) = guest.open();
    assert_eq!(client.channel.features(), FEATURE_APART);
}

#[test]
fn a_process_in_the_guest_computes_over_scattered_pages() {
    let (daemon, guest) = boot();
    let config = guest.config();
    assert_eq!((config.magic, config.major), (CONFIG_MAGIC, 1));
    assert_eq!(config.max_channels, 64);
    let (number, client) = guest.open();
    assert_eq!(mapping(&daemon), 1);
    ping(&client);
    client.retain();
    round_trip(&client, &pattern(5 << 20));
    // A client that sleeps is woken by a notice.
    until(|| {
        ping(&client);
        std::thread::sleep(std::time::Duration::from_millis(20));
        guest.lock().notices.contains(&(NOTICE_WAKE, number))
    });
    // The heap grows over further pages, which are as scattered.
    let grown = client.channel.alloc(24 << 20, 4096).unwrap();
    let bytes = pattern(24 << 20);
    client.channel.copy_in(grown, &bytes).unwrap();
    round_trip(&client, &bytes[..20 << 20]);
    assert!(client.channel.segments().list().len() > 2);
    // The worker keeps no descriptor of RAM.
    let worker = daemon.workers()[0];
    for entry in std::fs::read_dir(format!("/proc/{worker}/fd"))
        .into_iter()
        .flatten()
    {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        assert!(!target.to_string_lossy().contains("guest-ram"));
    }
    drop(client);
    assert_eq!(guest.close(number), LinkStatus::Ok);
    assert!(daemon.workers().is_empty());
}

#[test]
fn neighbouring_pages_become_one_map() {
    let (daemon, guest) = boot();
    let control: Vec<_> = (0..control_pages())
        .map(|n| piece(HIGH + n * PAGE))
        .collect();
    let heap: Vec<_> = (0..8).map(|n| piece(HIGH + (64 + n) * PAGE)).collect();
    guest.open_idle(&control, &heap).unwrap();
    let worker = daemon.workers()[0];
    let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).unwrap_or_default();
    // Unreadable where a worker is not dumpable and the test is not root.
    if !maps.is_empty() {
        let count = maps
            .lines()
            .filter(|line| line.contains("guest-ram"))
            .count();
        assert_eq!(count, 2, "{maps}");
    }
}

#[test]
fn pages_are_free_again_once_the_channel_is_closed() {
    let (daemon, guest) = boot();
    for _ in 0..3 {
        let (control, heap) = guest.usual();
        let (number, client) = guest.open_with(control.clone(), heap.clone());
        ping(&client);
        assert_eq!(guest.open_idle(&control, &heap), Err(LinkStatus::Denied));
        drop(client);
        assert_eq!(guest.close(number), LinkStatus::Ok);
        assert_eq!(guest.close(number), LinkStatus::Ok);
        guest.give_back(control.iter().chain(&heap));
    }
    assert!(daemon.workers().is_empty());
}

#[test]
fn bad_requests_are_refused_and_harm_nobody() {
    let (daemon, guest) = boot_with(&["--max-clients", "2", "--pinned", "64MiB"]);
    let (control, heap) = guest.usual();
    let (number, client) = guest.open_with(control.clone(), heap.clone());
    let pages = guest.pages(control_pages() + 1);
    let (mine, own) = pages.split_at(control_pages() as usize);
    let refused = |control: &[Piece], heap: &[Piece]| guest.open_idle(control, heap).unwrap_err();

    // Pages of another channel, twice the same, beyond RAM, in the hole, over the end.
    assert_eq!(refused(mine, &heap), LinkStatus::Denied);
    assert_eq!(refused(mine, &[own[0], own[0]]), LinkStatus::Denied);
    assert_eq!(refused(mine, &mine[..1]), LinkStatus::Denied);
    for address in [1 << 40, 1 << 30, HIGH + 191 * PAGE] {
        let outside = Piece {
            address,
            len: 2 * PAGE,
        };
        let status = refused(mine, &[outside]);
        assert_eq!(status, LinkStatus::Denied, "{address:#x}");
    }
    // Too much, and a control segment of another size.
    let much: Vec<_> = (0..33).map(|n| piece(HIGH + n * PAGE)).collect();
    assert!([LinkStatus::NoMemory, LinkStatus::Denied].contains(&refused(mine, &much)));
    let large = Piece {
        address: 0,
        len: 64 << 20,
    };
    assert_eq!(refused(mine, &[large]), LinkStatus::NoMemory);
    assert_eq!(refused(&pages, &heap), LinkStatus::Malformed);

    // Numbers that were used, of another session, or none.
    let session = guest.lock().session;
    let open = |number, session| {
        let request = guest::open(number, session, 0, mine, own);
        let bytes = guest.ask(&request, size_of::<Welcome>());
        let welcome = Welcome::read_from_bytes(&bytes).ok()?;
        Some(LinkStatus::from_word(welcome.status))
    };
    assert_eq!(open(number, session), Some(LinkStatus::Malformed));
    assert_eq!(open(900, session + 1), Some(LinkStatus::Denied));
    assert_eq!(open(0, session), None);

    // Bytes that are no request.
    let room = size_of::<Closed>();
    let malformed = [
        vec![],
        vec![0; 16],
        vec![0xff; 4096],
        [guest::close(number), vec![0]].concat(),
        guest::grow(number, 1, &[]),
        guest::grow(number, 1, &vec![piece(0); 4097]),
        guest::grow(number, 1, &[piece(1)]),
        guest::grow(number, 1, &[piece(u64::MAX - PAGE + 1)]),
        guest::open(7777, session, 99, mine, own),
        guest::open(7777, session, 0, &[], own),
    ];
    for request in malformed {
        let bytes = guest.ask(&request, room);
        assert_eq!(guest::closed(&bytes), LinkStatus::Malformed);
    }
    // An answer needs room.
    let request = guest::open(7778, session, 0, mine, own);
    assert_eq!(
        guest::closed(&guest.ask(&request, room)),
        LinkStatus::Malformed
    );
    assert!(guest.ask(&guest::close(number), 4).is_empty());
    // Longer than any request.
    assert_eq!(
        guest::closed(&guest.ask(&vec![1; 100 << 10], room)),
        LinkStatus::Malformed
    );

    // Growths of nobody, of others' pages, of too much.
    let grow = |number, pieces: &[Piece]| {
        let request = guest::grow(number, 5, pieces);
        guest::grown(&guest.ask(&request, size_of::<vgpu_channel::link::GrowResponse>()))
    };
    assert_eq!(grow(4242, own), LinkStatus::Denied);
    assert_eq!(grow(number, &heap[..1]), LinkStatus::Denied);
    assert_eq!(grow(number, &[large]), LinkStatus::NoMemory);

    // Doorbells of nobody, and of the wrong length.
    for bytes in [&4242_u64.to_le_bytes()[..], &[1, 2, 3], &[0; 64]] {
        guest.ring(bytes);
    }

    // One channel too many.
    let second = guest.open_idle(mine, own).unwrap();
    let (control, heap) = (guest.pages(control_pages()), guest.pages(1));
    assert_eq!(refused(&control, &heap), LinkStatus::Busy);
    assert_eq!(guest.close(second), LinkStatus::Ok);

    ping(&client);
    client.retain();
    round_trip(&client, &pattern(1 << 20));
    assert_eq!(daemon.workers().len(), 1);
}

#[test]
fn nothing_is_served_before_a_hello_or_to_another_version() {
    let daemon = Daemon::for_machine(&[]);
    let guest = Guest::boot(&daemon.machine_socket());
    let (control, heap) = guest.usual();
    assert_eq!(guest.open_idle(&control, &heap), Err(LinkStatus::Denied));
    let mut old = guest::hello(1);
    old[24] = 9;
    let bytes = guest.ask(&old, size_of::<SessionWelcome>());
    let welcome = SessionWelcome::read_from_bytes(&bytes).unwrap();
    assert_eq!(LinkStatus::from_word(welcome.status), LinkStatus::Version);
    assert_eq!(guest.open_idle(&control, &heap), Err(LinkStatus::Denied));
    assert_eq!(guest.hello(1), LinkStatus::Ok);
    guest.open_idle(&control, &heap).unwrap();
}

#[test]
fn a_new_session_ends_what_the_old_one_left() {
    let (daemon, guest) = boot();
    let (control, heap) = guest.usual();
    let number = guest.open_idle(&control, &heap).unwrap();
    // The same agent may say hello again.
    assert_eq!(guest.hello(1), LinkStatus::Ok);
    assert_eq!(daemon.workers().len(), 1);
    assert_eq!(guest.hello(2), LinkStatus::Ok);
    assert!(daemon.workers().is_empty());
    // Pages and numbers are as new, and nobody is told of the old channel.
    let session = guest.lock().session;
    let request = guest::open(number, session, 0, &control, &heap);
    let bytes = guest.ask(&request, size_of::<Welcome>());
    assert_eq!(Welcome::read_from_bytes(&bytes).unwrap().status, 0);
    assert!(!guest.lock().notices.contains(&(NOTICE_ENDED, number)));
}

#[test]
fn a_worker_that_dies_is_told_and_its_pages_stay_until_the_close() {
    let (daemon, guest) = boot();
    let (control, heap) = guest.usual();
    let number = guest.open_idle(&control, &heap).unwrap();
    let (other, client) = guest.open();
    let victim = daemon.workers()[0];
    kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).unwrap();
    guest.wait_notice(NOTICE_ENDED, number);
    assert_eq!(guest.open_idle(&control, &heap), Err(LinkStatus::Denied));
    let grow = guest::grow(number, 1, &guest.pages(1));
    let answer = guest.ask(&grow, size_of::<vgpu_channel::link::GrowResponse>());
    assert_ne!(guest::grown(&answer), LinkStatus::Ok);
    assert_eq!(guest.close(number), LinkStatus::Ok);
    guest.open_idle(&control, &heap).unwrap();
    ping(&client);
    assert_eq!(guest.close(other), LinkStatus::Ok);
}

#[test]
fn notices_wait_for_a_chain_and_are_told_once() {
    let (daemon, guest) = boot();
    guest.lock().silent = true;
    let channels: Vec<u64> = (0..12)
        .map(|_| {
            guest
                .open_idle(&guest.pages(control_pages()), &guest.pages(1))
                .unwrap()
        })
        .collect();
    for worker in daemon.workers() {
        kill_process(Pid::from_raw(worker).unwrap(), Signal::KILL).unwrap();
    }
    until(|| daemon.workers().is_empty());
    // Eight chains were there.
    until(|| guest.lock().notices.len() == 8);
    guest.offer_notices();
    for number in &channels {
        guest.wait_notice(NOTICE_ENDED, *number);
    }
    assert_eq!(guest.lock().notices.len(), channels.len());
}

#[test]
fn channels_survive_a_pause_and_nothing_happens_meanwhile() {
    let (daemon, guest) = boot();
    let (_, mut client) = guest.open();
    client.retain();
    round_trip(&client, &pattern(1 << 20));
    for _ in 0..3 {
        let answered = AtomicBool::new(false);
        let bases = guest.stop();
        assert_ne!(bases[CONTROL_QUEUE], 0);
        let (used, done) = (&mut client, &answered);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                ping(used);
                done.store(true, Ordering::Release);
            });
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(!answered.load(Ordering::Acquire), "a paused worker answers");
            guest.start();
        });
        round_trip(&client, &pattern(1 << 20));
    }
    assert_eq!(daemon.workers().len(), 1);
    // Chains for notices came back empty and were offered again.
    until(|| guest.lock().empty >= 8);
    assert_eq!(guest.hello(1), LinkStatus::Ok);
}

#[test]
fn a_pause_under_load_loses_no_call() {
    let (_daemon, guest) = boot();
    let (_, mut client) = guest.open();
    client.retain();
    let over = AtomicBool::new(false);
    let (used, end) = (&mut client, &over);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !end.load(Ordering::Acquire) {
                round_trip(used, &pattern(100_000));
                ping(used);
                let (status, _) = used.call(call::cuCtxSynchronize, &[]);
                assert_eq!(status, CUresult::SUCCESS);
            }
        });
        for _ in 0..10 {
            guest.stop();
            guest.start();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        over.store(true, Ordering::Release);
    });
    ping(&client);
}

#[test]
fn a_request_under_way_is_answered_before_the_pause() {
    let (daemon, guest) = boot();
    let (control, heap) = guest.usual();
    let number = guest.number();
    let request = guest::open(number, 1, 0, &control, &heap);
    let chain = guest.send(&request, size_of::<Welcome>());
    until(|| !daemon.workers().is_empty());
    guest.stop();
    guest.start();
    let answer = guest.answer(chain);
    assert_eq!(Welcome::read_from_bytes(&answer).unwrap().status, 0);
    assert_eq!(daemon.workers().len(), 1);
    assert_eq!(guest.close(number), LinkStatus::Ok);
}

#[test]
fn a_guest_that_boots_again_finds_no_channel_left() {
    let (daemon, guest) = boot();
    let (control, heap) = guest.usual();
    guest.open_idle(&control, &heap).unwrap();
    guest.stop();
    // The worker stands still as long as nobody says otherwise.
    assert_eq!(daemon.workers().len(), 1);
    guest.forget_queues();
    guest.start();
    until(|| daemon.workers().is_empty());
    assert_eq!(guest.open_idle(&control, &heap), Err(LinkStatus::Denied));
    assert_eq!(guest.hello(77), LinkStatus::Ok);
    guest.open_idle(&control, &heap).unwrap();
}

#[test]
fn a_reset_ends_all_channels_before_it_is_answered() {
    let (daemon, guest) = boot();
    for _ in 0..3 {
        let (control, heap) = guest.usual();
        guest.open_idle(&control, &heap).unwrap();
    }
    assert_eq!(daemon.workers().len(), 3);
    guest.stop();
    guest.reset();
    assert!(daemon.workers().is_empty());
    guest.forget_queues();
    guest.start();
    assert_eq!(guest.hello(2), LinkStatus::Ok);
    let (_, client) = guest.open();
    ping(&client);
}

#[test]
fn a_removed_region_takes_its_channels_along() {
    let (daemon, guest) = boot();
    let (_, client) = guest.open();
    for whole in [false, true] {
        let dimm = guest.plug();
        ping(&client);
        let control = guest.pages(control_pages());
        let heap = [piece(dimm[3]), piece(DIMM)];
        let number = guest.open_idle(&control, &heap).unwrap();
        assert_eq!(daemon.workers().len(), 2);
        guest.unplug(whole);
        assert_eq!(daemon.workers().len(), 1);
        guest.wait_notice(NOTICE_ENDED, number);
        assert_eq!(guest.close(number), LinkStatus::Ok);
        assert_eq!(guest.open_idle(&control, &heap), Err(LinkStatus::Denied));
        ping(&client);
    }
    client.retain();
    round_trip(&client, &pattern(1 << 20));
}

#[test]
fn the_next_machine_is_served_when_one_is_gone() {
    let (daemon, guest) = boot();
    guest.open_idle(&guest.usual().0, &guest.pages(2)).unwrap();
    guest.disconnect();
    until(|| daemon.workers().is_empty());
    guest.forget_queues();
    guest.use_event_idx();
    guest.connect(&daemon.machine_socket());
    guest.start();
    assert_eq!(guest.hello(5), LinkStatus::Ok);
    let (number, client) = guest.open();
    client.retain();
    round_trip(&client, &pattern(1 << 20));
    drop(client);
    assert_eq!(guest.close(number), LinkStatus::Ok);
}

#[test]
fn a_killed_daemon_leaves_no_worker_and_the_next_one_serves_the_machine() {
    let (mut daemon, guest) = boot();
    let (_, client) = guest.open();
    ping(&client);
    let workers = daemon.workers();
    daemon.replace_for_machine();
    until(|| {
        workers
            .iter()
            .all(|pid| !std::fs::exists(format!("/proc/{pid}")).unwrap_or(false))
    });
    drop(client);
    guest.disconnect();
    guest.forget_queues();
    guest.connect(&daemon.machine_socket());
    guest.start();
    assert_eq!(guest.hello(6), LinkStatus::Ok);
    let (_, client) = guest.open();
    ping(&client);
}

#[test]
fn a_worker_that_does_not_stand_still_is_ended_and_the_pause_goes_on() {
    let (daemon, guest) = boot();
    let (control, heap) = guest.usual();
    let number = guest.open_idle(&control, &heap).unwrap();
    let (_, client) = guest.open();
    let stuck = Pid::from_raw(daemon.workers()[0]).unwrap();
    kill_process(stuck, Signal::STOP).unwrap();
    guest.stop();
    assert_eq!(daemon.workers().len(), 1);
    guest.start();
    guest.wait_notice(NOTICE_ENDED, number);
    ping(&client);
}

#[test]
fn a_restarted_daemon_serves_nobody_while_an_old_worker_lives() {
    use rustix::fs::{FlockOperation, flock};
    let (mut daemon, guest) = boot();
    let (control, heap) = guest.usual();
    guest.open_idle(&control, &heap).unwrap();
    let path = daemon.machine_socket().with_extension("sock.lock");
    // A worker has the descriptor with the lock. It cannot be seen where workers are not ours to look at.
    let worker = daemon.workers()[0];
    if let Ok(entries) = std::fs::read_dir(format!("/proc/{worker}/fd")) {
        let is_lock = |entry: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_link(entry.unwrap().path()).is_ok_and(|target| target == path)
        };
        assert!(entries.into_iter().any(is_lock));
    }
    let lock = std::fs::File::open(&path).unwrap();
    assert!(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err());
    daemon.signal(Signal::KILL);
    // This test stands for a worker that lives on.
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    daemon.replace_for_machine();
    guest.disconnect();
    guest.forget_queues();
    let served = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            guest.connect(&daemon.machine_socket());
            served.store(true, Ordering::Release);
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!served.load(Ordering::Acquire));
        drop(lock);
    });
    guest.start();
    assert_eq!(guest.hello(9), LinkStatus::Ok);
    guest.open_idle(&control, &heap).unwrap();
}

#[test]
fn the_capabilities_are_printed_as_json() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-vgpu"))
        .arg("--print-capabilities")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.trim(), r#"{"type":"vgpu","features":[]}"#);
}

#[test]
fn sigterm_ends_machine_and_workers_in_order() {
    let (mut daemon, guest) = boot();
    guest.open_idle(&guest.usual().0, &guest.pages(2)).unwrap();
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(!daemon.machine_socket().exists());
}

#[test]
fn a_listening_socket_can_be_handed_over() {
    let daemon = Daemon::with_socket_handed_over();
    let guest = Guest::boot(&daemon.machine_socket());
    assert_eq!(guest.hello(1), LinkStatus::Ok);
    let (_, client) = guest.open();
    ping(&client);
}

#[test]
fn processes_of_the_host_and_of_a_machine_are_served_by_one_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let machine = folder.path().join("machine");
    let arguments = ["--vhost-user", machine.to_str().unwrap()];
    let daemon = Daemon::start(&arguments);
    let guest = Guest::boot(&machine);
    assert_eq!(guest.hello(1), LinkStatus::Ok);
    let (control, heap) = guest.usual();
    let number = guest.open_idle(&control, &heap).unwrap();
    let client = daemon.connect();
    ping(&client);
    assert_eq!(daemon.workers().len(), 2);
    assert_eq!(guest.close(number), LinkStatus::Ok);
    ping(&client);
}

fn device_facts(guest: &Guest, process: u32) -> (u64, DeviceFacts) {
    let query = Query {
        process,
        ..Query::new(QUERY_DEVICE, 0, 0)
    };
    let bytes = guest.ask(&query_request(&query), size_of::<QueryAnswer>());
    let answer = QueryAnswer::read_from_bytes(&bytes).unwrap();
    assert_eq!(answer.status, LinkStatus::Ok as u32);
    let (facts, _) = DeviceFacts::read_from_prefix(&answer.body).unwrap();
    (facts.memory_total - facts.memory_free, facts)
}

fn query_request(query: &Query) -> Vec<u8> {
    let request = Request {
        kind: KIND_QUERY,
        reserved: 0,
        channel: 5,
    };
    [request.as_bytes(), query.as_bytes()].concat()
}

#[test]
fn a_question_from_the_guest_is_answered_without_a_channel() {
    let (daemon, guest) = boot();
    let (used, facts) = device_facts(&guest, 0);
    assert_eq!(
        vgpu_protocol::facts::text(&facts.name),
        b"vgpu software device"
    );
    assert_eq!(used, 0);
    assert!(daemon.workers().is_empty());
    // What the guest's processes hold is seen by a monitor, and by each of them only its own.
    let (_, client) = guest.open();
    client.retain();
    client.alloc(8 << 20);
    until(|| device_facts(&guest, 0).0 == 8 << 20);
    let query = Query::new(QUERY_PROCESSES, 0, 0);
    let bytes = guest.ask(&query_request(&query), size_of::<QueryAnswer>());
    let answer = QueryAnswer::read_from_bytes(&bytes).unwrap();
    let (list, _) = ProcessFacts::read_from_prefix(&answer.body).unwrap();
    assert_eq!((list.count, list.list[0].bytes), (1, 8 << 20));
    // Without room for the answer, or cut short, it is refused.
    let whole = query_request(&query);
    for (request, room) in [(&whole[..], 100), (&whole[..40], 512)] {
        let closed = Closed::read_from_bytes(&guest.ask(request, room)).unwrap();
        assert_eq!(closed.status, LinkStatus::Malformed as u32);
    }
    ping(&client);
}
