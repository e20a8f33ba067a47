//! `cargo xtask demo`: from a fresh checkout to CUDA programs running inside a virtual machine, or beside the daemon.

use std::path::Path;
use std::process::Command;

use anyhow::bail;
use clap::Args;
use vgpu_e2e::program::Cudart;

use crate::programs::Built;
use crate::shell::{display, say};
use crate::{dist, machine, programs, system};

const SHOWN: &[&str] = &[
    "vector_add",
    "matmul_tiled",
    "device_printf",
    "graphs_capture",
    "vector_add_drv",
];

/// What `cargo xtask demo` can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// Run the programs on this machine, without a virtual one.
    #[arg(long)]
    host: bool,
}

/// Builds, fetches, compiles, runs and shows.
pub fn demo(options: &Options) -> anyhow::Result<()> {
    system::prepare()?;
    let dist = dist::dist()?;
    // One binary of each program is enough for a look; statically linked runtimes need no further folder.
    let mut built = programs::build(true, |p| SHOWN.contains(&p.name.as_str()))?;
    for program in &mut built.programs {
        program.variants.retain(|v| v.cudart == Cudart::Static);
        program.variants.truncate(1);
        program.runs.truncate(1);
    }
    let device = if std::path::Path::new("/dev/nvidiactl").exists() {
        "the NVIDIA GPU of this machine"
    } else {
        "the software device: this machine has no NVIDIA GPU"
    };
    let place = if options.host {
        "beside the daemon"
    } else {
        "inside a virtual machine"
    };
    say(&format!(
        "running unmodified CUDA programs {place}, on {device}"
    ));
    let failed = if options.host {
        on_host(&dist, &built)?
    } else {
        machine::show(&dist, "auto", &built)?
    };
    if failed > 0 {
        bail!("{failed} of the demo's programs failed");
    }
    println!(
        "\nEvery program above was compiled by NVIDIA's nvcc and reached its device through our libcuda.so.1."
    );
    println!(
        "Your own, on this machine: dist/bin/vgpu run -- PROGRAM; in a guest: docs/virtual-machines.md"
    );
    Ok(())
}

/// Runs the programs through `vgpu run`; returns how many failed.
fn on_host(dist: &Path, built: &Built) -> anyhow::Result<usize> {
    let mut failed = 0;
    for program in &built.programs {
        for (file, _) in program.binaries() {
            let mut command = Command::new(dist.join("bin/vgpu"));
            command.args(["run", "--"]).arg(built.folder.join(&file));
            println!("\n$ {}", display(&command));
            let status = command.status()?;
            if !status.success() {
                println!("{file}: {status}");
                failed += 1;
            }
        }
    }
    Ok(failed)
}
