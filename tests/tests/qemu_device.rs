//! The QEMU device `vhost-user-vgpu-pci`, between a stand-in for the daemon and one for the driver, in a guest under
//! TCG: `cargo xtask guest` prepares both and runs this.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use vgpu_e2e::command;
use vgpu_e2e::guest::{Guest, GuestParts, Image, Options, UP};
use vgpu_e2e::qemu::Qemu;

/// A backend that echoes; killed when dropped.
struct Backend {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Backend {
    fn start(folder: &Path, magic: &[&str]) -> anyhow::Result<Self> {
        let (socket, log) = (folder.join("vgpu.sock"), folder.join("backend.log"));
        let _ = std::fs::remove_file(&socket);
        let child = Command::new(env!("CARGO_BIN_EXE_vgpu-echo-backend"))
            .arg(&socket)
            .args(magic)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .spawn()?;
        Ok(Self { child, socket, log })
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill_process(Pid::from_raw(pid).context("a process")?, signal)?;
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How often the backend was told to `what`.
    fn told(&self, what: &str) -> usize {
        self.log().lines().filter(|line| *line == what).count()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn boot(socket: &Path, script: &str, options: Options) -> anyhow::Result<Guest> {
    let files = [(
        PathBuf::from(env!("CARGO_BIN_EXE_vgpu-probe")),
        "/bin/vgpu-probe".to_owned(),
    )];
    let image = Image::build(&GuestParts::from_environment()?, script, &files)?;
    let options = Options {
        huge_pages: 2,
        socket: Some(socket.to_owned()),
        ..options
    };
    Guest::boot(&Qemu::from_environment()?, &image, options)
}

#[test]
fn a_guest_without_the_device_runs_a_script_for_its_user() -> anyhow::Result<()> {
    let image = Image::build(
        &GuestParts::from_environment()?,
        "su user -c 'echo uid $(id -u) in $HOME; touch /tmp/mine'; stat -c %U /tmp/mine; uname -r; exit 3",
        &[],
    )?;
    let mut guest = Guest::boot(&Qemu::from_environment()?, &image, Options::default())?;
    let lines = guest.lines().collect::<Result<Vec<_>, _>>()?;
    let after = lines
        .iter()
        .position(|line| line == UP)
        .context("it is up")?
        + 1;
    assert_eq!(lines[after..after + 2], ["uid 1000 in /home/user", "user"]);
    assert_eq!(guest.wait()?, Some(3), "{}", guest.console());
    Ok(())
}

#[test]
fn a_guest_outlives_its_backend_and_works_with_the_next() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut backend = Backend::start(folder.path(), &[])?;
    let script = "vgpu-probe look init echo echo wait-reset look init echo look";
    let mut guest = boot(&backend.socket, script, Options::default())?;

    let seen = guest.wait_for("PROBE look")?;
    assert!(
        seen.contains("magic vgpudev\\x00 class 0x120000 queues 2 status 0x0"),
        "{seen}"
    );
    guest.wait_for("PROBE waiting")?;
    backend.kill()?;
    let seen = guest.wait_for("PROBE wait-reset")?;
    assert!(seen.contains("status 0x4f"), "{seen}");
    // No backend, but the guest still reads what the device is, and can reset it.
    let seen = guest.wait_for("PROBE look")?;
    assert!(seen.contains("vgpudev"), "{seen}");
    let seen = guest.wait_for("PROBE init")?;
    assert!(seen.contains("status 0xf"), "{seen}");
    assert!(guest.is_running()?);

    // What the driver sent meanwhile is answered by the next backend.
    let _backend = Backend::start(folder.path(), &[])?;
    guest.wait_for("PROBE echo")?;
    let seen = guest.wait_for("PROBE look")?;
    assert!(seen.contains("status 0xf"), "{seen}");
    assert_eq!(guest.wait()?, Some(0), "{}", guest.console());
    let log = guest.log();
    assert!(log.contains("the backend is gone"), "{log}");
    assert!(log.contains("the backend is back"), "{log}");
    Ok(())
}

#[test]
fn pause_and_reset_stop_the_queues_first() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let backend = Backend::start(folder.path(), &[])?;
    let options = Options {
        reboot: true,
        ..Options::default()
    };
    let script = "vgpu-probe init echo hear echo hear";
    let mut guest = boot(&backend.socket, script, options)?;
    guest.wait_for("PROBE listening")?;
    let stopped = backend.told("stop 0");
    guest.qmp().execute("stop")?;
    assert_eq!(backend.told("stop 0"), stopped + 1, "{}", backend.log());
    assert_eq!(backend.told("stop 1"), stopped + 1, "{}", backend.log());
    guest.qmp().execute("cont")?;
    guest.say("")?;
    // The queue goes on where it stopped: this is the second request on it.
    let seen = guest.wait_for("PROBE echo")?;
    assert!(seen.contains("number 1"), "{seen}");

    guest.wait_for("PROBE listening")?;
    let resets = backend.told("reset");
    guest.qmp().execute("system_reset")?;
    guest.wait_for(UP)?;
    assert_eq!(backend.told("stop 0"), stopped + 2, "{}", backend.log());
    assert!(backend.told("reset") > resets, "{}", backend.log());
    let seen = guest.wait_for("PROBE echo")?;
    assert!(seen.contains("number 0"), "{seen}");
    guest.qmp().execute("quit")?;
    Ok(())
}

#[test]
fn a_backend_that_hangs_holds_the_guest_up_for_the_timeout_only() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let backend = Backend::start(folder.path(), &[])?;
    let options = Options {
        device: ",timeout=2".to_owned(),
        ..Options::default()
    };
    let mut guest = boot(&backend.socket, "vgpu-probe init echo wait-reset", options)?;
    guest.wait_for("PROBE waiting")?;

