//! A client that does nothing costs nothing.

mod support;

use std::time::Duration;

use support::{Client, alone, backend};
use vgpu_e2e::process::{cpu_time, family};

/// The processor time all of `processes` have used together.
fn used(processes: &[u32]) -> Duration {
    processes.iter().filter_map(|pid| cpu_time(*pid)).sum()
}

#[test]
fn an_idle_client_its_worker_and_the_daemon_burn_no_processor_time() {
    let _turn = alone();
    let backend = backend();
    let client = Client::start(&backend, "idle");
    client.wait_until_ready();
    // Spinning after the last command is allowed; it has to stop by itself.
    std::thread::sleep(Duration::from_secs(2));
    let mut processes = family(backend.pid());
    processes.push(client.pid());
    assert!(
        processes.len() >= 3,
        "a daemon, a worker and a client: {processes:?}"
    );
    let before = used(&processes);
    std::thread::sleep(Duration::from_secs(3));
    let burnt = used(&processes).saturating_sub(before);
    // One thread that spins would burn three seconds; the clock's grain is ten milliseconds per process.
    assert!(
        burnt < Duration::from_millis(200),
        "{burnt:?} in three seconds"
    );
    // It wakes up again.
    assert_eq!(client.finish(), "done 1");
}

#[test]
fn a_daemon_without_clients_burns_no_processor_time() {
    let _turn = alone();
    let backend = backend();
    std::thread::sleep(Duration::from_secs(2));
    let processes = family(backend.pid());
    let before = used(&processes);
    std::thread::sleep(Duration::from_secs(3));
    let burnt = used(&processes).saturating_sub(before);
    assert!(
        burnt < Duration::from_millis(200),
        "{burnt:?} in three seconds"
    );
}
