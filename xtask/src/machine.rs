//! The CUDA programs inside a virtual machine: QEMU with the device, a daemon on this side, `vgpu agent` in the guest, and
//! every program as an unprivileged user there.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use vgpu_e2e::command::Output;
use vgpu_e2e::guest::{Guest, GuestParts, Image, Options};
use vgpu_e2e::machine::{AGENT, Host};
use vgpu_e2e::verdict::{Verdict, judge};

use crate::programs::Built;
use crate::shell::say;
use crate::summary::Summary;
use crate::{guest, qemu};

/// What the guest needs: pinned memory of the programs comes from its huge pages.
const MEMORY_MIB: u32 = 3072;
const HUGE_PAGES: u32 = 900;
/// How long one program may take there: the processor is emulated.
const PROGRAM_SECONDS: u64 = 180;

/// Root's part in the guest: the agent, then the programs as somebody without privilege, then what there is to see.
const SCRIPT: &str = r#"
agent || exit 1
echo "GUEST-MODULES $(wc -l </proc/modules)"
su user -c /bin/run-programs
status=$?
cat /tmp/agent.log | tail -n 20 | sed 's/^/agent: /'
exit $status
"#;

/// One run of a program, as the guest's script prints it.
struct Ran {
    label: String,
    name: String,
    expected: Option<String>,
}

/// Runs every program of `built` in a guest and judges what the console shows.
pub fn programs(
    summary: &mut Summary,
    dist: &Path,
    device: &str,
    built: &Built,
) -> anyhow::Result<()> {
    let (runs, script) = plan(built)?;
    say(&format!(
        "running {} CUDA programs inside a virtual machine",
        runs.len()
    ));
    let mut machine = boot(dist, device, built, &script)?;
    let mut next = runs.iter();
    while let Some(line) = machine.guest.line()? {
        if line.starts_with("RUN-BEGIN ") {
            let Some(run) = next.next() else { break };
            let (verdict, wall) = one(&mut machine, run)?;
            println!(
                "in a guest: {:<32} {:>6.2} s  {verdict}",
                run.label,
                wall.as_secs_f64()
            );
            summary.verdict("CUDA programs in a guest", &run.label, &verdict, wall);
        }
    }
    let left: Vec<&Ran> = next.collect();
    if let Some(first) = left.first() {
        print!("{}", machine.guest.console());
        println!("daemon: {}", machine.host.log());
        for run in &left {
            let why = Verdict::Failed(format!("the guest ended before {}", first.label));
            summary.verdict("CUDA programs in a guest", &run.label, &why, Duration::ZERO);
        }
    }
    Ok(())
}

/// Runs every program of `built` in a guest and shows what comes out; returns how many failed.
///
/// # Errors
/// When no guest can be had or it ends early.
pub fn show(dist: &Path, device: &str, built: &Built) -> anyhow::Result<usize> {
    let (runs, script) = plan(built)?;
    let mut machine = boot(dist, device, built, &script)?;
    let mut passed = 0;
    while let Some(line) = machine.guest.line()? {
        if let Some(file) = line.strip_prefix("RUN-BEGIN ") {
            println!("\nuser@guest$ {file}");
        } else if let Some(status) = line.strip_prefix("RUN-STATUS ") {
            passed += usize::from(status == "0");
        } else if line.starts_with("GUEST-UP") {
            println!("the guest is up");
        } else if !line.starts_with("RUN-END") && !line.starts_with("GUEST-") {
            println!("{line}");
        }
    }
    if machine.guest.wait()?.is_none() {
        bail!(
            "the guest ended early: {}\n{}",
            machine.guest.log().trim(),
            machine.host.log().trim()
        );
    }
    Ok(runs.len() - passed)
}

/// A guest and the daemon behind it.
struct Machine {
    guest: Guest,
    host: Host,
}

fn boot(dist: &Path, device: &str, built: &Built, script: &str) -> anyhow::Result<Machine> {
    let qemu = qemu::prepare()?;
    let parts = guest::prepare()?;
    let host = Host::start(&dist.join("bin/vhost-user-vgpu"), device)?;
    let image = build_image(&parts, dist, built, script, SCRIPT, &[])?;
    let options = Options {
        memory: MEMORY_MIB,
        huge_pages: HUGE_PAGES,
        socket: Some(host.socket()),
        limit: Duration::from_secs(30 * 60),
        ..Options::default()
    };
    let guest = Guest::boot(&qemu, &image, options)?;
    Ok(Machine { guest, host })
}

