//! `kill -9` at random moments, of the program, of its worker, of the daemon: survivors end or get a CUDA error soon,
//! nothing is left behind, and another client notices nothing.
//!
//! `VGPU_E2E_KILLS` sets the number of kills of each kind (default 8), `VGPU_E2E_SEED` the moments, `VGPU_E2E_DEVICE` the
//! device. `cargo xtask gpu` packs this test for a machine with a GPU.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Client, alone, backend, device, eventually};
use vgpu_e2e::backend::Backend;
use vgpu_e2e::process::{descriptors, family, is_alive, shared_memory};

/// Nobody may be left, and no descriptor, after this long.
const CLEAN_WITHIN: Duration = Duration::from_secs(15);

/// A survivor is told within two seconds; eight more are for a machine that does ten other things.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

const MODES: [&str; 4] = ["launch", "copy", "allocate", "callback"];

fn kills() -> u32 {
    let setting = std::env::var("VGPU_E2E_KILLS").ok();
    setting.and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// The moments: a small generator, its seed shown so that a failure can be repeated.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let setting = std::env::var("VGPU_E2E_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = setting.unwrap_or_else(|| u64::from(std::process::id()) | 1 << 40);
        println!("VGPU_E2E_SEED={seed}");
        Self(seed)
    }

    /// A pause of at most 60 ms.
    fn pause(&mut self) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % 60_000)
    }
}

/// How long the slowest step of a test took. It is printed and not checked: the limits are, and they are wide.
struct Slowest {
    what: &'static str,
    time: Duration,
}

impl Slowest {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            time: Duration::ZERO,
        }
    }

    fn of<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = step();
        self.time = self.time.max(start.elapsed());
        result
    }
}

impl Drop for Slowest {
    fn drop(&mut self) {
        println!("slowest of {}: {:?}", self.what, self.time);
    }
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    kill_process(pid, Signal::KILL).expect("it lives, and is ours");
}

/// The members of the daemon's family that share memory with the client: its worker.
fn workers_of(backend: &Backend, client: u32) -> Vec<u32> {
    let shared = shared_memory(client);
    let mut family = family(backend.pid());
    family.retain(|pid| *pid != backend.pid() && !shared.is_disjoint(&shared_memory(*pid)));
    family
}

/// What must be gone after a death: the processes seen, and every mapping of the victim's shared memory.
struct Remains {
    processes: Vec<u32>,
    memory: BTreeSet<u64>,
    descriptors: usize,
}

impl Remains {
    fn of(backend: &Backend, client: u32, descriptors_before: usize) -> Self {
        let mut processes = workers_of(backend, client);
        processes.push(client);
        Self {
            processes,
            memory: shared_memory(client),
            descriptors: descriptors_before,
        }
    }

    fn vanish(&self, backend: &Backend) {
        eventually(
            CLEAN_WITHIN,
            "a process of the dead client's lives on",
            || self.processes.iter().all(|pid| !is_alive(*pid)),
        );
        eventually(
            CLEAN_WITHIN,
            "the dead client's memory is still mapped",
            || {
                family(backend.pid())
                    .iter()
                    .all(|pid| self.memory.is_disjoint(&shared_memory(*pid)))
            },
        );
        eventually(
            CLEAN_WITHIN,
            "the daemon keeps descriptors of the dead client",
            || descriptors(backend.pid()).len() <= self.descriptors,
        );
    }
}

/// A first client has come and gone, so that whatever the daemon keeps for good (a warm worker) is there already.
fn settled_descriptors(backend: &Backend) -> usize {
    let first = Client::start(backend, "launch");
    first.wait_until_ready();
    assert!(first.finish().starts_with("done "));
    let mut last = (usize::MAX, Instant::now());
    eventually(
        CLEAN_WITHIN,
        "the daemon's descriptors do not settle",
        || {
            let now = descriptors(backend.pid()).len();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(500)
        },
    );
    last.0
}

fn assert_undisturbed(mut bystander: Client) {
    assert!(
        bystander.is_running(),
        "the bystander has ended: {:?}",
        bystander.line(Duration::from_secs(1))
    );
    let last = bystander.finish();
    let rounds = last
        .strip_prefix("done ")
        .and_then(|n| n.parse::<u64>().ok());
    assert!(
        rounds.is_some_and(|n| n > 1),
        "the bystander ended with '{last}'"
    );
}

