//! Layer 4: what the consumers of CUDA import, against what is there; and a trial load with the loader's own words.

use super::{Case, refusal};
use crate::child::{self, Setting};
use crate::elf::{Elf, Unreadable};
use crate::loader;
use crate::probe::Request;
use crate::probe::library::Loaded;
use crate::report::{Layer, Report};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Loading cuBLAS reads half a gigabyte.
const LIMIT: Duration = Duration::from_secs(20);

/// Looks at every library that a discovering program would load.
pub fn check(case: &mut Case, report: &mut Report) {
    let consumers = consumers(case);
    if consumers.is_empty() {
        report.note(
            Layer::Exports,
            "no consumer of CUDA was found beside the program (libggml-cuda.so); name it with -- COMMAND",
        );
    }
    for (path, setting) in consumers {
        consumer(&path, &setting, case.winner.as_deref(), report);
    }
    if let Some(program) = &case.target.program
        && let Ok(elf) = Elf::read(program)
    {
        imports(program, &elf, case.winner.as_deref(), report);
    }
}

/// Libraries with the environment that their runner would have.
fn consumers(case: &Case) -> Vec<(PathBuf, Setting)> {
    let mut found = Vec::new();
    if let Some(ollama) = &case.ollama {
        for folder in ollama.folders() {
            let setting = ollama.runner_setting(&case.setting, &folder);
            for file in crate::discovery::cuda_backends(&folder) {
                found.push((file, setting.clone()));
            }
        }
    }
    found.extend(
        case.llama
            .iter()
            .map(|path| (path.clone(), case.setting.clone())),
    );
    found
}

fn consumer(path: &Path, setting: &Setting, winner: Option<&Path>, report: &mut Report) {
    let shown = path.display();
    if !path.exists() {
        let target = std::fs::read_link(path).unwrap_or_default();
        report
            .fault(
                Layer::Exports,
                format!(
                    "{shown} is a dangling symbolic link: {} does not exist, and nobody says so",
                    target.display()
                ),
            )
            .mend(format!("run `rm {shown}` and install the program again"));
        return;
    }
    let elf = match Elf::read(path) {
        Ok(elf) => elf,
        Err(error) => {
            report
                .fault(
                    Layer::Exports,
                    match error {
                        Unreadable::Truncated => format!(
                            "{shown} is truncated: it ends after {} bytes, before its own headers say",
                            path.metadata().map_or(0, |file| file.len())
                        ),
                        Unreadable::NotElf => format!("{shown} is no library"),
                        Unreadable::Missing(error) => format!("{shown} cannot be read: {error}"),
                    },
                )
                .mend("install the program again; its download or the disk was cut short");
            return;
        }
    };
    imports(path, &elf, winner, report);
    versions(path, &elf, setting, report);
    let request = Request::Load {
        library: path.to_string_lossy().into_owned(),
    };
    let outcome = child::run::<Loaded>(&setting.within(LIMIT), &request);
    match &outcome.answer {
        Some(loaded @ Loaded { error: None, .. }) => {
            other_driver(path, loaded.driver.as_deref(), winner, report);
            report.ok(
                Layer::Exports,
                format!(
                    "{shown} loads, with {}",
                    loaded
                        .driver
                        .as_deref()
                        .into_iter()
                        .chain(
                            ["libcudart.so", "libcublas.so"]
                                .iter()
                                .filter_map(|name| loaded.file(name))
                        )
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            );
        }
        _ => refusal::report(path, &elf, setting, &outcome, report),
    }
}

/// The runner's own folders come before the user's: a driver that lies there wins for it alone.
fn other_driver(path: &Path, loaded: Option<&str>, winner: Option<&Path>, report: &mut Report) {
    let Some(loaded) = loaded.map(Path::new) else {
        return;
    };
    if winner.is_some_and(|winner| winner.canonicalize().ok() == loaded.canonicalize().ok()) {
        return;
    }
    report
        .fault(
            Layer::Loader,
            format!(
                "in the environment of its runner, {} gets another libcuda.so.1 than the program itself: {} ({})",
                path.display(),
                loaded.display(),
                super::loading::words(&loader::kind(loaded))
            ),
        )
        .mend(format!("run `rm {}`: no driver belongs there", loaded.display()));
}

/// Names of the driver API that the file imports and the winner lacks.
fn imports(path: &Path, elf: &Elf, winner: Option<&Path>, report: &mut Report) {
    let names: Vec<&str> = elf.driver_imports().collect();
    let (Some(winner), false) = (winner, names.is_empty()) else {
        return;
    };
    let Ok(driver) = Elf::read(winner) else {
        return;
    };
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !driver.exports.contains_key(*name))
        .collect();
    if missing.is_empty() {
        report.ok(
            Layer::Exports,
            format!(
                "{} finds its {} driver functions in {}",
                path.display(),
                names.len(),
                winner.display()
            ),
        );
    } else {
        report
            .fault(
                Layer::Exports,
                format!("{} lacks {}, which {} imports: the loader refuses all of it, and `ldd` shows nothing", winner.display(), missing.join(", "), path.display()),
            )
            .mend("run `vgpu install` with a current vgpu");
    }
}

/// Libraries that lack the version nodes asked of them: replaced by something that is not NVIDIA's.
fn versions(path: &Path, elf: &Elf, setting: &Setting, report: &mut Report) {
    let mut asked: Vec<(&String, &String)> = elf
        .imports
        .iter()
        .filter_map(|import| import.version.as_ref())
        .filter(|(_, file)| file.starts_with("libcuda") || file.starts_with("libcublas"))
        .map(|(version, file)| (version, file))
        .collect();
    asked.sort();
    asked.dedup();
    for (version, file) in asked {
        let Some(found) = loader::resolve(file, path, elf, setting) else {
            continue;
        };
        let Ok(library) = Elf::read(&found) else {
            continue;
        };
        if library.versions.contains(version) {
            continue;
        }
        let how = if library.versions.is_empty() {
            "without symbol versions: ld.so aborts with exit status 127 (\"Inconsistency detected by ld.so\")"
        } else {
            "with other symbol versions"
        };
        report
            .fault(
                Layer::Exports,
                format!("{} is not NVIDIA's but a replacement {how}; {} asks for {version}", found.display(), path.display()),
            )
            .mend(format!("put NVIDIA's own {file} back (install the program again); vgpu needs no replaced runtime library"));
    }
}
