//! Where the built parts lie: a `dist/` folder, or cargo's own output folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The environment variable that names a `dist/` folder to test, made by `cargo xtask dist`.
pub const DIST: &str = "VGPU_DIST";

/// The files under test.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The `vgpu` command.
    pub vgpu: PathBuf,
    /// The host daemon.
    pub daemon: PathBuf,
    /// A folder with `libcuda.so.1` and `libnvidia-ml.so.1` in it and nothing else that a loader could mistake for a system library.
    pub library_folder: PathBuf,
}

impl Parts {
    /// The parts in a `dist/` folder.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn in_dist(root: &Path) -> anyhow::Result<Self> {
        // Programs run in other working directories, so every path must be absolute.
        let root = root
            .canonicalize()
            .with_context(|| format!("no folder {}", root.display()))?;
        let parts = Self {
            vgpu: root.join("bin/vgpu"),
            daemon: root.join("bin/vhost-user-vgpu"),
            library_folder: root.join("lib"),
        };
        for path in [
            &parts.vgpu,
            &parts.daemon,
            &parts.library_folder.join("libcuda.so.1"),
            &parts.library_folder.join("libnvidia-ml.so.1"),
        ] {
            if !path.exists() {
                bail!(
                    "{} is missing; build it with `cargo xtask dist`",
                    path.display()
                );
            }
        }
        Ok(parts)
    }

    /// The parts to test from within `cargo test`: those of [`DIST`] if it is set, else those of the repository's `dist/`.
    ///
    /// # Errors
    /// When they are not built; the message says how to build them.
    pub fn locate() -> anyhow::Result<Self> {
        match std::env::var_os(DIST) {
            Some(root) => Self::in_dist(Path::new(&root)),
            None => Self::in_dist(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist")),
        }
    }
}
