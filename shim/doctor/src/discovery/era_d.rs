//! Ollama 0.12.4 to 0.24: runner children, one for each library folder, then a second pass that gives each device a child
//! of its own, in parallel. Every child is killed by SIGKILL as soon as it has answered.

use super::Emulation;
use super::ollama::Installation;
use crate::child::{self, Setting};
use crate::probe::Request;
use crate::probe::ggml::Answer;
use crate::report::Device;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What Ollama grants each child of the first pass, and all of the second.
const BOOTSTRAP: Duration = Duration::from_secs(30);

/// What it grants when it looks again before it loads a model.
const REFRESH: Duration = Duration::from_secs(3);

/// The first version that validates CUDA devices in a second pass.
const SECOND_PASS: (u32, u32, u32) = (0, 13, 1);

/// Does what it does.
#[must_use]
pub fn discover(ollama: &Installation, setting: &Setting) -> Emulation {
    let start = Instant::now();
    let mut told = Emulation::new("Ollama 0.12.4 to 0.24");
    let mut found: Vec<(PathBuf, Device)> = Vec::new();
    for folder in chosen(ollama, setting, &mut told) {
        let first = Instant::now();
        for device in bootstrap(ollama, setting, &folder, &mut told) {
            found.push((folder.clone(), device));
        }
        told.slow(first.elapsed(), REFRESH);
    }
    told.line(format!(
        "evaluating which, if any, devices to filter out initial_count={}",
        found.len()
    ));
    if ollama.version.is_none_or(|version| version >= SECOND_PASS) {
        found = validate(ollama, setting, found, &mut told);
    }
    told.devices = without_overlap(found);
    told.seconds = start.elapsed().as_secs_f64();
    told
}

/// The library folders that are not skipped.
fn chosen(ollama: &Installation, setting: &Setting, told: &mut Emulation) -> Vec<PathBuf> {
    let wanted = setting
        .variable("OLLAMA_LLM_LIBRARY")
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default();
    let vulkan = setting
        .variable("OLLAMA_VULKAN")
        .is_some_and(|value| value == "1");
    let mut folders = ollama.all_folders();
    if folders.is_empty() {
        told.fault(
            format!("no library folder below {}: only the CPU is left", ollama.library_folder.display()),
            "install Ollama again so that lib/ollama lies beside bin; start no copy and no wrapper of the binary",
        );
    }
    folders.retain(|folder| {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !wanted.is_empty() && name != wanted {
            told.line(format!(
                "skipping available library at user's request requested={wanted} libDir={}",
                folder.display()
            ));
            false
        } else if name.starts_with("cuda_jetpack") || (name.starts_with("vulkan") && !vulkan) {
            told.line(format!("skipping {}", folder.display()));
            false
        } else {
            true
        }
    });
    folders
}

/// One runner of the first pass.
fn bootstrap(
    ollama: &Installation,
    setting: &Setting,
    folder: &Path,
    told: &mut Emulation,
) -> Vec<Device> {
    let setting = ollama.runner_setting(&setting.within(BOOTSTRAP), folder);
    let outcome = child::run::<Answer>(&setting, &request(ollama, folder, told));
    let Some(answer) = &outcome.answer else {
        told.fault(
            format!(
                "the runner for {} died: {} (Ollama says so at OLLAMA_DEBUG=2 only)",
                folder.display(),
                outcome.failure()
            ),
            "see the evidence; replaced libraries and LD_PRELOAD hooks do that",
        );
        told.evidence(&outcome.last_words());
        return Vec::new();
    };
    for backend in &answer.backends {
        match &backend.refused {
            Some(reason) => told.fault(
                format!("{} is refused, silently: {reason}", backend.file),
                "see layer 4",
            ),
            None => told.line(format!(
                "load_backend: loaded {} backend from {} devices={}",
                backend.name,
                backend.file,
                backend.devices.len()
            )),
        }
    }
    told.take_errors(&outcome.stderr);
    duplicates(answer, folder, told);
    answer.devices().cloned().collect()
}

fn request(ollama: &Installation, folder: &Path, told: &mut Emulation) -> Request {
    let exe_folder = ollama.binary.parent().unwrap_or(Path::new("/"));
    let mut folders = Vec::new();
    for folder in [ollama.library_folder.as_path(), folder] {
        let text = folder.to_string_lossy().into_owned();
        if text.contains("lib/ollama") || folder == exe_folder {
            folders.push(text);
        } else {
            told.line(format!(
                "skipping path which is not part of ollama path={text}"
            ));
        }
    }
    Request::Ggml {
        folders,
        file: None,
        list: false,
        hold: true,
    }
}

