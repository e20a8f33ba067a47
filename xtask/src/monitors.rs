//! NVML under other people's monitors from PyPI, unmodified: nvidia-ml-py, gpustat, nvitop.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use vgpu_e2e::backend::Backend;
use vgpu_e2e::command;
use vgpu_e2e::verdict::{Verdict, judge};

use crate::{fetch, places};

/// NVIDIA's own bindings for Python, pure Python; carried to GPU machines as well.
pub const BINDINGS: &str = "nvidia-ml-py==13.615.71";

const PACKAGES: &[&str] = &[BINDINGS, "gpustat==1.1.1", "nvitop==1.7.2"];

/// The name of the test.
pub const NAME: &str = "nvml_monitors";

/// The monitors, fetched on first use.
pub struct Monitors {
    python: PathBuf,
}

impl Monitors {
    /// Fetches the packages.
    pub fn prepare() -> anyhow::Result<Self> {
        let what = "nvidia-ml-py, gpustat and nvitop (about 2 MB)";
        let environment = fetch::environment("monitors", PACKAGES, what)?;
        Ok(Self {
            python: environment.join("bin/python"),
        })
    }

    /// Runs them all; the verdict and how long it took.
    pub fn watch(&self, backend: &Backend) -> anyhow::Result<(Verdict, Duration)> {
        let mut command = Command::new(&self.python);
        command
            .arg(places::root().join("tests/smoke/nvml_monitors.py"))
            .arg(places::root().join("shim/nvml/exports.txt"))
            .env_remove("CUDA_VISIBLE_DEVICES")
            .env_remove("VGPU_LOG");
        backend.attach(&mut command, &[]);
        let output = command::run(&mut command, Duration::from_secs(300))?;
        Ok((judge(NAME, &output, None), output.wall))
    }
}
