//! What a guest boots from: the distribution's kernel, and an initramfs with busybox, the distribution's C library and
//! the caller's files; or one that goes on to a disk with systemd on it.

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::cpio::Archive;
use crate::qemu::variable;

/// The environment variable that names the folder with the guest's parts, made by `cargo xtask guest`.
pub const GUEST: &str = "VGPU_GUEST";

/// The parts that are the same for every guest.
#[derive(Debug, Clone)]
pub struct GuestParts {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The folder with its modules, `lib/modules/VERSION` in the guest.
    pub modules: PathBuf,
    /// A statically linked busybox.
    pub busybox: PathBuf,
}

impl GuestParts {
    /// The parts in a folder: `kernel`, `modules`, `busybox`.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn in_folder(folder: &Path) -> anyhow::Result<Self> {
        let parts = Self {
            kernel: folder.join("kernel"),
            modules: folder.join("modules"),
            busybox: folder.join("busybox"),
        };
        for path in [&parts.kernel, &parts.modules, &parts.busybox] {
            if !path.exists() {
                bail!(
                    "{} is missing; `cargo xtask guest` makes it",
                    path.display()
                );
            }
        }
        Ok(parts)
    }

    /// The modules for VFIO, as files for [`Image::build`]: to be loaded by `insmod /lib/modules/NAME.ko` in the order of
    /// the list. Only those that this kernel has apart.
    #[must_use]
    pub fn vfio_modules(&self) -> Vec<(PathBuf, String)> {
        [
            "virt/lib/irqbypass.ko",
            "drivers/vfio/vfio.ko",
            "drivers/vfio/vfio_iommu_type1.ko",
            "drivers/vfio/vfio_virqfd.ko",
            "drivers/vfio/pci/vfio-pci-core.ko",
            "drivers/vfio/pci/vfio-pci.ko",
        ]
        .into_iter()
        .filter_map(|module| {
            let path = self.modules.join("kernel").join(module);
            let name = path.file_name()?.to_string_lossy().into_owned();
            path.exists()
                .then(|| (path, format!("/lib/modules/{name}")))
        })
        .collect()
    }

    /// The file system of a guest whose init is systemd, made by `cargo xtask guest`; beside the other parts.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.busybox.with_file_name(DISK)
    }

    /// The modules for a disk, as [`GuestParts::vfio_modules`].
    fn disk_modules(&self) -> impl Iterator<Item = PathBuf> {
        [
            "drivers/virtio/virtio_ring",
            "drivers/virtio/virtio",
            "drivers/virtio/virtio_pci_legacy_dev",
            "drivers/virtio/virtio_pci_modern_dev",
            "drivers/virtio/virtio_pci",
            "drivers/block/virtio_blk",
        ]
        .into_iter()
        .flat_map(|module| [format!("{module}.ko"), format!("{module}.ko.xz")])
        .map(|module| self.modules.join("kernel").join(module))
        .filter(|path| path.exists())
    }

    /// From [`GUEST`].
    ///
    /// # Errors
    /// When it is not set, or a part is missing.
    pub fn from_environment() -> anyhow::Result<Self> {
        Self::in_folder(&variable(GUEST)?)
    }
}

/// A kernel and an initramfs, ready to boot. The initramfs is deleted with it.
#[derive(Debug)]
pub struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: tempfile::NamedTempFile,
    /// The file system that the initramfs goes on to; what a guest writes to it is dropped with that guest.
    pub(super) disk: Option<PathBuf>,
}

/// The name of [`GuestParts::disk`].
pub const DISK: &str = "systemd.ext4";

const INIT: &str = include_str!("init.sh");
const DISK_INIT: &str = include_str!("disk.sh");

/// The libraries that Rust and C++ programs and NVIDIA's runtime need.
const LIBRARIES: [&str; 10] = [
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libresolv.so.2",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libz.so.1",
];
/// Where distributions keep them.
const LIBRARY_FOLDERS: [&str; 4] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
];
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

