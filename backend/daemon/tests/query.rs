//! Questions that need no channel: who gets which answer, and that they cost nothing.

mod common;

use common::{Client, Daemon, until};
use std::time::Duration;
use vgpu_channel::link::query::ask;
use vgpu_channel::link::{Answer, Hello, LinkError, LinkStatus, Query, Socket, Welcome};
use vgpu_protocol::facts::{
    DeviceFacts, ProcessFacts, QUERY_DEVICE, QUERY_PROCESSES, QUERY_SYSTEM, SystemFacts, text,
};
use zerocopy::{FromBytes, IntoBytes};

const WAIT: Duration = Duration::from_secs(20);

fn facts<T: FromBytes>(daemon: &Daemon, kind: u32, index: u32) -> T {
    let answer = ask(&daemon.socket(), &Query::new(kind, index, 0), WAIT).unwrap();
    T::read_from_prefix(&answer.body).unwrap().0
}

fn device(daemon: &Daemon) -> DeviceFacts {
    facts(daemon, QUERY_DEVICE, 0)
}

#[test]
fn questions_are_answered_without_a_worker() {
    let daemon = Daemon::start(&[]);
    let system: SystemFacts = facts(&daemon, QUERY_SYSTEM, 0);
    assert_eq!((system.devices, system.cuda_version), (1, 13000));
    assert_eq!(text(&system.driver_version), b"580.00");
    let device = device(&daemon);
    assert_eq!(text(&device.name), b"vgpu software device");
    assert_eq!(device.memory_free, device.memory_total);
    assert!(device.memory_total > 0);
    let list: ProcessFacts = facts(&daemon, QUERY_PROCESSES, 0);
    assert_eq!((list.total, list.count), (0, 0));
    assert!(daemon.workers().is_empty());
}

#[test]
fn every_software_device_is_shown() {
    let daemon = Daemon::start(&["--software-devices", "3"]);
    let system: SystemFacts = facts(&daemon, QUERY_SYSTEM, 0);
    assert_eq!(system.devices, 3);
    let places = [0, 1, 2].map(|index| facts::<DeviceFacts>(&daemon, QUERY_DEVICE, index));
    assert_eq!(places.map(|device| device.pci_device), [0, 1, 2]);
    assert_eq!(places.map(|device| device.uuid[15]), [b'0', b'1', b'2']);
}

#[test]
fn a_process_sees_its_own_memory_within_its_quota() {
    let daemon = Daemon::start(&["--memory", "64MiB"]);
    assert_eq!(device(&daemon).memory_total, 64 << 20);
    let client: Client = daemon.connect();
    client.retain();
    client.alloc(16 << 20);
    until(|| device(&daemon).memory_free == 48 << 20);
    let list: ProcessFacts = facts(&daemon, QUERY_PROCESSES, 0);
    assert_eq!(list.count, 1);
    assert_eq!(list.list[0].process, std::process::id());
    assert_eq!(list.list[0].bytes, 16 << 20);
    drop(client);
    until(|| device(&daemon).memory_free == 64 << 20);
}

#[test]
fn those_beyond_the_limits_are_answered_too() {
    let daemon = Daemon::start(&["--max-clients", "1"]);
    let _client = daemon.connect();
    for _ in 0..50 {
        device(&daemon);
    }
}

#[test]
fn connections_that_want_no_channel_are_no_clients() {
    let daemon = Daemon::start(&["--max-clients", "1", "--max-clients-per-user", "1"]);
    // They have said nothing yet, as one that asks has not at first.
    let silent: Vec<Socket> = (0..8)
        .map(|_| Socket::connect(&daemon.socket(), WAIT).unwrap())
        .collect();
    let client = daemon.try_connect();
    assert!(client.is_ok(), "{:?}", client.err());
    drop(silent);
    // The limit itself holds, and ends with the client.
    let second = Socket::connect(&daemon.socket(), WAIT).unwrap();
    second.send(Hello::new(0, 0).as_bytes(), &[]).unwrap();
    let bytes = second.receive_plain::<{ size_of::<Welcome>() }>(WAIT);
    let welcome = Welcome::read_from_bytes(&bytes.unwrap()).unwrap();
    assert_eq!(LinkStatus::from_word(welcome.status), LinkStatus::Busy);
    drop(client);
    until(|| daemon.try_connect().is_ok());
}

#[test]
fn what_cannot_be_answered_is_refused_and_harms_nobody() {
    let daemon = Daemon::start(&[]);
    for (query, status) in [
        (Query::new(QUERY_DEVICE, 1, 0), LinkStatus::NoDevice),
        (Query::new(77, 0, 0), LinkStatus::Malformed),
        (
            Query {
                major: 9,
                ..Query::new(QUERY_SYSTEM, 0, 0)
            },
            LinkStatus::Version,
        ),
        (
            Query {
                magic: 1,
                ..Query::new(QUERY_SYSTEM, 0, 0)
            },
            LinkStatus::Malformed,
        ),
    ] {
        match ask(&daemon.socket(), &query, WAIT) {
            Err(LinkError::Refused(found)) => assert_eq!(found, status),
            other => panic!("{query:?}: {other:?}"),
        }
    }
    // One that does not wait for its answer.
    let socket = Socket::connect(&daemon.socket(), WAIT).unwrap();
    let query = Query::new(QUERY_DEVICE, 0, 0);
    socket.send(query.as_bytes(), &[]).unwrap();
    drop(socket);
    // One that says more than a question: it gets its answer and no more.
    let socket = Socket::connect(&daemon.socket(), WAIT).unwrap();
    socket.send(query.as_bytes(), &[]).unwrap();
    let bytes = socket.receive_plain::<{ size_of::<Answer>() }>(WAIT);
    assert_eq!(
        Answer::read_from_bytes(&bytes.unwrap()).unwrap().kind,
        QUERY_DEVICE
    );
    assert!(matches!(
        socket.receive_plain::<1>(WAIT),
        Err(LinkError::Closed)
    ));
    device(&daemon);
}
