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
    /// Say in one line why a program does not find the GPU, or which GPU it finds.
    Doctor(vgpu_doctor::Options),
    /// A process of `vgpu doctor`.
    #[command(name = vgpu_doctor::probe::COMMAND, hide = true)]
    Probe(vgpu_doctor::probe::Options),
    /// In a virtual machine: drive the vgpu device and serve this machine's programs.
    Agent(vgpu_agent::Options),
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
