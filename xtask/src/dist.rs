//! The relocatable `dist/` folder: `bin/vgpu`, `bin/vhost-user-vgpu`, `lib/libcuda.so.1` and its link `libcuda.so`,
//! `lib/libnvidia-ml.so.1`, and the daemon's descriptor for programs that start vhost-user daemons.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell::{cargo, copy, create_folder, run, run_quietly, say, symlink};
use crate::{elf, places, programs};

/// The most that `dist/` may weigh without test programs.
const LIMIT_BYTES: u64 = 40 << 20;

/// Where cargo puts release binaries.
pub fn release_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| places::root().join("target"), PathBuf::from);
    target.join("release")
}

/// Builds the release binaries and lays them out; returns the folder.
pub fn dist() -> anyhow::Result<PathBuf> {
    say("building the release binaries");
    run(cargo().args([
        "build",
        "--release",
        "-p",
        "vgpu",
        "-p",
        "vgpu-cuda",
        "-p",
        "vgpu-nvml",
        "-p",
        "vhost-user-vgpu",
    ]))?;
    let dist = places::dist();
    let release = release_folder();
    create_folder(&dist.join("bin"))?;
    create_folder(&dist.join("lib"))?;
    for (from, to) in [
        ("vgpu", "bin/vgpu"),
        ("vhost-user-vgpu", "bin/vhost-user-vgpu"),
        ("libcuda.so", "lib/libcuda.so.1"),
        ("libnvidia_ml.so", "lib/libnvidia-ml.so.1"),
    ] {
        install(&release.join(from), &dist.join(to))?;
    }
    symlink("libcuda.so.1", &dist.join("lib/libcuda.so"))?;
    let descriptor = "share/qemu/vhost-user/50-vgpu.json";
    create_folder(&dist.join("share/qemu/vhost-user"))?;
    let from = places::root().join("backend/daemon").join(descriptor);
    copy(&from, &dist.join(descriptor))?;
    let bytes = weight(&dist.join("bin"))? + weight(&dist.join("lib"))?;
    say(&format!(
        "dist/ is ready, {:.1} MiB",
        within(&dist, bytes, LIMIT_BYTES)?
    ));
    Ok(dist)
}

/// `cargo xtask dist`.
pub fn dist_verb(with_programs: bool) -> anyhow::Result<()> {
    let dist = dist()?;
    if with_programs {
        let built = programs::build(true, |_| true)?;
        lay_out_programs(&built, &dist.join("programs"))?;
    }
    Ok(())
}

/// Copies compiled programs and the runtimes they load into `folder`.
pub fn lay_out_programs(built: &programs::Built, folder: &Path) -> anyhow::Result<()> {
    crate::shell::fresh_folder(folder)?;
    for program in &built.programs {
        for (file, _) in program.binaries() {
            copy(&built.folder.join(&file), &folder.join(&file))?;
        }
        if let Some(expected) = &program.expected {
            copy(expected, &folder.join(format!("{}.expected", program.name)))?;
        }
    }
    let runtimes = folder.join("runtimes");
    create_folder(&runtimes)?;
    for entry in std::fs::read_dir(&built.runtimes)? {
        let entry = entry?;
        copy(&entry.path(), &runtimes.join(entry.file_name()))?;
    }
    Ok(())
}

/// Strips a binary into its place, after checking which libc it needs.
pub fn install(from: &Path, to: &Path) -> anyhow::Result<()> {
    // A running daemon or a loaded library must keep its old file: write beside it, then rename.
    let new = to.with_extension("new");
    copy(from, &new)?;
    run_quietly(Command::new("strip").arg("--strip-unneeded").arg(&new))?;
    elf::check_glibc(&new)?;
    std::fs::rename(&new, to).with_context(|| format!("cannot install {}", to.display()))
}

/// The `bytes` that `folder` weighs, in MiB; an error when they are more than `limit`.
pub fn within(folder: &Path, bytes: u64, limit: u64) -> anyhow::Result<f64> {
    if bytes > limit {
        bail!(
            "{} weighs {} MiB, more than {} MiB",
            folder.display(),
            bytes >> 20,
            limit >> 20
        );
    }
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// The bytes of all files under `folder`; links count nothing.
pub fn weight(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            bytes += weight(&entry.path())?;
        } else if kind.is_file() {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
