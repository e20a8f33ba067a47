//! The disk of a guest whose init is systemd: the distribution's packages unpacked into a file system, without their scripts,
//! and busybox for what is not there. Everything that such a guest does not need is masked: it boots under TCG in ten seconds.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use vgpu_e2e::guest::{DISK, GuestParts};

use crate::apt::Apt;
use crate::shell::{copy, create_folder, run_quietly, say, symlink};

/// With what these need; AppArmor's tools for its profiles.
const PACKAGES: [&str; 4] = ["systemd", "apparmor", "libc-bin", "libstdc++6"];
/// Its size; what is not used takes no place.
const SIZE: &str = "256M";
/// Started by nobody: what would ask for a terminal, look at hardware or write a log for the next boot.
const MASKED: [&str; 26] = [
    "apparmor.service",
    "dev-mqueue.mount",
    "getty.target",
    "ldconfig.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "remote-fs.target",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-boot-system-token.service",
    "systemd-journal-catalog-update.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-machine-id-commit.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-update-done.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
];
/// The test's shell, with the console: `/test.sh` comes with the guest's initramfs.
const SHELL: &str = "\
[Unit]
Description=The test's shell

[Service]
ExecStart=/bin/sh /test.sh
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
";
/// Small files that packages' scripts or an administrator would make.
const FILES: [(&str, &str); 9] = [
    (
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n",
    ),
    (
        "etc/group",
        "root:x:0:\nadm:x:4:\nutmp:x:43:\nkvm:x:104:\nuser:x:1000:\nsystemd-journal:x:999:\nsystemd-network:x:998:\nnogroup:x:65534:\n",
    ),
    // Made by whatever first makes a user, systemd included.
    ("etc/.pwd.lock", ""),
    ("etc/hostname", "guest\n"),
    // Any will do; without one each boot would be the first.
    ("etc/machine-id", "76677075766770757667707576677075\n"),
    ("etc/fstab", ""),
    ("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n"),
    (
        "etc/ld.so.conf.d/x86_64-linux-gnu.conf",
        "/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n",
    ),
    ("etc/systemd/system/vgpu-test.service", SHELL),
];

/// Makes the disk beside the guest's other parts, unless it is there and was made by this very recipe.
///
/// # Errors
/// When a package cannot be had, or the file system not be made.
pub fn prepare(parts: &GuestParts) -> anyhow::Result<()> {
    let disk = parts.disk();
    let stamp = disk.with_extension("recipe");
    let recipe = format!("{SIZE} {PACKAGES:?} {MASKED:?} {FILES:?}");
    if disk.exists() && std::fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
        return Ok(());
    }
    let apt = Apt::open()?;
    say(&format!(
        "making a guest with systemd: {}",
        PACKAGES.join(", ")
    ));
    let folder = disk.parent().context("a folder")?;
    let work = tempfile::Builder::new()
        .prefix("systemd-")
        .tempdir_in(folder)?;
    let root = work.path().join("root");
    for name in ["bin", "sbin", "lib", "lib64"] {
        create_folder(&root.join("usr").join(name))?;
        symlink(&format!("usr/{name}"), &root.join(name))?;
    }
    apt.unpack_with_dependencies(&PACKAGES, &root)?;
    furnish(&root, parts)?;
    let image = work.path().join(DISK);
    make_file_system(&root, &image)?;
    std::fs::rename(&image, &disk)?;
    std::fs::write(&stamp, recipe)?;
    Ok(())
}

fn furnish(root: &Path, parts: &GuestParts) -> anyhow::Result<()> {
    for name in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "home/user",
        "var/tmp",
        "etc/ld.so.conf.d",
        "etc/systemd/system/multi-user.target.wants",
    ] {
        create_folder(&root.join(name))?;
    }
    for (name, text) in FILES {
        std::fs::write(root.join(name), text)?;
    }
    let units = root.join("etc/systemd/system");
    for unit in MASKED {
        symlink("/dev/null", &units.join(unit))?;
    }
    symlink(
        "/lib/systemd/system/multi-user.target",
        &units.join("default.target"),
    )?;
    symlink(
        "/etc/systemd/system/vgpu-test.service",
        &units.join("multi-user.target.wants/vgpu-test.service"),
    )?;
    copy(&parts.busybox, &root.join("usr/bin/busybox"))?;
    let listed = Command::new(&parts.busybox).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&listed.stdout).lines() {
        let places = ["usr/bin", "usr/sbin"].map(|folder| root.join(folder).join(applet));
        if places.iter().all(|place| place.symlink_metadata().is_err()) {
            symlink("busybox", &places[0])?;
        }
    }
    run_quietly(Command::new("/sbin/ldconfig").arg("-r").arg(root))
}

/// All files in it belong to root, whoever makes it.
fn make_file_system(root: &Path, image: &Path) -> anyhow::Result<()> {
    let make = "/sbin/mke2fs";
    if !Path::new(make).exists() {
        bail!("{make} is missing; install e2fsprogs");
    }
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(make)
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", make]);
        command
    };
    run_quietly(
        command
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(root)
            .arg(image)
            .arg(SIZE)
            .stdin(Stdio::null()),
    )
}
