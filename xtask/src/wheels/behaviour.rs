//! The real libraries at work on the software device: the scripts of `tests/wheels`, each with the libraries it is about.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vgpu_e2e::backend::Backend;
use vgpu_e2e::command;
use vgpu_e2e::verdict::{Verdict, judge};

use super::packages::{self, EVERYDAY, Wheel};
use crate::places;

/// How long one script may take; the slowest needs a few seconds.
const LIMIT: Duration = Duration::from_secs(180);

/// The CUDA versions whose libraries are tried together.
const TOGETHER: [u32; 2] = [12090, 13050];

/// Scripts with their arguments, for each of [`TOGETHER`].
const SCRIPTS: [(&str, [&[&str]; 2]); 9] = [
    (
        "nvjitlink",
        [&["libnvJitLink.so.12"], &["libnvJitLink.so.13"]],
    ),
    (
        "cublas",
        [
            &["libcudart.so.12", "libcublas.so.12", "libcublasLt.so.12"],
            &["libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"],
        ],
    ),
    (
        "cufft",
        [
            &["libcudart.so.12", "libcufft.so.11"],
            &["libcudart.so.13", "libcufft.so.12"],
        ],
    ),
    (
        "curand",
        [
            &["libcudart.so.12", "libcurand.so.10"],
            &["libcudart.so.13", "libcurand.so.10"],
        ],
    ),
    (
        "cusparse",
        [
            &["libcudart.so.12", "libcusparse.so.12"],
            &["libcudart.so.13", "libcusparse.so.12"],
        ],
    ),
    (
        "cusolver",
        [
            &["libcudart.so.12", "libcusolver.so.11"],
            &["libcudart.so.13", "libcusolver.so.12"],
        ],
    ),
    (
        "cudnn",
        [
            &["libcudart.so.12", "libcudnn.so.9", "92800"],
            &["libcudart.so.13", "libcudnn.so.9", "92801"],
        ],
    ),
    (
        "nccl",
        [
            &["libcudart.so.12", "libnccl.so.2", "23203"],
            &["libcudart.so.13", "libnccl.so.2", "23203"],
        ],
    ),
    (
        "cupti",
        [
            &["libcudart.so.12", "libcupti.so.12", "libnvtx3interop.so.1"],
            &["libcudart.so.13", "libcupti.so.13", "libnvtx3interop.so.1"],
        ],
    ),
];

/// One script with its libraries.
#[derive(Debug)]
pub struct Run {
    script: &'static str,
    arguments: Vec<String>,
    folders: Vec<PathBuf>,
    /// What is tried, for people.
    pub label: String,
}

/// Everything that is tried.
pub fn runs() -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for wheel in EVERYDAY {
        let requirement = wheel.requirement;
        let (script, library) = if requirement.starts_with("nvidia-cuda-runtime") {
            ("cudart", "libcudart.so")
        } else if requirement.starts_with("nvidia-cuda-nvrtc") {
            ("nvrtc", "libnvrtc.so")
        } else {
            continue;
        };
        let folders = folders(wheel)?;
        runs.push(Run {
            script,
            arguments: vec![file(&folders, library)?, wheel.cuda.to_string()],
            folders,
            label: format!("{script} {requirement}"),
        });
    }
    for (at, cuda) in TOGETHER.into_iter().enumerate() {
        let mut all = Vec::new();
        for wheel in EVERYDAY.iter().filter(|wheel| wheel.cuda == cuda) {
            all.extend(folders(wheel)?);
        }
        for (script, arguments) in SCRIPTS {
            runs.push(Run {
                script,
                arguments: arguments[at].iter().map(|&name| name.to_owned()).collect(),
                folders: all.clone(),
                label: format!("{script} CUDA {}", cuda / 1000),
            });
        }
    }
    Ok(runs)
}

/// The folders of a package's libraries.
fn folders(wheel: &Wheel) -> anyhow::Result<Vec<PathBuf>> {
    let libraries = packages::libraries(&wheel.fetched()?)?;
    let mut folders: Vec<PathBuf> = libraries
        .iter()
        .filter_map(|path| path.parent().map(Path::to_owned))
        .collect();
    folders.dedup();
    Ok(folders)
}

/// The name of the library that is called `library`, dot and version.
fn file(folders: &[PathBuf], library: &str) -> anyhow::Result<String> {
    let mut names = Vec::new();
    for folder in folders {
        for path in packages::libraries(folder)? {
            names.extend(
                path.file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    let found = names.into_iter().find(|name| name.starts_with(library));
    found.ok_or_else(|| anyhow::anyhow!("no {library} in {folders:?}"))
}

impl Run {
    /// Runs it; the verdict and how long it took.
    pub fn start(&self, backend: &Backend) -> anyhow::Result<(Verdict, Duration)> {
        let mut command = Command::new("python3");
        command
            .arg(
                places::root()
                    .join("tests/wheels")
                    .join(format!("{}.py", self.script)),
            )
            .args(&self.arguments)
            // The repository is not to be littered.
            .env("PYTHONDONTWRITEBYTECODE", "1");
        for name in ["CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "VGPU_LOG"] {
            command.env_remove(name);
        }
        let folders: Vec<&Path> = self.folders.iter().map(PathBuf::as_path).collect();
        backend.attach(&mut command, &folders);
        let output = command::run(&mut command, LIMIT)?;
        Ok((judge(self.script, &output, None), output.wall))
    }
}
