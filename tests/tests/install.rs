//! `vgpu install` and `uninstall` on trees that stand for systems: what is there afterwards, what is left, and whether a
//! program without any variable finds the GPU. Nothing of the machine that tests is changed.

mod support;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use std::time::{Duration, Instant};

use support::{PATIENCE, eventually, parts};
use vgpu_e2e::backend::{Backend, MARK};
use vgpu_e2e::command::{self, Output};
use vgpu_e2e::process::marked;

/// A user without any right.
const NOBODY: &str = "--userspec=65534:65534";
const CLIENT: &str = env!("CARGO_BIN_EXE_e2e-client");

/// Each path with its type and permissions, its owner, and a hash of its content.
type State = BTreeMap<PathBuf, (u32, u32, u64)>;

/// The paths in which two states differ.
fn differences(one: &State, other: &State) -> Vec<PathBuf> {
    let paths = one.keys().chain(other.keys());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| one.get(*path) != other.get(*path))
        .cloned()
        .collect();
    found.dedup();
    found
}

fn assert_same(system: &System, before: &State, what: &str) {
    let found = differences(&system.state(), before);
    assert!(found.is_empty(), "{what}: {found:?}");
}

/// A system as small as one can be: a C library, a loader, and the client.
struct System {
    folder: tempfile::TempDir,
}

impl System {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("vgpu-root-")
            .tempdir()
            .expect("a folder");
        let system = Self { folder };
        for name in [
            "bin",
            "etc/ld.so.conf.d",
            "lib64",
            "proc",
            "run/vgpu",
            "tmp",
            "usr/lib/x86_64-linux-gnu",
            "usr/local",
            "var/cache/ldconfig",
            "var/lib",
        ] {
            std::fs::create_dir_all(system.path(name)).expect("a folder");
        }
        std::fs::set_permissions(system.root(), PermissionsExt::from_mode(0o755)).expect("ours");
        for name in [
            "libc.so.6",
            "libm.so.6",
            "libgcc_s.so.1",
            "libpthread.so.0",
            "libdl.so.2",
        ] {
            let from = Path::new("/lib/x86_64-linux-gnu").join(name);
            let to = system.path("usr/lib/x86_64-linux-gnu").join(name);
            std::fs::copy(from, to).expect("Debian's C library");
        }
        let loader = "lib64/ld-linux-x86-64.so.2";
        std::fs::copy(Path::new("/").join(loader), system.path(loader)).expect("a loader");
        std::fs::write(
            system.path("etc/ld.so.conf"),
            "include /etc/ld.so.conf.d/*.conf\n",
        )
        .expect("ours");
        let multiarch = "/usr/lib/x86_64-linux-gnu\n";
        std::fs::write(
            system.path("etc/ld.so.conf.d/x86_64-linux-gnu.conf"),
            multiarch,
        )
        .expect("ours");
        std::fs::copy(CLIENT, system.path("bin/client")).expect("the client");
        system.ldconfig();
        system
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside)
    }

    fn ldconfig(&self) {
        let status = Command::new("/sbin/ldconfig")
            .arg("-r")
            .arg(self.root())
            .status();
        assert!(status.expect("ldconfig").success());
    }

    fn vgpu(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(parts().vgpu);
        command.args(arguments).arg("--root").arg(self.root());
        command::run(&mut command, PATIENCE).expect("vgpu runs")
    }

    fn vgpu_succeeds(&self, arguments: &[&str]) -> String {
        let output = self.vgpu(arguments);
        assert_eq!(
            output.ending(),
            "exit 0",
            "{}{}",
            output.stdout,
            output.stderr
        );
        output.stdout
    }

    /// All that is there: type and permissions, owner, and a hash of the content, of each path. `ldconfig`'s own
    /// notes name times.
    fn state(&self) -> State {
        let mut state = BTreeMap::new();
        let mut pending = vec![self.root().to_owned()];
        while let Some(path) = pending.pop() {
            let metadata = path.symlink_metadata().expect("it is there");
            let content = if metadata.is_dir() {
                let entries = std::fs::read_dir(&path).expect("a folder");
                pending.extend(entries.map(|entry| entry.expect("readable").path()));
                Vec::new()
            } else if metadata.is_symlink() {
                let target = std::fs::read_link(&path).expect("a link");
                target.into_os_string().into_encoded_bytes()
            } else if path.ends_with("aux-cache") || !metadata.is_file() {
                Vec::new()
            } else {
                std::fs::read(&path).expect("a file")
            };
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            let inside = path
                .strip_prefix(self.root())
                .expect("below the root")
                .to_owned();
            state.insert(inside, (metadata.mode(), metadata.uid(), hasher.finish()));
        }
        state
    }

    /// Runs the client inside as a user without rights and with no variable at all; what it prints.
    fn client(&self, program: &str, mode: &str) -> String {
        let mut command = Command::new("/usr/sbin/chroot");
        command
            .arg(NOBODY)
            .arg(self.root())
            .args([program, mode])
            .env_clear();
        let output = command::run(&mut command, PATIENCE).expect("chroot runs");
        output.stdout + &output.stderr
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("not checked: needs root for chroot");
    }
    root
}

