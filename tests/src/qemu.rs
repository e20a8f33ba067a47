//! A QEMU that knows the device `vhost-user-vgpu-pci`, as `cargo xtask qemu` prepares it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

/// The environment variable that names QEMU's binary.
pub const BINARY: &str = "VGPU_QEMU";
/// The environment variable that names the device's shared object.
pub const PRELOAD: &str = "VGPU_QEMU_DEVICE";

/// How to start QEMU with the device.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// The distribution's binary.
    pub binary: PathBuf,
    /// The device, to be loaded by `LD_PRELOAD`.
    pub preload: PathBuf,
    /// Arguments that every start needs, such as the path of the firmware where the binary does not find it.
    pub arguments: Vec<OsString>,
}

impl Qemu {
    /// The command that starts it, without further arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("LD_PRELOAD", &self.preload)
            .args(&self.arguments);
        command
    }

    /// From [`BINARY`] and [`PRELOAD`], which `cargo xtask test` sets.
    ///
    /// # Errors
    /// When one of them is not set.
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            binary: variable(BINARY)?,
            preload: variable(PRELOAD)?,
            arguments: Vec::new(),
        })
    }

    /// Hands it on to a test by [`BINARY`] and [`PRELOAD`].
    pub fn export(&self, command: &mut Command) {
        command
            .env(BINARY, &self.binary)
            .env(PRELOAD, &self.preload);
    }
}

/// A path from the environment.
pub(crate) fn variable(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os(name).map(PathBuf::from).with_context(|| {
        format!("{name} is not set; run the tests by `cargo xtask guest`, which prepares QEMU and a guest")
    })?;
    if !path.exists() {
        bail!("{name} names {}, which is not there", path.display());
    }
    Ok(path)
}
