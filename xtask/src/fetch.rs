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

/// Where the shared libraries of the package `requirement` (`name==version`) lie.
pub fn libraries_folder(requirement: &str) -> PathBuf {
    places::cache()
        .join("wheels")
        .join(requirement.replace("==", "-"))
}

/// The shared libraries of one package, without what it depends on and without anything else that it holds: some unpack to more than
/// a gigabyte.
pub fn shared_libraries(requirement: &str) -> anyhow::Result<PathBuf> {
    let folder = libraries_folder(requirement);
    if folder.is_dir() {
        return Ok(folder);
    }
    let pip = environment("pip", &["pip"], "pip")?;
    say(&format!("fetching {requirement} from PyPI"));
    let mut unfinished = folder.clone().into_os_string();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    fresh_folder(&unfinished)?;
    run_quietly(
        Command::new(pip.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--no-cache-dir"])
            .args(["--no-compile", "--no-deps", "--target"])
            .arg(&unfinished)
            .arg(requirement),
    )
    .with_context(|| format!("cannot fetch {requirement}; is PyPI reachable?"))?;
    keep_shared_libraries(&unfinished)?;
    std::fs::rename(&unfinished, &folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Whether a file is called as shared libraries are: `libcufft.so.12`, `_C.cpython-311.so`.
pub fn is_shared_library(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with(".so") || name.contains(".so."))
}

fn keep_shared_libraries(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            keep_shared_libraries(&path)?;
        } else if !is_shared_library(&path) {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_libraries_stay() {
        let folder = tempfile::tempdir().expect("made");
        let deep = folder.path().join("a/lib");
        std::fs::create_dir_all(&deep).expect("made");
        for name in [
            "libx.so",
            "liby.so.12.0",
            "z.cpython-311.so",
            "x.h",
            "libx.a",
            "so",
        ] {
            std::fs::write(deep.join(name), "").expect("written");
        }
        keep_shared_libraries(folder.path()).expect("readable");
        let mut left: Vec<_> = std::fs::read_dir(&deep)
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["libx.so", "liby.so.12.0", "z.cpython-311.so"]);
    }
}
