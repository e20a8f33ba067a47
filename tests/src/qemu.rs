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
    /// The distribution's binary, or another program that becomes QEMU.
    pub binary: PathBuf,
    /// The device, to be loaded by `LD_PRELOAD`; `None` where the binary brings it along.
    pub preload: Option<PathBuf>,
    /// Arguments that every start needs, such as the path of the firmware where the binary does not find it.
    pub arguments: Vec<OsString>,
}

impl Qemu {
    /// The command that starts it, without further arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments);
        if let Some(device) = &self.preload {
            command.env("LD_PRELOAD", device);
        }
        command
    }

    /// Whether it lets a command line have its generic vhost-user device: 10.2 and newer.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn has_generic_device(&self) -> std::io::Result<bool> {
        let output = self.command().args(["-device", "help"]).output()?;
        let devices = String::from_utf8_lossy(&output.stdout);
        Ok(devices.contains("\"vhost-user-test-device-pci\""))
    }

    /// From [`BINARY`] and, if it is set, [`PRELOAD`]: so `cargo xtask test` names them.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(Self {
            binary: variable(BINARY)?,
            preload: std::env::var_os(PRELOAD).map(PathBuf::from),
            arguments: Vec::new(),
        })
    }

    /// Hands it on to a test by [`BINARY`] and [`PRELOAD`].
    pub fn export(&self, command: &mut Command) {
        command.env(BINARY, &self.binary);
        match &self.preload {
            Some(device) => command.env(PRELOAD, device),
            None => command.env_remove(PRELOAD),
        };
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