/// A link at the top level makes one file be registered twice.
fn duplicates(answer: &Answer, folder: &Path, told: &mut Emulation) {
    let mut files: Vec<PathBuf> = answer
        .backends
        .iter()
        .filter(|backend| backend.refused.is_none())
        .map(|backend| PathBuf::from(&backend.file))
        .filter_map(|file| file.canonicalize().ok())
        .collect();
    let before = files.len();
    files.sort();
    files.dedup();
    if files.len() < before {
        told.line(format!(
            "the runner for {} registers the same CUDA backend twice",
            folder.display()
        ));
    }
}

/// The second pass: one child for each device and folder, at the same time, each with only that device visible.
fn validate(
    ollama: &Installation,
    setting: &Setting,
    found: Vec<(PathBuf, Device)>,
    told: &mut Emulation,
) -> Vec<(PathBuf, Device)> {
    if setting.variable("CUDA_VISIBLE_DEVICES").is_some() {
        told.line("user overrode visible devices CUDA_VISIBLE_DEVICES".to_owned());
    }
    let setting = setting.within(BOOTSTRAP);
    let requests: Vec<(Setting, Request)> = found
        .iter()
        .map(|(folder, device)| {
            let setting = ollama
                .runner_setting(&setting, folder)
                .with("CUDA_VISIBLE_DEVICES", device.uuid.clone())
                .with("GGML_CUDA_INIT", "1");
            (setting, request(ollama, folder, told))
        })
        .collect();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let children: Vec<_> = requests
            .iter()
            .map(|(setting, request)| scope.spawn(|| child::run::<Answer>(setting, request)))
            .collect();
        children
            .into_iter()
            .map(|child| child.join().ok())
            .collect()
    });
    let mut kept = Vec::new();
    for ((folder, device), outcome) in found.into_iter().zip(outcomes) {
        let answer = outcome.and_then(|outcome| outcome.answer);
        let alone = answer.as_ref().and_then(|answer| answer.devices().next());
        let compiled = answer
            .as_ref()
            .is_none_or(|answer| has_code(answer, device.compute));
        if !compiled {
            told.fault(
                format!(
                    "{} has no code for compute capability {}.{}: ggml aborts in the second pass",
                    folder.display(),
                    device.compute.0,
                    device.compute.1
                ),
                "use an Ollama whose libraries are compiled for this device",
            );
        } else if alone.is_some_and(|alone| alone.uuid == device.uuid) {
            kept.push((folder, device));
        } else {
            told.fault(
                format!("filtering device which didn't fully initialize: {} under CUDA_VISIBLE_DEVICES={}", device.name, device.uuid),
                "see layers 1 (several clients at once) and 7",
            );
        }
    }
    kept
}

/// Whether the list of compiled architectures has this one; a backend that does not tell counts as having it.
pub(super) fn has_code(answer: &Answer, compute: (u32, u32)) -> bool {
    let wanted = (compute.0 * 100 + compute.1 * 10).to_string();
    answer
        .backends
        .iter()
        .filter(|backend| !backend.devices.is_empty())
        .filter_map(|backend| backend.architectures.as_ref())
        .all(|list| list.split(',').any(|have| have.trim() == wanted))
}

/// The newest folder that sees a device wins, and no device is there twice.
fn without_overlap(mut found: Vec<(PathBuf, Device)>) -> Vec<Device> {
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut devices: Vec<Device> = Vec::new();
    for (_, device) in found {
        if !devices.iter().any(|have| have.pci_id == device.pci_id) {
            devices.push(device);
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ggml::Backend;

    #[test]
    fn one_device_seen_from_two_folders_is_one() {
        let device = |pci: &str, name: &str| Device {
            pci_id: pci.to_owned(),
            name: name.to_owned(),
            ..Device::default()
        };
        let devices = without_overlap(vec![
            (
                PathBuf::from("/l/cuda_v12"),
                device("0000:01:00.0", "by 12"),
            ),
            (
                PathBuf::from("/l/cuda_v13"),
                device("0000:01:00.0", "by 13"),
            ),
            (
                PathBuf::from("/l/cuda_v13"),
                device("0000:02:00.0", "other"),
            ),
        ]);
        let names: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["by 13", "other"]);
    }

    #[test]
    fn architectures_must_match_exactly() {
        let answer = Answer {
            backends: vec![Backend {
                devices: vec![Device::default()],
                architectures: Some("500,750,800".to_owned()),
                ..Backend::default()
            }],
        };
        assert!(has_code(&answer, (8, 0)));
        assert!(!has_code(&answer, (8, 7)));
    }
}
