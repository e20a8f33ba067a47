//! Programs in containers of a real engine, Podman, against the host's daemon: by the Container Device Interface
//! specification that `vgpu cdi` prints, and by the mounts of docs/operations.md. No registry is needed: the image is a C
//! library and the client. The engine's store is a temporary folder; a specification of our own lies in /run/cdi meanwhile.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{PATIENCE, parts};
use vgpu_e2e::backend::Backend;
use vgpu_e2e::command::{self, Output};

const CLIENT: &str = env!("CARGO_BIN_EXE_e2e-client");
const IMAGE: &str = "vgpu-e2e";
/// Where engines look for specifications that last until the next boot.
const SPECIFICATIONS: &str = "/run/cdi";

/// An engine with a store and an image of its own.
struct Engine {
    folder: tempfile::TempDir,
    runtime: &'static str,
    specification: PathBuf,
}

impl Engine {
    /// The first runtime that starts a container here, or why there is none.
    fn find() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let folder = tempfile::Builder::new()
            .prefix("vgpu-podman-")
            .tempdir()
            .expect("a folder");
        let name = format!("vgpu-e2e-{}.json", std::process::id());
        let mut engine = Self {
            folder,
            runtime: "crun",
            specification: Path::new(SPECIFICATIONS).join(name),
        };
        engine.make_image()?;
        let mut why = String::new();
        for runtime in ["crun", "runc"] {
            engine.runtime = runtime;
            let output = engine.run(&[], "secure");
            if output.stdout == "secure 0\n" {
                return Ok(engine);
            }
            why += &format!("{runtime}: {} ", output.stderr.trim());
        }
        Err(why)
    }

    fn command(&self) -> Command {
        let place = |name: &str| self.folder.path().join(name);
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(place("store"))
            .arg("--runroot")
            .arg(place("run"))
            .arg("--tmpdir")
            .arg(place("tmp"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(["--runtime", self.runtime]);
        command
    }

    fn make_image(&self) -> Result<(), String> {
        let root = self.folder.path().join("image");
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        for folder in [&libraries, &root.join("lib64"), &root.join("bin")] {
            std::fs::create_dir_all(folder).expect("ours");
        }
        for name in [
            "libc.so.6",
            "libm.so.6",
            "libgcc_s.so.1",
            "libpthread.so.0",
            "libdl.so.2",
        ] {
            let from = Path::new("/lib/x86_64-linux-gnu").join(name);
            std::fs::copy(from, libraries.join(name)).expect("Debian's C library");
        }
        let loader = "lib64/ld-linux-x86-64.so.2";
        std::fs::copy(Path::new("/").join(loader), root.join(loader)).expect("a loader");
        std::fs::copy(CLIENT, root.join("bin/client")).expect("the client");
        let archive = self.folder.path().join("image.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(packed.is_ok_and(|status| status.success()));
        let mut command = self.command();
        command.arg("import").arg(archive).arg(IMAGE);
        let output = command::run(&mut command, PATIENCE).map_err(|error| format!("{error:#}"))?;
        match output.ending().as_str() {
            "exit 0" => Ok(()),
            _ => Err(output.stderr),
        }
    }

    /// Runs the client in a container. No network and small limits, as those need rights that a machine for tests may lack.
    fn run(&self, options: &[&str], mode: &str) -> Output {
        let mut command = self.command();
        command
            .args(["run", "--rm", "--network=none"])
            .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"])
            .args(options)
            .args([IMAGE, "/bin/client", mode]);
        command::run(&mut command, PATIENCE).expect("podman runs")
    }

    /// The specification for `socket_dir`, under a kind of our own beside what this machine may have; the device's name.
    fn specify(&self, socket_dir: &Path) -> String {
        let mut command = Command::new(parts().vgpu);
        command.arg("cdi").arg("--socket-dir").arg(socket_dir);
        let output = command::run(&mut command, PATIENCE).expect("vgpu runs");
        let kind = format!("vgpu/e2e-{}", std::process::id());
        assert!(output.stdout.contains("\"vgpu/gpu\""), "{}", output.stdout);
        let text = output.stdout.replace("vgpu/gpu", &kind);
        std::fs::create_dir_all(SPECIFICATIONS).expect("root's");
        std::fs::write(&self.specification, text).expect("root's");
        format!("{kind}=all")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.specification);
        // Only if it is empty.
        let _ = std::fs::remove_dir(SPECIFICATIONS);
    }
}

fn assert_done(output: &Output) {
    assert_eq!(
        output.ending(),
        "exit 0",
        "{}{}",
        output.stdout,
        output.stderr
    );
    // A round was verified.
    assert!(
        output.stdout.starts_with("ready\n") && output.stdout.contains("\ndone "),
        "{}",
        output.stdout
    );
}

#[test]
fn containers_find_the_gpu_by_the_specification_and_by_plain_mounts() {
    let engine = match Engine::find() {
        Ok(engine) => engine,
        Err(why) => {
            println!("not checked: no container can be started by podman: {why}");
            return;
        }
    };
    println!("podman with {}", engine.runtime);
    let backend = Backend::start(&parts(), "software").expect("a backend");
    let sockets = backend.socket().parent().expect("a folder").to_owned();
    // The daemon of a host lies in a directory for everybody.
    std::fs::set_permissions(&sockets, PermissionsExt::from_mode(0o755)).expect("ours");
    let none = engine.run(&[], "init");
    assert!(none.stderr.contains("dlopen failed"), "{}", none.stderr);

    let device = format!("--device={}", engine.specify(&sockets));
    assert_done(&engine.run(&[&device], "launch"));
    let shut_in = [
        "--user=1000:1000",
        "--read-only",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
    ];
    assert_done(&engine.run(&[&shut_in[..], &[&device]].concat(), "copy"));

    let shim = parts().library_folder.join("libcuda.so.1");
    let mounts = [
        format!("-v={}:/run/vgpu:ro", sockets.display()),
        format!(
            "-v={}:/usr/lib/x86_64-linux-gnu/libcuda.so.1:ro",
            shim.display()
        ),
        format!("-v={}:/usr/lib64/libcuda.so.1:ro", shim.display()),
    ];
    let mut options = vec!["--user=1000:1000"];
    options.extend(mounts.iter().map(String::as_str));
    assert_done(&engine.run(&options, "launch"));
}
