//! The `vgpu` command, for people: `vgpu run -- PROGRAM` runs an unmodified CUDA program on the
//! backend's GPU.
//!
//! What lives here is set-up and messages; the work is done by `libcuda.so.1` (the shim) in the
//! program and by `vhost-user-vgpu` behind the socket.

mod backend;
mod layout;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Use a GPU that is elsewhere.
#[derive(Debug, Parser)]
#[command(name = "vgpu", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program with the shim; start a local backend if none listens.
    Run(run::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vgpu: {error:#}");
            ExitCode::FAILURE
        }
    }
}
