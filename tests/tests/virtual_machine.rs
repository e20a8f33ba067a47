//! Programs in virtual machines, and everything around them dying: shim, agent, QEMU's device and daemon are the finished
//! ones, on the software device, in a guest under TCG. `cargo xtask guest` prepares all of it and runs this.
//!
//! No test looks at the time: processors are emulated, and machines that test are busy.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use vgpu_e2e::guest::Options;
use vgpu_e2e::machine::Machine;
use vgpu_e2e::process::is_alive;

const FUNCTIONS: &str = include_str!("../src/machine.sh");
/// How long the host may take to reap.
const REAPED: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options {
        memory: 1024,
        huge_pages: 224,
        limit: Duration::from_secs(300),
        ..Options::default()
    }
}

fn boot(options: Options) -> anyhow::Result<Machine> {
    let client = (
        PathBuf::from(env!("CARGO_BIN_EXE_e2e-client")),
        "/bin/e2e-client".to_owned(),
    );
    Machine::boot(FUNCTIONS, &[client], options)
}

/// That a client's line ends well.
fn verified(said: &str) -> anyhow::Result<()> {
    ensure!(
        said.contains("done ") && said.contains("status 0"),
        "{said}"
    );
    Ok(())
}

/// That a client's line ends with a CUDA error.
fn failed(said: &str) -> anyhow::Result<()> {
    ensure!(
        said.contains("error ") && said.contains("status 3"),
        "{said}"
    );
    Ok(())
}

/// Begins a client, and returns the processes on the host that it brought.
fn begin(machine: &mut Machine, name: &str, mode: &str) -> anyhow::Result<Vec<u32>> {
    let before = machine.host.workers();
    machine.ask(&format!("begin {name} {mode}"))?;
    let mut workers = machine.host.workers();
    workers.retain(|pid| !before.contains(pid));
    ensure!(!workers.is_empty(), "no worker for {name}");
    Ok(workers)
}

fn reaped(machine: &Machine, workers: &[u32]) -> anyhow::Result<()> {
    let deadline = Instant::now() + REAPED;
    while workers.iter().any(|pid| is_alive(*pid)) {
        ensure!(
            Instant::now() < deadline,
            "{workers:?} still live: {}",
            machine.host.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn works(machine: &mut Machine) -> anyhow::Result<()> {
    verified(&machine.ask("works")?)
}

#[test]
fn programs_run_without_privilege_module_or_device_file() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    begin(&mut machine, "a", "launch")?;
    begin(&mut machine, "b", "copy")?;
    let said = machine.ask("awk '/^Uid/ { print $2 }' /proc/$(cat /tmp/a.pid)/status")?;
    ensure!(said.trim() == "1000", "{said}");
    let holders = machine.ask("holders")?;
    ensure!(
        holders.lines().count() == 1
            && holders.starts_with("0 ")
            && holders.contains("agent-mapper"),
        "{holders}"
    );
    let modules = machine.ask("cat /proc/modules")?;
    ensure!(modules.is_empty(), "{modules}");
    verified(&machine.ask("finish a")?)?;
    verified(&machine.ask("finish b")?)
}

#[test]
fn the_doctor_finds_the_gpu_as_a_user_and_says_what_is_missing() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    let doctor = "su user -c 'LD_LIBRARY_PATH=/opt/vgpu vgpu doctor' 2>&1; true";
    let said = machine.ask(doctor)?;
    ensure!(
        said.starts_with("GPU found: vgpu software device"),
        "{said}"
    );
    for line in [
        "huge pages are free",
        "a third after both were killed by SIGKILL",
        "a kernel of 262,144 threads gave the right results",
    ] {
        ensure!(said.contains(line), "no '{line}' in {said}");
    }
    machine
        .ask("kill $(one '^vgpu agent'); while [ -S /run/vgpu/vgpu.sock ]; do sleep 0.1; done")?;
    let said = machine.ask(doctor)?;
    ensure!(
        said.starts_with("layer 1: no backend") && said.contains("`systemctl start vgpu-agent`"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_program_killed_in_the_guest_is_reaped_on_the_host() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    for mode in ["launch", "copy", "callback"] {
        let workers = begin(&mut machine, "a", mode)?;
        machine.ask("kill -9 $(cat /tmp/a.pid)")?;
        let said = machine.ask("ended a")?;
        ensure!(said.contains("status 137"), "{said}");
        reaped(&machine, &workers)?;
    }
    works(&mut machine)
}

#[test]
fn the_agent_and_its_processes_die_and_come_back() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    for (what, death) in [
        ("mapper", "kill -9 $(one agent-mapper)"),
        ("parser", "kill -9 $(one agent-parser)"),
        ("agent", "kill -9 $(one '^vgpu agent'); agent"),
    ] {
        let workers = begin(&mut machine, "a", "launch")?;
        machine.ask(death)?;
        let said = machine.ask("ended a")?;
        println!("{what}: {said}");
        failed(&said)?;
        works(&mut machine)?;
        reaped(&machine, &workers)?;
    }
    Ok(())
}

#[test]
fn the_daemon_dies_and_comes_back_at_the_same_socket() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    for _ in 0..2 {
        let workers = begin(&mut machine, "a", "copy")?;
        machine.host.kill()?;
        failed(&machine.ask("ended a")?)?;
        reaped(&machine, &workers)?;
        machine.host.start_again()?;
        works(&mut machine)?;
    }
    Ok(())
}

#[test]
fn programs_go_on_after_a_pause() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    begin(&mut machine, "a", "copy")?;
    begin(&mut machine, "b", "launch")?;
    for pause in [0, 100, 3000] {
        machine.guest.qmp().execute("stop")?;
        std::thread::sleep(Duration::from_millis(pause));
        machine.guest.qmp().execute("cont")?;
        machine.ask("sleep 1")?;
    }
    verified(&machine.ask("finish a")?)?;
    verified(&machine.ask("finish b")?)?;
    works(&mut machine)
}

