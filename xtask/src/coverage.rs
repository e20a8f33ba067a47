//! `cargo xtask coverage`: what of the driver API is declared, implemented and refused, from the one
//! table; and, given a census of what programs call, what of that is missing.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use vgpu_protocol::number::{ALIASES, CALLS, Class, STUBS};

/// Options of the verb.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Folder with calls.tsv and libcuda_exports.txt, to compare with
    #[arg(long, value_name = "DIR")]
    census: Option<PathBuf>,
}

/// Prints the report.
///
/// # Errors
/// When a census file cannot be read, or a symbol of the census is not declared.
pub fn coverage(options: &Options) -> Result<()> {
    let implemented = implemented();
    let refused: BTreeSet<&str> = STUBS.iter().map(|stub| stub.0).collect();
    println!("declared     {:4}", implemented.len() + refused.len());
    println!("implemented  {:4}", implemented.len());
    println!(
        "stubbed      {:4}  (CUDA_ERROR_NOT_SUPPORTED, named in the log)",
        refused.len()
    );
    for (class, name) in [
        (Class::Lookup, "lookup"),
        (Class::Local, "local"),
        (Class::Post, "post"),
        (Class::Call, "call"),
        (Class::Host, "host"),
    ] {
        let count = CALLS.iter().filter(|call| call.class == class).count();
        println!("  rows of class {name:6} {count:4}");
    }
    let Some(census) = &options.census else {
        return Ok(());
    };
    let called = first_column(&census.join("calls.tsv"))?;
    let missing: Vec<_> = called
        .iter()
        .filter(|name| name.starts_with("cu") && !implemented.contains(name.as_str()))
        .collect();
    println!("called by the census's workloads and not implemented: {missing:?}");
    let exported = first_column(&census.join("libcuda_exports.txt"))?;
    let undeclared: Vec<_> = exported
        .iter()
        .filter(|name| !implemented.contains(name.as_str()) && !refused.contains(name.as_str()))
        .collect();
    anyhow::ensure!(
        undeclared.is_empty(),
        "exported by the driver and not declared: {undeclared:?}"
    );
    println!(
        "every one of the driver's {} exports is declared",
        exported.len()
    );
    Ok(())
}

/// Every export that does something: calls, their twins, and old names of them.
pub fn implemented() -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    for call in CALLS {
        names.insert(call.name);
        names.extend(call.twin.map(|twin| twin.0));
    }
    names.extend(ALIASES.iter().map(|alias| alias.0));
    names
}

fn first_column(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split('\t').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_does_not_count_as_implemented() {
        let names = implemented();
        assert!(names.contains("cuLaunchKernel") && names.contains("cuLaunchKernel_ptsz"));
        assert!(
            names.contains("cuCtxDestroy"),
            "an alias of an implemented call"
        );
        assert!(!names.contains("cuGreenCtxCreate"));
    }
}
