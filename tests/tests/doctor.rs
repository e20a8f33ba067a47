//! `vgpu doctor` against planted faults of programs, sockets, backends and services: each must be named in the verdict, with
//! what mends it. Those of libraries are in `doctor_libraries.rs`, those over the real ggml and CUDA libraries in
//! `ollama.rs` and `ollama_driver.rs`.

#[path = "support/doctor.rs"]
mod asking;
mod support;

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use asking::{folder, question};
use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use support::{backend, parts};
use vgpu_e2e::backend::{Backend, SOCKET};
use vgpu_e2e::diagnosis::{Diagnosis, Question, program};

const NOBODY: u32 = 65_534;

/// A process that does nothing, as another user if we may; ended when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"))
    }

    fn ask(&self) -> Diagnosis {
        // The kernel shows the program only once it has been executed.
        support::eventually(support::PATIENCE, "the sleeper does not start", || {
            std::fs::read_link(format!("/proc/{}/exe", self.0.id()))
                .is_ok_and(|exe| exe.to_string_lossy().contains("sleep"))
        });
        Question::new(&parts())
            .argument("--pid")
            .argument(self.0.id().to_string())
            .ask()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_healthy_environment_is_said_to_be_so() {
    let backend = backend();
    let diagnosis = question(&backend).ask();
    diagnosis.assert_found();
    diagnosis.assert_finding("ok", &["two clients at once"]);
    diagnosis.assert_finding("ok", &["kernel of 262,144 threads"]);
    let device = &diagnosis.0["devices"][0];
    assert!(
        device["uuid"]
            .as_str()
            .is_some_and(|uuid| uuid.starts_with("GPU-"))
    );
    assert_eq!(
        device["pci_id"].as_str().map(str::len),
        Some("0000:00:00.0".len())
    );
}

#[test]
fn a_running_process_is_asked_about_with_its_own_environment() {
    let backend = backend();
    let sleeper = Sleeper::start(
        Command::new("sleep")
            .arg("100")
            .env_clear()
            .env(SOCKET, backend.socket())
            .env("LD_LIBRARY_PATH", parts().library_folder),
    );
    sleeper.ask().assert_found();
    let without = Sleeper::start(
        Command::new("sleep")
            .arg("100")
            .env_clear()
            .env(SOCKET, backend.socket()),
    );
    without
        .ask()
        .assert_verdict(3, &["no libcuda.so.1", "run `vgpu install`"]);
}

#[test]
fn no_driver_anywhere() {
    let backend = backend();
    let diagnosis = Question::new(&parts())
        .variable(SOCKET, backend.socket())
        .ask();
    diagnosis.assert_verdict(3, &["no libcuda.so.1 is found", "vgpu install"]);
}

#[test]
fn no_socket() {
    let folder = folder();
    let diagnosis = Question::new(&parts())
        .variable(SOCKET, folder.path().join("none.sock"))
        .variable("LD_LIBRARY_PATH", parts().library_folder)
        .ask();
    diagnosis.assert_verdict(1, &["there is no socket", "none.sock", "vhost-user-vgpu"]);
}

#[test]
fn a_socket_that_the_user_may_not_connect_to() {
    if !is_root() {
        println!("not checked: only root can ask as somebody else");
        return;
    }
    let backend = backend();
    let folder = backend.socket().parent().expect("a folder").to_owned();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).expect("it is ours");
    std::fs::set_permissions(backend.socket(), PermissionsExt::from_mode(0o600))
        .expect("it is ours");
    let mut command = Command::new("sleep");
    command
        .arg("100")
        .env_clear()
        .env(SOCKET, backend.socket())
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/");
    command.env("LD_LIBRARY_PATH", parts().library_folder);
    let sleeper = Sleeper::start(&mut command);
    sleeper.ask().assert_verdict(
        1,
        &["user 65534 has no permission", "vgpu.sock", "chmod a+rw"],
    );
}

/// Serves one connection after another with `answer`.
fn fake_backend(path: &Path, answer: impl Fn(OwnedFd) + Send + 'static) {
    let fd = net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .expect("a socket");
    net::bind(&fd, &SocketAddrUnix::new(path).expect("a short path")).expect("bound");
    net::listen(&fd, 8).expect("it listens");
    std::thread::spawn(move || {
        while let Ok(connection) = net::accept(&fd) {
            answer(connection);
        }
    });
}

