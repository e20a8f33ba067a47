//! `cargo xtask qemu`: the distribution's QEMU with the device `vhost-user-vgpu-pci`, built against exactly its headers
//! and loaded into its own binary.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use vgpu_e2e::guest::GUEST;
use vgpu_e2e::qemu::{BINARY, Qemu};

use crate::apt::{self, Apt};
use crate::shell::{copy, create_folder, display, exists, fresh_folder, run_quietly, say};
use crate::{dist, fetch, guest, places, system};

/// The program that the device is loaded into.
const PROGRAM: &str = "qemu-system-x86_64";
/// The Debian package that it comes in.
const PACKAGE: &str = "qemu-system-x86";
/// The oldest major version that the device's source fits.
const OLDEST: u32 = 10;
/// What QEMU's `configure` asks for, beyond a compiler.
const BUILD_PACKAGES: [&str; 9] = [
    "dpkg-dev",
    "pkg-config",
    "libglib2.0-dev",
    "libpixman-1-dev",
    "zlib1g-dev",
    "libfdt-dev",
    "flex",
    "bison",
    "ninja-build",
];

/// What `cargo xtask qemu` can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// An unpacked source of exactly the installed QEMU, where the distribution is none with apt.
    #[arg(long, value_name = "FOLDER")]
    source: Option<PathBuf>,
    /// Install a copy of QEMU that loads the device by itself, for libvirt: into PREFIX/lib/vgpu.
    #[arg(long)]
    install: bool,
    /// Where `--install` puts it.
    #[arg(long, value_name = "PREFIX", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Lay out QEMU, the device, its libraries and firmware, and a guest's parts in FOLDER, for a machine without a network.
    #[arg(long, value_name = "FOLDER")]
    bundle: Option<PathBuf>,
    /// QEMU's own arguments; without any, only say where things are.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Prepares, then becomes QEMU.
pub fn qemu(options: &Options) -> anyhow::Result<()> {
    let qemu = prepare_from(options.source.as_deref())?;
    let device = qemu.preload.as_deref().unwrap_or(Path::new("built in"));
    if options.install {
        return install(&qemu.binary, device, &options.prefix);
    }
    if let Some(folder) = &options.bundle {
        return bundle(&qemu.binary, device, folder);
    }
    if options.arguments.is_empty() {
        println!("QEMU:      {}", qemu.binary.display());
        println!("device:    {}", device.display());
        println!(
            "start it:  LD_PRELOAD={} {} … -device vhost-user-vgpu-pci,chardev=…",
            device.display(),
            qemu.binary.display()
        );
        println!("or:        cargo xtask qemu -- …");
        println!("more:      docs/virtual-machines.md");
        return Ok(());
    }
    let mut command = qemu.command();
    command.args(&options.arguments);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", display(&command)))
}

/// A QEMU that knows the device: installed, if it is missing, and the device built for it, if need be.
///
/// # Errors
/// One line that says what is missing and what mends it.
pub fn prepare() -> anyhow::Result<Qemu> {
    prepare_from(None)
}

fn prepare_from(source: Option<&Path>) -> anyhow::Result<Qemu> {
    if !exists(PROGRAM, &["--version"]) {
        install_qemu()?;
    }
    let version = Version::read()?;
    if version.major()? < OLDEST {
        bail!(
            "{PROGRAM} is version {}, the device needs {OLDEST}.0 or newer: remove the package {PACKAGE} and run this again, \
             it installs the newest one your distribution has",
            version.number
        );
    }
    let folder = places::cache().join("qemu").join(version.folder_name());
    let headers = folder.join("headers");
    if !headers.join("complete").exists() {
        make_headers(&version, source, &folder)?;
    }
    let preload = compile(&folder)?;
    if preload.to_string_lossy().contains([' ', ':']) {
        bail!(
            "the loader cannot preload {}: move the repository to a path without spaces and colons",
            preload.display()
        );
    }
    Ok(Qemu {
        binary: find(PROGRAM)?,
        preload: Some(preload),
        arguments: Vec::new(),
    })
}

