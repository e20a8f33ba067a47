//! Layer 0: which machine, which C library, which kind of program.

use super::Case;
use crate::elf::{Elf, Unreadable};
use crate::loader;
use crate::report::{Layer, Report};
use std::path::Path;

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let glibc = loader::own_glibc().map_or_else(
        || "no GNU C library".to_owned(),
        |(major, minor)| format!("glibc {major}.{minor}"),
    );
    report.ok(
        Layer::Context,
        format!(
            "user {}, groups {:?}, kernel {}, {glibc}, {}",
            case.setting.identity.uid,
            case.setting.identity.groups,
            kernel.trim(),
            machine()
        ),
    );
    if case.target.other_root {
        report
            .warning(
                Layer::Context,
                "the process has a root folder of its own (a container); files and libraries are looked up outside of it",
            )
            .mend("run `vgpu doctor` inside the container");
    }
    if let Some(reason) = &case.target.privilege {
        report
            .warning(
                Layer::Context,
                format!(
                    "AT_SECURE: {reason}, so the loader ignores LD_LIBRARY_PATH and LD_PRELOAD, and the shim ignores VGPU_ variables"
                ),
            )
            .mend(match &case.target.program {
                Some(path) => format!(
                    "run `vgpu install`, or take the privilege away: `setcap -r {}`",
                    path.display()
                ),
                None => "run `vgpu install`".to_owned(),
            });
    }
    if let Some(path) = case.target.program.clone() {
        program(&path, report);
    }
}

/// Container, virtual machine, WSL, or neither.
fn machine() -> String {
    let mut words = Vec::new();
    let exists = |path: &str| Path::new(path).exists();
    if exists("/.dockerenv") || exists("/run/.containerenv") {
        words.push("in a container");
    }
    if exists("/usr/lib/wsl/lib/libnvidia-ml.so.1") {
        words.push("WSL (its own NVML comes first for Ollama)");
    }
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if cpu
        .lines()
        .any(|line| line.starts_with("flags") && line.contains(" hypervisor"))
    {
        words.push("in a virtual machine");
    }
    match words.as_slice() {
        [] => "bare machine".to_owned(),
        words => words.join(", "),
    }
}

/// Whether our library can be loaded into this program at all.
fn program(path: &Path, report: &mut Report) {
    match Elf::read(path) {
        Ok(elf) if !elf.is_ours() => {
            report
                .fault(
                    Layer::Context,
                    format!(
                        "{} is a program for another architecture ({}); vgpu is for x86-64",
                        path.display(),
                        elf.architecture()
                    ),
                )
                .mend("install the x86-64 build of the program");
        }
        Ok(elf) => match elf.interpreter.as_deref() {
            Some(interpreter) if interpreter.contains("musl") => {
                report
                    .fault(
                        Layer::Context,
                        format!(
                            "{} is linked with musl ({interpreter}); no CUDA library loads there, NVIDIA's are for glibc, ours too",
                            path.display()
                        ),
                    )
                    .mend("use a build for glibc (Debian, Ubuntu, Fedora), not one for Alpine");
            }
            Some(interpreter) => {
                report.ok(
                    Layer::Context,
                    format!("{} is loaded by {interpreter}", path.display()),
                );
            }
            None => {
                report.note(
                    Layer::Context,
                    format!(
                        "{} is linked statically: it loads no libcuda.so.1 itself",
                        path.display()
                    ),
                );
            }
        },
        Err(Unreadable::NotElf) => {
            report.note(
                Layer::Context,
                format!(
                    "{} is a script; its interpreter is not followed",
                    path.display()
                ),
            );
        }
        Err(Unreadable::Truncated) => {
            report
                .fault(Layer::Context, format!("{} is cut short", path.display()))
                .mend("install it again");
        }
        Err(Unreadable::Missing(error)) => {
            report.warning(
                Layer::Context,
                format!("{} cannot be read: {error}", path.display()),
            );
        }
    }
}
