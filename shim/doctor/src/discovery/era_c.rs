//! Ollama 0.1.34 to 0.12.3: the server itself opens `libcuda.so*`, which it looks for by file name and not through the loader;
//! the version of the driver then chooses the runner's folder.

use super::Emulation;
use super::ollama::Installation;
use crate::child::{self, Setting};
use crate::loader;
use crate::probe::{Request, ggml, legacy};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(15);

/// Where it looks, after its own folder and `LD_LIBRARY_PATH`.
const PLACES: [&str; 9] = [
    "/usr/local/cuda*/targets/*/lib",
    "/usr/lib/*-linux-gnu/nvidia/current",
    "/usr/lib/*-linux-gnu",
    "/usr/lib/wsl/lib",
    "/usr/lib/wsl/drivers/*",
    "/opt/cuda/lib*",
    "/usr/local/cuda/lib*",
    "/usr/lib*",
    "/usr/local/lib*",
];

/// Does what it does.
#[must_use]
pub fn discover(ollama: &Installation, setting: &Setting) -> Emulation {
    let start = Instant::now();
    let mut told = Emulation::new("Ollama 0.1.34 to 0.12.3");
    let candidates = candidates(ollama, setting);
    told.line(format!("discovered GPU libraries paths={candidates:?}"));
    let outcome = child::run::<legacy::Answer>(
        &setting.within(LIMIT),
        &Request::Legacy {
            candidates: candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
        },
    );
    match &outcome.answer {
        Some(answer) => {
            for (file, reason) in &answer.refused {
                told.line(format!("Unable to load cudart library {file}: {reason}"));
            }
            if answer.taken.is_none() {
                nothing_taken(&candidates, answer, &mut told);
            }
            told.devices.clone_from(&answer.devices);
            if !told.devices.is_empty() {
                runner(ollama, setting, answer.version, &mut told);
            }
        }
        None => {
            told.fault(
                format!(
                    "the server itself dies while it looks: {}",
                    outcome.failure()
                ),
                "see layer 5",
            );
            told.evidence(&outcome.last_words());
        }
    }
    told.seconds = start.elapsed().as_secs_f64();
    told
}

fn nothing_taken(candidates: &[PathBuf], answer: &legacy::Answer, told: &mut Emulation) {
    match answer.refused.first() {
        Some((file, reason)) => told.fault(
            format!("{file} is refused: {reason}"),
            "run `vgpu install` with a current vgpu",
        ),
        None => told.fault(
            format!("no file libcuda.so* lies in the folders that this version looks into (the loader's cache does not count), {} candidates", candidates.len()),
            "run `vgpu install`, which puts a link into /usr/lib, or set LD_LIBRARY_PATH in the unit; better, update Ollama",
        ),
    }
}

/// The files, links resolved, each once.
fn candidates(ollama: &Installation, setting: &Setting) -> Vec<PathBuf> {
    let mut folders = vec![ollama.library_folder.clone()];
    folders.extend(loader::path_folders(setting));
    for place in PLACES {
        folders.extend(matching(place));
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let mut here: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("libcuda.so")
            })
            .filter_map(|entry| entry.path().canonicalize().ok())
            .collect();
        here.sort();
        for file in here {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files
}

/// Folders that match a pattern with `*` inside of components.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let Some((head, tail)) = part.split_once('*') else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        found = found
            .iter()
            .flat_map(|path| entries(path))
            .filter(|path| {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                name.len() >= head.len() + tail.len()
                    && name.starts_with(head)
                    && name.ends_with(tail)
            })
            .collect();
    }
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// The model's runner loads ggml from the folder that the driver's version chose.
fn runner(ollama: &Installation, setting: &Setting, version: i32, told: &mut Emulation) {
    let variant = if version / 1000 < 13 {
        "cuda_v12"
    } else {
        "cuda_v13"
    };
    let folders = ollama.folders();
    let Some(folder) = folders
        .iter()
        .find(|folder| folder.ends_with(variant))
        .or(folders.first())
    else {
        told.fault(
            format!(
                "no {variant} below {}: models run on the CPU",
                ollama.library_folder.display()
            ),
            "install Ollama again, with its CUDA libraries",
        );
        told.devices.clear();
        return;
    };
    told.line(format!("compatible gpu libraries: {}", folder.display()));
    let outcome = child::run::<ggml::Answer>(
        &ollama.runner_setting(&setting.within(LIMIT), folder),
        &Request::Ggml {
            folders: vec![folder.display().to_string()],
            file: None,
            list: false,
            hold: true,
        },
    );
    let devices = outcome
        .answer
        .as_ref()
        .map_or(0, |answer| answer.devices().count());
    if devices == 0 {
        told.fault(
            format!("the runner finds no device with {}", folder.display()),
            "see layer 4",
        );
        told.evidence(&outcome.last_words());
        told.devices.clear();
    }
    told.take_errors(&outcome.stderr);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_inside_of_components() {
        assert!(matching("/us*/bin").contains(&PathBuf::from("/usr/bin")));
        assert!(matching("/usr/lib/*-linux-gn").is_empty());
    }
}
