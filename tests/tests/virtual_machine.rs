//! Programs in virtual machines, and everything around them dying: shim, agent, QEMU's device and daemon are the finished
//! ones, on the software device, in a guest under TCG. `cargo xtask guest` prepares all of it and runs this.
//!
//! No test looks at the time: processors are emulated, and machines that test are busy.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use vgpu_e2e::guest::Options;
use vgpu_e2e::machine::Machine;
use vgpu_e2e::parts::Parts;
use vgpu_e2e::process::is_alive;
use vgpu_e2e::qemu::Qemu;

const FUNCTIONS: &str = include_str!("../src/machine.sh");
/// The environment variable that names the folder with the guest's test programs, on a machine where they were not built.
const PROGRAMS: &str = "VGPU_E2E_PROGRAMS";
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
    let programs = [
        env!("CARGO_BIN_EXE_e2e-client"),
        env!("CARGO_BIN_EXE_vgpu-witness"),
    ];
    let mut files = Vec::new();
    for built in programs.map(PathBuf::from) {
        let name = built.file_name().context("a file")?.to_owned();
        let inside = format!("/bin/{}", name.display());
        let path = match std::env::var_os(PROGRAMS) {
            Some(folder) => PathBuf::from(folder).join(name),
            None => built,
        };
        files.push((path, inside));
    }
    Machine::boot(FUNCTIONS, &files, options)
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

/// The monitor is asked for nothing but virtio and vhost-user: the device that QEMU has itself does as well as ours.
#[test]
fn programs_run_over_qemus_generic_device() -> anyhow::Result<()> {
    if !Qemu::from_environment()?.has_generic_device()? {
        println!("not checked: this QEMU is older than 10.2");
        return Ok(());
    }
    let options = Options {
        generic: true,
        reboot: true,
        ..options()
    };
    let mut machine = boot(options)?;
    let workers = begin(&mut machine, "a", "launch")?;
    begin(&mut machine, "b", "copy")?;
    verified(&machine.ask("finish b")?)?;
    machine.tell("reboot -f")?;
    machine.begin()?;
    works(&mut machine)?;
    reaped(&machine, &workers)
}

/// After `vgpu install`, what an init or a service manager starts finds the GPU: another user, and no variable at all.
#[test]
fn after_install_a_service_without_any_variable_finds_the_gpu() -> anyhow::Result<()> {
    let parts = Parts::locate()?;
    let file = |path: PathBuf, name: &str| (path, name.to_owned());
    let files = [
        file(
            PathBuf::from(env!("CARGO_BIN_EXE_e2e-client")),
            "/bin/e2e-client",
        ),
        file(parts.vgpu, "/opt/dist/bin/vgpu"),
        file(
            parts.library_folder.join("libcuda.so.1"),
            "/opt/dist/lib/libcuda.so.1",
        ),
        file(PathBuf::from("/sbin/ldconfig"), "/sbin/ldconfig"),
    ];
    let mut machine = Machine::boot(FUNCTIONS, &files, options())?;
    let init = "env -i /bin/su user -c 'exec /bin/env -i /bin/e2e-client init' 2>&1 || true";
    let said = machine.ask(init)?;
    ensure!(
        said.contains("dlopen failed"),
        "there is none before: {said}"
    );
    let said = machine.ask("/opt/dist/bin/vgpu install")?;
    // The device is seen, so the agent is wanted, and this guest has no systemd.
    ensure!(said.contains("/usr/local/bin/vgpu agent"), "{said}");
    ensure!(
        machine.ask(init)?.trim() == "init 0",
        "{}",
        machine.host.log()
    );
    machine.ask("/usr/local/bin/vgpu uninstall")?;
    let said = machine.ask(init)?;
    ensure!(said.contains("dlopen failed"), "it is gone: {said}");
    machine
        .ask("! ls -d /usr /var | grep . && ! ls /etc | grep ld.so")
        .map(drop)
}