/// A backend whose socket lies where programs of the system look for it.
fn backend_of(system: &System) -> Backend {
    let backend = Backend::start(&parts(), "software").expect("a backend");
    std::fs::hard_link(backend.socket(), system.path("run/vgpu/vgpu.sock"))
        .expect("one file system");
    backend
}

#[test]
fn uninstall_leaves_the_tree_as_it_was() {
    let system = System::new();
    std::fs::create_dir_all(system.path("usr/lib/systemd/system")).expect("ours");
    std::fs::create_dir_all(system.path("usr/local/cuda-12.4/targets/x86_64-linux/lib"))
        .expect("ours");
    symlink("cuda-12.4", system.path("usr/local/cuda")).expect("ours");
    std::fs::create_dir_all(system.path("usr/local/nvidia/lib64")).expect("ours");
    let before = system.state();
    for arguments in [
        &["install"][..],
        &["install", "--agent", "--cdi", "--daemon"],
        &["install", "--beside", "--prefix", "/opt/vgpu"],
    ] {
        let would = system.vgpu_succeeds(&[arguments, &["--dry-run"]].concat());
        assert!(would.contains("would make"), "{would}");
        assert_same(&system, &before, "--dry-run changes nothing");
        system.vgpu_succeeds(arguments);
        let installed = system.state();
        assert!(!differences(&installed, &before).is_empty());
        let again = system.vgpu_succeeds(arguments);
        assert!(
            !again.contains("made ") && !again.contains("replaced "),
            "{again}"
        );
        assert_same(&system, &installed, "a second time changes nothing");
        system.vgpu_succeeds(&["uninstall"]);
        assert_same(&system, &before, &format!("{arguments:?}"));
        let nothing = system.vgpu_succeeds(&["uninstall"]);
        assert!(nothing.contains("nothing is installed"), "{nothing}");
    }
}

#[test]
fn a_system_without_a_cache_has_none_afterwards() {
    let system = System::new();
    for path in [
        "etc/ld.so.cache",
        "etc/ld.so.conf",
        "var/cache/ldconfig/aux-cache",
    ] {
        std::fs::remove_file(system.path(path)).expect("it was there");
    }
    let before = system.state();
    system.vgpu_succeeds(&["install"]);
    assert!(system.path("etc/ld.so.cache").exists());
    system.vgpu_succeeds(&["uninstall"]);
    assert_same(&system, &before, "as before");
}

#[test]
fn another_choice_takes_the_first_ones_place() {
    let system = System::new();
    let before = system.state();
    system.vgpu_succeeds(&["install", "--cdi"]);
    system.vgpu_succeeds(&["install", "--prefix", "/opt/other"]);
    assert!(!system.path("usr/local/lib").exists() && !system.path("etc/cdi").exists());
    system.vgpu_succeeds(&["install", "--beside"]);
    assert!(!system.path("etc/ld.so.conf.d/000-vgpu.conf").exists());
    system.vgpu_succeeds(&["uninstall"]);
    assert_same(&system, &before, "as before");
}

