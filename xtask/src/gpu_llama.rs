//! `cargo xtask gpu --llama`: a prebuilt llama.cpp and a program that decodes with it, in two folders beside `dist/gpu`, for
//! a machine with a GPU and without a network: neither is larger than what travels at a time.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::shell::{copy, create_folder, fresh_folder, run_quietly, say};
use crate::{dist, fetch, ggml, places};

/// What may travel at a time, together with the rest of the checkout and `dist/gpu`'s binaries.
const LIMIT_BYTES: u64 = 50 << 20;

const SCRIPT: &str = include_str!("gpu-llama.sh");

/// What writes the model; numpy is expected there, beside PyTorch.
const PYTHON: [&str; 3] = ["gguf==0.19.0", "tqdm==4.67.1", "pyyaml==6.0.3"];

/// Lays out `dist/llama-1` and `dist/llama-2`.
pub fn bundle() -> anyhow::Result<()> {
    let libraries = ggml::fetched()?.join(ggml::DECODER_RELEASE);
    let [first, second] = [1, 2].map(|number| places::dist().join(format!("llama-{number}")));
    for folder in [&first, &second] {
        fresh_folder(folder)?;
    }
    say("packing llama.cpp's CUDA backend");
    let packed = first.join("libggml-cuda.so.xz");
    let mut xz = Command::new("xz");
    xz.args(["-T0", "-3", "-c"])
        .arg(libraries.join("libggml-cuda.so"))
        .stdout(std::fs::File::create(&packed)?);
    anyhow::ensure!(
        xz.status().context("xz cannot be started")?.success(),
        "xz failed"
    );
    let bytes = std::fs::read(&packed)?;
    std::fs::remove_file(&packed)?;
    let (front, back) = bytes.split_at(bytes.len() / 2);
    std::fs::write(first.join("libggml-cuda.so.xz.0"), front)?;
    std::fs::write(second.join("libggml-cuda.so.xz.1"), back)?;
    create_folder(&second.join("lib"))?;
    for library in ggml::DECODER_LIBRARIES {
        copy(&libraries.join(library), &second.join("lib").join(library))?;
    }

    let smoke = places::root().join("tests/smoke/llama");
    copy(&smoke.join("make_model.py"), &first.join("make_model.py"))?;
    run_quietly(
        Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
            .args([first.join("decode"), smoke.join("decode.c")])
            .arg("-ldl"),
    )?;
    let packages = fetch::unpacked("gguf", &PYTHON, "gguf")?;
    run_quietly(
        Command::new("cp")
            .arg("-r")
            .arg(&packages)
            .arg(first.join("python")),
    )?;
    std::fs::write(first.join("gpu-llama.sh"), SCRIPT)?;
    for folder in [&first, &second] {
        let weight = dist::within(folder, dist::weight(folder)?, LIMIT_BYTES)?;
        say(&format!("{} is ready, {weight:.1} MiB", name(folder)));
    }
    say(
        "on the GPU machine, with dist/gpu beside them: OUT=/tmp/out bash dist/llama-1/gpu-llama.sh",
    );
    Ok(())
}

fn name(folder: &Path) -> String {
    folder
        .strip_prefix(places::root())
        .unwrap_or(folder)
        .display()
        .to_string()
}