/// `vgpu top` on the host shows the channel of a guest's program; in the guest it says where the figures are.
#[test]
fn the_host_sees_a_guests_programs_and_the_guest_sees_nothing() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    begin(&mut machine, "a", "idle")?;
    let output = Command::new(Parts::locate()?.vgpu)
        .args(["top", "--json"])
        .output()?;
    let documents: Value = serde_json::from_slice(&output.stdout)?;
    let worker = machine.host.workers();
    let mut clients = documents
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|document| document["clients"].as_array().into_iter().flatten());
    let ours = clients.find(|client| {
        let pid = client["worker"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok());
        pid.is_some_and(|pid| worker.contains(&pid))
    });
    ensure!(
        ours.is_some_and(|client| client["channel"].is_u64()
            && client["program"].is_null()
            && client["launches"] == 40),
        "{documents}"
    );
    let said = machine.ask("vgpu top --once 2>&1 || true")?;
    ensure!(
        said.contains("on the host of this virtual machine"),
        "{said}"
    );
    verified(&machine.ask("finish a")?)
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

/// Pages of the pool that the witness fills after a guest began anew: all but what the agent and a program need.
const HELD: u32 = 180;

/// Three programs work while `begin_anew` has the guest begin anew, without a word to the agent. No page that the host could
/// write to before it is written to after it, before there is an agent and beside the next one's program.
fn begins_anew(
    machine: &mut Machine,
    begin_anew: impl FnOnce(&mut Machine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // The pool of the next kernel lies elsewhere by some pages: those of the programs shall not lie at its edge.
    machine.ask("hold first 48")?;
    let mut workers = begin(machine, "a", "copy")?;
    workers.extend(begin(machine, "b", "launch")?);
    // The device has work left for longer than the next boot takes.
    workers.extend(begin(machine, "c", "backlog")?);
    let shared = frames(&machine.ask("shared a b c")?);
    begin_anew(machine)?;
    machine.wait_until_up()?;
    // Nobody has reset the device since but whoever began anew.
    reaped(machine, &workers)?;
    ensure!(machine.host.workers().is_empty(), "{}", machine.host.log());
    let held = frames(&machine.ask(&format!("hold pages {HELD}"))?);
    ensure!(
        !shared.is_empty() && shared.is_subset(&held),
        "the pages of before are others than those that are watched: {shared:?}, {held:?}"
    );
    machine.ask("agent")?;
    works(machine)?;
    let said = machine.ask("finish pages")?;
    ensure!(said.contains(&format!("kept {HELD}")), "{said}");
    works(machine)
}

/// The page frames in a line of the witness.
fn frames(line: &str) -> BTreeSet<String> {
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

#[test]
fn a_reset_under_load_leaves_no_worker_behind() -> anyhow::Result<()> {
    let mut machine = boot(Options {
        reboot: true,
        ..options()
    })?;
    begins_anew(&mut machine, |machine| {
        machine.guest.qmp().execute("system_reset").map(drop)
    })
}

#[test]
fn a_guest_that_reboots_by_itself_leaves_no_worker_behind() -> anyhow::Result<()> {
    let mut machine = boot(Options {
        reboot: true,
        ..options()
    })?;
    begins_anew(&mut machine, |machine| machine.tell("reboot -f"))?;
    // At once, without shutting any device down.
    begins_anew(&mut machine, |machine| {
        machine.tell("echo b >/proc/sysrq-trigger")
    })
}

/// The next kernel finds memory and device as the last one left them: only the bus-master bit was taken away.
#[test]
fn a_kernel_started_by_kexec_finds_no_page_written_to() -> anyhow::Result<()> {
    let mut machine = boot(Options {
        kexec: true,
        ..options()
    })?;
    begins_anew(&mut machine, |machine| {
        machine.tell("vgpu-witness kexec /boot/kernel /boot/initramfs")
    })
}

#[test]
fn a_device_taken_from_the_bus_ends_its_channels() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    let mut workers = begin(&mut machine, "a", "copy")?;
    workers.extend(begin(&mut machine, "b", "launch")?);
    // The agent cannot help: its processes stand still.
    machine.ask("for name in '^vgpu agent ' agent-mapper agent-parser; do kill -STOP $(one \"$name\"); done")?;
    machine.ask("master 2")?;
    reaped(&machine, &workers)?;
    machine.ask("for name in '^vgpu agent ' agent-mapper agent-parser; do kill -CONT $(one \"$name\"); done")?;
    failed(&machine.ask("ended a")?)?;
    failed(&machine.ask("ended b")?)?;
    works(&mut machine)
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

/// That `vgpu agent`, started by `how`, ends with status 1 and a sentence that names the fault and what mends it.
fn refuses(machine: &mut Machine, how: &str, sentence: [&str; 2]) -> anyhow::Result<()> {
    let said = machine.ask(&format!("{how} 2>&1; [ $? -eq 1 ]"))?;
    println!("{said}");
    let said_all = |line: &str| sentence.iter().all(|part| line.contains(part));
    ensure!(said.lines().any(said_all), "{sentence:?}: {said}");
    Ok(())
}

#[test]
fn an_agent_says_what_the_guest_lacks_and_what_mends_it() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    let agent = "vgpu agent --socket /tmp/other.sock";
    let busy = ["driven by another agent already", "systemctl status"];
    refuses(&mut machine, agent, busy)?;
    machine
        .ask("one=$(one '^vgpu agent '); kill $one; while [ -d /proc/$one ]; do sleep 0.1; done")?;
    let user = format!("su user -c '{agent}'");
    refuses(&mut machine, &user, ["must be root", "sudo"])?;
    machine.ask("echo 0 >/proc/sys/vm/nr_hugepages")?;
    let pool = ["not enough free", "sysctl vm.nr_hugepages="];
    refuses(&mut machine, agent, pool)?;
    machine.ask("echo 64 >/proc/sys/vm/nr_hugepages")?;
    machine.ask("mount -t securityfs none /sys/kernel/security; echo integrity >/sys/kernel/security/lockdown")?;
    let locked = ["locked down", "<iommu model='intel'/>"];
    refuses(&mut machine, agent, locked)?;
    let vfio = format!("{agent} --access vfio");
    refuses(&mut machine, &vfio, ["VFIO is not", "modprobe vfio-pci"])?;
    machine.ask("echo 1 >$(dirname $(grep -l 0x10f0 /sys/bus/pci/devices/*/device))/remove")?;
    let none = ["no vgpu device", "-device vhost-user-vgpu-pci"];
    refuses(&mut machine, agent, none)
}

#[test]
fn the_mapper_dies_while_the_pool_is_smaller_than_what_is_in_use() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    let workers = begin(&mut machine, "a", "copy")?;
    machine.ask("echo 0 >/proc/sys/vm/nr_hugepages")?;
    machine.ask("kill -9 $(one agent-mapper)")?;
    failed(&machine.ask("ended a")?)?;
    reaped(&machine, &workers)?;
    // All pages but that of the queues leave with the dead channel: the next mapper had no other one to begin with.
    let said = machine.ask("total_pages 1")?;
    println!("{said}");
    machine.ask("echo 64 >/proc/sys/vm/nr_hugepages")?;
    works(&mut machine)
}

#[test]
fn a_program_that_scribbles_for_a_minute_harms_nobody() -> anyhow::Result<()> {
    let mut machine = boot(options())?;
    for mode in ["copy", "launch", "callback"] {
        begin(&mut machine, mode, mode)?;
    }
    let mut workers = begin(&mut machine, "bad", "scribble 60")?;
    // Its own channel may not live for long, so others begin anew beside it.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        workers.extend(begin(&mut machine, "worse", "scribble 5")?);
        println!("{}", machine.ask("ended worse")?);
    }
    let said = machine.ask("ended bad")?;
    println!("{said}");
    ensure!(said.contains("scribbled "), "{said}");
    reaped(&machine, &workers)?;
    ensure!(machine.host.is_running()?, "{}", machine.host.log());
    for mode in ["copy", "launch", "callback"] {
        verified(&machine.ask(&format!("finish {mode}"))?)?;
    }
    works(&mut machine)
}
