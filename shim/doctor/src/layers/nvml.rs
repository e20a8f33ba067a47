//! Layer 6: `libnvidia-ml.so.1`. Programs do without it; a half-done one is worse than none.

use super::Case;
use crate::child;
use crate::probe::call::MISSING;
use crate::probe::{Request, nvml};
use crate::report::{Layer, Report};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// `NVML_ERROR_NOT_FOUND`.
const NOT_FOUND: u32 = 6;

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let uuid = report.devices.first().map(|device| device.uuid.clone());
    let request = Request::Nvml {
        library: "libnvidia-ml.so.1".to_owned(),
        uuid,
    };
    let setting = case.setting.within(LIMIT).without("CUDA_VISIBLE_DEVICES");
    let outcome = child::run::<nvml::Answer>(&setting, &request);
    let Some(answer) = &outcome.answer else {
        report
            .fault(
                Layer::Nvml,
                format!(
                    "a process that loads and unloads NVML does not survive: {}",
                    outcome.failure()
                ),
            )
            .mend("run `vgpu install` with a current vgpu, or remove this libnvidia-ml.so.1")
            .evidence(outcome.last_words());
        return;
    };
    let file = answer
        .file
        .clone()
        .unwrap_or_else(|| "libnvidia-ml.so.1".to_owned());
    if let Some(error) = &answer.load_error {
        if error.contains("libnvidia-ml.so.1: cannot open") {
            report
                .note(
                    Layer::Nvml,
                    "there is no libnvidia-ml.so.1: nvidia-smi finds nothing; Ollama and PyTorch do without it",
                )
                .mend("run `vgpu install`");
        } else {
            report
                .fault(Layer::Nvml, format!("{file} does not load: {error}"))
                .mend("run `vgpu install` with a current vgpu");
        }
        return;
    }
    if !answer.missing.is_empty() {
        report
            .fault(
                Layer::Nvml,
                format!("{file} lacks {}: PyTorch and Ollama rely on all of NVML once it is there", answer.missing.join(", ")),
            )
            .mend(format!("run `vgpu install` with a current vgpu, or `rm {file}`: none is better than half of it"));
    }
    if let Some((call, code)) = &answer.failed {
        let (what, mend) = match (call.as_str(), *code) {
            (call, MISSING) => (
                format!("{call} in {file}"),
                "run `vgpu install` with a current vgpu",
            ),
            ("nvmlDeviceGetHandleByUUID", NOT_FOUND) => (
                format!(
                    "{file} does not know the UUID that libcuda.so.1 reports: they belong to different GPUs"
                ),
                "remove the other driver's libnvidia-ml.so.1",
            ),
            (call, code) => (
                format!("{call} of {file} returns {code}"),
                "VGPU_LOG=1 makes the shim say why",
            ),
        };
        report.fault(Layer::Nvml, what).mend(mend);
        return;
    }
    let major: u32 = answer
        .driver_version
        .split('.')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if (1..550).contains(&major) {
        report
            .warning(
                Layer::Nvml,
                format!(
                    "NVML reports driver {}: Ollama from 0.30 on drops CUDA 12 devices below 550",
                    answer.driver_version
                ),
            )
            .mend("update the host's driver");
    }
    if let (Some(memory), Some(device)) = (answer.memory_total, report.devices.first())
        && memory.abs_diff(device.memory_total) > device.memory_total / 16
    {
        let total = device.memory_total >> 20;
        report.warning(
            Layer::Nvml,
            format!("NVML reports {} MiB, the driver {total} MiB", memory >> 20),
        );
    }
    report.ok(
        Layer::Nvml,
        format!(
            "{file}: driver {}, {} device(s), three rounds from load to unload{}",
            answer.driver_version,
            answer.count,
            answer
                .memory_total
                .map(|memory| format!(", {} MiB", memory >> 20))
                .unwrap_or_default()
        ),
    );
}