#[test]
fn two_guests_with_a_daemon_each() -> anyhow::Result<()> {
    let mut machines = [boot(options())?, boot(options())?];
    for machine in &mut machines {
        begin(machine, "a", "copy")?;
    }
    for machine in &mut machines {
        verified(&machine.ask("finish a")?)?;
    }
    Ok(())
}

#[test]
fn a_reset_under_load_leaves_no_worker_behind() -> anyhow::Result<()> {
    let mut machine = boot(Options {
        reboot: true,
        ..options()
    })?;
    let mut workers = begin(&mut machine, "a", "copy")?;
    workers.extend(begin(&mut machine, "b", "launch")?);
    machine.guest.qmp().execute("system_reset")?;
    machine.begin()?;
    reaped(&machine, &workers)?;
    works(&mut machine)?;
    // No page of the new kernel is written to by anybody of the old one.
    machine.ask(PATTERN)?;
    works(&mut machine)?;
    machine.ask(CHECK).map(drop)
}

/// Fills memory, pages that were the pool's among it, and keeps the checksum. The pool is left with the pages that are in use
/// and no free one, unless these are too few for a program.
const PATTERN: &str = "echo 0 >/proc/sys/vm/nr_hugepages; used=$(awk '/HugePages_Total/ {print $2}' /proc/meminfo); \
    dd if=/dev/urandom of=/tmp/seed bs=1M count=8 2>/dev/null; \
    for i in $(seq 12); do cat /tmp/seed; done >/tmp/pattern; (cd /tmp; md5sum pattern >sum); \
    [ $used -ge 24 ] || used=24; echo $used >/proc/sys/vm/nr_hugepages";
const CHECK: &str = "cd /tmp; md5sum -c sum";

#[test]
fn no_page_is_written_to_after_it_was_given_back() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    begin(&mut machine, "a", "copy")?;
    begin(&mut machine, "b", "launch")?;
    // The mapper dies with two channels open, whose workers may write until the next one has reset the device.
    machine.ask("kill -9 $(one agent-mapper)")?;
    machine.ask(PATTERN)?;
    failed(&machine.ask("ended a")?)?;
    failed(&machine.ask("ended b")?)?;
    works(&mut machine)?;
    machine.ask(CHECK).map(drop)
}

#[test]
fn a_program_that_scribbles_harms_nobody() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    begin(&mut machine, "a", "copy")?;
    for _ in 0..4 {
        let workers = begin(&mut machine, "bad", "scribble")?;
        println!("{}", machine.ask("ended bad")?);
        reaped(&machine, &workers)?;
    }
    ensure!(machine.host.is_running()?, "{}", machine.host.log());
    verified(&machine.ask("finish a")?)?;
    works(&mut machine)
}
