//! `vgpu-bench`: what CUDA calls cost natively and through the vgpu client library, in one table.
//!
//! `measure` loads one driver library and measures it; `compare` runs `measure` for NVIDIA's library
//! and for ours in turns and puts both in a table with what is promised. Needs nothing but the
//! driver API: the few kernels are PTX text. `docs/benchmarks.md` says how to run it and how the
//! numbers are made.

mod child;
mod compare;
mod cuda;
mod latency;
mod machine;
mod measure;
mod metric;
mod pin;
mod record;
mod stats;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit status when everything ran but rows failed.
const ROWS_FAILED: u8 = 3;

/// Measures CUDA calls natively and through the vgpu client library.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure both in turns and print a table
    Compare(compare::Options),
    /// Measure one library
    Measure(child::Options),
    /// Show how round trips of the channel and launches that are waited for are distributed
    Latency(latency::Options),
}

fn main() -> ExitCode {
    // Without a word, compare with everything by default.
    let mut arguments: Vec<_> = std::env::args_os().collect();
    if arguments.len() <= 1 {
        arguments.push("compare".into());
    }
    let done = match Cli::parse_from(arguments).command {
        Command::Compare(options) => compare::compare(&options),
        Command::Measure(options) => child::measure(&options),
        Command::Latency(options) => latency::latency(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(ROWS_FAILED),
        Err(error) => {
            eprintln!("vgpu-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