    let refused = guest
        .qmp()
        .raw(r#"{"execute":"migrate","arguments":{"uri":"exec:cat >/dev/null"}}"#)
        .expect_err("migration is blocked");
    assert!(
        format!("{refused:#}").contains("cannot be migrated"),
        "{refused:#}"
    );

    backend.signal(Signal::STOP)?;
    let start = Instant::now();
    guest.qmp().execute("stop")?;
    let waited = start.elapsed();
    guest.qmp().execute("cont")?;
    assert!(
        waited > Duration::from_secs(1) && waited < Duration::from_secs(20),
        "{waited:?}"
    );
    guest.wait_for("PROBE wait-reset: status 0x4f")?;
    assert_eq!(guest.wait()?, Some(0), "{}", guest.console());
    let log = guest.log();
    assert!(log.contains("did not answer within 2 s"), "{log}");
    Ok(())
}

#[test]
fn memory_and_the_device_can_be_plugged_while_it_works() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let backend = Backend::start(folder.path(), &[])?;
    let options = Options {
        device: ",bus=rp1,id=gpu,timeout=2".to_owned(),
        arguments: [
            "-device",
            "pcie-root-port,id=rp1,chassis=1",
            "-m",
            "512M,slots=2,maxmem=1G",
        ]
        .map(OsString::from)
        .to_vec(),
        ..Options::default()
    };
    let script = "vgpu-probe init echo hear echo hear
        until grep -q 0x10f0 /sys/bus/pci/devices/*/device; do sleep 0.1; done
        vgpu-probe look init echo hear wait-reset";
    let mut guest = boot(&backend.socket, script, options)?;
    let more = |guest: &mut Guest, name: &str| -> anyhow::Result<Duration> {
        let start = Instant::now();
        guest.qmp().raw(&format!(
            r#"{{"execute":"object-add","arguments":{{"qom-type":"memory-backend-memfd","id":"{name}","size":134217728,"share":true}}}}"#
        ))?;
        guest.qmp().raw(&format!(
            r#"{{"execute":"device_add","arguments":{{"driver":"pc-dimm","id":"{name}-dimm","memdev":"{name}"}}}}"#
        ))?;
        Ok(start.elapsed())
    };

    // New memory reaches the backend while the queues run.
    guest.wait_for("PROBE listening")?;
    let tables = backend.log().matches("memory ").count();
    more(&mut guest, "m1")?;
    assert!(
        backend.log().matches("memory ").count() > tables,
        "{}",
        backend.log()
    );
    guest.say("")?;
    guest.wait_for("PROBE echo")?;

    // Unplugged and plugged again, it is as new.
    guest.wait_for("PROBE listening")?;
    let unplug = r#"{"execute":"device_del","arguments":{"id":"gpu"}}"#;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // QEMU asks the guest, and knows no such device any more once the guest has let go.
        match guest.qmp().raw(unplug) {
            Err(error) if format!("{error:#}").contains("DeviceNotFound") => break,
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
        assert!(Instant::now() < deadline, "the guest keeps the device");
    }
    let plug = r#"{"execute":"device_add","arguments":{"driver":"vhost-user-vgpu-pci","id":"gpu","bus":"rp1","chardev":"vgpu","timeout":2}}"#;
    // A running guest is not kept waiting: there is one try, and the backend may not be listening again yet.
    while let Err(error) = guest.qmp().raw(plug) {
        assert!(Instant::now() < deadline, "{error:#}\n{}", guest.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    guest.say("")?;
    guest.wait_for("PROBE look")?;
    guest.wait_for("PROBE echo")?;

    // A backend that hangs does not hold up the plugging of memory for ever either.
    guest.wait_for("PROBE listening")?;
    backend.signal(Signal::STOP)?;
    let waited = more(&mut guest, "m2")?;
    assert!(
        waited > Duration::from_secs(1) && waited < Duration::from_secs(20),
        "{waited:?}"
    );
    guest.say("")?;
    guest.wait_for("PROBE wait-reset: status 0x4f")?;
    assert_eq!(guest.wait()?, Some(0), "{}", guest.console());
    Ok(())
}

/// The better way for the guest's driver: an interrupt for each event, and no access beyond what it maps.
#[test]
fn a_guest_with_an_iommu_can_use_vfio() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let backend = Backend::start(folder.path(), &[])?;
    let parts = GuestParts::from_environment()?;
    let modules = parts.vfio_modules();
    let mut script = String::new();
    for (_, module) in &modules {
        script.push_str(&format!("insmod {module}\n"));
    }
    script.push_str(
        "device=$(dirname $(grep -l 0x10f0 /sys/bus/pci/devices/*/device))
        echo vfio-pci > $device/driver_override
        basename $device > /sys/bus/pci/drivers_probe
        ls -l /dev/vfio
        test -c /dev/vfio/$(basename $(readlink $device/iommu_group))",
    );
    let image = Image::build(&parts, &script, &modules)?;
    let options = Options {
        socket: Some(backend.socket.clone()),
        arguments: ["-device", "intel-iommu,intremap=on"]
            .map(OsString::from)
            .to_vec(),
        append: "intel_iommu=on".to_owned(),
        ..Options::default()
    };
    let mut guest = Guest::boot(&Qemu::from_environment()?, &image, options)?;
    assert_eq!(guest.wait()?, Some(0), "{}", guest.console());
    Ok(())
}

