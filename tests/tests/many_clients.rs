//! Many clients at once on few processors: all of them get on, and all their numbers are right.

mod support;

use std::time::Duration;

use support::{Client, alone, backend};

#[test]
fn a_dozen_clients_of_all_kinds_make_progress_together() {
    let _turn = alone();
    let backend = backend();
    let modes = ["launch", "copy", "allocate", "callback"];
    let clients: Vec<Client> = modes
        .iter()
        .cycle()
        .take(12)
        .map(|mode| Client::start(&backend, mode))
        .collect();
    for client in &clients {
        client.wait_until_ready();
    }
    std::thread::sleep(Duration::from_secs(3));
    for client in clients {
        let last = client.finish();
        let rounds = last
            .strip_prefix("done ")
            .and_then(|n| n.parse::<u64>().ok());
        assert!(
            rounds.is_some_and(|n| n >= 2),
            "a client ended with '{last}'"
        );
    }
}

#[test]
fn clients_that_come_and_go_are_all_served() {
    let _turn = alone();
    let backend = backend();
    for _ in 0..30 {
        let client = Client::start(&backend, "launch");
        client.wait_until_ready();
        let last = client.finish();
        assert!(last.starts_with("done "), "a client ended with '{last}'");
    }
}
