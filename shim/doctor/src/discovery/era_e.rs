//! Ollama from 0.30 on: for each library folder `llama-server --list-devices`, whose text is taken apart, and
//! `ollama gpu-discover`, whose standard output must hold nothing but its own JSON.

use super::ollama::Installation;
use super::{Emulation, cuda_backends, era_d};
use crate::child::{self, Outcome, Setting};
use crate::probe::{Request, ggml, native};
use crate::report::Device;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// For one child.
const LIMIT: Duration = Duration::from_secs(15);

/// Does what it does.
#[must_use]
pub fn discover(ollama: &Installation, setting: &Setting) -> Emulation {
    let start = Instant::now();
    let mut told = Emulation::new("Ollama from 0.30 on");
    let mut folders = ollama.folders();
    if let Some(wanted) = setting
        .variable("OLLAMA_LLM_LIBRARY")
        .filter(|wanted| !wanted.is_empty())
    {
        folders.retain(|folder| folder.file_name() == Some(wanted));
    }
    if folders.is_empty() {
        told.fault(
            format!(
                "no library folder with a CUDA backend below {}",
                ollama.library_folder.display()
            ),
            "install Ollama again so that lib/ollama lies beside bin, and unset OLLAMA_LLM_LIBRARY",
        );
    }
    // The newest first; the first that sees devices is taken.
    folders.reverse();
    for folder in folders {
        let setting = ollama.runner_setting(&setting.within(LIMIT), &folder);
        let Some(file) = cuda_backends(&folder).into_iter().next() else {
            continue;
        };
        let setting = setting.with("GGML_BACKEND_PATH", file.clone());
        let listed = list(ollama, &setting, &file, &mut told);
        let native = native(&setting, &mut told);
        let devices = combine(listed, native, &folder, &mut told);
        if !devices.is_empty() {
            told.devices = validate(ollama, &setting, &file, devices, &mut told);
            break;
        }
    }
    told.seconds = start.elapsed().as_secs_f64();
    told
}

/// The text of `--list-devices`: the real program's if it is there, else that of a probe that does the same.
fn list(ollama: &Installation, setting: &Setting, file: &Path, told: &mut Emulation) -> Listed {
    let server = ollama.library_folder.join("llama-server");
    let text = if server.exists() {
        let mut command = Command::new(&server);
        command.args(["--list-devices", "--offline", "--verbose"]);
        output(&child::program(setting, &mut command))
    } else {
        let request = Request::Ggml {
            folders: vec![ollama.library_folder.display().to_string()],
            file: Some(file.display().to_string()),
            list: true,
            hold: false,
        };
        let outcome = child::run::<ggml::Answer>(setting, &request);
        if outcome.answer.is_none() {
            told.fault(
                format!(
                    "llama-server would die with {}: {}",
                    file.display(),
                    outcome.failure()
                ),
                "see the evidence; replaced libraries and LD_PRELOAD hooks do that",
            );
            told.evidence(&outcome.last_words());
        }
        output(&outcome)
    };
    for line in text.lines().filter(|line| line.contains("failed to")) {
        told.fault(line.trim().to_owned(), "see layers 4 and 5");
    }
    Listed::parse(&text)
}

fn output<T>(outcome: &Outcome<T>) -> String {
    format!("{}\n{}", outcome.stdout, outcome.stderr)
}

/// What the text of `--list-devices` holds.
#[derive(Debug, Default, PartialEq)]
struct Listed {
    /// Name, bytes in all, bytes free.
    devices: Vec<(String, u64, u64)>,
    /// Compute capability by ordinal.
    compute: Vec<(u32, u32)>,
    /// Architectures compiled in.
    architectures: Option<String>,
}

impl Listed {
    fn parse(text: &str) -> Self {
        let mut listed = Self::default();
        for line in text.lines() {
            if let Some(device) = device_line(line) {
                listed.devices.push(device);
            } else if let Some(compute) = compute_line(line) {
                listed.compute.push(compute);
            } else if let Some((before, rest)) = line.split_once("ARCHS")
                && before.contains("CUDA")
                && let Some(list) = rest.trim_start().strip_prefix('=')
            {
                listed.architectures = list.split('|').next().map(|list| list.trim().to_owned());
            }
        }
        listed
    }
}

/// `  CUDA0: NAME (81559 MiB, 81000 MiB free)`.
fn device_line(line: &str) -> Option<(String, u64, u64)> {
    let inner = line.starts_with(' ').then(|| line.trim())?;
    let (_, rest) = inner.split_once(": ")?;
    let (name, sizes) = rest.strip_suffix(" MiB free)")?.rsplit_once(" (")?;
    let (total, free) = sizes.split_once(" MiB, ")?;
    let bytes = |text: &str| text.trim().parse::<u64>().ok().map(|size| size << 20);
    Some((name.trim().to_owned(), bytes(total)?, bytes(free)?))
}

