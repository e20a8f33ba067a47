//! The relocatable `dist/` folder: `bin/vgpu`, `bin/vhost-user-vgpu`, the shims (`lib/libcuda.so.1`, `lib/libnvidia-ml.so.1` and
//! their links), and the daemon's descriptor for programs that start vhost-user daemons. What runs in guests needs an older
//! C library than the daemon does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use vgpu_e2e::elf::{GUEST_GLIBC, HOST_GLIBC, dynamic};

use crate::shell::{cargo, copy, create_folder, run, run_quietly, say, symlink};
use crate::{elf, places, portable, programs};

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
    lay_out(GUEST_GLIBC)
}

/// As [`dist`], but without any download: returns the newest C library that the guest's part may need, which is the
/// host's when the tools for older ones are not here.
pub fn dist_offline() -> anyhow::Result<(PathBuf, (u32, u32))> {
    let limit = if portable::is_fetched() {
        GUEST_GLIBC
    } else {
        HOST_GLIBC
    };
    Ok((lay_out(limit)?, limit))
}

fn lay_out(guest_glibc: (u32, u32)) -> anyhow::Result<PathBuf> {
    say("building the release binaries");
    let shims = portable::shims()?;
    let mut guest: Vec<&str> = shims.iter().map(|shim| shim.package.as_str()).collect();
    guest.push("vgpu");
    run(cargo().args(["build", "--release", "-p", "vhost-user-vgpu"]))?;
    let built = if guest_glibc == GUEST_GLIBC {
        portable::build(&guest)?
    } else {
        let mut command = cargo();
        command.args(["build", "--release"]);
        for package in &guest {
            command.args(["-p", package]);
        }
        run(&mut command)?;
        release_folder()
    };
    let dist = places::dist();
    create_folder(&dist.join("bin"))?;
    create_folder(&dist.join("lib"))?;
    install(
        &release_folder().join("vhost-user-vgpu"),
        &dist.join("bin/vhost-user-vgpu"),
        HOST_GLIBC,
    )?;
    install(&built.join("vgpu"), &dist.join("bin/vgpu"), guest_glibc)?;
    for shim in &shims {
        let from = built.join(&shim.file);
        let name = dynamic(&from)?
            .soname
            .with_context(|| format!("{} has no SONAME", from.display()))?;
        install(&from, &dist.join("lib").join(&name), guest_glibc)?;
        symlink(&name, &dist.join("lib").join(name.trim_end_matches(".1")))?;
    }
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

/// Strips a binary into its place, after checking that it needs no newer libc than `glibc`.
pub fn install(from: &Path, to: &Path, glibc: (u32, u32)) -> anyhow::Result<()> {
    // A running daemon or a loaded library must keep its old file: write beside it, then rename.
    let new = to.with_extension("new");
    copy(from, &new)?;
    run_quietly(Command::new("strip").arg("--strip-unneeded").arg(&new))?;
    elf::check_glibc(&new, glibc)?;
    std::fs::rename(&new, to).with_context(|| format!("cannot install {}", to.display()))
}

/// Installs the end-to-end test `test`, which needs `features`, as `to`: for a machine that has no cargo.
pub fn install_test(test: &str, features: &str, to: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let built = folder.path().join(test);
    // Only cargo knows where it puts a test; instead of running it, it copies it here.
    run(cargo()
        .args([
            "test",
            "--release",
            "-p",
            "vgpu-e2e",
            "--features",
            features,
        ])
        .args(["--test", test])
        .args(["--config", r#"target."cfg(all())".runner="cp""#])
        .arg("--")
        .arg(&built))?;
    install(&built, to, HOST_GLIBC)
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
