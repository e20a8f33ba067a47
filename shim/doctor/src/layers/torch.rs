//! Layer 10: PyTorch, asked through the Python that the question is about.

use super::Case;
use crate::child::{self, Ending};
use crate::report::{Device, Discovery, Layer, Report};
use serde::Deserialize;
use std::process::Command;
use std::time::Duration;

/// Importing PyTorch takes seconds.
const LIMIT: Duration = Duration::from_secs(25);

/// What is asked; the answer is the last line.
const QUESTION: &str = "import json, torch
answer = dict(version=torch.__version__, cuda=torch.version.cuda, devices=[], error='')
try:
    for i in range(torch._C._cuda_getDeviceCount() if torch.version.cuda else 0):
        p = torch.cuda.get_device_properties(i)
        answer['devices'].append(dict(name=p.name, major=p.major, minor=p.minor, memory=p.total_memory, uuid=str(getattr(p, 'uuid', ''))))
    answer['architectures'] = torch.cuda.get_arch_list()
except Exception as error:
    answer['error'] = str(error)
print()
print(json.dumps(answer))
";

#[derive(Deserialize)]
struct Answer {
    version: String,
    cuda: Option<String>,
    devices: Vec<Found>,
    error: String,
}

#[derive(Deserialize)]
struct Found {
    name: String,
    major: u32,
    minor: u32,
    memory: u64,
    uuid: String,
}

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let Some(python) = case
        .target
        .program
        .clone()
        .filter(|_| case.target.is_named("python"))
    else {
        return;
    };
    let mut command = Command::new(&python);
    command.args(["-c", QUESTION]);
    let outcome = child::program(&case.setting.within(LIMIT), &mut command);
    if outcome.stderr.contains("No module named 'torch'") {
        report.note(
            Layer::Torch,
            format!("not checked: {} has no PyTorch", python.display()),
        );
        return;
    }
    let answer = outcome
        .stdout
        .lines()
        .last()
        .and_then(|line| serde_json::from_str::<Answer>(line).ok());
    let Some(answer) = answer.filter(|_| outcome.ending == Ending::Exit(0)) else {
        report
            .fault(
                Layer::Torch,
                format!("PyTorch does not answer: {}", outcome.failure()),
            )
            .mend("see what it said")
            .evidence(outcome.last_words());
        return;
    };
    if answer.cuda.is_none() {
        report
            .fault(
                Layer::Torch,
                format!("PyTorch {} is a build without CUDA (torch.version.cuda is None)", answer.version),
            )
            .mend("install a build with CUDA: `pip install --force-reinstall torch` without a CPU index");
    } else if answer.devices.is_empty() {
        report
            .fault(
                Layer::Torch,
                format!("PyTorch {} finds no GPU: {}", answer.version, answer.error),
            )
            .mend("see layers 3 and 5");
    } else {
        report.ok(
            Layer::Torch,
            format!(
                "PyTorch {} for CUDA {} finds {} GPU(s)",
                answer.version,
                answer.cuda.unwrap_or_default(),
                answer.devices.len()
            ),
        );
    }
    report.discoveries.push(Discovery {
        program: "PyTorch".to_owned(),
        devices: answer
            .devices
            .into_iter()
            .map(|found| Device {
                library: "CUDA".to_owned(),
                name: found.name,
                uuid: found.uuid,
                memory_total: found.memory,
                compute: (found.major, found.minor),
                ..Device::default()
            })
            .collect(),
        seconds: outcome.wall.as_secs_f64(),
    });
}