/// Installs QEMU, from the backports suite where the release's own is too old.
fn install_qemu() -> anyhow::Result<()> {
    let apt = Apt::open().context("QEMU is missing; install qemu-system-x86_64, 10.0 or newer")?;
    let candidate = apt.candidate(PACKAGE)?.unwrap_or_default();
    let new_enough = upstream(&candidate)
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok())
        .is_some_and(|major| major >= OLDEST);
    let backports = apt.backports();
    let suite = (!new_enough).then_some(backports.as_str());
    apt.install(&[PACKAGE], suite)
}

/// What a QEMU says of itself; the device compares both parts when it is loaded.
#[derive(Debug)]
struct Version {
    /// `10.0.2`.
    number: String,
    /// `Debian 1:10.0.2+ds-2+deb13u1~bpo12+1`; may be empty.
    package: String,
}

impl Version {
    fn read() -> anyhow::Result<Self> {
        let output = Command::new(PROGRAM).arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(text.lines().next().unwrap_or_default())
            .with_context(|| format!("`{PROGRAM} --version` says no version: {text}"))
    }

    fn parse(line: &str) -> Option<Self> {
        let rest = line.strip_prefix("QEMU emulator version ")?;
        let (number, package) = match rest.split_once(" (") {
            Some((number, package)) => (number, package.strip_suffix(')')?),
            None => (rest, ""),
        };
        Some(Self {
            number: number.trim().to_owned(),
            package: package.to_owned(),
        })
    }

    fn major(&self) -> anyhow::Result<u32> {
        let major = self.number.split('.').next().unwrap_or_default();
        major
            .parse()
            .with_context(|| format!("QEMU's version is no number: {}", self.number))
    }

    /// A name for a folder, other for every build.
    fn folder_name(&self) -> String {
        format!("{} {}", self.number, self.package)
            .trim()
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || "+~.-".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect()
    }
}

/// `10.0.2` of `1:10.0.2+ds-2+deb13u1~bpo12+1`.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .map_or(version, |at| &version[..at])
}

/// The version of the source package: a binary package may have been built from it again (`+b1`).
fn source_version(binary: &str) -> &str {
    match binary.rsplit_once("+b") {
        Some((source, count)) if count.bytes().all(|c| c.is_ascii_digit()) => source,
        _ => binary,
    }
}

/// Configures QEMU's source as far as its headers are complete, and keeps those.
fn make_headers(version: &Version, source: Option<&Path>, folder: &Path) -> anyhow::Result<()> {
    fresh_folder(folder)?;
    let work = folder.join("work");
    let tree = match source {
        Some(source) => {
            let said = std::fs::read_to_string(source.join("VERSION"))
                .with_context(|| format!("{} is no source of QEMU", source.display()))?;
            if said.trim() != version.number {
                bail!(
                    "{} is QEMU {}, but {PROGRAM} is {}",
                    source.display(),
                    said.trim(),
                    version.number
                );
            }
            create_folder(&work)?;
            let tree = work.join("qemu");
            run_quietly(Command::new("cp").arg("--recursive").args([source, &tree]))?;
            tree
        }
        None => fetch_source(&work)?,
    };
    say(&format!(
        "making the headers of QEMU {} ({}); about half a minute, once for each version",
        version.number, version.package
    ));
    configure(version, &tree)?;
    keep_headers(&tree, &folder.join("headers"))?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}

fn fetch_source(work: &Path) -> anyhow::Result<PathBuf> {
    let apt = Apt::open()
        .context("the source of exactly this QEMU is needed; give it with --source FOLDER")?;
    let Some(package) = apt::installed(PACKAGE) else {
        bail!(
            "{PROGRAM} does not come from the package {PACKAGE}; give the source it was built from with --source FOLDER"
        );
    };
    system::prepare()?;
    let missing: Vec<&str> = BUILD_PACKAGES
        .into_iter()
        .filter(|package| apt::installed(package).is_none())
        .collect();
    if !missing.is_empty() {
        apt.install(&missing, None)?;
    }
    say(&format!("fetching the source of {PACKAGE} {package}"));
    apt.source("qemu", source_version(&package), work)
}

