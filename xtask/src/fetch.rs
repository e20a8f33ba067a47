//! Packages from PyPI, each set in a folder of its own under `.cache/`, fetched once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::places;
use crate::shell::{fresh_folder, run_quietly, say};
use crate::system;

/// A virtual environment under `.cache/name` that holds exactly `packages`; made anew when the list changed.
pub fn environment(name: &str, packages: &[&str], what: &str) -> anyhow::Result<PathBuf> {
    let folder = places::cache().join(name);
    let wanted = packages.join("\n");
    let stamp = folder.join("packages.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(folder);
    }
    system::prepare()?;
    say(&format!(
        "fetching {what} from PyPI: {}",
        packages.join(" ")
    ));
    fresh_folder(&folder)?;
    run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        .context("cannot make a Python environment")?;
    run_quietly(
        Command::new(folder.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(packages),
    )
    .with_context(|| format!("cannot fetch {what}; is PyPI reachable?"))?;
    std::fs::write(&stamp, wanted)?;
    Ok(folder)
}

/// Packages unpacked without what they depend on, under `.cache/name`.
pub fn unpacked(name: &str, packages: &[&str], what: &str) -> anyhow::Result<PathBuf> {
    let folder = places::cache().join(name);
    let wanted = packages.join("\n");
    let stamp = folder.join("packages.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(folder);
    }
    // Debian's python3 has no pip of its own, an environment does.
    let pip = environment("pip", &["pip"], "pip")?;
    say(&format!(
        "fetching {what} from PyPI: {}",
        packages.join(" ")
    ));
    fresh_folder(&folder)?;
    run_quietly(
        Command::new(pip.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--target",
            ])
            .arg(&folder)
            .args(packages),
    )
    .with_context(|| format!("cannot fetch {what}; is PyPI reachable?"))?;
    std::fs::write(&stamp, wanted)?;
    Ok(folder)
}

/// The `site-packages` folder of an environment.
pub fn site_packages(environment: &Path) -> anyhow::Result<PathBuf> {
    let lib = environment.join("lib");
    let mut entries =
        std::fs::read_dir(&lib).with_context(|| format!("cannot read {}", lib.display()))?;
    entries
        .find_map(|entry| {
            let site = entry.ok()?.path().join("site-packages");
            site.is_dir().then_some(site)
        })
        .with_context(|| format!("no site-packages under {}", lib.display()))
}
