//! `cargo xtask gpu`: a folder that checks the project on a machine with a GPU and without a network or a toolchain.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use vgpu_e2e::elf::HOST_GLIBC;
use vgpu_e2e::program::Program;

use crate::monitors::BINDINGS;
use crate::shell::{cargo, copy, create_folder, fresh_folder, run, say};
use crate::{dist, fetch, places, programs};

/// What may travel to such a machine, together with the rest of the checkout.
const LIMIT_BYTES: u64 = 56 << 20;

/// What is run there; `driver.sh` is part of the others.
const SCRIPTS: [(&str, &str); 4] = [
    ("gpu-check.sh", include_str!("gpu-check.sh")),
    ("gpu-kills.sh", include_str!("gpu-kills.sh")),
    ("gpu-nvml.sh", include_str!("gpu-nvml.sh")),
    ("driver.sh", include_str!("driver.sh")),
];

/// Builds everything and lays out `dist/gpu`.
pub fn gpu() -> anyhow::Result<()> {
    let dist = dist::dist()?;
    let built = programs::build(true, |_| true)?;
    let folder = places::dist().join("gpu");
    fresh_folder(&folder)?;
    for part in ["bin", "lib"] {
        let target = folder.join(part);
        create_folder(&target)?;
        for entry in std::fs::read_dir(dist.join(part))? {
            let entry = entry?;
            // A copied link would count twice; the script makes libcuda.so there.
            if entry.file_type()?.is_file() {
                copy(&entry.path(), &target.join(entry.file_name()))?;
            }
        }
    }
    run(cargo().args(["build", "--release", "-p", "vgpu-bench"]))?;
    dist::install(
        &dist::release_folder().join("vgpu-bench"),
        &folder.join("bin/vgpu-bench"),
        HOST_GLIBC,
    )?;
    dist::lay_out_programs(&built, &folder.join("programs"))?;
    std::fs::write(folder.join("programs/runs.tsv"), runs(&built.programs)?)?;
    let frameworks = folder.join("frameworks");
    create_folder(&frameworks)?;
    for entry in std::fs::read_dir(places::root().join("tests/smoke/frameworks"))? {
        let entry = entry?;
        copy(&entry.path(), &frameworks.join(entry.file_name()))?;
    }
    tests(&folder.join("tests"))?;
    let python = folder.join("python");
    create_folder(&python)?;
    let bindings = fetch::unpacked("nvml-bindings", &[BINDINGS], "NVIDIA's bindings of NVML")?;
    for file in [
        bindings.join("pynvml.py"),
        places::root().join("tests/smoke/gpu_nvml.py"),
    ] {
        copy(&file, &python.join(file.file_name().unwrap_or_default()))?;
    }
    for (name, text) in SCRIPTS {
        let script = folder.join(name);
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    }
    let weight = dist::within(&folder, dist::weight(&folder)?, LIMIT_BYTES)?;
    say(&format!(
        "{} is ready, {:.1} MiB; on the GPU machine: OUT=/tmp/out dist/gpu/gpu-check.sh",
        relative(&folder).display(),
        weight
    ));
    Ok(())
}

/// The test of sudden deaths and the client that it starts.
fn tests(folder: &Path) -> anyhow::Result<()> {
    create_folder(folder)?;
    dist::install_test("sudden_death", "built", &folder.join("sudden_death"))?;
    dist::install(
        &dist::release_folder().join("e2e-client"),
        &folder.join("e2e-client"),
        HOST_GLIBC,
    )
}

/// One line per execution: file, program, environment, arguments; a lone `-` stands for nothing.
fn runs(programs: &[Program]) -> anyhow::Result<String> {
    let mut text = String::new();
    let or_dash = |words: Vec<String>| {
        if words.is_empty() {
            "-".to_owned()
        } else {
            words.join(" ")
        }
    };
    for program in programs {
        for (file, _) in program.binaries() {
            for run in &program.runs {
                let environment = run
                    .environment
                    .iter()
                    .map(|(n, v)| format!("{n}={v}"))
                    .collect();
                writeln!(
                    text,
                    "{file}\t{}\t{}\t{}",
                    program.name,
                    or_dash(environment),
                    or_dash(run.arguments.clone())
                )
                .context("cannot format the list of runs")?;
            }
        }
    }
    Ok(text)
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix(places::root()).unwrap_or(path)
}
