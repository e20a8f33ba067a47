//! `cargo xtask demo`: from a fresh checkout to CUDA programs running through the shim.

use std::process::Command;

use anyhow::bail;
use vgpu_e2e::program::Cudart;

use crate::shell::{display, say};
use crate::{dist, programs, system};

const SHOWN: &[&str] = &[
    "vector_add",
    "matmul_tiled",
    "device_printf",
    "graphs_capture",
    "vector_add_drv",
];

/// Builds, fetches, compiles, runs and shows.
pub fn demo() -> anyhow::Result<()> {
    system::prepare()?;
    let dist = dist::dist()?;
    let built = programs::build(true, |p| SHOWN.contains(&p.name.as_str()))?;
    let device = if std::path::Path::new("/dev/nvidiactl").exists() {
        "the NVIDIA GPU of this machine"
    } else {
        "the software device: this machine has no NVIDIA GPU"
    };
    say(&format!(
        "running unmodified CUDA programs through the shim, on {device}"
    ));
    let mut failed = 0;
    for program in SHOWN
        .iter()
        .filter_map(|name| built.programs.iter().find(|p| p.name == *name))
    {
        let binaries = program.binaries();
        // One binary of each program is enough for a look; statically linked runtimes need no further folder.
        let Some((file, _)) = binaries
            .iter()
            .find(|(_, v)| v.is_none_or(|v| v.cudart == Cudart::Static))
        else {
            continue;
        };
        let mut command = Command::new(dist.join("bin/vgpu"));
        command.args(["run", "--"]).arg(built.folder.join(file));
        println!("\n$ {}", display(&command));
        let status = command.status()?;
        if !status.success() {
            println!("{file}: {status}");
            failed += 1;
        }
    }
    if failed > 0 {
        bail!("{failed} of the demo's programs failed");
    }
    println!(
        "\nEvery program above was compiled by NVIDIA's nvcc and reached its device through dist/lib/libcuda.so.1."
    );
    println!("Your own: dist/bin/vgpu run -- PROGRAM");
    Ok(())
}
