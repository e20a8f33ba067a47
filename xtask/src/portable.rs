//! Building what runs in guests, so that it needs only an old C library: `cargo-zigbuild` links against zig's descriptions
//! of every release of glibc. Both come from PyPI, once, into `.cache/zig`.
//!
//! Why not by hand: the shim itself needs nothing newer than 2.28, but the names it calls have newer versions too
//! (`pthread_create`, `stat`), and the linker takes the newest that it sees.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use vgpu_e2e::elf::GUEST_GLIBC;

use crate::shell::{cargo, run};
use crate::{fetch, places};

/// Zig's releases are not all understood by all of cargo-zigbuild's.
const PACKAGES: [&str; 2] = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Below `.cache`.
const FOLDER: &str = "zig";

/// A package whose shared library is a shim: the name that cargo gives the file, without folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Shim {
    /// The package.
    pub package: String,
    /// `libcuda.so`, say; the loader's name for it is its SONAME.
    pub file: String,
}

/// The shims: all packages below `shim/` that make a shared library.
pub fn shims() -> anyhow::Result<Vec<Shim>> {
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let output = command.output().context("cannot run `cargo metadata`")?;
    ensure!(output.status.success(), "`cargo metadata` failed");
    let found = shims_in(
        &output.stdout,
        &places::root().join("shim").to_string_lossy(),
    )?;
    ensure!(!found.is_empty(), "no shim is in the workspace");
    Ok(found)
}

fn shims_in(metadata: &[u8], folder: &str) -> anyhow::Result<Vec<Shim>> {
    let metadata: serde_json::Value = serde_json::from_slice(metadata)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut found = Vec::new();
    for package in packages {
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let targets = package["targets"].as_array().into_iter().flatten();
        for target in targets.filter(|_| manifest.starts_with(folder)) {
            let kinds = target["kind"].as_array().into_iter().flatten();
            let name = target["name"].as_str().unwrap_or_default();
            if kinds
                .filter_map(|kind| kind.as_str())
                .any(|kind| kind == "cdylib")
            {
                found.push(Shim {
                    package: package["name"].as_str().unwrap_or_default().to_owned(),
                    file: format!("lib{}.so", name.replace('-', "_")),
                });
            }
        }
    }
    Ok(found)
}

/// Whether what the build needs is here already.
#[must_use]
pub fn is_fetched() -> bool {
    places::cache().join(FOLDER).join("packages.txt").exists()
}

/// Builds release binaries of `packages` for [`GUEST_GLIBC`]; returns the folder with them.
pub fn build(packages: &[&str]) -> anyhow::Result<PathBuf> {
    let what = "zig, to link against an older C library (about 100 MB),";
    let environment = fetch::environment(FOLDER, &PACKAGES, what)?;
    let (major, minor) = GUEST_GLIBC;
    let programs = environment.join("bin");
    let mut path = programs.clone().into_os_string();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    let mut command = Command::new(programs.join("cargo-zigbuild"));
    let outer = cargo();
    for (name, value) in outer.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .current_dir(places::root())
        .args(["zigbuild", "--release", "--target"])
        .arg(format!("{TARGET}.{major}.{minor}"))
        // Nothing of it lies outside the checkout.
        .env("PATH", path)
        .env("CARGO_ZIGBUILD_CACHE_DIR", environment.join("wrappers"))
        .env("ZIG_GLOBAL_CACHE_DIR", environment.join("objects"));
    for package in packages {
        command.args(["-p", package]);
    }
    run(&mut command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| places::root().join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_libraries_below_the_folder_are_shims() {
        let metadata = br#"{"packages":[
            {"name":"a","manifest_path":"/w/shim/a/Cargo.toml","targets":[{"name":"cuda","kind":["cdylib","rlib"]}]},
            {"name":"b","manifest_path":"/w/shim/b/Cargo.toml","targets":[{"name":"b","kind":["bin"]}]},
            {"name":"c","manifest_path":"/w/shim/c/Cargo.toml","targets":[{"name":"nvidia-ml","kind":["cdylib"]}]},
            {"name":"d","manifest_path":"/w/qemu/Cargo.toml","targets":[{"name":"d","kind":["cdylib"]}]}]}"#;
        let found = shims_in(metadata, "/w/shim").expect("valid");
        let files: Vec<_> = found.iter().map(|shim| shim.file.as_str()).collect();
        assert_eq!(files, ["libcuda.so", "libnvidia_ml.so"]);
    }

    #[test]
    fn this_workspace_has_the_driver_shim() {
        let shims = shims().expect("cargo knows the workspace");
        assert!(
            shims.iter().any(|shim| shim.package == "vgpu-cuda"),
            "{shims:?}"
        );
    }
}
