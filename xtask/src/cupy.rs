//! CuPy for CUDA 11 from PyPI, unmodified: the only place from which a static libcudart 11.8 comes to the tests.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use vgpu_e2e::backend::Backend;
use vgpu_e2e::command;
use vgpu_e2e::verdict::{Verdict, judge};

use crate::{fetch, places};

const PACKAGES: &[&str] = &[
    "cupy-cuda11x==13.6.0",
    "fastrlock",
    "numpy",
    "nvidia-cuda-nvrtc-cu11==11.8.89",
];

/// The name of the test.
pub const NAME: &str = "cupy_static_runtime";

/// CuPy, fetched on first use: its Python, and NVIDIA's run-time compiler.
pub struct Cupy {
    python: PathBuf,
    nvrtc: PathBuf,
}

impl Cupy {
    /// Fetches the packages.
    pub fn prepare() -> anyhow::Result<Self> {
        let what = "CuPy and NVRTC for CUDA 11 (about 150 MB)";
        let environment = fetch::environment("cupy-11", PACKAGES, what)?;
        Ok(Self {
            python: environment.join("bin/python"),
            nvrtc: fetch::site_packages(&environment)?.join("nvidia/cuda_nvrtc/lib"),
        })
    }

    /// Runs a kernel; the verdict and how long it took.
    pub fn run(&self, backend: &Backend) -> anyhow::Result<(Verdict, Duration)> {
        let cache = tempfile::tempdir()?;
        let mut command = Command::new(&self.python);
        command
            .arg(places::root().join("tests/smoke/cupy_static_runtime.py"))
            // Machine code is what the software device cannot run.
            .env("CUPY_COMPILE_WITH_PTX", "1")
            // Kernels compiled by an earlier run would hide a broken path from NVRTC to the device.
            .env("CUPY_CACHE_DIR", cache.path());
        backend.attach(&mut command, &[&self.nvrtc]);
        let output = command::run(&mut command, Duration::from_secs(300))?;
        Ok((judge(NAME, &output, None), output.wall))
    }
}