impl Image {
    /// Makes one in which `script` is run by root's shell, as `/test.sh`, and `files` lie: from a path here to a path
    /// there. Whole folders are copied; links are followed; execute permission is kept.
    ///
    /// # Errors
    /// When a file cannot be read or the image not be written.
    pub fn build(
        parts: &GuestParts,
        script: &str,
        files: &[(PathBuf, String)],
    ) -> anyhow::Result<Self> {
        let initramfs = empty()?;
        let mut archive = Archive::new(BufWriter::new(initramfs.reopen()?));
        for folder in [
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "root",
            "bin",
            "sbin",
            "etc",
            "home/user",
        ] {
            archive.folder(folder, 0o755)?;
        }
        archive.device("dev/console", 0o600, 5, 1)?;
        archive.file("init", 0o755, INIT.as_bytes())?;
        archive.file("test.sh", 0o755, script.as_bytes())?;
        archive.file(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )?;
        archive.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n")?;
        add(&mut archive, &parts.busybox, "bin/busybox")?;
        for library in LIBRARIES {
            let found = LIBRARY_FOLDERS
                .iter()
                .map(|folder| Path::new(folder).join(library))
                .find(|path| path.exists());
            // Where one is missing, a program that needs it says so.
            if let Some(path) = found {
                add(
                    &mut archive,
                    &path,
                    &format!("lib/x86_64-linux-gnu/{library}"),
                )?;
            }
        }
        add(&mut archive, Path::new(LOADER), LOADER)?;
        for (here, there) in files {
            add(&mut archive, here, there)?;
        }
        archive.finish()?;
        Ok(Self {
            kernel: parts.kernel.clone(),
            initramfs,
            disk: None,
        })
    }

    /// The same with systemd as init, on a disk that outlives a reboot: `files` and `/test.sh` are laid onto it at the first
    /// boot, and systemd starts the script as a service with the console.
    ///
    /// # Errors
    /// As [`Image::build`], and when there is no such disk.
    pub fn build_systemd(
        parts: &GuestParts,
        script: &str,
        files: &[(PathBuf, String)],
    ) -> anyhow::Result<Self> {
        let disk = parts.disk();
        if !disk.exists() {
            bail!(
                "{} is missing; `cargo xtask guest` makes it",
                disk.display()
            );
        }
        let initramfs = empty()?;
        let mut archive = Archive::new(BufWriter::new(initramfs.reopen()?));
        for folder in ["proc", "sys", "dev", "mnt", "bin"] {
            archive.folder(folder, 0o755)?;
        }
        archive.device("dev/console", 0o600, 5, 1)?;
        archive.file("init", 0o755, DISK_INIT.as_bytes())?;
        archive.file("files/test.sh", 0o755, script.as_bytes())?;
        add(&mut archive, &parts.busybox, "bin/busybox")?;
        for (place, module) in parts.disk_modules().enumerate() {
            // Loaded in the order of their names.
            let name = module.file_name().context("a file")?.to_string_lossy();
            add(&mut archive, &module, &format!("modules/{place}-{name}"))?;
        }
        for (here, there) in files {
            let there = format!("files/{}", there.trim_start_matches('/'));
            add(&mut archive, here, &there)?;
        }
        archive.finish()?;
        Ok(Self {
            kernel: parts.kernel.clone(),
            initramfs,
            disk: Some(disk),
        })
    }
}

/// A file for an initramfs. Not compressed: the emulated processor would take longer to unpack it than QEMU takes to copy it.
fn empty() -> std::io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix("vgpu-guest-")
        .suffix(".cpio")
        .tempfile()
}

impl Image {
    /// Kernel and initramfs as files for another image: to boot into from there, by kexec.
    #[must_use]
    pub fn boot_files(&self) -> [(PathBuf, String); 2] {
        [
            (self.kernel.clone(), "/boot/kernel".to_owned()),
            (
                self.initramfs.path().to_owned(),
                "/boot/initramfs".to_owned(),
            ),
        ]
    }

    /// Copies the initramfs to a file that stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::copy(self.initramfs.path(), path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(())
    }
}

fn add(archive: &mut Archive<BufWriter<File>>, here: &Path, there: &str) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", here.display());
    let metadata = here.metadata().with_context(cannot)?;
    if metadata.is_dir() {
        archive.folder(there, 0o755)?;
        let mut entries = std::fs::read_dir(here)
            .with_context(cannot)?
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            add(
                archive,
                &entry.path(),
                &format!("{}/{}", there.trim_end_matches('/'), name.to_string_lossy()),
            )?;
        }
        return Ok(());
    }
    let content = std::fs::read(here).with_context(cannot)?;
    archive.file(there, metadata.permissions().mode() & 0o777, &content)?;
    Ok(())
}
