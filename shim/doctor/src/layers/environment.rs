//! Layer 7: variables that hide devices, and variables that do nothing.

use super::Case;
use crate::child;
use crate::probe::{Request, driver};
use crate::report::{Layer, Report};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let before = report.findings.len();
    visible_devices(case, report);
    selection(case, report);
    without_effect(case, report);
    preloads(case, report);
    if report.findings.len() == before {
        report.ok(Layer::Environment, "no variable hides a device");
    }
}

/// Asks the driver under the variable as it is.
fn visible_devices(case: &Case, report: &mut Report) {
    let Some(value) = case.target.variable("CUDA_VISIBLE_DEVICES") else {
        return;
    };
    let shown = format!("CUDA_VISIBLE_DEVICES={value:?}");
    if report.devices.is_empty() {
        report.note(
            Layer::Environment,
            format!("{shown} is set; no device is there to be hidden"),
        );
        return;
    }
    let request = Request::Driver {
        library: "libcuda.so.1".to_owned(),
    };
    let outcome = child::run::<driver::Answer>(&case.setting.within(LIMIT), &request);
    let seen = outcome.answer.map_or(0, |answer| answer.devices.len());
    let all = report.devices.len();
    if seen == all {
        report.ok(
            Layer::Environment,
            format!("{shown} lets all {all} device(s) through"),
        );
        return;
    }
    let why = match value.as_str() {
        "" => "an empty value hides every device",
        "-1" => "-1 hides every device",
        text if text.starts_with("GPU-") => {
            "no device has this UUID, or the list ends at the first unknown one"
        }
        text if text.starts_with("MIG-") => "there is no such MIG instance",
        _ => "the list ends at the first ordinal that does not exist",
    };
    let mend = match &case.target.unit {
        Some(unit) => format!(
            "run `systemctl edit {}` and take it out (UnsetEnvironment=CUDA_VISIBLE_DEVICES)",
            unit.name
        ),
        None => "run `unset CUDA_VISIBLE_DEVICES`".to_owned(),
    };
    let what = format!("{shown} hides {} of {all} device(s): {why}", all - seen);
    if seen == 0 {
        report.fault(Layer::Environment, what).mend(mend);
    } else {
        report.note(Layer::Environment, what).mend(mend);
    }
}

/// Whether the driver heeds the variable as discovering programs set it: a UUID gives one device, -1 none.
fn selection(case: &Case, report: &mut Report) {
    let Some(device) = report.devices.first() else {
        return;
    };
    let request = Request::Driver {
        library: "libcuda.so.1".to_owned(),
    };
    for (value, expected) in [(device.uuid.clone(), 1), ("-1".to_owned(), 0)] {
        let setting = case
            .setting
            .within(LIMIT)
            .with("CUDA_VISIBLE_DEVICES", value.clone());
        let outcome = child::run::<driver::Answer>(&setting, &request);
        let seen = outcome.answer.map(|answer| answer.devices.len());
        if seen != Some(expected) {
            report
                .fault(
                    Layer::Environment,
                    format!("under CUDA_VISIBLE_DEVICES={value} the driver shows {} devices instead of {expected}; Ollama drops a device that it cannot select", seen.map_or("no answer and no".to_owned(), |seen| seen.to_string())),
                )
                .mend("run `vgpu install` with a current vgpu");
            return;
        }
    }
}

/// Variables of Ollama's and ggml's.
fn without_effect(case: &Case, report: &mut Report) {
    let value = |name: &str| case.target.variable(name);
    if value("OLLAMA_NUM_GPU").is_some() {
        report
            .warning(
                Layer::Environment,
                "OLLAMA_NUM_GPU has no effect: there is no such variable (num_gpu is an option of a model or a request)",
            )
            .mend("take it out; `/set parameter num_gpu N` in `ollama run` sets the layers on the GPU");
    }
    if value("OLLAMA_LIBRARY_PATH").is_some() {
        report
            .warning(
                Layer::Environment,
                "OLLAMA_LIBRARY_PATH has no effect: the server overwrites it for its runners",
            )
            .mend("take it out; libraries lie in ../lib/ollama beside the binary");
    }
    if let (Some(name), Some(ollama)) = (value("OLLAMA_LLM_LIBRARY"), &case.ollama)
        && !name.is_empty()
    {
        let folders = ollama.all_folders();
        let names: Vec<String> = folders
            .iter()
            .filter_map(|folder| folder.file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        if names.contains(&name) {
            report.note(
                Layer::Environment,
                format!(
                    "OLLAMA_LLM_LIBRARY={name} makes Ollama skip every other folder of {}",
                    names.join(", ")
                ),
            );
        } else {
            report
                .fault(
                    Layer::Environment,
                    format!("OLLAMA_LLM_LIBRARY={name} names no folder of {} ({}): Ollama skips all of them", ollama.library_folder.display(), names.join(", ")),
                )
                .mend("unset OLLAMA_LLM_LIBRARY");
        }
    }
    if let Some(path) = value("GGML_BACKEND_PATH").filter(|path| !Path::new(path).exists()) {
        report
            .warning(
                Layer::Environment,
                format!("GGML_BACKEND_PATH={path} names no file"),
            )
            .mend("unset GGML_BACKEND_PATH");
    }
    if value("NVIDIA_VISIBLE_DEVICES").is_some_and(|value| value == "none" || value == "void") {
        report.note(
            Layer::Environment,
            "NVIDIA_VISIBLE_DEVICES speaks to NVIDIA's container toolkit only; it hides nothing from vgpu",
        );
    }
}

/// Files that are preloaded, or are not there to be.
fn preloads(case: &Case, report: &mut Report) {
    let mut lists = vec![(
        "LD_PRELOAD",
        case.target.variable("LD_PRELOAD").unwrap_or_default(),
    )];
    let system = std::fs::read_to_string("/etc/ld.so.preload").unwrap_or_default();
    lists.push(("/etc/ld.so.preload", system));
    for (origin, list) in lists {
        for file in list
            .split([' ', ':', '\n', '\t'])
            .filter(|file| !file.is_empty())
        {
            preload(origin, file, report);
        }
    }
}

fn preload(origin: &str, file: &str, report: &mut Report) {
    if !file.contains('/') {
        return;
    }
    let path = Path::new(file);
    if !path.exists() {
        report
            .warning(
                Layer::Environment,
                format!("{origin} names {file}, which does not exist: the loader says so on standard error and goes on without it"),
            )
            .mend(format!("take {file} out of {origin}"));
        return;
    }
    let Ok(elf) = crate::elf::Elf::read(path) else {
        return;
    };
    let interposed: Vec<&str> = ["dlopen", "dlsym", "execve"]
        .into_iter()
        .filter(|name| elf.exports.contains_key(*name))
        .collect();
    if !interposed.is_empty() {
        report
            .warning(
                Layer::Environment,
                format!("{file} ({origin}) takes over {}: libraries found by their caller's RUNPATH are not found any more", interposed.join(", ")),
            )
            .mend(format!("take {file} out of {origin}; vgpu needs no such hook"));
    }
    let named_cuda = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().contains("cuda"));
    if named_cuda
        && elf.soname.as_deref() != Some("libcuda.so.1")
        && elf.exports.contains_key("cuInit")
    {
        report
            .warning(
                Layer::Environment,
                format!("{file} ({origin}) has the SONAME {:?}: preloaded or not, it does not count as libcuda.so.1", elf.soname.unwrap_or_default()),
            )
            .mend("run `vgpu install`");
    }
}
