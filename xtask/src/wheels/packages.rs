//! The packages whose libraries are looked at, and where they lie once fetched.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::fetch;

/// One package of PyPI.
#[derive(Debug, PartialEq, Eq)]
pub struct Wheel {
    /// Its name and version, as pip takes them.
    pub requirement: &'static str,
    /// The CUDA version that its libraries are built for, as `cuGetProcAddress` counts.
    pub cuda: u32,
}

const fn wheel(requirement: &'static str, cuda: u32) -> Wheel {
    Wheel { requirement, cuda }
}

/// What `cargo xtask test` fetches.
pub const EVERYDAY: &[Wheel] = &[
    wheel("nvidia-cuda-runtime-cu11==11.7.99", 11070),
    wheel("nvidia-cuda-runtime-cu11==11.8.89", 11080),
    wheel("nvidia-cuda-runtime-cu12==12.0.146", 12000),
    wheel("nvidia-cuda-runtime-cu12==12.1.105", 12010),
    wheel("nvidia-cuda-runtime-cu12==12.4.127", 12040),
    wheel("nvidia-cuda-runtime-cu12==12.6.77", 12060),
    wheel("nvidia-cuda-runtime-cu12==12.8.90", 12080),
    wheel("nvidia-cuda-runtime-cu12==12.9.79", 12090),
    wheel("nvidia-cuda-runtime==13.0.96", 13000),
    wheel("nvidia-cuda-runtime==13.2.86", 13020),
    wheel("nvidia-cuda-runtime==13.5.37", 13050),
    wheel("nvidia-cuda-nvrtc-cu12==12.9.86", 12090),
    wheel("nvidia-cuda-nvrtc==13.0.88", 13000),
    wheel("nvidia-cuda-nvrtc==13.5.37", 13050),
    wheel("nvidia-nvjitlink-cu12==12.9.86", 12090),
    wheel("nvidia-nvjitlink==13.5.37", 13050),
    wheel("nvidia-cublas-cu12==12.9.1.4", 12090),
    wheel("nvidia-cublas==13.10.0.20", 13050),
    wheel("nvidia-cufft-cu12==11.4.1.4", 12090),
    wheel("nvidia-cufft==12.5.0.14", 13050),
    wheel("nvidia-curand-cu12==10.3.10.19", 12090),
    wheel("nvidia-curand==10.4.5.25", 13050),
    wheel("nvidia-cusparse-cu12==12.5.10.65", 12090),
    wheel("nvidia-cusparse==12.9.4.2", 13050),
    wheel("nvidia-cusolver-cu12==11.7.5.82", 12090),
    wheel("nvidia-cusolver==12.4.1.2", 13050),
    wheel("nvidia-cudnn-cu12==9.28.0.42", 12090),
    wheel("nvidia-cudnn-cu13==9.28.1.4", 13050),
    wheel("nvidia-nccl-cu12==2.32.3", 12090),
    wheel("nvidia-nccl-cu13==2.32.3", 13050),
    wheel("nvidia-cuda-cupti-cu12==12.9.79", 12090),
    wheel("nvidia-cuda-cupti==13.5.25", 13050),
    wheel("nvidia-nvtx-cu12==12.9.79", 12090),
    wheel("nvidia-nvtx==13.5.25", 13050),
];

/// What only `cargo xtask wheels --all` fetches; the test reads what that wrote down.
pub const RECORDED: &[Wheel] = &[
    wheel("torch==2.7.1", 12060),
    wheel("torch==2.15.0", 13000),
    wheel("jax-cuda13-pjrt==0.12.0.1", 13000),
];

impl Wheel {
    /// Its folder, fetched on first use: the package's shared libraries and nothing else.
    pub fn fetched(&self) -> anyhow::Result<PathBuf> {
        fetch::shared_libraries(self.requirement)
    }
}

/// The package that `requirement` names.
pub fn named(requirement: &str) -> anyhow::Result<&'static Wheel> {
    EVERYDAY
        .iter()
        .chain(RECORDED)
        .find(|wheel| wheel.requirement == requirement)
        .with_context(|| format!("{requirement} is none of the packages of {}", file!()))
}

/// Every shared library below `folder`, in the order of their paths.
pub fn libraries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(libraries(&entry.path())?);
        } else if fetch::is_shared_library(&entry.path()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
