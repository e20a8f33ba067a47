//! `cargo xtask test`: everything that can be tested without a GPU, in one table.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use vgpu_e2e::backend::Backend;
use vgpu_e2e::command;
use vgpu_e2e::elf::{GLIBC, GUEST_GLIBC};
use vgpu_e2e::parts::{DIST, Parts};
use vgpu_e2e::program::Run;
use vgpu_e2e::verdict::{Verdict, judge};

use crate::cupy::{self, Cupy};
use crate::monitors::{self, Monitors};
use crate::programs::Built;
use crate::shell::{cargo, display, say};
use crate::smoke::Tinygrad;
use crate::summary::{Summary, cargo_test_counts};
use crate::{dist, ggml, guest, machine, many, places, programs, system, wheels};

/// How long one test program may take: fifty times what the slowest needs, for busy machines.
const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

/// What to leave out, and what to add.
#[derive(Debug, Args)]
pub struct Options {
    /// Only the CUDA programs whose name contains this; nothing else is run.
    #[arg(long)]
    program: Option<String>,
    /// Run them inside a virtual machine; with `--program` only there.
    #[arg(long)]
    guest: bool,
    /// Leave out what needs a download: the CUDA programs, Ollama's discovery, virtual machines, tinygrad, CuPy, the monitors and NVIDIA's libraries.
    #[arg(long)]
    offline: bool,
    /// The device of the backend that the programs run on.
    #[arg(long, default_value = "software")]
    device: String,
}

/// Runs the tests and prints the summary; fails when one of them failed.
pub fn test(options: &Options) -> anyhow::Result<()> {
    let mut summary = Summary::default();
    if options.program.is_none() {
        workspace_tests(&mut summary)?;
        loom_models(&mut summary)?;
        stress(&mut summary)?;
        fuzz_replay(&mut summary)?;
    }
    let (dist, glibc) = if options.offline {
        dist::dist_offline()?
    } else {
        (dist::dist()?, GUEST_GLIBC)
    };
    if options.program.is_none() {
        if !options.offline
            && let Err(error) = system::prepare_podman()
        {
            // Its test then says that it checked nothing.
            summary.remark(&format!("containers: no Podman: {error:#}"));
        }
        end_to_end(&mut summary, &dist, glibc)?;
    }
    if glibc != GUEST_GLIBC {
        summary.remark("the guest's part for older C libraries: not built, left out by --offline");
    }
    if options.offline {
        summary.remark("CUDA programs, Ollama's discovery, virtual machines, tinygrad, CuPy, monitors and NVIDIA's libraries: left out by --offline");
    } else {
        let everything = options.program.is_none();
        let built = programs::build(options.device != "software", |program| {
            let part = options.program.as_ref();
            part.is_none_or(|part| program.name.contains(part.as_str()))
        })?;
        if built.programs.is_empty() {
            bail!("no CUDA program has a name like that");
        }
        if everything || !options.guest {
            cuda_programs(&mut summary, &dist, options, &built)?;
        }
        if everything {
            many::at_once(&mut summary, &dist, &options.device, &built)?;
            discovery(&mut summary, &dist)?;
            tinygrad(&mut summary, &dist, options)?;
            cupy(&mut summary, &dist, options)?;
            nvml_monitors(&mut summary, &dist)?;
            wheels::test(&mut summary, &dist)?;
        }
        if everything || options.guest {
            virtual_machine(&mut summary, &dist, options, &built)?;
        }
    }
    summary.print();
    let (_, failed, _) = summary.totals();
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    Ok(())
}

fn workspace_tests(summary: &mut Summary) -> anyhow::Result<()> {
    // The end-to-end crate's own tests need the finished binaries and come later.
    cargo_test(
        summary,
        "unit and integration",
        cargo().args([
            "test",
            "--workspace",
            "--exclude",
            "vgpu-e2e",
            "--no-fail-fast",
        ]),
    )
}