#[test]
fn a_backend_of_another_version() {
    let folder = folder();
    let socket = folder.path().join("version.sock");
    fake_backend(&socket, |connection| {
        let mut hello = [0u8; 4096];
        let _ = net::recv(&connection, &mut hello[..], RecvFlags::empty());
        let mut welcome = [0u8; 64];
        welcome[..8].copy_from_slice(b"vgpuyes\0");
        welcome[8..12].copy_from_slice(&2u32.to_le_bytes());
        welcome[16..18].copy_from_slice(&99u16.to_le_bytes());
        let _ = net::send(&connection, &welcome, SendFlags::NOSIGNAL);
    });
    let diagnosis = Question::new(&parts()).variable(SOCKET, &socket).ask();
    diagnosis.assert_verdict(
        1,
        &[
            "another version",
            "install the same version of vgpu on both sides",
        ],
    );
}

#[test]
fn a_backend_that_is_silent() {
    let folder = folder();
    let socket = folder.path().join("silent.sock");
    fake_backend(&socket, std::mem::forget);
    let diagnosis = Question::new(&parts()).variable(SOCKET, &socket).ask();
    diagnosis.assert_verdict(
        1,
        &[
            "does not answer a greeting in time",
            "systemctl restart vgpu-agent",
        ],
    );
}

#[test]
fn a_program_for_musl() {
    let backend = backend();
    let folder = folder();
    let file = folder.path().join("service");
    program(
        &file,
        "int main() { return 0; }",
        &["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"],
    )
    .expect("compiled");
    let diagnosis = question(&backend).program(&file).ask();
    diagnosis.assert_verdict(0, &["linked with musl", "use a build for glibc"]);
}

#[test]
fn a_program_for_another_architecture() {
    let backend = backend();
    let folder = folder();
    let file = folder.path().join("service");
    program(&file, "int main() { return 0; }", &[]).expect("compiled");
    let mut bytes = std::fs::read(&file).expect("readable");
    // e_machine: EM_AARCH64.
    bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
    std::fs::write(&file, bytes).expect("written");
    let diagnosis = question(&backend).program(&file).ask();
    diagnosis.assert_verdict(0, &["64-bit ARM", "install the x86-64 build"]);
}