#[test]
fn a_killed_program_leaves_nothing_and_disturbs_nobody() {
    let _turn = alone();
    let backend = backend();
    let mut moments = Moments::new();
    // The bystander's own worker and descriptors are part of the state that must be reached again.
    let bystander = Client::start(&backend, "launch");
    bystander.wait_until_ready();
    let before = settled_descriptors(&backend);
    let mut cleaning = Slowest::new("cleaning up after a killed program");
    for round in 0..kills() {
        let mut victim = Client::start(&backend, MODES[round as usize % MODES.len()]);
        victim.wait_until_ready();
        std::thread::sleep(moments.pause());
        let remains = Remains::of(&backend, victim.pid(), before);
        assert!(
            !remains.memory.is_empty(),
            "a client shares memory with its worker"
        );
        victim.kill();
        cleaning.of(|| remains.vanish(&backend));
    }
    assert_undisturbed(bystander);
}

#[test]
fn a_program_killed_while_it_connects_leaves_nothing() {
    let _turn = alone();
    let backend = backend();
    let mut moments = Moments::new();
    let before = settled_descriptors(&backend);
    for _ in 0..kills() {
        let mut victim = Client::start(&backend, "launch");
        std::thread::sleep(moments.pause());
        let remains = Remains::of(&backend, victim.pid(), before);
        victim.kill();
        remains.vanish(&backend);
    }
    let after = Client::start(&backend, "launch");
    after.wait_until_ready();
    assert!(after.finish().starts_with("done "));
}

#[test]
fn a_program_whose_worker_is_killed_gets_an_error() {
    let _turn = alone();
    let backend = backend();
    let mut moments = Moments::new();
    let bystander = Client::start(&backend, "copy");
    bystander.wait_until_ready();
    let before = settled_descriptors(&backend);
    let mut telling = Slowest::new("telling a program that its worker was killed");
    let mut cleaning = Slowest::new("cleaning up after a killed worker");
    for round in 0..kills() {
        let mut survivor = Client::start(&backend, MODES[round as usize % MODES.len()]);
        survivor.wait_until_ready();
        let workers = workers_of(&backend, survivor.pid());
        assert_eq!(workers.len(), 1, "one worker serves a client");
        std::thread::sleep(moments.pause());
        let remains = Remains::of(&backend, survivor.pid(), before);
        kill(workers[0]);
        let (code, last) = telling.of(|| survivor.end(TOLD_WITHIN));
        assert_eq!(code, Some(3), "the survivor ended with '{last}'");
        assert!(last.starts_with("error "), "the survivor said '{last}'");
        cleaning.of(|| remains.vanish(&backend));
    }
    assert_undisturbed(bystander);
}

#[test]
fn a_program_whose_daemon_is_killed_ends_or_gets_an_error_and_a_new_daemon_serves() {
    let _turn = alone();
    let mut backend = backend();
    let mut moments = Moments::new();
    let mut telling = Slowest::new("telling a program that its daemon was killed");
    for round in 0..kills() {
        let mut survivor = Client::start(&backend, MODES[round as usize % MODES.len()]);
        survivor.wait_until_ready();
        std::thread::sleep(moments.pause());
        let orphans: Vec<u32> = family(backend.pid());
        kill(backend.pid());
        let (code, last) = telling.of(|| survivor.end(TOLD_WITHIN));
        assert_eq!(code, Some(3), "the survivor ended with '{last}'");
        // The daemon itself stays a zombie until it is reaped, which counts as gone.
        eventually(CLEAN_WITHIN, "a worker outlives its daemon", || {
            orphans.iter().all(|pid| !is_alive(*pid))
        });
        backend
            .restart(&device())
            .unwrap_or_else(|error| panic!("{error:#}"));
        let next = Client::start(&backend, "launch");
        next.wait_until_ready();
        assert!(next.finish().starts_with("done "));
    }
}

#[test]
fn a_daemon_told_to_end_ends_cleanly_with_clients_connected() {
    let _turn = alone();
    let mut backend = backend();
    let mut client = Client::start(&backend, "launch");
    client.wait_until_ready();
    let all = family(backend.pid());
    let status = backend.terminate().expect("the wait works");
    assert!(
        status.is_some_and(|status| status.success()),
        "the daemon ended with {status:?}"
    );
    let (code, last) = client.end(TOLD_WITHIN);
    assert_eq!(code, Some(3), "the client ended with '{last}'");
    eventually(CLEAN_WITHIN, "a worker outlives its daemon", || {
        all.iter().all(|pid| !is_alive(*pid))
    });
    assert!(!backend.socket().exists(), "the socket's file is left");
}