/// `Device 0: NAME, compute capability 9.0, VMM: yes`.
fn compute_line(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once("Device ")?;
    let (_, number) = rest.split_once("compute capability ")?;
    let (major, rest) = number.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `ollama gpu-discover`.
fn native(setting: &Setting, told: &mut Emulation) -> native::Answer {
    let outcome = child::run::<native::Answer>(setting, &Request::Native);
    if !outcome.stdout.is_empty() {
        told.fault(
            format!(
                "a library writes to standard output ({:?}), which spoils the JSON of gpu-discover",
                outcome.stdout.lines().next().unwrap_or_default()
            ),
            "run `vgpu install` with a current vgpu, and take hooks out of LD_PRELOAD",
        );
    }
    outcome.answer.unwrap_or_default()
}

/// Both answers together, and the filters.
fn combine(
    listed: Listed,
    native: native::Answer,
    folder: &Path,
    told: &mut Emulation,
) -> Vec<Device> {
    let old: u32 = native
        .nvml_version
        .split('.')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if folder.ends_with("cuda_v12") && (1..550).contains(&old) {
        told.fault(
            format!(
                "NVIDIA driver too old: NVML says {}, Ollama wants 550",
                native.nvml_version
            ),
            "update the host's driver",
        );
        return Vec::new();
    }
    let mut devices = Vec::new();
    for (at, (name, total, free)) in listed.devices.into_iter().enumerate() {
        let known = native.driver.devices.get(at);
        let device = Device {
            library: "CUDA".to_owned(),
            name,
            memory_total: total,
            memory_free: free,
            compute: listed.compute.get(at).copied().unwrap_or_default(),
            uuid: known.map(|device| device.uuid.clone()).unwrap_or_default(),
            pci_id: known
                .map(|device| device.pci_id.clone())
                .unwrap_or_default(),
        };
        let wanted = (device.compute.0 * 100 + device.compute.1 * 10).to_string();
        let has_code = listed
            .architectures
            .as_ref()
            .is_none_or(|list| list.split(',').any(|have| have.trim() == wanted));
        if has_code {
            devices.push(device);
        } else {
            told.fault(
                format!("skipping CUDA device: compute capability {}.{} is not among the compiled architectures", device.compute.0, device.compute.1),
                "use an Ollama whose libraries are compiled for this device",
            );
        }
    }
    devices
}

/// The second pass; devices go by index in this era.
fn validate(
    ollama: &Installation,
    setting: &Setting,
    file: &Path,
    devices: Vec<Device>,
    told: &mut Emulation,
) -> Vec<Device> {
    let request = Request::Ggml {
        folders: vec![ollama.library_folder.display().to_string()],
        file: Some(file.display().to_string()),
        list: false,
        hold: true,
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let request = &request;
        let children: Vec<_> = (0..devices.len())
            .map(|index| {
                let setting = setting.with("CUDA_VISIBLE_DEVICES", index.to_string());
                scope.spawn(move || child::run::<ggml::Answer>(&setting, request))
            })
            .collect();
        children
            .into_iter()
            .map(|child| child.join().ok())
            .collect()
    });
    let mut kept = Vec::new();
    for ((index, device), outcome) in devices.into_iter().enumerate().zip(outcomes) {
        let answer = outcome.and_then(|outcome| outcome.answer);
        if answer.is_some_and(|answer| {
            answer.devices().count() == 1 && era_d::has_code(&answer, device.compute)
        }) {
            kept.push(device);
        } else {
            told.fault(
                format!("filtering device which didn't fully initialize: {} under CUDA_VISIBLE_DEVICES={index}", device.name),
                "see layers 1 (several clients at once) and 7",
            );
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_llama_server_is_taken_apart() {
        let listed = Listed::parse(
            "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: NVIDIA H100 80GB HBM3, compute capability 9.0, VMM: yes\nsystem_info: n_threads = 2 | CUDA : ARCHS = 750,800,900 | USE_GRAPHS = 1 |\nAvailable devices:\n  CUDA0: NVIDIA H100 80GB HBM3 (81559 MiB, 81000 MiB free)\n",
        );
        assert_eq!(
            listed,
            Listed {
                devices: vec![("NVIDIA H100 80GB HBM3".to_owned(), 81559 << 20, 81000 << 20)],
                compute: vec![(9, 0)],
                architectures: Some("750,800,900".to_owned()),
            }
        );
        assert_eq!(Listed::parse("no devices found\n"), Listed::default());
    }
}