#[test]
fn a_privileged_program_for_which_the_loader_ignores_the_path() {
    if !is_root() {
        println!("not checked: only root can give file capabilities");
        return;
    }
    let backend = backend();
    let folder = folder();
    let file = folder.path().join("service");
    program(&file, "int main() { return 0; }", &[]).expect("compiled");
    // Version 2 of the attribute, CAP_NET_RAW permitted and effective.
    let mut capability = [0u8; 20];
    capability[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    capability[4..8].copy_from_slice(&(1u32 << 13).to_le_bytes());
    let set = rustix::fs::setxattr(
        &file,
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    );
    if let Err(error) = set {
        println!("not checked: this file system keeps no capabilities ({error})");
        return;
    }
    let diagnosis = question(&backend).program(&file).ask();
    diagnosis.assert_finding(
        "warning",
        &["AT_SECURE", "has file capabilities", "setcap -r"],
    );
    // Without its variables it reaches neither the backend of this test nor the shim.
    diagnosis.assert_finding(
        "fault",
        &["ignores LD_LIBRARY_PATH", "AT_SECURE", "vgpu install"],
    );
}

/// A `systemctl` that knows one unit.
fn systemctl(folder: &Path, properties: &str) -> String {
    let file = folder.join("systemctl");
    std::fs::write(
        &file,
        format!("#!/bin/sh\ncat <<'END'\n{properties}\nEND\n"),
    )
    .expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", folder.display())
}

/// The environment of a unit that would find the GPU.
fn unit_environment(backend: &Backend) -> String {
    format!(
        "LoadState=loaded\nMainPID=0\nUser=\nExecStart={{ path=/bin/sleep ; argv[]=/bin/sleep 1 ; }}\nEnvironment={SOCKET}={} LD_LIBRARY_PATH={}",
        backend.socket().display(),
        parts().library_folder.display()
    )
}

fn ask_unit(folder: &Path, properties: &str) -> Diagnosis {
    Question::new(&parts())
        .variable("PATH", systemctl(folder, properties))
        .argument("--unit")
        .argument("ollama")
        .ask()
}

#[test]
fn a_service_is_asked_about_by_its_unit() {
    if !is_root() {
        println!("not checked: the unit's user is root");
        return;
    }
    let backend = backend();
    let folder = folder();
    ask_unit(folder.path(), &unit_environment(&backend)).assert_found();
    // What a shell exports never reaches it.
    let bare = format!(
        "LoadState=loaded\nMainPID=0\nExecStart={{ path=/bin/sleep ; }}\nEnvironment={SOCKET}={}",
        backend.socket().display()
    );
    ask_unit(folder.path(), &bare)
        .assert_verdict(3, &["no libcuda.so.1 is found", "run `vgpu install`"]);
    // One whose user exists only while it runs.
    let dynamic =
        unit_environment(&backend).replace("User=", "DynamicUser=yes\nUser=vgpu-e2e-dynamic");
    ask_unit(folder.path(), &dynamic).assert_finding("ok", &["user 65519"]);
}

#[test]
fn a_service_whose_sandbox_shuts_the_transport_out() {
    if !is_root() {
        println!("not checked: the unit's user is root");
        return;
    }
    let backend = backend();
    let folder = folder();
    let unit = unit_environment(&backend);
    let hidden = format!(
        "InaccessiblePaths={}",
        backend.socket().parent().expect("a folder").display()
    );
    for (property, words) in [
        (
            "RestrictAddressFamilies=AF_INET AF_INET6",
            [
                "may not use unix sockets",
                "RestrictAddressFamilies=AF_UNIX",
            ],
        ),
        (
            "PrivateTmp=yes",
            [
                "is hidden from the service ollama (PrivateTmp=yes)",
                "/run/vgpu/vgpu.sock",
            ],
        ),
        (
            hidden.as_str(),
            ["is hidden from the service ollama", "BindPaths=/run/vgpu"],
        ),
        (
            "LimitAS=1073741824",
            ["limit on address space", "LimitAS=infinity"],
        ),
    ] {
        ask_unit(folder.path(), &format!("{unit}\n{property}")).assert_verdict(1, &words);
    }
    let diagnosis = ask_unit(
        folder.path(),
        &format!("{unit}\nPrivateDevices=yes\nDevicePolicy=closed\nPrivateUsers=yes"),
    );
    diagnosis.assert_found();
    diagnosis.assert_finding(
        "note",
        &[
            "DevicePolicy=closed",
            "PrivateDevices=yes",
            "vgpu needs only its unix socket",
        ],
    );
}

/// A module `torch` of ours: what the real one would say, without two gigabytes of it.
fn torch(folder: &Path, cuda: &str, count: &str) -> Diagnosis {
    let module = format!(
        "__version__ = '2.9.0'\nclass version: cuda = {cuda}\nclass _C:\n    @staticmethod\n    def _cuda_getDeviceCount(): {count}\n"
    );
    std::fs::write(folder.join("torch.py"), module).expect("written");
    let backend = backend();
    let python = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .expect("python3 runs");
    let python = String::from_utf8_lossy(&python.stdout).trim().to_owned();
    question(&backend)
        .variable("PYTHONPATH", folder)
        .program(Path::new(&python))
        .ask()
}

#[test]
fn a_pytorch_without_cuda_and_one_that_finds_nothing() {
    let folder = folder();
    torch(folder.path(), "None", "return 0").assert_verdict(
        10,
        &[
            "is a build without CUDA",
            "pip install --force-reinstall torch",
        ],
    );
    torch(
        folder.path(),
        "'13.0'",
        "raise RuntimeError('Found no NVIDIA driver on your system')",
    )
    .assert_verdict(
        10,
        &[
            "PyTorch 2.9.0 finds no GPU: Found no NVIDIA driver",
            "see layers 3 and 5",
        ],
    );
}

#[test]
fn questions_that_cannot_be_asked_have_one_line() {
    for arguments in [&["--pid", "4194304"][..], &["--", "/no/such/program"]] {
        let mut command = Command::new(parts().vgpu);
        command.arg("doctor").args(arguments);
        let output = vgpu_e2e::command::run(&mut command, support::PATIENCE).expect("it runs");
        assert_eq!(output.ending(), "exit 1");
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
        assert!(output.stderr.contains("there is no"), "{}", output.stderr);
    }
}