/// QEMU's words when it is started with `arguments` and gives up.
fn refusal(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Qemu::from_environment()?.command();
    command
        .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-S"])
        .args(arguments);
    let output = command::run(&mut command, Duration::from_secs(60))?;
    assert_eq!(output.ending(), "exit 1", "{}", output.stderr);
    Ok(output.stderr)
}

const SHARED: [&str; 4] = [
    "-object",
    "memory-backend-memfd,id=mem,size=64M,share=on",
    "-M",
    "q35,memory-backend=mem",
];

fn arguments<'a>(memory: &[&'a str], chardev: &'a str, device: &'a str) -> Vec<&'a str> {
    let mut all = vec!["-m", "64M"];
    all.extend(memory);
    all.extend(["-chardev", chardev, "-device", device]);
    all
}

#[test]
fn what_is_wrong_with_the_command_line_is_said_in_a_sentence() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let device = "vhost-user-vgpu-pci,chardev=c,timeout=1";
    let nobody = format!(
        "socket,id=c,path={}/nobody,reconnect-ms=100",
        folder.path().display()
    );
    let said = refusal(&arguments(&SHARED, &nobody, device))?;
    assert!(said.contains("no vgpu backend"), "{said}");

    let said = refusal(&arguments(&["-M", "q35"], &nobody, device))?;
    assert!(
        said.contains("-object memory-backend-memfd,id=mem,size=64M,share=on"),
        "{said}"
    );

    let said = refusal(&arguments(&SHARED, "null,id=c", device))?;
    assert!(said.contains("must be a socket"), "{said}");

    let said = refusal(&arguments(&SHARED, &nobody, "vhost-user-vgpu"))?;
    assert!(said.contains("chardev= is missing"), "{said}");

    let said = refusal(&arguments(
        &SHARED,
        &nobody,
        "vhost-user-vgpu-pci,chardev=c,virtio-id=192",
    ))?;
    assert!(said.contains("virtio-id must be 1 to 191"), "{said}");

    let other = Backend::start(folder.path(), &["another"])?;
    let chardev = format!("socket,id=c,path={}", other.socket.display());
    wait_for(&other.socket);
    let said = refusal(&arguments(&SHARED, &chardev, device))?;
    assert!(said.contains("is no vgpu backend"), "{said}");
    Ok(())
}