/// The channel's models under loom: every interleaving of its rings and flags, up to the bounds that the models set.
fn loom_models(summary: &mut Summary) -> anyhow::Result<()> {
    let flags = format!(
        "{} --cfg loom",
        std::env::var("RUSTFLAGS").unwrap_or_default()
    );
    cargo_test(
        summary,
        "loom models",
        cargo()
            .args([
                "test",
                "--release",
                "-p",
                "vgpu-channel",
                "--test",
                "loom_*",
                "--target-dir",
            ])
            .arg(places::root().join("target/loom"))
            .env("RUSTFLAGS", flags.trim_start()),
    )
}

/// Records between two processes, checked by content: more of them than in every `cargo test`, fewer than the ten million
/// and more that a change of the ring is tried with.
fn stress(summary: &mut Summary) -> anyhow::Result<()> {
    cargo_test(
        summary,
        "stress",
        cargo()
            .args(["test", "--release", "-p", "vgpu-channel"])
            .args(["--test", "two_processes"])
            .env("VGPU_STRESS_RECORDS", "20000000"),
    )
}

/// Every committed corpus entry and every input that once failed, through the fuzz targets, without a fuzzer.
fn fuzz_replay(summary: &mut Summary) -> anyhow::Result<()> {
    let manifest = places::root().join("fuzz/Cargo.toml");
    if !manifest.exists() {
        summary.remark("fuzz replay: not run, there is no fuzz/ yet");
        return Ok(());
    }
    cargo_test(
        summary,
        "fuzz corpus replay",
        cargo()
            .args(["test", "--release", "--manifest-path"])
            .arg(manifest),
    )
}

/// Sudden deaths, idle cost, missing backends: the tests of `vgpu-e2e` itself.
fn end_to_end(summary: &mut Summary, dist: &Path, glibc: (u32, u32)) -> anyhow::Result<()> {
    cargo_test(
        summary,
        "end to end",
        cargo()
            .args([
                "test",
                "--release",
                "-p",
                "vgpu-e2e",
                "--features",
                "built",
                "--no-fail-fast",
            ])
            .env(DIST, dist)
            .env(GLIBC, format!("{}.{}", glibc.0, glibc.1)),
    )
}

/// Ollama's discovery over the real ggml, libcudart and cuBLAS.
fn discovery(summary: &mut Summary, dist: &Path) -> anyhow::Result<()> {
    let fetched = ggml::fetched()?;
    cargo_test(
        summary,
        "Ollama's discovery",
        cargo()
            .args(["test", "--release", "-p", "vgpu-e2e"])
            .args(["--features", "ggml", "--test", "ollama*", "--no-fail-fast"])
            .env(DIST, dist)
            .env("VGPU_GGML", fetched),
    )
}

/// What needs a guest; where QEMU or a kernel for it cannot be had, it is not run.
fn virtual_machine(
    summary: &mut Summary,
    dist: &Path,
    options: &Options,
    built: &Built,
) -> anyhow::Result<()> {
    let mut tests = match guest::tests() {
        Ok(command) => command,
        Err(error) if options.guest => return Err(error),
        Err(error) => {
            summary.remark(&format!("virtual machine: not run: {error:#}"));
            return Ok(());
        }
    };
    if options.program.is_none() {
        cargo_test(summary, "virtual machine", &mut tests)?;
    }
    machine::programs(summary, dist, &options.device, built)
}

fn cargo_test(summary: &mut Summary, name: &str, command: &mut Command) -> anyhow::Result<()> {
    say(&format!("{name}: {}", display(command)));
    let start = Instant::now();
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (passed, mut failed, skipped) = cargo_test_counts(&text);
    if !output.status.success() {
        print!("{text}");
        if failed == 0 {
            // It did not even get to running: a build that broke, or a test that took its process down.
            failed = 1;
            summary.remark(&format!(
                "{name}: `{}` ended with {}",
                display(command),
                output.status
            ));
        }
        for line in text
            .lines()
            .filter(|line| line.starts_with("test ") && line.ends_with("FAILED"))
        {
            summary.remark(&format!("{name}: {line}"));
        }
    }
    if output.status.success() && passed + skipped == 0 {
        summary.remark(&format!("{name}: not run, there is no such test"));
    }
    for line in text.lines().filter(|line| line.contains("... ignored, ")) {
        summary.remark(&format!("{name}: {line}"));
    }
    summary.counted(name, passed, failed, skipped, start.elapsed());
    Ok(())
}

