//! Layer 5: calls of the driver API, then of the real libcudart that the program would use.
//!
//! `CUDA_VISIBLE_DEVICES` is left out here: what it hides is layer 7's business.

use super::Case;
use crate::child::{self, Setting};
use crate::codes;
use crate::probe::call::MISSING;
use crate::probe::{Request, driver, runtime};
use crate::report::{Device, Layer, Report};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    if case.winner.is_none() {
        report.note(Layer::Driver, "not checked: there is no libcuda.so.1");
        return;
    }
    let setting = case.setting.within(LIMIT).without("CUDA_VISIBLE_DEVICES");
    driver(&setting, report);
    for (path, setting) in runtimes(case) {
        let setting = setting.within(LIMIT).without("CUDA_VISIBLE_DEVICES");
        runtime(&path, &setting, report);
    }
}

fn driver(setting: &Setting, report: &mut Report) {
    let request = Request::Driver {
        library: "libcuda.so.1".to_owned(),
    };
    let outcome = child::run::<driver::Answer>(setting, &request);
    let Some(answer) = &outcome.answer else {
        report
            .fault(
                Layer::Driver,
                format!(
                    "a process that initialises the driver does not survive: {}",
                    outcome.failure()
                ),
            )
            .mend("VGPU_LOG=1 makes the shim say what it does; see the daemon's log")
            .evidence(outcome.last_words());
        return;
    };
    if let Some((call, code)) = &answer.failed {
        failure(call, *code, setting, report);
        return;
    }
    for complaint in &answer.complaints {
        report
            .fault(Layer::Driver, complaint.clone())
            .mend("run `vgpu install` with a current vgpu: the libcuda.so.1 in use is incomplete");
    }
    if answer.devices.is_empty() {
        report
            .fault(Layer::Driver, "the driver initialises but has no device")
            .mend("see the daemon's log");
    }
    for device in &answer.devices {
        report.ok(Layer::Driver, device.line());
        malformed(device, report);
    }
    report.ok(
        Layer::Driver,
        format!(
            "driver {}.{}, virtual memory management: {}",
            answer.version / 1000,
            answer.version % 1000 / 10,
            if answer.virtual_memory {
                "yes"
            } else {
                "no (programs use plain allocations)"
            }
        ),
    );
    report.devices.clone_from(&answer.devices);
}

fn failure(call: &str, code: u32, setting: &Setting, report: &mut Report) {
    if code == MISSING {
        report
            .fault(Layer::Driver, format!("{call} in libcuda.so.1"))
            .mend("run `vgpu install` with a current vgpu");
        return;
    }
    let (meaning, mend) = codes::meaning(code);
    let mut what = format!("{call} returns {}", codes::name(code));
    if !meaning.is_empty() {
        what.push_str(": ");
        what.push_str(meaning);
    }
    // The shim says why, if asked.
    let request = Request::Driver {
        library: "libcuda.so.1".to_owned(),
    };
    let told = child::run::<driver::Answer>(&setting.with("VGPU_LOG", "1"), &request);
    report
        .fault(Layer::Driver, what)
        .mend(mend)
        .evidence(told.last_words());
}

/// Whether what identifies a device has the form that programs take apart.
fn malformed(device: &Device, report: &mut Report) {
    let shape: String = device
        .pci_id
        .chars()
        .map(|letter| {
            if letter.is_ascii_hexdigit() {
                'x'
            } else {
                letter
            }
        })
        .collect();
    if shape != "xxxx:xx:xx.x" && !device.pci_id.is_empty() {
        report
            .fault(
                Layer::Driver,
                format!(
                    "the PCI id {:?} is not of the form dddd:bb:dd.f",
                    device.pci_id
                ),
            )
            .mend("run `vgpu install` with a current vgpu");
    }
    if device.uuid == "GPU-00000000-0000-0000-0000-000000000000" {
        report
            .fault(
                Layer::Driver,
                "the device has no UUID, by which Ollama tells devices apart",
            )
            .mend("run `vgpu install` with a current vgpu");
    }
}

/// One libcudart of each name, beside a consumer or on the path, with the environment of its runner.
fn runtimes(case: &Case) -> Vec<(PathBuf, Setting)> {
    let mut found: BTreeMap<String, (PathBuf, Setting)> = BTreeMap::new();
    let mut look = |folder: PathBuf, setting: &Setting| {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("libcudart.so.") && name.matches('.').count() == 2 {
                found
                    .entry(name)
                    .or_insert_with(|| (entry.path(), setting.clone()));
            }
        }
    };
    if let Some(ollama) = &case.ollama {
        for folder in ollama.folders() {
            let setting = ollama.runner_setting(&case.setting, &folder);
            look(folder, &setting);
        }
    }
    if let Some(folder) = case.llama.as_deref().and_then(|path| path.parent()) {
        look(folder.to_owned(), &case.setting);
    }
    for folder in crate::loader::path_folders(&case.setting) {
        look(folder, &case.setting);
    }
    found.into_values().collect()
}

fn runtime(path: &std::path::Path, setting: &Setting, report: &mut Report) {
    let shown = path.display();
    let request = Request::Runtime {
        library: path.to_string_lossy().into_owned(),
    };
    let outcome = child::run::<runtime::Answer>(setting, &request);
    let Some(answer) = &outcome.answer else {
        report
            .fault(
                Layer::Driver,
                format!(
                    "a process with {shown} does not survive: {}",
                    outcome.failure()
                ),
            )
            .mend("put NVIDIA's own libcudart back (install the program again)")
            .evidence(outcome.last_words());
        return;
    };
    if let Some(error) = &answer.load_error {
        report
            .fault(Layer::Driver, format!("{shown} does not work: {error}"))
            .mend("put NVIDIA's own libcudart back (install the program again)");
    } else if answer.code != 0 {
        let (meaning, mend) = codes::meaning(answer.code);
        report
            .fault(
                Layer::Driver,
                format!(
                    "cudaGetDeviceCount of {shown} returns {} \"{}\"{}{meaning} (driver {}, runtime {})",
                    answer.code,
                    answer.text,
                    if meaning.is_empty() { "" } else { ": " },
                    answer.driver_version,
                    answer.runtime_version
                ),
            )
            .mend(mend);
    } else {
        report.ok(
            Layer::Driver,
            format!(
                "{shown} sees {} device(s): runtime {}, driver {}",
                answer.count, answer.runtime_version, answer.driver_version
            ),
        );
    }
}
