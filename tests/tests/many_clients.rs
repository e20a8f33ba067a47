//! Many clients at once on few processors: all of them get on, and all their numbers are right. Many one after the other: nothing
//! of them is left.
//!
//! `VGPU_E2E_PROCESSES` says how many come one after the other (150 where it is missing), `VGPU_E2E_DEVICE` the device.
//! `cargo xtask gpu` packs this test for a machine with a GPU.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Client, PATIENCE, alone, backend, client_command};
use vgpu_e2e::backend::{Backend, MARK};
use vgpu_e2e::process::{descriptors, family, marked, resident_kib, shared_memory, threads};

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

#[test]
fn eight_programs_at_once_finish_with_right_answers() {
    let _turn = alone();
    let backend = backend();
    let finish = |mut client: Client| {
        assert_eq!(client.end(PATIENCE), (Some(0), "done 40".to_owned()));
    };
    let start = Instant::now();
    for _ in 0..8 {
        finish(Client::start(&backend, "rounds"));
    }
    let in_turn = start.elapsed();
    let start = Instant::now();
    let clients: Vec<Client> = (0..8).map(|_| Client::start(&backend, "rounds")).collect();
    clients.into_iter().for_each(finish);
    println!(
        "eight programs: {in_turn:.2?} in turn, {:.2?} at once",
        start.elapsed()
    );
}

/// What a backend holds, and what lies about.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    processes: usize,
    threads: Option<u64>,
    /// How many descriptors there are of each kind: `socket`, `anon_inode`, a path.
    descriptors: BTreeMap<String, usize>,
    mapped_memory_files: usize,
    files: Vec<String>,
    shared_memory_files: Vec<String>,
}

impl Holdings {
    /// `scratch` is where the programs are told to leave their temporary files.
    fn of(backend: &Backend, scratch: &Path) -> Self {
        // Workers have an environment of their own, so they are found as the daemon's children.
        let mut processes: BTreeSet<u32> = family(backend.pid()).into_iter().collect();
        processes.extend(marked(MARK, backend.mark()));
        let mut kinds = BTreeMap::new();
        for target in descriptors(backend.pid()) {
            let target = target.display().to_string();
            let kind = target.split(":[").next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
        let names = |folder: &Path| -> Vec<String> {
            let mut names: Vec<String> = std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                .collect();
            names.sort();
            names
        };
        let mut files = names(backend.folder());
        files.extend(names(scratch));
        Self {
            processes: processes.len(),
            threads: threads(backend.pid()),
            descriptors: kinds,
            mapped_memory_files: shared_memory(backend.pid()).len(),
            files,
            shared_memory_files: names(Path::new("/dev/shm"))
                .into_iter()
                .filter(|name| name.contains("vgpu"))
                .collect(),
        }
    }
}

/// One short program: it initialises CUDA, loads a kernel, computes, checks and ends.
fn short(backend: &Backend, scratch: &Path) {
    let mut command = client_command("once");
    backend.attach(&mut command, &[]);
    command
        .stdin(Stdio::null())
        .current_dir(scratch)
        .envs(["TMPDIR", "HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"].map(|name| (name, scratch)));
    let ending = Client::spawn(&mut command).end(PATIENCE);
    assert_eq!(ending, (Some(0), "done 1".to_owned()));
}

#[test]
fn short_programs_one_after_the_other_leave_nothing() {
    let _turn = alone();
    let setting = std::env::var("VGPU_E2E_PROCESSES").ok();
    let count: u32 = setting.map_or(150, |text| text.parse().expect("a number of processes"));
    let backend = backend();
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let daemon = backend.pid();
    // The first ones fill what is kept for good.
    for _ in 0..count.min(20) {
        short(&backend, scratch.path());
    }
    std::thread::sleep(Duration::from_secs(1));
    let before = Holdings::of(&backend, scratch.path());
    let resident = resident_kib(daemon).expect("the daemon lives");
    assert_eq!(before.processes, 1, "nobody but the daemon: {before:?}");
    let start = Instant::now();
    for _ in 0..count {
        short(&backend, scratch.path());
    }
    let took = start.elapsed();
    let mut now = Holdings::of(&backend, scratch.path());
    let deadline = Instant::now() + Duration::from_secs(15);
    while now != before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        now = Holdings::of(&backend, scratch.path());
    }
    assert_eq!(now, before, "left of {count} programs, and before them");
    let grown = resident_kib(daemon)
        .expect("the daemon lives")
        .saturating_sub(resident);
    println!(
        "{count} short programs in {took:.1?}; the daemon held {resident} KiB and {grown} KiB more at the end; {now:?}"
    );
    // A page for every program is a leak; the allocator may hold half a MiB more or less.
    assert!(
        grown <= 512 + u64::from(count) / 4,
        "the daemon grew by {grown} KiB over {count} programs"
    );
}