fn cuda_programs(
    summary: &mut Summary,
    dist: &Path,
    options: &Options,
    built: &Built,
) -> anyhow::Result<()> {
    // One backend for each number of devices that programs ask for.
    let mut backends = BTreeMap::new();
    for program in &built.programs {
        let backend = match backends.entry(program.devices) {
            Entry::Occupied(running) => running.into_mut(),
            Entry::Vacant(place) => place.insert(Backend::start_with(
                &Parts::in_dist(dist)?,
                &options.device,
                vec![
                    "--software-devices".into(),
                    program.devices.to_string().into(),
                ],
            )?),
        };
        let expected = program.expected_output()?;
        for (file, variant) in program.binaries() {
            for run in &program.runs {
                let mut command = Command::new(built.folder.join(&file));
                configure(&mut command, run);
                let further: &[&Path] = if programs::needs_shared_runtime(variant) {
                    &[&built.runtimes]
                } else {
                    &[]
                };
                backend.attach(&mut command, further);
                let output = command::run(&mut command, PROGRAM_LIMIT)?;
                let verdict = judge(&program.name, &output, expected.as_deref());
                let label = format!("{file} {run}");
                println!(
                    "{:<44} {:>6.2} s  {verdict}",
                    label.trim_end(),
                    output.wall.as_secs_f64()
                );
                if matches!(verdict, Verdict::Failed(_)) {
                    show_failure(&output.stdout, &output.stderr, backend);
                }
                summary.verdict("CUDA programs", label.trim_end(), &verdict, output.wall);
            }
        }
    }
    Ok(())
}

/// Sets a run's arguments and environment, without what would steer it from outside.
pub fn configure(command: &mut Command, run: &Run) {
    for name in [
        "CUDA_VISIBLE_DEVICES",
        "CUDA_LAUNCH_BLOCKING",
        "VGPU_SYNC",
        "VGPU_LOG",
    ] {
        command.env_remove(name);
    }
    command
        .args(&run.arguments)
        .envs(run.environment.iter().map(|(name, value)| (name, value)));
}

fn show_failure(stdout: &str, stderr: &str, backend: &Backend) {
    for (name, text) in [("stdout", stdout), ("stderr", stderr)] {
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(15)..] {
            println!("    {name}: {line}");
        }
    }
    println!("    backend: {}", backend.last_words());
}

fn tinygrad(summary: &mut Summary, dist: &Path, options: &Options) -> anyhow::Result<()> {
    let tinygrad = Tinygrad::prepare()?;
    let backend = Backend::start(&Parts::in_dist(dist)?, &options.device)?;
    let ended = tinygrad.train(&backend)?;
    note(
        summary,
        "tinygrad training",
        "tinygrad_train",
        &backend,
        &ended,
    );
    Ok(())
}

fn cupy(summary: &mut Summary, dist: &Path, options: &Options) -> anyhow::Result<()> {
    let cupy = Cupy::prepare()?;
    let backend = Backend::start(&Parts::in_dist(dist)?, &options.device)?;
    let ended = cupy.run(&backend)?;
    note(
        summary,
        "static libcudart 11.8",
        cupy::NAME,
        &backend,
        &ended,
    );
    Ok(())
}

/// NVML's view is compared with libcuda's to the byte, which holds for the software device alone: on a real one others hold
/// memory too.
fn nvml_monitors(summary: &mut Summary, dist: &Path) -> anyhow::Result<()> {
    let monitors = Monitors::prepare()?;
    let backend = Backend::start(&Parts::in_dist(dist)?, "software")?;
    let ended = monitors.watch(&backend)?;
    note(summary, "NVML monitors", monitors::NAME, &backend, &ended);
    Ok(())
}

/// Enters how somebody else's program ended.
fn note(
    summary: &mut Summary,
    step: &'static str,
    name: &str,
    backend: &Backend,
    (verdict, wall): &(Verdict, Duration),
) {
    println!("{name:<44} {:>6.2} s  {verdict}", wall.as_secs_f64());
    if matches!(verdict, Verdict::Failed(_)) {
        println!("    backend: {}", backend.last_words());
    }
    summary.verdict(step, name, verdict, *wall);
}
