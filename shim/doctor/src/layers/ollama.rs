//! Layer 8: Ollama itself, and what its discovery would find.

use super::Case;
use crate::child::{self, Setting};
use crate::discovery::ollama::{Era, Installation};
use crate::discovery::{Emulation, cuda_backends, era_c, era_d, era_e};
use crate::report::{Discovery, Layer, Report};
use std::process::Command;
use std::time::Duration;

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let Some(ollama) = case.ollama.clone() else {
        report.note(
            Layer::Ollama,
            "not checked: the program is not Ollama, and none is on its PATH",
        );
        return;
    };
    let version = ollama.version.map_or_else(
        || "of an unknown version".to_owned(),
        |(major, minor, patch)| format!("{major}.{minor}.{patch}"),
    );
    report.ok(
        Layer::Ollama,
        format!(
            "{} {version}: {}; libraries in {}",
            ollama.binary.display(),
            ollama.era().name(),
            ollama.library_folder.display()
        ),
    );
    if case.target.unit.is_none() && !ollama.is_target {
        report.note(
            Layer::Ollama,
            "asked about this shell; for the service as it runs, `vgpu doctor --unit ollama`",
        );
    }
    stray(&ollama, report);
    temporary_folder(&ollama, &case.setting, report);
    loopback(report);
    let emulation = match ollama.era() {
        Era::Before => {
            report
                .warning(
                    Layer::Ollama,
                    "how this version looks for a GPU is not acted out: it asks libnvidia-ml.so, from 0.1.30 on libcudart first, by file name; layers 5 and 6 say what those would answer",
                )
                .mend("update Ollama");
            return;
        }
        Era::C => era_c::discover(&ollama, &case.setting),
        Era::D => era_d::discover(&ollama, &case.setting),
        Era::E => era_e::discover(&ollama, &case.setting),
    };
    conclude(Layer::Ollama, emulation, report);
}

/// Puts an emulation's outcome into the report.
pub fn conclude(layer: Layer, emulation: Emulation, report: &mut Report) {
    let found = emulation.devices.len();
    let evidence = format!("{}\n{}", emulation.lines.join("\n"), emulation.evidence);
    if found == 0 {
        let reasons: Vec<&str> = emulation
            .faults
            .iter()
            .map(|(what, _)| what.as_str())
            .collect();
        let what = match reasons.as_slice() {
            [] => format!("{} finds no GPU", emulation.program),
            reasons => format!("{} finds no GPU: {}", emulation.program, reasons.join("; ")),
        };
        let mend = emulation
            .faults
            .first()
            .map_or("see the layers above".to_owned(), |(_, mend)| mend.clone());
        report.fault(layer, what).mend(mend).evidence(evidence);
    } else {
        for (what, mend) in &emulation.faults {
            report.warning(layer, what.clone()).mend(mend.clone());
        }
        report.ok(
            layer,
            format!(
                "{} finds {found} GPU(s) in {:.1} s",
                emulation.program, emulation.seconds
            ),
        );
    }
    if let Some(slow) = emulation.slow {
        report.warning(
            layer,
            format!("one child took {:.1} s; before each model Ollama waits 3 s and then keeps what it knew", slow.as_secs_f64()),
        );
    }
    report.discoveries.push(Discovery {
        program: emulation.program,
        devices: emulation.devices,
        seconds: emulation.seconds,
    });
}

/// Backends at the top level, which every runner tries first.
fn stray(ollama: &Installation, report: &mut Report) {
    for file in cuda_backends(&ollama.library_folder) {
        let shown = file.display();
        let kind = if file.is_symlink() {
            "a symbolic link"
        } else {
            "a file"
        };
        report
            .warning(
                Layer::Ollama,
                format!("{shown} is {kind} that does not belong there: every runner tries it first, and CUDA is registered twice or fails silently"),
            )
            .mend(format!("run `rm {shown}`"));
    }
}

/// Runners make a file there while they answer.
fn temporary_folder(ollama: &Installation, setting: &Setting, report: &mut Report) {
    if ollama.era() != Era::D {
        return;
    }
    let folder = setting
        .variable("TMPDIR")
        .filter(|folder| !folder.is_empty())
        .map_or_else(|| "/tmp".into(), Clone::clone);
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            "f=$1/vgpu-doctor.$$ && : >\"$f\" && rm -f \"$f\"",
            "sh",
        ])
        .arg(&folder);
    let outcome = child::program(&setting.within(Duration::from_secs(5)), &mut command);
    if outcome.ending != child::Ending::Exit(0) {
        report
            .fault(
                Layer::Ollama,
                format!("user {} cannot write to the temporary folder {}: runners fail to answer (TMPDIR)", setting.identity.uid, folder.display()),
            )
            .mend(format!("run `mkdir -p {0} && chmod 1777 {0}`, or unset TMPDIR", folder.display()))
            .evidence(outcome.last_words());
    }
}

/// The server talks to its runners over 127.0.0.1.
fn loopback(report: &mut Report) {
    let flags = std::fs::read_to_string("/sys/class/net/lo/flags").unwrap_or_default();
    let bits = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16);
    // IFF_UP
    if bits.is_ok_and(|bits| bits & 1 == 0) {
        report
            .fault(
                Layer::Ollama,
                "the loopback interface is down: the server cannot talk to its runners",
            )
            .mend("run `ip link set lo up`");
    }
}
