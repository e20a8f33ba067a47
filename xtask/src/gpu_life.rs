//! What `dist/gpu-guest` carries besides the programs: the tests of `tests/tests/virtual_machine.rs` as a finished binary, and
//! the script that runs those of pause, reset, reboot and kexec on that machine's GPU.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::dist;
use crate::shell::{copy, create_folder, symlink};
use vgpu_e2e::elf::HOST_GLIBC;

const SCRIPT: &str = include_str!("gpu-life.sh");
/// What the tests put into their guests.
const PROGRAMS: [&str; 2] = ["e2e-client", "vgpu-witness"];

/// Adds test, programs and the parts of `dist` to `content`, in which QEMU, the guest and the daemon lie already, and the
/// script to `folder`.
///
/// # Errors
/// When something cannot be built or copied.
pub fn add(dist: &Path, content: &Path, folder: &Path) -> anyhow::Result<()> {
    let life = content.join("life");
    for part in ["dist/bin", "dist/lib", "programs"] {
        create_folder(&life.join(part))?;
    }
    dist::install_test("virtual_machine", "guest", &life.join("virtual_machine"))?;
    for name in PROGRAMS {
        let to = life.join("programs").join(name);
        dist::install(&dist::release_folder().join(name), &to, HOST_GLIBC)?;
    }
    for part in ["bin/vgpu", "lib/libcuda.so.1", "lib/libnvidia-ml.so.1"] {
        copy(&dist.join(part), &life.join("dist").join(part))?;
    }
    let daemon = life.join("dist/bin/vhost-user-vgpu");
    symlink("../../../bin/vhost-user-vgpu", &daemon)?;
    let script = folder.join("gpu-life.sh");
    std::fs::write(&script, SCRIPT)?;
    std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(())
}
