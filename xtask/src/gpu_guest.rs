//! `cargo xtask gpu --guest`: QEMU, a guest and the daemon in one archive, for a machine with a GPU that has neither QEMU
//! nor a network: the CUDA programs run inside the guest, on that machine's GPU.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::Context;
use vgpu_e2e::elf::HOST_GLIBC;

use crate::shell::{cargo, copy, fresh_folder, run, run_quietly, say};
use crate::{dist, gpu, gpu_life, guest, machine, places, programs, qemu};

/// What may travel to such a machine, together with the rest of the checkout.
const LIMIT_BYTES: u64 = 56 << 20;

/// What is run there; the other two are part of the first.
const SCRIPTS: [(&str, &str); 3] = [
    ("gpu-guest.sh", include_str!("gpu-guest.sh")),
    ("gpu-report.sh", gpu::REPORT),
    ("driver.sh", gpu::DRIVER),
];
/// What root's shell does in the guest.
const INSIDE: &str = include_str!("gpu-guest-inside.sh");

/// Lays out `dist/gpu-guest`: one archive and the script that unpacks and runs it.
pub fn bundle() -> anyhow::Result<()> {
    let dist = dist::dist()?;
    let built = programs::build(true, |_| true)?;
    let qemu = qemu::prepare()?;
    let device = qemu.preload.context("the device is not loaded by name")?;
    let parts = guest::prepare()?;
    run(cargo().args(["build", "--release", "-p", "vgpu-bench"]))?;
    let folder = places::dist().join("gpu-guest");
    fresh_folder(&folder)?;
    let content = folder.join("content");
    qemu::bundle(&qemu.binary, &device, &content)?;
    let bench = folder.join("vgpu-bench");
    dist::install(
        &dist::release_folder().join("vgpu-bench"),
        &bench,
        HOST_GLIBC,
    )?;
    let more = [(bench.clone(), "/bin/vgpu-bench".to_owned())];
    let (image, names) = machine::image(&parts, &dist, &built, INSIDE, &more)?;
    std::fs::remove_file(bench)?;
    image.save(&content.join("initramfs"))?;
    std::fs::write(content.join("names"), names.join("\n") + "\n")?;
    copy(
        &dist.join("bin/vhost-user-vgpu"),
        &content.join("bin/vhost-user-vgpu"),
    )?;
    gpu_life::add(&dist, &content, &folder)?;
    say("packing QEMU and the guest");
    run_quietly(
        Command::new("tar")
            .arg("-czf")
            .arg(folder.join("content.tar.gz"))
            .arg("-C")
            .arg(&content)
            .arg("."),
    )?;
    std::fs::remove_dir_all(&content)?;
    for (name, text) in SCRIPTS {
        let script = folder.join(name);
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    }
    let weight = dist::within(&folder, dist::weight(&folder)?, LIMIT_BYTES)?;
    say(&format!(
        "dist/gpu-guest is ready, {:.1} MiB; on the GPU machine: OUT=/tmp/out dist/gpu-guest/gpu-guest.sh",
        weight
    ));
    Ok(())
}
