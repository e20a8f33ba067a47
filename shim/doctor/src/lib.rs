//! `vgpu doctor`: why does a program not find the GPU?
//!
//! It asks layer by layer what a program would ask, each dangerous question in a child with a time limit, as the user and
//! in the environment of the process or service in question, and ends by acting as the discovering program itself does.
//! The first layer that fails is the verdict.
//!
//! | module | holds |
//! |---|---|
//! | [`target`], [`mod@unit`] | whom the question is about |
//! | [`child`], [`setting`], [`probe`] | questions put in children |
//! | [`elf`], [`loader`] | files as the loader sees them |
//! | [`layers`] | one module for each layer |
//! | [`discovery`] | one module for each discovering program |
//! | [`report`], [`codes`] | what is said |
//!
//! # Unsafe code
//!
//! Calls of strangers' libraries are in [`probe`] and happen in children only; [`child`] has the step between fork and
//! exec.

pub mod child;
pub mod codes;
pub mod discovery;
pub mod elf;
pub mod layers;
pub mod loader;
pub mod probe;
pub mod report;
pub mod setting;
pub mod target;
pub mod unit;

use child::{Identity, Setting};
use report::{Layer, Report};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use target::Target;

/// All of it never takes longer than this.
pub const LIMIT: Duration = Duration::from_secs(55);

/// Options of `vgpu doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 if the GPU is found; 10 + N if layer N is the first that fails \
(0 context, 1 transport, 2 shim file, 3 loader, 4 exports, 5 driver calls, 6 NVML, 7 environment, 8 Ollama, 9 llama.cpp, \
10 PyTorch, 11 computing); 1 if the question itself cannot be asked; 2 for wrong usage."
)]
pub struct Options {
    /// Ask about a running process: its environment, user and program
    #[arg(long, value_name = "N", conflicts_with_all = ["unit", "command"])]
    pid: Option<u32>,

    /// Ask about a service of systemd's, running or not
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    unit: Option<String>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Ask about this command in the present environment
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Asks, and prints the report.
///
/// # Errors
/// When there is no such process, service or program.
pub fn main(options: &Options) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let target = match (options.pid, &options.unit, options.command.first()) {
        (Some(pid), _, _) => Target::process(pid)?,
        (_, Some(name), _) => Target::service(name)?,
        (_, _, Some(command)) => Target::command(command)?,
        _ => Target::shell(),
    };
    let report = examine(target, start);
    if options.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(ExitCode::from(report.status()))
}

/// Goes through all layers.
#[must_use]
pub fn examine(target: Target, start: Instant) -> Report {
    let mut report = Report {
        target: target.description.clone(),
        ..Report::default()
    };
    let own = Identity::own();
    let mut identity = target.identity.clone();
    if own.uid != 0 && identity.uid != own.uid {
        report
            .warning(
                Layer::Context,
                format!(
                    "probes run as user {}, since only root can run them as user {}",
                    own.uid, identity.uid
                ),
            )
            .mend("run the doctor with sudo for certainty");
        identity = own;
    }
    let setting = Setting {
        identity,
        environment: target.heeded_environment(),
        deadline: start + LIMIT,
    };
    let mut case = layers::Case::new(target, setting);
    for check in layers::CHECKS {
        check(&mut case, &mut report);
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}
