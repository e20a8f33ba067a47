//! `cargo xtask ggml`: real ggml libraries for CUDA from npm, libcudart and cuBLAS from PyPI, in `.cache/ggml`.
//!
//! About 650 MB are fetched, once. Only what a runner loads is kept.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::shell::{copy, create_folder, fresh_folder, run_quietly, say};
use crate::{fetch, places, system};

/// llama.cpp's CUDA backend as node-llama-cpp ships it: a release of 2025, and the newest.
const PACKAGE: &str = "@node-llama-cpp/linux-x64-cuda";
const RELEASES: [&str; 2] = ["3.14.0", "3.22.1"];

/// Where the package has its libraries, and those that are needed.
const INSIDE: &str = "package/bins/linux-x64-cuda";
const LIBRARIES: [&str; 2] = ["libggml-base.so", "libggml-cuda.so"];

/// The release whose llama.cpp decodes on a GPU ([`crate::gpu_llama`]), and what that takes beside the CUDA backend.
pub const DECODER_RELEASE: &str = RELEASES[0];
pub const DECODER_LIBRARIES: [&str; 4] = [
    "libggml-base.so",
    "libggml-cpu-haswell.so",
    "libggml.cuda.b6673.so",
    "libllama.cuda.b6673.so",
];

/// The CUDA 13 libraries that they load.
const CUDA: &[&str] = &["nvidia-cublas==13.1.0.3", "nvidia-cuda-runtime==13.0.96"];
const RUNTIME: [&str; 3] = ["libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"];

/// The folder, fetched on first use: one folder for each release, and `runtime`.
pub fn fetched() -> anyhow::Result<PathBuf> {
    let folder = places::cache().join("ggml");
    let stamp = folder.join("complete.txt");
    let wanted = format!(
        "{} {} {}\n",
        RELEASES.join(" "),
        CUDA.join(" "),
        DECODER_LIBRARIES.join(" ")
    );
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(folder);
    }
    system::prepare_npm()?;
    fresh_folder(&folder)?;
    for release in RELEASES {
        unpack(release, &folder)?;
    }
    let from = fetch::unpacked("ggml-runtime", CUDA, "libcudart and cuBLAS (about 420 MB)")?
        .join("nvidia/cu13/lib");
    let runtime = folder.join("runtime");
    create_folder(&runtime)?;
    for name in RUNTIME {
        let (from, to) = (from.join(name), runtime.join(name));
        if std::fs::hard_link(&from, &to).is_err() {
            copy(&from, &to)?;
        }
    }
    std::fs::write(&stamp, wanted)?;
    Ok(folder)
}

/// Fetches one release and unpacks what is needed of it.
fn unpack(release: &str, folder: &Path) -> anyhow::Result<()> {
    let name = format!("{PACKAGE}@{release}");
    say(&format!("fetching {name} from npm (80 to 140 MB)"));
    let to = folder.join(release);
    create_folder(&to)?;
    run_quietly(
        Command::new("npm")
            .args(["pack", "--silent", "--pack-destination"])
            .args([&to])
            .arg(&name),
    )
    .with_context(|| format!("cannot fetch {name}; is the npm registry reachable?"))?;
    let archive = std::fs::read_dir(&to)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "tgz"))
        .context("npm left no archive")?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf")
        .arg(&archive)
        .arg("-C")
        .arg(&to)
        .arg("--strip-components=3");
    let decoder = DECODER_LIBRARIES
        .iter()
        .filter(|library| release == DECODER_RELEASE && !LIBRARIES.contains(library));
    tar.args(
        LIBRARIES
            .iter()
            .chain(decoder)
            .map(|library| format!("{INSIDE}/{library}")),
    );
    run_quietly(&mut tar)?;
    std::fs::remove_file(&archive)?;
    Ok(())
}
