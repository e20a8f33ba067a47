//! `cargo xtask gpu --guest`: QEMU, a guest and the daemon in one archive, for a machine with a GPU that has neither QEMU
//! nor a network: the CUDA programs run inside the guest, on that machine's GPU.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell::{cargo, copy, create_folder, fresh_folder, run, run_quietly, say};
use crate::{dist, guest, machine, places, programs, qemu};

/// What may travel to such a machine, together with the rest of the checkout.
const LIMIT_BYTES: u64 = 56 << 20;

const SCRIPT: &str = include_str!("gpu-guest.sh");

/// The firmware files that a guest without a display needs, and where distributions keep them.
const FIRMWARE: [&str; 4] = [
    "bios-256k.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "efi-virtio.rom",
];
const FIRMWARE_FOLDERS: [&str; 4] = [
    "/usr/share/seabios",
    "/usr/share/qemu",
    "/usr/share/qemu-efi",
    "/usr/lib/ipxe/qemu",
];

/// Lays out `dist/gpu-guest`: one archive and the script that unpacks and runs it.
pub fn bundle() -> anyhow::Result<()> {
    let dist = dist::dist()?;
    let built = programs::build(true, |_| true)?;
    let qemu = qemu::prepare()?;
    let parts = guest::prepare()?;
    run(cargo().args(["build", "--release", "-p", "vgpu-bench"]))?;
    let folder = places::dist().join("gpu-guest");
    fresh_folder(&folder)?;
    let content = folder.join("content");
    for part in ["bin", "lib", "firmware"] {
        create_folder(&content.join(part))?;
    }
    let bench = content.join("vgpu-bench");
    dist::install(&dist::release_folder().join("vgpu-bench"), &bench)?;
    let more = [(bench, "/bin/vgpu-bench".to_owned())];
    let (image, names) = machine::image(&parts, &dist, &built, &more)?;
    image.save(&content.join("initramfs"))?;
    std::fs::write(content.join("names"), names.join("\n") + "\n")?;
    copy(&parts.kernel, &content.join("kernel"))?;
    copy(
        &dist.join("bin/vhost-user-vgpu"),
        &content.join("bin/vhost-user-vgpu"),
    )?;
    copy(&qemu.binary, &content.join("bin/qemu"))?;
    copy(&qemu.preload, &content.join("lib/device.so"))?;
    for library in libraries(&qemu.binary)? {
        let name = library.file_name().context("a library has a name")?;
        copy(&library, &content.join("lib").join(name))?;
    }
    for name in FIRMWARE {
        let mut found = FIRMWARE_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(name));
        if let Some(path) = found.find(|path| path.exists()) {
            copy(&path, &content.join("firmware").join(name))?;
        }
    }
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
    let script = folder.join("gpu-guest.sh");
    std::fs::write(&script, SCRIPT)?;
    std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let bytes = dist::weight(&folder)?;
    if bytes > LIMIT_BYTES {
        bail!(
            "{} weighs {} MiB, more than {} MiB",
            folder.display(),
            bytes >> 20,
            LIMIT_BYTES >> 20
        );
    }
    say(&format!(
        "dist/gpu-guest is ready, {:.1} MiB; on the GPU machine: OUT=/tmp/out dist/gpu-guest/gpu-guest.sh",
        bytes as f64 / f64::from(1 << 20)
    ));
    Ok(())
}

/// The shared libraries that a program loads, but for the C library's own.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(" => ")?.1.split(' ').next())
        .map(PathBuf::from)
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            ![
                "libc.so.6",
                "libm.so.6",
                "libdl.so.2",
                "libpthread.so.0",
                "librt.so.1",
                "libresolv.so.2",
            ]
            .contains(&name)
        })
        .collect())
}
