//! A guest whose init is systemd: our units in it are real services, in their sandboxes, and so are the programs.
//! `cargo xtask guest` prepares everything and runs this.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use vgpu_e2e::guest::Options;
use vgpu_e2e::machine::Machine;
use vgpu_e2e::parts::Parts;

const FUNCTIONS: &str = concat!(
    include_str!("../src/machine.sh"),
    include_str!("../src/systemd.sh")
);
/// Where the distribution lies in the guest.
const INSTALL: &str = "/opt/dist/bin/vgpu install";
/// The first of the user ids that systemd gives to services while they run.
const DYNAMIC: u32 = 61184;

fn boot() -> anyhow::Result<Machine> {
    let parts = Parts::locate()?;
    let library = |name: &str| {
        let there = format!("/opt/dist/lib/{name}");
        (parts.library_folder.join(name), there)
    };
    let files = [
        (
            PathBuf::from(env!("CARGO_BIN_EXE_e2e-client")),
            "/usr/bin/e2e-client".to_owned(),
        ),
        (parts.vgpu.clone(), "/opt/dist/bin/vgpu".to_owned()),
        (
            parts.daemon.clone(),
            "/opt/dist/bin/vhost-user-vgpu".to_owned(),
        ),
        library("libcuda.so.1"),
        library("libnvidia-ml.so.1"),
    ];
    let options = Options {
        memory: 1024,
        reboot: true,
        limit: Duration::from_secs(900),
        ..Options::default()
    };
    let mut machine = Machine::boot_systemd(FUNCTIONS, &files, options)?;
    // One that ends after a round, without any variable; and one that goes on.
    machine.ask(
        "service bare Type=oneshot 'ExecStart=/usr/bin/env -i /usr/bin/e2e-client launch' StandardInput=null; \
         service client Type=oneshot 'ExecStart=/usr/bin/e2e-client launch' StandardInput=null; \
         service program 'ExecStart=/usr/bin/e2e-client launch' StandardInput=file:/run/hold",
    )?;
    Ok(machine)
}

fn property(machine: &mut Machine, unit: &str, name: &str) -> anyhow::Result<String> {
    let said = machine.ask(&format!("systemctl show -P {name} {unit}"))?;
    Ok(said.trim().to_owned())
}

/// That systemd knows each directive of a unit and complains of none.
fn is_understood(machine: &mut Machine, unit: &str) -> anyhow::Result<()> {
    let said = machine.ask(&format!("systemd-analyze verify {unit} 2>&1"))?;
    ensure!(said.is_empty(), "{said}");
    let said = machine.ask("journalctl -o cat _PID=1 _UID=0")?;
    for complaint in [
        "Unknown key",
        "Unknown section",
        "ignoring",
        "not supported",
        "Failed to set up",
    ] {
        let found = said
            .lines()
            .find(|line| line.contains(complaint) && line.contains(unit));
        ensure!(found.is_none(), "{found:?}");
    }
    Ok(())
}

/// That the service manager holds these values, whatever the unit's file says.
fn has(machine: &mut Machine, unit: &str, wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    for (name, value) in wanted {
        let found = property(machine, unit, name)?;
        ensure!(found == *value, "{unit}: {name}={found}, not {value}");
    }
    Ok(())
}

/// A line of a process's `status`, in decimal or as it stands.
fn status(machine: &mut Machine, pid: &str, key: &str) -> anyhow::Result<String> {
    let said = machine.ask(&format!(
        "awk '/^{key}:/ {{ print $2 }}' /proc/{pid}/status"
    ))?;
    Ok(said.trim().to_owned())
}

/// That a process gains no rights and can write to `writable` alone.
fn is_shut_in(machine: &mut Machine, pid: &str, writable: &str) -> anyhow::Result<()> {
    let found = status(machine, pid, "NoNewPrivs")?;
    ensure!(found == "1", "NoNewPrivs {found}");
    machine.ask(&format!("shut_in {pid} {writable}")).map(drop)
}

/// That the program of `begun program` ended with a CUDA error, and that the next one works.
fn fails_and_the_next_works(machine: &mut Machine, what: &str) -> anyhow::Result<()> {
    let said = machine.ask("over program")?;
    ensure!(
        said.contains("error ") && said.contains("status 3"),
        "{what}: {said}"
    );
    machine.ask("served bare").map(drop)
}