/// The image of a guest that holds every program of `built`, `/bin/run-programs`, which runs them all, and `more` files,
/// and in which root's shell runs `script`; and a label for each run.
///
/// # Errors
/// When a file cannot be read.
pub fn image(
    parts: &GuestParts,
    dist: &Path,
    built: &Built,
    script: &str,
    more: &[(PathBuf, String)],
) -> anyhow::Result<(Image, Vec<String>)> {
    let (runs, programs) = plan(built)?;
    let image = build_image(parts, dist, built, &programs, script, more)?;
    Ok((image, runs.into_iter().map(|run| run.label).collect()))
}

fn build_image(
    parts: &GuestParts,
    dist: &Path,
    built: &Built,
    programs: &str,
    script: &str,
    more: &[(PathBuf, String)],
) -> anyhow::Result<Image> {
    let folder = tempfile::tempdir()?;
    let runner = folder.path().join("run-programs");
    std::fs::write(&runner, programs)?;
    std::fs::set_permissions(&runner, PermissionsExt::from_mode(0o755))?;
    let mut files = vec![
        (dist.join("bin/vgpu"), "/bin/vgpu".to_owned()),
        (
            dist.join("lib/libcuda.so.1"),
            "/opt/vgpu/libcuda.so.1".to_owned(),
        ),
        (
            dist.join("lib/libnvidia-ml.so.1"),
            "/opt/vgpu/libnvidia-ml.so.1".to_owned(),
        ),
        (runner, "/bin/run-programs".to_owned()),
        (built.runtimes.clone(), "/opt/runtimes".to_owned()),
    ];
    for program in &built.programs {
        for (file, _) in program.binaries() {
            files.push((built.folder.join(&file), format!("/opt/programs/{file}")));
        }
    }
    files.extend_from_slice(more);
    Image::build(parts, &format!("{AGENT}{script}"), &files)
}

/// The runs in order, and the script that makes them.
fn plan(built: &Built) -> anyhow::Result<(Vec<Ran>, String)> {
    let mut runs = Vec::new();
    let mut script =
        "#!/bin/sh\nexport LD_LIBRARY_PATH=/opt/vgpu:/opt/runtimes\ncd /tmp\n".to_owned();
    for program in &built.programs {
        let expected = program.expected_output()?;
        for (file, _) in program.binaries() {
            for run in &program.runs {
                let environment: Vec<String> = run
                    .environment
                    .iter()
                    .map(|(name, value)| format!("{name}='{value}'"))
                    .collect();
                let (environment, arguments) = (environment.join(" "), run.arguments.join(" "));
                writeln!(
                    script,
                    "echo RUN-BEGIN {file}; env {environment} timeout -k 5 {PROGRAM_SECONDS} /opt/programs/{file} {arguments} 2>/tmp/stderr </dev/null; \
                     echo RUN-STATUS $?; tail -n 5 /tmp/stderr; echo RUN-END"
                )?;
                runs.push(Ran {
                    label: format!("{file} {run}").trim_end().to_owned(),
                    name: program.name.clone(),
                    expected: expected.clone(),
                });
            }
        }
    }
    Ok((runs, script))
}

/// Reads one run off the console.
fn one(machine: &mut Machine, run: &Ran) -> anyhow::Result<(Verdict, Duration)> {
    let start = Instant::now();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let mut code = None;
    while let Some(line) = machine.guest.line()? {
        if line == "RUN-END" {
            break;
        }
        match line.strip_prefix("RUN-STATUS ") {
            Some(status) => code = status.parse::<i32>().ok(),
            None if code.is_none() => {
                stdout.push_str(&line);
                stdout.push('\n');
            }
            None => {
                stderr.push_str(&line);
                stderr.push('\n');
            }
        }
    }
    let wall = start.elapsed();
    let output = Output {
        // As the system encodes an exit.
        status: code
            .map(|code| std::os::unix::process::ExitStatusExt::from_raw((code & 0xff) << 8)),
        stdout,
        stderr,
        wall,
    };
    let verdict = judge(&run.name, &output, run.expected.as_deref());
    if matches!(verdict, Verdict::Failed(_)) {
        println!("    stderr: {}", output.stderr.trim_end());
        let log = machine.host.log();
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(5)..] {
            println!("    daemon: {line}");
        }
    }
    Ok((verdict, wall))
}
