//! The `vgpu` command, for people: `vgpu run -- PROGRAM` runs an unmodified CUDA program on the
//! backend's GPU.
//!
//! What lives here is set-up and messages; the work is done by `libcuda.so.1` (the shim) in the
//! program and by `vhost-user-vgpu` behind the socket.

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")))]
compile_error!(
    "vgpu runs on x86-64 Linux with glibc 2.28 or newer: NVIDIA's libraries, which it serves, exist for no musl, and it knows no other processor and no Windows yet"
);

mod backend;
mod install;
mod layout;
mod run;
mod top;

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
    /// Say in one line why a program does not find the GPU, or which GPU it finds.
    Doctor(vgpu_doctor::Options),
    /// A process of `vgpu doctor`.
    #[command(name = vgpu_doctor::probe::COMMAND, hide = true)]
    Probe(vgpu_doctor::probe::Options),
    /// In a virtual machine: drive the vgpu device and serve this machine's programs.
    Agent(vgpu_agent::Options),
    /// Make every program of this system find the GPU.
    Install(vgpu_install::Options),
    /// Undo `vgpu install`.
    Uninstall(vgpu_install::UninstallOptions),
    /// Print the specification by which container engines hand the GPU on.
    Cdi(vgpu_install::CdiOptions),
    /// On a host: show who uses the GPU, and how much.
    Top(top::Options),
    /// A process of `vgpu agent`.
    #[command(name = vgpu_agent::MAPPER_COMMAND, hide = true)]
    AgentMapper(vgpu_agent::MapperOptions),
    /// A process of `vgpu agent`.
    #[command(name = vgpu_agent::PARSER_COMMAND, hide = true)]
    AgentParser(vgpu_agent::ParserOptions),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Doctor(options) => vgpu_doctor::main(&options),
        Command::Probe(options) => vgpu_doctor::probe::main(&options),
        Command::Agent(options) => Ok(vgpu_agent::serve::agent(&options)),
        Command::Install(options) => install::install(&options),
        Command::Uninstall(options) => install::uninstall(&options),
        Command::Cdi(options) => install::cdi(&options),
        Command::Top(options) => top::top(&options),
        Command::AgentMapper(options) => Ok(vgpu_agent::serve::mapper(&options)),
        Command::AgentParser(options) => Ok(vgpu_agent::serve::parser(&options)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vgpu: {error:#}");
            ExitCode::FAILURE
        }
    }
}