fn configure(version: &Version, tree: &Path) -> anyhow::Result<()> {
    // Debian's tarball comes without the firmware images, and the build description insists on them.
    let blobs = tree.join("pc-bios/meson.build");
    let text = std::fs::read_to_string(&blobs)?;
    let text = text
        .replace("\nif unpack_edk2_blobs", "\nif false")
        .replace("\nsubdir('dtb')", "");
    std::fs::write(&blobs, text)?;
    fetch_wheels(tree)?;
    run_quietly(
        Command::new("./configure")
            .args([
                "--without-default-features",
                "--target-list=x86_64-softmmu",
                "--enable-system",
                "--disable-tools",
                "--disable-docs",
                "--enable-tcg",
                "--enable-kvm",
                "--enable-vhost-user",
                "--enable-modules",
                "--enable-pixman",
                "--disable-install-blobs",
            ])
            .arg(format!("--with-pkgversion={}", version.package))
            .current_dir(tree),
    )
    .context("cannot configure QEMU")?;
    run_quietly(
        Command::new("ninja")
            .args([
                "qapi/qapi-types-error.h",
                "qemu-version.h",
                "config-poison.h",
            ])
            .current_dir(tree.join("build")),
    )
    .context("cannot make QEMU's generated headers")
}

/// QEMU's build wants meson and pycotap as wheels, in the versions that its own list names.
fn fetch_wheels(tree: &Path) -> anyhow::Result<()> {
    let wheels = tree.join("python/wheels");
    create_folder(&wheels)?;
    let list = std::fs::read_to_string(tree.join("pythondeps.toml"))?;
    let wanted: Vec<String> = ["meson", "pycotap"]
        .into_iter()
        .filter_map(|name| pinned(&list, name).map(|version| format!("{name}=={version}")))
        .collect();
    let pip = fetch::environment("pip", &["pip"], "pip")?;
    run_quietly(
        Command::new(pip.join("bin/python"))
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .arg("--disable-pip-version-check")
            .arg("--dest")
            .arg(&wheels)
            .args(&wanted),
    )
    .with_context(|| format!("cannot fetch {} from PyPI", wanted.join(" ")))
}

/// `1.5.0` for `meson` in `meson = { accepted = ">=1.5.0", installed = "1.5.0" }`.
fn pinned<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let line = list
        .lines()
        .find(|line| line.split('=').next().is_some_and(|key| key.trim() == name))?;
    line.split_once("installed")?.1.split('"').nth(1)
}

/// Copies what the device includes: a hundredth of the tree.
fn keep_headers(tree: &Path, headers: &Path) -> anyhow::Result<()> {
    fresh_folder(headers)?;
    for part in ["include", "linux-headers", "host/include", "build"] {
        copy_files(&tree.join(part), &headers.join(part), &["h", "inc"])?;
    }
    std::fs::write(headers.join("complete"), "")?;
    Ok(())
}