/// Runs `vgpu` and kills it after `time`, with the ldconfig that it may have started.
fn interrupt(system: &System, arguments: &[&str], time: Duration) {
    let mut command = Command::new(parts().vgpu);
    command.args(arguments).arg("--root").arg(system.root());
    let mark = system.root().to_str().expect("plain");
    let mut child = command
        .process_group(0)
        .env(MARK, mark)
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    std::thread::sleep(time);
    command::kill_group(&child);
    child.wait().expect("it ends");
    eventually(PATIENCE, "ldconfig ends", || marked(MARK, mark).is_empty());
}

#[test]
fn whatever_interrupts_it_uninstall_undoes_it() {
    let system = System::new();
    std::fs::create_dir_all(system.path("usr/lib/systemd/system")).expect("ours");
    let before = system.state();
    let start = Instant::now();
    system.vgpu_succeeds(&["install", "--agent", "--cdi"]);
    let whole = start.elapsed();
    system.vgpu_succeeds(&["uninstall"]);
    let mut unfinished = 0;
    for step in 0..24 {
        interrupt(&system, &["install", "--agent", "--cdi"], whole * step / 24);
        if system.path("var/lib/vgpu/install.json").exists() {
            let text = std::fs::read_to_string(system.path("var/lib/vgpu/install.json"));
            unfinished += u32::from(text.expect("readable").contains("unfinished"));
        }
        match step % 3 {
            // What is there is taken over as well as taken away.
            1 => drop(system.vgpu_succeeds(&["install"])),
            2 => {
                system.vgpu_succeeds(&["install", "--agent"]);
                interrupt(&system, &["uninstall"], whole * step / 48);
            }
            _ => {}
        }
        system.vgpu_succeeds(&["uninstall"]);
        system.ldconfig();
        assert_same(&system, &before, &format!("step {step}"));
    }
    println!("{unfinished} of 24 were interrupted half-way");
}

#[test]
fn what_is_somebody_elses_is_neither_replaced_nor_removed() {
    let system = System::new();
    // A library of another owner stands for NVIDIA's.
    let driver = system.path("usr/lib/x86_64-linux-gnu/libcuda.so.1");
    std::fs::copy("/lib/x86_64-linux-gnu/libm.so.6", &driver).expect("a library");
    std::fs::create_dir_all(system.path("var/lib/dpkg/info")).expect("ours");
    std::fs::write(
        system.path("var/lib/dpkg/info/libcuda1:amd64.list"),
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1\n",
    )
    .expect("ours");
    let before = system.state();
    let refused = system.vgpu(&["install"]);
    assert_eq!(refused.ending(), "exit 1", "{}", refused.stdout);
    for word in [
        "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "libcuda1:amd64",
        "--beside",
    ] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    assert_eq!(
        refused.stderr.trim().lines().count(),
        1,
        "{}",
        refused.stderr
    );
    assert_same(&system, &before, "as before");
    system.vgpu_succeeds(&["install", "--beside"]);
    system.vgpu_succeeds(&["uninstall"]);
    assert_same(&system, &before, "as before");
    std::fs::remove_file(&driver).expect("ours");

    // A file in the way.
    let way = system.path("usr/local/bin/vgpu");
    std::fs::create_dir_all(way.parent().expect("a folder")).expect("ours");
    std::fs::write(&way, "mine").expect("ours");
    let before = system.state();
    let refused = system.vgpu(&["install"]);
    assert!(
        refused.stderr.contains("/usr/local/bin/vgpu is there"),
        "{}",
        refused.stderr
    );
    assert_same(&system, &before, "as before");
    std::fs::remove_file(&way).expect("ours");

    // One that was put there afterwards.
    system.vgpu_succeeds(&["install"]);
    std::fs::write(&way, "mine").expect("ours");
    let said = system.vgpu_succeeds(&["uninstall"]);
    assert!(said.contains("left /usr/local/bin/vgpu"), "{said}");
    assert_eq!(std::fs::read(&way).expect("it is there"), b"mine");
}