#[test]
fn memory_cannot_be_taken_back_from_under_the_gpu() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let backend = Backend::start(folder.path(), &[])?;
    wait_for(&backend.socket);
    let chardev = format!("socket,id=c,path={}", backend.socket.display());
    let mut all = arguments(&SHARED, &chardev, "vhost-user-vgpu-pci,chardev=c");
    all[1] = "64M,maxmem=256M";
    all.extend([
        "-object",
        "memory-backend-memfd,id=more,size=64M,share=on",
        "-device",
        "virtio-mem-pci,memdev=more",
    ]);
    let said = refusal(&all)?;
    assert!(said.to_lowercase().contains("discarding"), "{said}");
    Ok(())
}

fn wait_for(socket: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !socket.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_properties_are_described() -> anyhow::Result<()> {
    for name in ["vhost-user-vgpu-pci", "vhost-user-vgpu"] {
        let mut command = Qemu::from_environment()?.command();
        command.args([OsString::from("-device"), format!("{name},help").into()]);
        let output = command::run(&mut command, Duration::from_secs(60))?;
        assert_eq!(output.ending(), "exit 0", "{}", output.stderr);
        for property in ["chardev=", "virtio-id=", "timeout=", "vectors="] {
            let line = output
                .stdout
                .lines()
                .find(|line| line.trim_start().starts_with(property));
            assert!(
                line.is_some_and(|line| line.contains(" - ")),
                "{property} {}",
                output.stdout
            );
        }
    }
    Ok(())
}

/// Whatever a shell runs on the way to QEMU has the device loaded, too.
#[test]
fn other_programs_are_not_disturbed() -> anyhow::Result<()> {
    let Some(device) = Qemu::from_environment()?.preload else {
        return Ok(());
    };
    let mut command = Command::new("true");
    command.env("LD_PRELOAD", device);
    let output = command::run(&mut command, Duration::from_secs(60))?;
    assert_eq!(
        (output.ending().as_str(), output.stderr.as_str()),
        ("exit 0", "")
    );
    Ok(())
}

/// A stable update of the distribution moves fields of QEMU's structures without changing its version.
#[test]
fn another_build_of_qemu_is_refused_by_name() -> anyhow::Result<()> {
    let mut qemu = Qemu::from_environment()?;
    let Some(device) = qemu.preload else {
        return Ok(());
    };
    let version = Command::new(&qemu.binary).arg("--version").output()?.stdout;
    let version = String::from_utf8(version)?;
    let package = version
        .lines()
        .next()
        .and_then(|line| line.split_once(" (")?.1.strip_suffix(')'))
        .context("a package string")?;
    // The same device, built for a package of another name.
    let mut bytes = std::fs::read(device)?;
    let at = bytes
        .windows(package.len())
        .position(|window| window == package.as_bytes())
        .context("the device knows the package")?;
    bytes[at] = b'X';
    let other = tempfile::NamedTempFile::new()?;
    std::fs::write(other.path(), bytes)?;
    qemu.preload = Some(other.path().to_owned());

    let mut command = qemu.command();
    command.args(["-device", "vhost-user-vgpu-pci,help"]);
    let output = command::run(&mut command, Duration::from_secs(60))?;
    // QEMU's exit status is 0 even for the help of a device that it does not know.
    assert_eq!(output.stdout, "");
    let said = output.stderr;
    assert!(said.contains(&format!("({package})")), "{said}");
    assert!(said.contains(&format!("(X{})", &package[1..])), "{said}");
    assert!(said.contains("not found"), "{said}");
    Ok(())
}
