//! NVIDIA's compiler and runtimes from PyPI.
//!
//! CUDA 13's nvcc is complete there. CUDA 12 and 11.8 exist only as headers and libraries, so their programs are built
//! by a hybrid: nvcc 13 with the older headers and the older libcudart. NVIDIA does not support that combination;
//! for tests it has the one property that matters: the program carries, or loads, the genuine older libcudart.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use vgpu_e2e::program::Cudart;

use crate::shell::{copy, create_folder, fresh_folder, run_quietly, symlink};
use crate::{fetch, places};

const NVCC: &[&str] = &["nvidia-cuda-nvcc==13.5.37", "nvidia-cuda-cccl==13.3.5.0.6"];
const CUDA12: &[&str] = &[
    "nvidia-cuda-runtime-cu12==12.9.79",
    "nvidia-cuda-nvcc-cu12==12.9.86",
    "nvidia-cuda-cccl-cu12==12.9.27",
];
const CUDA11: &[&str] = &[
    "nvidia-cuda-runtime-cu11==11.8.89",
    "nvidia-cuda-nvcc-cu11==11.8.89",
];

/// A folder with `bin/nvcc`, `include/` and `lib/`.
#[derive(Debug, Clone)]
pub struct Toolkit {
    /// The toolkit's major version.
    pub major: u32,
    /// Its folder.
    pub root: PathBuf,
}

impl Toolkit {
    /// The toolkit of CUDA `major` (11, 12 or 13), fetched on first use.
    pub fn get(major: u32) -> anyhow::Result<Self> {
        let native = native()?;
        match major {
            13 => Ok(native),
            12 => hybrid(&native, 12, CUDA12, "libcudart.so.12"),
            11 => hybrid(&native, 11, CUDA11, "libcudart.so.11.0"),
            other => bail!("no toolkit for CUDA {other}"),
        }
    }

    /// An nvcc command that links libcudart as asked.
    pub fn nvcc(&self, cudart: Cudart) -> Command {
        let mut command = Command::new(self.root.join("bin/nvcc"));
        match cudart {
            Cudart::Static => command.arg("--cudart=static"),
            Cudart::Shared => command.arg("--cudart=shared"),
        };
        match self.major {
            // The 11.8 headers refuse compilers newer than themselves by number alone, and there is no libcudadevrt
            // of 11.8 on PyPI; without device-side launches none is needed.
            11 => command.args(["-allow-unsupported-compiler", "--cudadevrt=none"]),
            12 => command.arg("-I").arg(self.root.join("include/cccl")),
            _ => &mut command,
        };
        command
    }

    /// The shared libcudart and the name that programs load it by.
    pub fn shared_runtime(&self) -> (PathBuf, &'static str) {
        let name = match self.major {
            11 => "libcudart.so.11.0",
            12 => "libcudart.so.12",
            _ => "libcudart.so.13",
        };
        (self.root.join("lib").join(name), name)
    }
}

fn native() -> anyhow::Result<Toolkit> {
    let environment =
        fetch::environment("cuda-13", NVCC, "NVIDIA's CUDA 13 compiler (about 130 MB)")?;
    let root = fetch::site_packages(&environment)?.join("nvidia/cu13");
    if !root.join("bin/nvcc").exists() {
        bail!(
            "the package nvidia-cuda-nvcc holds no nvcc under {}",
            root.display()
        );
    }
    let link = root.join("lib/libcudart.so");
    if !link.exists() {
        symlink("libcudart.so.13", &link)?;
    }
    Ok(Toolkit { major: 13, root })
}

fn hybrid(
    native: &Toolkit,
    major: u32,
    packages: &[&str],
    runtime: &str,
) -> anyhow::Result<Toolkit> {
    let root = places::cache().join(format!("cuda-{major}-hybrid"));
    let toolkit = Toolkit { major, root };
    let complete = toolkit.root.join("complete.txt");
    let contents = format!("{}\n{}", NVCC.join("\n"), packages.join("\n"));
    if std::fs::read_to_string(&complete).is_ok_and(|have| have == contents) {
        return Ok(toolkit);
    }
    let what = format!("the headers and runtime of CUDA {major}");
    let parts = fetch::unpacked(&format!("cuda-{major}"), packages, &what)?.join("nvidia");
    fresh_folder(&toolkit.root)?;
    for folder in ["bin", "nvvm"] {
        link_tree(&native.root.join(folder), &toolkit.root.join(folder))?;
    }
    for package in ["cuda_runtime", "cuda_nvcc"] {
        link_tree(
            &parts.join(package).join("include"),
            &toolkit.root.join("include"),
        )?;
    }
    let cccl = parts.join("cuda_cccl/include");
    if cccl.exists() {
        link_tree(&cccl, &toolkit.root.join("include/cccl"))?;
    }
    link_tree(&parts.join("cuda_runtime/lib"), &toolkit.root.join("lib"))?;
    symlink(runtime, &toolkit.root.join("lib/libcudart.so"))?;
    std::fs::write(&complete, contents)?;
    Ok(toolkit)
}

/// Copies a folder by hard links where the file system allows them; files that exist already stay.
fn link_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    create_folder(to)?;
    for entry in
        std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?
    {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            link_tree(&source, &target)?;
        } else if !target.exists() && std::fs::hard_link(&source, &target).is_err() {
            copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Compiles `source` to PTX text with CUDA 13.
///
/// The text says `.version 7.0` instead of the compiler's own 9.5, which a 13.0 driver would refuse by its number alone;
/// ptxas checks right here that nothing newer than 7.0 is inside.
pub fn ptx(source: &Path, folder: &Path) -> anyhow::Result<String> {
    let toolkit = Toolkit::get(13)?;
    let file = folder.join("kernels.ptx");
    run_quietly(
        Command::new(toolkit.root.join("bin/nvcc"))
            .args(["-ptx", "-arch=compute_75", "-o"])
            .args([&file, source]),
    )?;
    let text = std::fs::read_to_string(&file)?;
    let version = text
        .lines()
        .find(|line| line.starts_with(".version "))
        .context("nvcc wrote PTX without a version")?;
    let lowered = text.replacen(version, ".version 7.0", 1);
    std::fs::write(&file, &lowered)?;
    run_quietly(
        Command::new(toolkit.root.join("bin/ptxas"))
            .args(["-arch=sm_90", "-o"])
            .args([&folder.join("kernels.cubin"), &file]),
    )
    .context("the driver programs' kernels need PTX newer than 7.0")?;
    Ok(lowered)
}

/// Compiles `source` to a fatbin of PTX, and of Hopper machine code where `machine_code` is set.
pub fn fatbin(source: &Path, folder: &Path, machine_code: bool) -> anyhow::Result<Vec<u8>> {
    let toolkit = Toolkit::get(13)?;
    let file = folder.join("kernels.fatbin");
    run_quietly(
        Command::new(toolkit.root.join("bin/nvcc"))
            .args(["-fatbin", "-arch=compute_75", code(machine_code), "-o"])
            .args([&file, source]),
    )?;
    Ok(std::fs::read(&file)?)
}

/// nvcc's `-code` argument: PTX for the software device, and machine code for the GPU where asked.
pub fn code(machine_code: bool) -> &'static str {
    if machine_code {
        "-code=compute_75,sm_90"
    } else {
        "-code=compute_75"
    }
}
