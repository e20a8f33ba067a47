//! What the shim is in the program's process: one library, no other driver, no threads or descriptors beyond need.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::{Client, alone, backend, parts};
use vgpu_e2e::process::mapped_files;

#[test]
fn the_program_maps_the_shim_and_no_other_driver() {
    let _turn = alone();
    let backend = backend();
    let client = Client::start(&backend, "idle");
    client.wait_until_ready();
    let files = mapped_files(client.pid());
    let drivers: Vec<&String> = files
        .iter()
        .filter(|file| file.contains("libcuda") || file.contains("libnvidia"))
        .collect();
    let shim = parts().library_folder.join("libcuda.so.1");
    let shim = shim.canonicalize().expect("it exists");
    assert_eq!(drivers, [&shim.display().to_string()]);
    assert_eq!(client.finish(), "done 1");
}

#[test]
fn vgpu_run_gives_a_program_the_shim_and_returns_its_exit_status() {
    let _turn = alone();
    let backend = backend();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(parts().vgpu);
        command.args(["run", "--"]).args(arguments);
        backend.attach(&mut command, &[]);
        // `vgpu run` itself must put the shim into the loader's path.
        command.env_remove("LD_LIBRARY_PATH");
        vgpu_e2e::command::run(&mut command, support::PATIENCE).expect("vgpu runs")
    };
    let init = run(&[env!("CARGO_BIN_EXE_e2e-client"), "init"]);
    assert_eq!(
        (init.ending().as_str(), init.stdout.as_str()),
        ("exit 0", "init 0\n"),
        "{}",
        init.stderr
    );
    assert_eq!(run(&["sh", "-c", "exit 41"]).ending(), "exit 41");
    let killed = run(&["sh", "-c", "kill -TERM $$"]);
    assert!(
        ["exit 143", "signal 15"].contains(&killed.ending().as_str()),
        "a program ended by a signal gives {}",
        killed.ending()
    );
    let missing = run(&["/no/such/program"]);
    assert!(missing.status.is_some_and(|status| !status.success()));
    assert!(
        missing.stderr.contains("/no/such/program"),
        "{}",
        missing.stderr
    );
}

/// A set-user-id program is not steered by its caller: neither to another backend nor to talk.
#[test]
fn a_privileged_program_ignores_our_variables() {
    const NOBODY: u32 = 65_534;
    let _turn = alone();
    let backend = backend();
    let folder = tempfile::tempdir().expect("a folder");
    let place = |from: &Path, name: &str, mode: u32, owner: Option<u32>| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).expect("it can be copied");
        // Changing the owner takes the bit away again, so it comes first.
        let given = std::os::unix::fs::chown(&to, owner, owner);
        std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).expect("it is ours");
        given.is_ok().then_some(to)
    };
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let library = parts().library_folder.join("libcuda.so.1");
    let library = place(&library, "libcuda.so.1", 0o644, None).expect("it is ours");
    let client = Path::new(env!("CARGO_BIN_EXE_e2e-client"));
    let plain = place(client, "plain", 0o755, None).expect("it is ours");
    let run = |program: &Path, mode: &str| {
        let mut command = std::process::Command::new(program);
        command.arg(mode).arg(&library);
        backend.attach(&mut command, &[]);
        command.env("VGPU_LOG", "1");
        let output = vgpu_e2e::command::run(&mut command, support::PATIENCE).expect("it runs");
        (output.stdout, output.stderr)
    };
    let (stdout, _) = run(&plain, "init");
    assert_eq!(stdout, "init 0\n", "the variables lead to the backend");
    let privileged = place(client, "privileged", 0o4755, Some(NOBODY));
    let Some(privileged) = privileged.filter(|program| run(program, "secure").0 == "secure 1\n")
    else {
        println!("not checked: needs root, and a file system that honours the set-user-id bit");
        return;
    };
    let (stdout, stderr) = run(&privileged, "init");
    assert_eq!(stderr, "", "VGPU_LOG is ignored");
    if !Path::new("/run/vgpu/vgpu.sock").exists() {
        assert_eq!(stdout, "init 100\n", "VGPU_SOCKET is ignored");
    }
}
