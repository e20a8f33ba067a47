//! Acting as the programs do that look for a GPU: folders, environment, load flags, order, silent failures.

pub mod era_c;
pub mod era_d;
pub mod era_e;
pub mod ollama;

use std::path::{Path, PathBuf};

/// The files of a folder that a ggml registry would load for CUDA, links to nothing included.
#[must_use]
pub fn cuda_backends(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name == "libggml-cuda.so"
                || (name.starts_with("libggml-cuda-") && name.ends_with(".so"))
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// What a program would have found, what it would have logged, and what stopped it.
#[derive(Clone, Debug, Default)]
pub struct Emulation {
    /// Which program, of which versions.
    pub program: String,
    /// What it found.
    pub devices: Vec<crate::report::Device>,
    /// Its log at the highest level, in its own phrases where it has any.
    pub lines: Vec<String>,
    /// What stopped it, with what mends it; the program itself may say nothing.
    pub faults: Vec<(String, String)>,
    /// What its children said.
    pub evidence: String,
    /// A step that took longer than the program allows at its later looks.
    pub slow: Option<std::time::Duration>,
    /// Seconds in all.
    pub seconds: f64,
}

impl Emulation {
    fn new(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            ..Self::default()
        }
    }

    fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    fn fault(&mut self, what: String, mend: &str) {
        self.line(what.clone());
        self.faults.push((what, mend.to_owned()));
    }

    fn evidence(&mut self, text: &str) {
        if !text.is_empty() {
            self.evidence.push_str(text);
            self.evidence.push('\n');
        }
    }

    fn slow(&mut self, took: std::time::Duration, allowed: std::time::Duration) {
        if took > allowed {
            self.slow = self.slow.max(Some(took));
        }
    }

    /// Lines of ggml's and the loader's that tell of a failure.
    fn take_errors(&mut self, stderr: &str) {
        for line in stderr.lines() {
            if line.contains("failed") || line.contains("error") || line.contains("ld.so") {
                self.evidence(line);
            }
        }
    }
}
