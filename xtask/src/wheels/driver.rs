//! Whether the driver of `dist/` has what libraries want: its two libraries are asked, in a process of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::places;

/// What a name at a version leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `cuGetProcAddress` gives this export.
    Resolved(String),
    /// `dlsym` finds it by its exact name; `cuGetProcAddress` does not know it.
    Exported,
    /// It is not there.
    Unknown,
}

/// Names with the version that they are asked for.
pub type Questions = BTreeSet<(String, u32)>;

/// Asks for all `questions` at once.
pub fn ask(dist: &Path, questions: Questions) -> anyhow::Result<BTreeMap<(String, u32), Answer>> {
    let mut input = tempfile::tempfile()?;
    for (name, version) in &questions {
        writeln!(input, "{name} {version}")?;
    }
    std::io::Seek::rewind(&mut input)?;
    let output = Command::new("python3")
        .arg(places::root().join("tests/wheels/lookup.py"))
        .args(["libcuda.so.1", "libnvidia-ml.so.1"].map(|name| dist.join("lib").join(name)))
        .stdin(input)
        .output()
        .context("cannot run python3")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.lines().count() != questions.len() {
        bail!(
            "lookup.py ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let answers = text.lines().map(|line| match line {
        "-" => Answer::Unknown,
        "exported" => Answer::Exported,
        export => Answer::Resolved(export.to_owned()),
    });
    Ok(questions.into_iter().zip(answers).collect())
}
