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

/// The time that is left there, and results: part of other scripts.
pub const REPORT: &str = include_str!("gpu-report.sh");

/// Finds the driver there: part of other scripts.
pub const DRIVER: &str = include_str!("driver.sh");

/// What is run there; `driver.sh`, `gpu-frameworks.sh` and `gpu-report.sh` are part of the others.
const SCRIPTS: [(&str, &str); 6] = [
    ("gpu-check.sh", include_str!("gpu-check.sh")),
    ("gpu-frameworks.sh", include_str!("gpu-frameworks.sh")),
    ("gpu-report.sh", REPORT),
    ("gpu-kills.sh", include_str!("gpu-kills.sh")),
    ("gpu-nvml.sh", include_str!("gpu-nvml.sh")),
    ("driver.sh", DRIVER),
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
    frameworks(&folder.join("frameworks"))?;
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

/// The scripts for frameworks. Each is a job in `jobs.tsv`, or what those share.
fn frameworks(folder: &Path) -> anyhow::Result<()> {
    let from = places::root().join("tests/smoke/frameworks");
    create_folder(folder)?;
    let jobs = std::fs::read_to_string(from.join("jobs.tsv")).context("cannot read jobs.tsv")?;
    let jobs = job_names(&jobs);
    for entry in std::fs::read_dir(&from)? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_script = path.extension().is_some_and(|extension| extension == "py");
        anyhow::ensure!(
            !is_script || SHARED.contains(&&*stem) || jobs.contains(&&*stem),
            "{} is not in jobs.tsv: it would never run",
            relative(&path).display()
        );
        copy(&path, &folder.join(path.file_name().unwrap_or_default()))?;
    }
    for job in jobs {
        let script = folder.join(format!("{job}.py"));
        anyhow::ensure!(script.exists(), "jobs.tsv names {job}, which is not there");
    }
    Ok(())
}

/// What the scripts for frameworks share.
const SHARED: [&str; 3] = ["compare", "report", "run"];

/// The first word of each line that is no remark.
fn job_names(jobs: &str) -> Vec<&str> {
    jobs.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split('\t').next())
        .collect()
}

/// The tests of sudden deaths and of many programs, and the client that they start.
fn tests(folder: &Path) -> anyhow::Result<()> {
    create_folder(folder)?;
    for test in ["sudden_death", "many_clients"] {
        dist::install_test(test, "built", &folder.join(test))?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn output(command: &mut Command) -> (bool, String) {
        let output = command.output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text)
    }

    #[test]
    fn each_script_is_a_job_and_each_job_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        frameworks(&folder.path().join("frameworks")).expect("all are listed");
    }

    #[test]
    fn the_shell_can_read_the_scripts() {
        for (name, text) in SCRIPTS {
            assert!(
                output(Command::new("bash").args(["-n", "-c", text])).0,
                "{name}"
            );
        }
    }

    /// What `publish` leaves of the results that `records` notes.
    fn summary(records: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let script = format!("set -u; prefix=; {REPORT}\n{records}\npublish complete; failures");
        let (good, printed) = output(
            Command::new("bash")
                .args(["-c", &script])
                .env("out", folder.path().join("out"))
                .env("work", folder.path().join("work")),
        );
        assert!(good, "{printed}");
        assert!(folder.path().join("out/logs.tar.gz").exists());
        let text = std::fs::read_to_string(folder.path().join("out/summary.txt"));
        format!(
            "{}failures: {}",
            text.expect("a summary"),
            printed.lines().last().unwrap_or_default()
        )
    }

    #[test]
    fn a_summary_begins_with_what_failed_and_stays_short() {
        let text = summary(
            "for n in $(seq 400); do record programs passes$n pass pass 1.00x; done
             record programs skips pass skip - 'shim: not supported'
             record programs both FAIL FAIL - why
             record programs breaks pass FAIL - 'shim: it broke'
             not_run bench vgpu-bench 'no time left'",
        );
        assert!(text.len() < 11_100, "{} bytes", text.len());
        let at = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("no {part:?} in {text}"))
        };
        let order = [
            "400 passed, 1 FAILED",
            "it broke",
            "programs both",
            "not supported",
            "no time left: vgpu-bench",
            "passes1 1.00x",
        ];
        assert!(
            order.windows(2).all(|pair| at(pair[0]) < at(pair[1])),
            "{text}"
        );
        assert!(text.ends_with("failures: 1"), "{text}");
    }

    #[test]
    fn results_are_held_against_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let compare = |native: &str, shim: &str| {
            let [one, other] = [("native", native), ("shim", shim)].map(|(name, text)| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).expect("written");
                path
            });
            let script = places::root().join("tests/smoke/frameworks/compare.py");
            output(Command::new("python3").arg(script).arg(one).arg(other))
        };
        let native = "RESULT a exact 0.0 aa 1 2\nRESULT b near 0.01 bb 1 2\nSPEED s 10\nPASS x\n";
        assert_eq!(
            compare(
                native,
                &native.replace("bb 1 2", "cc 1 2.001").replace("10", "15")
            ),
            (true, "same, 1 of 2 in all bits | s 1.50x\n".to_owned())
        );
        for broken in ["aa 1 2", "bb 1 2"].map(|good| native.replace(good, "dd 1 2.5")) {
            assert!(!compare(native, &broken).0, "{broken}");
        }
        assert!(!compare(native, "PASS x\n").0, "results that are missing");
    }
}
