//! The parts of a guest to test in: Debian's kernel for virtual machines and a static busybox, unpacked under `.cache`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use vgpu_e2e::guest::{GUEST, GuestParts};
use vgpu_e2e::parts::DIST;

use crate::apt::Apt;
use crate::shell::{cargo, fresh_folder, run, say};
use crate::{dist, places, qemu, systemd};

/// Depends on the newest kernel for virtual machines: small, and boots fast.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Where the parts lie.
#[must_use]
pub fn folder() -> PathBuf {
    places::cache().join("guest")
}

/// Fetches what is missing.
///
/// # Errors
/// When a package cannot be had; one line says which.
pub fn prepare() -> anyhow::Result<GuestParts> {
    let folder = folder();
    if let Ok(parts) = GuestParts::in_folder(&folder) {
        return Ok(parts);
    }
    let apt = Apt::open()?;
    let image = apt
        .dependencies(KERNEL)?
        .into_iter()
        .find(|package| package.starts_with("linux-image-"))
        .with_context(|| format!("{KERNEL} depends on no kernel"))?;
    say(&format!(
        "fetching a guest's kernel and programs: {image}, busybox-static"
    ));
    let unpacked = folder.join("unpacked");
    fresh_folder(&unpacked)?;
    apt.unpack(&image, &unpacked)?;
    apt.unpack("busybox-static", &unpacked)?;
    let release = image.trim_start_matches("linux-image-");
    // Debian moved /bin and /lib below /usr at different times.
    for (name, candidates) in [
        (
            "kernel",
            [
                format!("boot/vmlinuz-{release}"),
                format!("usr/lib/modules/{release}/vmlinuz"),
            ],
        ),
        (
            "modules",
            [
                format!("lib/modules/{release}"),
                format!("usr/lib/modules/{release}"),
            ],
        ),
        (
            "busybox",
            ["bin/busybox".to_owned(), "usr/bin/busybox".to_owned()],
        ),
    ] {
        let Some(found) = candidates
            .iter()
            .map(|path| unpacked.join(path))
            .find(|path| path.exists())
        else {
            bail!("the packages hold no {name}");
        };
        let target = folder.join(name);
        if target.is_dir() {
            std::fs::remove_dir_all(&target)?;
        }
        std::fs::rename(&found, &target)
            .with_context(|| format!("cannot move {}", found.display()))?;
    }
    std::fs::remove_dir_all(&unpacked)?;
    GuestParts::in_folder(&folder)
}

/// A `cargo test` of what needs a virtual machine, with QEMU and the guest's parts prepared and named to it.
pub fn tests() -> anyhow::Result<Command> {
    let qemu = qemu::prepare()?;
    systemd::prepare(&prepare()?)?;
    let dist = dist::dist()?;
    let mut command = cargo();
    command
        .args(["test", "--release", "-p", "vgpu-e2e", "--features", "guest"])
        .args(["--test", "qemu_device", "--test", "virtual_machine"])
        .args(["--test", "guest_vfio", "--test", "guest_systemd"])
        .arg("--no-fail-fast")
        .env(DIST, dist)
        .env(GUEST, folder());
    qemu.export(&mut command);
    Ok(command)
}

/// `cargo xtask guest`.
pub fn guest() -> anyhow::Result<()> {
    run(&mut tests()?)
}