#[test]
fn systems_that_cannot_load_the_shims_are_told_so() {
    let system = System::new();
    std::fs::remove_file(system.path("lib64/ld-linux-x86-64.so.2")).expect("it was there");
    std::fs::create_dir_all(system.path("lib")).expect("ours");
    std::fs::write(system.path("lib/ld-musl-x86_64.so.1"), "").expect("ours");
    let refused = system.vgpu(&["install"]);
    assert!(refused.stderr.contains("musl"), "{}", refused.stderr);
    assert_eq!(
        refused.stderr.trim().lines().count(),
        1,
        "{}",
        refused.stderr
    );
}

#[test]
fn a_service_finds_the_gpu_without_any_variable() {
    if !is_root() {
        return;
    }
    let system = System::new();
    let _backend = backend_of(&system);
    let said = system.client("/bin/client", "init");
    assert!(
        said.contains("dlopen failed"),
        "there is none before: {said}"
    );
    system.vgpu_succeeds(&["install"]);
    assert_eq!(system.client("/bin/client", "init"), "init 0\n");
    // Programs that look at fixed paths.
    let fixed = system.path("usr/lib/x86_64-linux-gnu/libcuda.so.1");
    let target = std::fs::read_link(fixed).expect("a link");
    assert_eq!(target, Path::new("/usr/local/lib/vgpu/libcuda.so.1"));
    system.vgpu_succeeds(&["uninstall"]);
    assert!(
        system
            .client("/bin/client", "init")
            .contains("dlopen failed")
    );
}

/// The loader ignores `LD_LIBRARY_PATH` for such programs.
#[test]
fn a_program_with_file_capabilities_finds_the_gpu() {
    if !is_root() {
        return;
    }
    let system = System::new();
    let _backend = backend_of(&system);
    system.vgpu_succeeds(&["install"]);
    let program = system.path("bin/capable");
    std::fs::copy(CLIENT, &program).expect("the client");
    let given = Command::new("setcap")
        .arg("cap_net_raw+ep")
        .arg(&program)
        .status();
    if !given.is_ok_and(|status| status.success())
        || system.client("/bin/capable", "secure") != "secure 1\n"
    {
        println!("not checked: needs setcap, and a file system that keeps capabilities");
        return;
    }
    assert_eq!(system.client("/bin/capable", "init"), "init 0\n");
}

/// What an engine does with the specification, done by hand: the mounts, in a mount namespace, then the program.
#[test]
fn a_container_with_the_mounts_of_the_specification_finds_the_gpu() {
    if !is_root() {
        return;
    }
    let system = System::new();
    let backend = Backend::start(&parts(), "software").expect("a backend");
    let socket_dir = backend.socket().parent().expect("a folder").to_owned();
    // The daemon of a host lies in a directory for everybody.
    std::fs::set_permissions(&socket_dir, PermissionsExt::from_mode(0o755)).expect("ours");
    let mut command = Command::new(parts().vgpu);
    command.arg("cdi").arg("--socket-dir").arg(&socket_dir);
    let output = command::run(&mut command, PATIENCE).expect("vgpu runs");
    let specification: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    let mounts = &specification["devices"][0]["containerEdits"]["mounts"];
    let mut script = "set -e; mount --make-rprivate /\n".to_owned();
    for mount in mounts.as_array().expect("a list") {
        let text = |name: &str| mount[name].as_str().expect("a path").to_owned();
        let (from, to) = (
            text("hostPath"),
            format!("{}{}", system.root().display(), text("containerPath")),
        );
        let make = if Path::new(&from).is_dir() {
            "mkdir -p"
        } else {
            "touch"
        };
        script += &format!(
            "mkdir -p $(dirname {to}); {make} {to}; mount --bind {from} {to}; mount -o remount,bind,ro,nosuid,nodev {to}\n"
        );
    }
    script += &format!(
        "exec env -i /usr/sbin/chroot {NOBODY} {} /bin/client init",
        system.root().display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let output = command::run(&mut command, PATIENCE).expect("unshare runs");
    if output.stderr.contains("unshare:") || output.stderr.contains("mount:") {
        println!("not checked: no mounts here: {}", output.stderr);
        return;
    }
    assert_eq!(output.stdout, "init 0\n", "{}", output.stderr);
}
