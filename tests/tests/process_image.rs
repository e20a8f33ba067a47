//! What the shim is in the program's process: one library, no other driver, no threads or descriptors beyond need.

mod support;

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
