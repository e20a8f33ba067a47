//! What the tests need from the system beyond Rust: a C++ compiler and Python with `venv`, for some of them npm or Podman.

use std::process::Command;

use anyhow::bail;

use crate::shell::{exists, run, say};

/// Makes sure that `g++` and `python3 -m venv` work, installing Debian's packages where they do not.
pub fn prepare() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    if !exists("g++", &["--version"]) {
        missing.push("g++");
    }
    if !exists("python3", &["-c", "import venv, ensurepip"]) {
        missing.push("python3-venv");
    }
    install(&missing)
}

/// The same for npm's client.
pub fn prepare_npm() -> anyhow::Result<()> {
    if exists("npm", &["--version"]) {
        return Ok(());
    }
    install(&["npm"])
}

/// The same for Podman, with both of its runtimes: `crun`, its own choice, starts nothing where control groups are mounted in
/// both versions.
pub fn prepare_podman() -> anyhow::Result<()> {
    let mut missing = Vec::new();
    for program in ["podman", "crun", "runc"] {
        if !exists(program, &["--version"]) {
            missing.push(program);
        }
    }
    install(&missing)
}

fn install(missing: &[&str]) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !exists("apt-get", &["--version"]) {
        bail!("missing on this system: {packages}; install them with its package manager");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("missing on this system: {packages}; run `sudo apt-get install {packages}`");
    }
    say(&format!("installing {packages} with apt-get"));
    run(Command::new("apt-get").args(["update", "--quiet=2"]))?;
    run(Command::new("apt-get")
        .args(["install", "--yes", "--quiet=2", "--no-install-recommends"])
        .args(missing)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}
