//! The command lines.

use clap::Args;
use std::path::PathBuf;

/// Options of `vgpu install`: makes every program of this system find the GPU, without any variable set.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The system to change: an image's or a chroot's root directory.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Where the files go: PREFIX/bin/vgpu and PREFIX/lib/vgpu.
    #[arg(long, value_name = "PREFIX", default_value = "/usr/local")]
    pub prefix: PathBuf,

    /// Only print what would be done.
    #[arg(long)]
    pub dry_run: bool,

    /// Leave the loader as it is: for systems with a real driver, where `vgpu run` or LD_LIBRARY_PATH chooses the shims.
    #[arg(long)]
    pub beside: bool,

    /// Install the agent's service, also if no vgpu device is seen [default: only in a machine that has one].
    #[arg(long, conflicts_with = "no_agent")]
    pub agent: bool,

    /// Do not install the agent's service.
    #[arg(long)]
    pub no_agent: bool,

    /// On a host: install the daemon and its service, too.
    #[arg(long)]
    pub daemon: bool,

    /// Huge pages of 2 MiB to set aside for the agent; 0 leaves the system's setting alone.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub huge_pages: u32,

    /// Do not start the services now.
    #[arg(long)]
    pub no_start: bool,

    /// Write /etc/cdi/vgpu.json, by which container engines hand the GPU on.
    #[arg(long)]
    pub cdi: bool,
}

/// Options of `vgpu uninstall`: undoes `vgpu install`.
#[derive(Clone, Debug, Args)]
pub struct UninstallOptions {
    /// The system to change, as given to `vgpu install`.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,

    /// Only print what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `vgpu cdi`: prints the Container Device Interface specification.
#[derive(Clone, Debug, Args)]
pub struct CdiOptions {
    /// Where the shims are on the machine that runs the containers [default: this command's own].
    #[arg(long, value_name = "DIR")]
    pub libraries: Option<PathBuf>,

    /// The directory of the socket that programs connect to.
    #[arg(long, value_name = "DIR", default_value = "/run/vgpu")]
    pub socket_dir: PathBuf,
}
