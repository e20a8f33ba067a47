//! `vgpu run`: set up the environment, make sure a backend listens, become the program.

use crate::{backend, layout::Layout};
use anyhow::{Context, Result};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Options of `vgpu run`.
#[derive(Debug, Args)]
pub struct Options {
    /// Socket of the backend. Default: VGPU_SOCKET, else /run/vgpu/vgpu.sock if a backend answers
    /// there, else one of this user's own
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Device of a backend that has to be started: auto, cuda or software
    #[arg(long, default_value = "auto", value_parser = ["auto", "cuda", "software"])]
    device: String,

    /// Device memory each program may have, of a backend that has to be started (e.g. 2G)
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// Runs the program; returns only on failure, since the program takes this process's place.
///
/// # Errors
/// When there is no backend to be had, or the program cannot be started.
pub fn run(options: &Options) -> Result<ExitCode> {
    let layout = Layout::find()?;
    let socket = match (&options.socket, std::env::var_os("VGPU_SOCKET")) {
        (Some(path), _) => path.clone(),
        (None, Some(path)) => PathBuf::from(path),
        (None, None) => backend::default_socket(),
    };
    if !backend::answers(&socket) {
        backend::start(
            &layout.backend,
            &socket,
            &options.device,
            options.memory.as_deref(),
        )?;
    }
    let (program, arguments) = options.program.split_first().context("no program given")?;
    let mut path = layout.library_dir.into_os_string();
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH").filter(|before| !before.is_empty()) {
        path.push(":");
        path.push(before);
    }
    let error = Command::new(program)
        .args(arguments)
        .env("LD_LIBRARY_PATH", path)
        .env("VGPU_SOCKET", &socket)
        .exec();
    Err(error).with_context(|| format!("{} cannot be run", program.to_string_lossy()))
}
