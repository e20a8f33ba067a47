//! `vgpu install`, `vgpu uninstall`, `vgpu cdi`: what they install is what lies around this command.

use crate::layout::Layout;
use anyhow::{Context, Result};
use std::process::ExitCode;
use vgpu_agent::pci::find::{USUAL_ID, find};
use vgpu_install::{CdiOptions, Options, Source, UninstallOptions};

/// Installs.
///
/// # Errors
/// One sentence that says what is in the way.
pub fn install(options: &Options) -> Result<ExitCode> {
    let layout = Layout::find()?;
    let source = Source {
        command: std::env::current_exe().context("the path of this command is unknown")?,
        libraries: layout.library_dir,
        daemon: layout.backend,
        device: find(None).is_ok_and(|found| found.iter().any(|device| device.id == USUAL_ID)),
    };
    vgpu_install::install(options, &source).map(|()| ExitCode::SUCCESS)
}

/// Undoes it.
///
/// # Errors
/// One sentence that says what could not be undone.
pub fn uninstall(options: &UninstallOptions) -> Result<ExitCode> {
    vgpu_install::uninstall(options).map(|()| ExitCode::SUCCESS)
}

/// Prints the specification for container engines.
///
/// # Errors
/// When there are no shims around this command.
pub fn cdi(options: &CdiOptions) -> Result<ExitCode> {
    vgpu_install::cdi(options, &Layout::find()?.library_dir).map(|()| ExitCode::SUCCESS)
}