#[test]
fn the_agent_is_a_service_in_its_sandbox_and_comes_back_from_every_death() -> anyhow::Result<()> {
    let unit = "vgpu-agent.service";
    let mut machine = boot()?;
    let said = machine.ask(INSTALL)?;
    ensure!(said.contains("started vgpu-agent.service"), "{said}");
    machine.ask(&format!("active {unit}"))?;
    is_understood(&mut machine, unit)?;
    has(
        &mut machine,
        unit,
        &[
            ("Type", "notify"),
            ("NotifyAccess", "main"),
            ("FileDescriptorStoreMax", "4096"),
            ("Restart", "on-failure"),
            ("RestartUSec", "2s"),
            ("StartLimitIntervalUSec", "0"),
            ("KillMode", "mixed"),
            ("TimeoutStopUSec", "30s"),
            ("RuntimeDirectory", "vgpu"),
            ("LimitMEMLOCK", "infinity"),
            ("LimitNOFILE", "65536"),
            (
                "CapabilityBoundingSet",
                "cap_chown cap_dac_override cap_fowner cap_kill cap_setgid cap_setuid cap_setpcap cap_ipc_lock \
                 cap_sys_rawio cap_sys_admin cap_sys_resource",
            ),
            ("NoNewPrivileges", "yes"),
            ("ProtectHome", "yes"),
            ("ProtectSystem", "strict"),
            ("PrivateTmp", "yes"),
            ("RestrictAddressFamilies", "AF_UNIX"),
            ("RestrictNamespaces", "yes"),
            ("LockPersonality", "yes"),
            ("MemoryDenyWriteExecute", "yes"),
            ("OOMScoreAdjust", "-900"),
        ],
    )?;
    let keeper = property(&mut machine, unit, "MainPID")?;
    is_shut_in(&mut machine, &keeper, "/run/vgpu")?;
    for (process, capabilities, user) in [
        ("'^.*vgpu agent '", "00000000012241eb", "0"),
        ("agent-mapper", "00000000012241eb", "0"),
        ("agent-parser", "0000000000000000", "65534"),
    ] {
        let pid = machine.ask(&format!("one {process}"))?.trim().to_owned();
        for (key, value) in [
            ("CapEff", capabilities),
            ("Uid", user),
            // Filters of address families, namespaces, personality and memory.
            ("Seccomp", "2"),
        ] {
            let found = status(&mut machine, &pid, key)?;
            ensure!(found == value, "{process}: {key} {found}, not {value}");
        }
    }

    machine.ask("served bare")?;
    for (what, death) in [
        ("mapper", "kill -9 $(one agent-mapper)"),
        ("parser", "kill -9 $(one agent-parser)"),
        (
            "keeper",
            "kill -9 $(systemctl show -P MainPID vgpu-agent.service)",
        ),
        ("restart", "systemctl restart vgpu-agent.service"),
    ] {
        machine.ask("begun program")?;
        machine.ask(death)?;
        fails_and_the_next_works(&mut machine, what)?;
    }
    has(
        &mut machine,
        unit,
        &[("NRestarts", "0"), ("Result", "success")],
    )?;
    machine.ask("begun program")?;
    machine.ask(&format!("systemctl stop {unit}"))?;
    has(
        &mut machine,
        unit,
        &[("ActiveState", "inactive"), ("Result", "success")],
    )?;
    let said = machine.ask("over program; systemctl start client 2>/dev/null; said client")?;
    ensure!(
        said.contains("status 3") && said.contains("error 100 "),
        "{said}"
    );
    machine.ask(&format!("systemctl start {unit}; served bare"))?;
    is_understood(&mut machine, unit)
}

