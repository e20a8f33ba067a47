//! The tinygrad smoke test: an unmodified framework from PyPI trains a network through the shim.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use vgpu_e2e::backend::Backend;
use vgpu_e2e::command;
use vgpu_e2e::verdict::{Verdict, judge};

use crate::{fetch, places};

const PACKAGES: &[&str] = &[
    "tinygrad==0.14.0",
    "numpy",
    "nvidia-cuda-nvrtc-cu12==12.9.86",
];

/// The framework with what it needs, fetched on first use: its Python, and NVIDIA's run-time compiler.
pub struct Tinygrad {
    python: PathBuf,
    nvrtc: PathBuf,
}

impl Tinygrad {
    /// Fetches the packages.
    pub fn prepare() -> anyhow::Result<Self> {
        let environment =
            fetch::environment("tinygrad", PACKAGES, "tinygrad and NVRTC (about 130 MB)")?;
        let nvrtc =
            fetch::site_packages(&environment)?.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        nvrtc
            .exists()
            .then_some(())
            .with_context(|| format!("no NVRTC at {}", nvrtc.display()))?;
        Ok(Self {
            python: environment.join("bin/python"),
            nvrtc,
        })
    }

    /// Trains; the verdict and how long it took.
    pub fn train(&self, backend: &Backend) -> anyhow::Result<(Verdict, Duration)> {
        let mut command = Command::new(&self.python);
        command
            .arg(places::root().join("tests/smoke/tinygrad_train.py"))
            .env("DEV", "CUDA")
            .env("NVRTC_PATH", &self.nvrtc)
            // Kernels compiled by an earlier run would hide a broken path from NVRTC to the device.
            .env("CACHELEVEL", "0");
        let runtime = self.nvrtc.parent().map(PathBuf::from).unwrap_or_default();
        backend.attach(&mut command, &[&runtime]);
        let output = command::run(&mut command, Duration::from_secs(300))?;
        Ok((judge("tinygrad_train", &output, None), output.wall))
    }
}