/// Copies the files whose names end so, with their folders.
fn copy_files(from: &Path, to: &Path, extensions: &[&str]) -> anyhow::Result<()> {
    for entry in
        std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?
    {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        // Follows links: linux-headers/asm is one.
        if path.is_dir() {
            copy_files(&path, &target, extensions)?;
        } else if path.is_file()
            && path
                .extension()
                .is_some_and(|is| extensions.iter().any(|wanted| is == *wanted))
        {
            create_folder(to)?;
            copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Compiles the device; about a second.
fn compile(folder: &Path) -> anyhow::Result<PathBuf> {
    let source = places::root().join("qemu-device/vhost-user-vgpu.c");
    let library = folder.join("vhost-user-vgpu.so");
    let built_from = folder.join("vhost-user-vgpu.c");
    let text = std::fs::read(&source)?;
    if library.exists() && std::fs::read(&built_from).is_ok_and(|have| have == text) {
        return Ok(library);
    }
    say("compiling the device vhost-user-vgpu-pci");
    let headers = folder.join("headers");
    let new = folder.join(format!("vhost-user-vgpu.{}.so", std::process::id()));
    let flags = Command::new("pkg-config")
        .args(["--cflags", "glib-2.0", "pixman-1"])
        .output()
        .context("cannot run pkg-config")?;
    run_quietly(
        Command::new("gcc")
            .args(["-shared", "-fPIC", "-std=gnu11", "-O2", "-g1"])
            // QEMU is compiled with these.
            .args(["-fno-strict-aliasing", "-fno-common", "-fwrapv"])
            .args(["-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64"])
            .args([
                "-DVGPU_OUT_OF_TREE",
                "-Wall",
                "-Werror=implicit-function-declaration",
            ])
            // Functions that only QEMU has are looked up when they are called: see the source.
            .arg("-Wl,-z,lazy")
            .args(
                [
                    "build",
                    "build/qapi",
                    "include",
                    "host/include/x86_64",
                    "host/include/generic",
                ]
                .map(|part| format!("-I{}", headers.join(part).display())),
            )
            .arg("-isystem")
            .arg(headers.join("linux-headers"))
            .args(String::from_utf8_lossy(&flags.stdout).split_whitespace())
            .arg("-o")
            .arg(&new)
            .arg(&source),
    )
    .context("cannot compile the device")?;
    // A QEMU that runs keeps the file it has.
    std::fs::rename(&new, &library)?;
    std::fs::write(&built_from, text)?;
    Ok(library)
}

fn find(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} is not in PATH"))
}

/// That a QEMU made here knows the device. Its exit status does not tell.
fn check_device(qemu: &Path) -> anyhow::Result<()> {
    let output = Command::new(qemu)
        .args(["-device", "vhost-user-vgpu-pci,help"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", qemu.display()))?;
    if !String::from_utf8_lossy(&output.stdout).contains("virtio-id=") {
        bail!(
            "{} does not know the device: {}",
            qemu.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Starts the QEMU of a bundle: with its own loader and libraries, as the machine's may be older or missing.
const START: &str = r#"#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
unset LD_PRELOAD
exec "$here/lib/ld-linux-x86-64.so.2" --library-path "$here/lib" --preload "$here/lib/vhost-user-vgpu.so" \
    "$here/lib/qemu-system-x86_64" -L "$here/firmware" "$@"
"#;

/// Modules by which a guest's driver may reach the device.
const MODULES: [&str; 3] = ["drivers/vfio", "drivers/uio", "virt/lib"];

/// `bin/qemu`, which needs nothing of the system, and `guest`, the folder that tests in a guest are pointed to.
///
/// # Errors
/// When a part is missing, or the bundle does not know the device.
pub fn bundle(qemu: &Path, device: &Path, folder: &Path) -> anyhow::Result<()> {
    let parts = guest::prepare()?;
    fresh_folder(folder)?;
    for part in ["bin", "lib", "firmware", "guest"] {
        create_folder(&folder.join(part))?;
    }
    let lib = folder.join("lib");
    copy(qemu, &lib.join(PROGRAM))?;
    copy(device, &lib.join("vhost-user-vgpu.so"))?;
    let libraries = Command::new("ldd").arg(qemu).output()?;
    // `libz.so.1 => /lib/…/libz.so.1 (0x…)`, and the loader without an arrow.
    for line in String::from_utf8_lossy(&libraries.stdout).lines() {
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        if let Some(path) = path.map(Path::new)
            && let Some(name) = path.file_name()
        {
            copy(path, &lib.join(name))?;
        }
    }
    for folder_of_system in ["/usr/share/qemu", "/usr/share/seabios"] {
        for name in [
            "bios-256k.bin",
            "kvmvapic.bin",
            "linuxboot_dma.bin",
            "pvh.bin",
        ] {
            let file = Path::new(folder_of_system).join(name);
            if file.exists() {
                copy(&file, &folder.join("firmware").join(name))?;
            }
        }
    }
    copy(&parts.kernel, &folder.join("guest/kernel"))?;
    copy(&parts.busybox, &folder.join("guest/busybox"))?;
    for part in MODULES {
        let from = parts.modules.join("kernel").join(part);
        copy_files(
            &from,
            &folder.join("guest/modules/kernel").join(part),
            &["ko"],
        )?;
    }
    let start = folder.join("bin/qemu");
    std::fs::write(&start, START)?;
    std::fs::set_permissions(&start, std::fs::Permissions::from_mode(0o755))?;
    check_device(&start)?;
    let bytes = dist::weight(folder)?;
    say(&format!(
        "{} is ready, {} MiB",
        folder.display(),
        bytes >> 20
    ));
    println!(
        "tests there: {BINARY}={}/bin/qemu {GUEST}={}/guest",
        folder.display(),
        folder.display()
    );
    Ok(())
}

/// What else a host with libvirt needs; docs/virtual-machines.md says what of it was tried.
const POLICY: &str = "\
libvirt:   <emulator>BINARY</emulator>, see docs/virtual-machines.md
AppArmor:  add to /etc/apparmor.d/local/abstractions/libvirt-qemu:
             BINARY rmix,
             LIBRARY rm,
             /run/vgpu/*.sock rw,
             /run/vgpu-machines/*/vgpu.sock rw,
           and to /etc/apparmor.d/local/usr.sbin.libvirtd:
             BINARY PUx,
           then: systemctl reload apparmor
SELinux:   (not tried)
             semanage fcontext -a -t qemu_exec_t BINARY
             semanage fcontext -a -t lib_t LIBRARY
             restorecon -v BINARY LIBRARY
After an update of QEMU install again: the copy does not load the modules of another version.";

/// A copy of the binary with the device among the libraries it needs: no environment, so libvirt can start it.
fn install(qemu: &Path, device: &Path, prefix: &Path) -> anyhow::Result<()> {
    if !exists("patchelf", &["--version"]) {
        Apt::open()?.install(&["patchelf"], None)?;
    }
    let folder = prefix.join("lib/vgpu");
    create_folder(&folder)?;
    let library = folder.join("vhost-user-vgpu.so");
    let binary = folder.join(PROGRAM);
    for (from, to) in [(device, &library), (qemu, &binary)] {
        let new = to.with_extension("new");
        copy(from, &new)?;
        std::fs::rename(&new, to)?;
    }
    run_quietly(
        Command::new("patchelf")
            .arg("--add-needed")
            .arg(&library)
            .arg(&binary),
    )?;
    check_device(&binary)?;
    say(&format!("installed {}", binary.display()));
    println!(
        "{}",
        POLICY
            .replace("BINARY", &binary.display().to_string())
            .replace("LIBRARY", &library.display().to_string())
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_apart() {
        let version =
            Version::parse("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)")
                .expect("a version");
        assert_eq!(version.number, "10.0.2");
        assert_eq!(version.package, "Debian 1:10.0.2+ds-2+deb13u1~bpo12+1");
        assert_eq!(version.major().expect("a number"), 10);
        assert_eq!(
            version.folder_name(),
            "10.0.2_Debian_1_10.0.2+ds-2+deb13u1~bpo12+1"
        );
        let plain = Version::parse("QEMU emulator version 11.0.0").expect("a version");
        assert_eq!(
            (plain.number.as_str(), plain.package.as_str()),
            ("11.0.0", "")
        );
        assert_eq!(upstream("1:7.2+dfsg-7+deb12u18+b3"), "7.2");
        assert_eq!(source_version("1:10.0.2+ds-2+b3"), "1:10.0.2+ds-2");
        assert_eq!(
            source_version("1:10.0.2+ds-2~bpo12+1"),
            "1:10.0.2+ds-2~bpo12+1"
        );
    }

    #[test]
    fn the_pinned_version_of_a_wheel_is_found() {
        let list = "[meson]\nmeson = { accepted = \">=1.5.0\", installed = \"1.5.0\", canary = \"meson\" }\n";
        assert_eq!(pinned(list, "meson"), Some("1.5.0"));
        assert_eq!(pinned(list, "pycotap"), None);
    }
}