#[test]
fn after_install_services_find_the_gpu_after_a_reboot_too_and_uninstall_undoes_it()
-> anyhow::Result<()> {
    let mut machine = boot()?;
    machine.ask("ldconfig; tree >/root/before")?;
    let said = machine.ask("! systemctl start bare 2>/dev/null && said bare")?;
    ensure!(
        said.contains("dlopen failed"),
        "there is none before: {said}"
    );
    machine.ask(INSTALL)?;
    let said = machine.ask("served bare; journalctl -o cat -u bare")?;
    ensure!(
        said.contains("ready\n") && said.contains("\ndone "),
        "{said}"
    );
    let said = machine.ask("journalctl -o cat -u vgpu-agent | grep -o 'open for user [0-9]*'")?;
    let user: u32 = said
        .split_whitespace()
        .next_back()
        .context("a user")?
        .parse()?;
    ensure!(user >= DYNAMIC, "{said}");
    let said = machine.ask("/usr/local/bin/vgpu doctor --unit client.service 2>&1; true")?;
    ensure!(
        said.starts_with("GPU found: ") && said.contains("by what its unit says"),
        "{said}"
    );
    machine.ask("begun program")?;
    let said = machine.ask("/usr/local/bin/vgpu doctor --unit program.service 2>&1; true")?;
    ensure!(
        said.starts_with("GPU found: ") && said.contains("running as process"),
        "{said}"
    );

    machine.tell("systemctl reboot")?;
    machine.wait_until_up()?;
    machine.ask("active vgpu-agent.service; served bare")?;
    let said = machine.ask("awk '/HugePages_Total/ { print $2 }' /proc/meminfo")?;
    ensure!(said.trim() == "128", "{said}");

    let said = machine.ask("/usr/local/bin/vgpu uninstall")?;
    ensure!(!said.contains("left "), "{said}");
    machine.ask("tree >/root/after; diff /root/before /root/after")?;
    has(
        &mut machine,
        "vgpu-agent.service",
        &[("LoadState", "not-found"), ("ActiveState", "inactive")],
    )?;
    let said = machine.ask("! one vgpu && ! systemctl start bare 2>/dev/null && said bare")?;
    ensure!(said.contains("dlopen failed"), "it is gone: {said}");
    machine.tell("systemctl reboot")?;
    machine.wait_until_up()?;
    let said = machine.ask("awk '/HugePages_Total/ { print $2 }' /proc/meminfo")?;
    ensure!(said.trim() == "0", "{said}");
    Ok(())
}

/// The host's side, in a guest that plays the host: its daemon on the software device.
#[test]
fn the_daemons_units_serve_from_their_sandboxes() -> anyhow::Result<()> {
    let unit = "vhost-user-vgpu.service";
    let mut machine = boot()?;
    machine.ask("tree >/root/before")?;
    machine.ask(&format!("{INSTALL} --daemon --no-agent"))?;
    machine.ask(&format!("active {unit}; served bare"))?;
    is_understood(&mut machine, unit)?;
    let daemon = property(&mut machine, unit, "MainPID")?;
    is_shut_in(&mut machine, &daemon, "/run/vgpu")?;
    machine.ask("begun program")?;
    machine.ask(&format!("kill -9 {daemon}"))?;
    fails_and_the_next_works(&mut machine, "daemon")?;
    machine.ask("begun program")?;
    machine.ask(&format!("systemctl stop {unit}"))?;
    let said = machine.ask("over program")?;
    ensure!(said.contains("status 3"), "{said}");
    machine.ask(&format!("systemctl start {unit}; served bare"))?;

    // One for each virtual machine.
    let mut users = Vec::new();
    for name in ["one", "two"] {
        let unit = format!("vhost-user-vgpu@{name}.service");
        machine.ask(&format!("systemctl enable --now {unit}; active {unit}"))?;
        is_understood(&mut machine, &unit)?;
        let folder = format!("/run/vgpu-machines/{name}");
        let said = machine.ask(&format!(
            "for i in $(seq 100); do [ -S {folder}/vgpu.sock ] && break; sleep 0.1; done; stat -L -c '%a %G' {folder} {folder}/vgpu.sock"
        ))?;
        ensure!(
            said.lines().collect::<Vec<_>>() == ["750 kvm", "770 kvm"],
            "{said}"
        );
        let pid = property(&mut machine, &unit, "MainPID")?;
        is_shut_in(&mut machine, &pid, &folder)?;
        for (key, value) in [("CapEff", "0000000000000000"), ("Seccomp", "2")] {
            let found = status(&mut machine, &pid, key)?;
            ensure!(found == value, "{key} {found}");
        }
        users.push(status(&mut machine, &pid, "Uid")?.parse::<u32>()?);
        let said = machine.ask(&format!(
            "cd /sys/fs/cgroup$(systemctl show -P ControlGroup {unit}) && cat pids.max memory.max"
        ))?;
        let (tasks, memory) = said.trim().split_once('\n').context("two numbers")?;
        ensure!(tasks == "4096", "{said}");
        // Half of the machine's.
        let memory = memory.parse::<u64>()? >> 20;
        ensure!((400..512).contains(&memory), "{memory} MiB");
    }
    ensure!(
        users.iter().all(|user| *user >= DYNAMIC) && users[0] != users[1],
        "{users:?}"
    );
    let unit = "vhost-user-vgpu@one.service";
    machine.ask(&format!(
        "kill -9 $(systemctl show -P MainPID {unit}); sleep 1; active {unit}; [ $(systemctl show -P NRestarts {unit}) = 1 ]"
    ))?;
    let said = machine.ask("/usr/local/bin/vgpu uninstall")?;
    ensure!(!said.contains("left "), "{said}");
    machine
        .ask("tree >/root/after; diff /root/before /root/after && ! one vhost-user-vgpu")
        .map(drop)
}
