//! An installation of Ollama: the binary, its version, and the folders that its own code computes from its path.

use crate::child::{self, Setting};
use crate::discovery::cuda_backends;
use crate::target::{Target, search};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Which code looks for GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Up to 0.1.33: the server asks NVML, from 0.1.30 on libcudart first. Not acted out.
    Before,
    /// 0.1.34 to 0.12.3: the server opens libcuda itself.
    C,
    /// 0.12.4 to 0.24: a runner child loads ggml.
    D,
    /// From 0.30 on: `llama-server` and `ollama gpu-discover`.
    E,
}

impl Era {
    /// By version.
    #[must_use]
    pub fn of(version: (u32, u32, u32)) -> Self {
        match version {
            version if version < (0, 1, 34) => Era::Before,
            version if version < (0, 12, 4) => Era::C,
            version if version < (0, 25, 0) => Era::D,
            _ => Era::E,
        }
    }

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Era::Before => "Ollama up to 0.1.33",
            Era::C => "Ollama 0.1.34 to 0.12.3",
            Era::D => "Ollama 0.12.4 to 0.24",
            Era::E => "Ollama from 0.30 on",
        }
    }
}

/// An installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The binary, links resolved.
    pub binary: PathBuf,
    /// Its version, if it tells.
    pub version: Option<(u32, u32, u32)>,
    /// `LibOllamaPath` as Ollama computes it.
    pub library_folder: PathBuf,
    /// Whether the loader distrusts its environment.
    privileged: bool,
    /// Whether it is the program asked about.
    pub is_target: bool,
}

impl Installation {
    /// The target itself, or the `ollama` that the target's `PATH` leads to if the target is no other program.
    #[must_use]
    pub fn find(target: &Target, setting: &Setting) -> Option<Self> {
        let is_target = target.is_named("ollama");
        let binary = if is_target {
            target.program.clone()?
        } else if target.program.is_none() {
            search(OsStr::new("ollama"), &target.environment)?
        } else {
            return None;
        };
        let binary = binary.canonicalize().unwrap_or(binary);
        Some(Self {
            version: version(&binary, setting),
            library_folder: library_folder(&binary, &target.folder),
            privileged: is_target && target.privilege.is_some(),
            is_target,
            binary,
        })
    }

    /// Its era; the middle one if it does not tell its version.
    #[must_use]
    pub fn era(&self) -> Era {
        self.version.map_or(Era::D, Era::of)
    }

    /// Folders below the library folder with a file `*ggml-*`, as `filepath.Glob` finds them: by names alone.
    #[must_use]
    pub fn all_folders(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(&self.library_folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|folder| folder.is_dir() && has_ggml(folder))
            .collect();
        found.sort();
        found
    }

    /// Those with a backend for CUDA.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders = self.all_folders();
        folders.retain(|folder| !cuda_backends(folder).is_empty());
        folders
    }

    /// The environment of a runner for one folder: its own folders come before the user's, and so does its own
    /// `OLLAMA_LIBRARY_PATH`.
    #[must_use]
    pub fn runner_setting(&self, setting: &Setting, folder: &Path) -> Setting {
        let mut path: OsString = self.library_folder.clone().into();
        path.push(":");
        path.push(folder);
        let own = setting.with("OLLAMA_LIBRARY_PATH", path.clone());
        if self.privileged {
            // The runner is the same binary, and the loader ignores what the server sets.
            return own;
        }
        if let Some(before) = setting
            .variable("LD_LIBRARY_PATH")
            .filter(|path| !path.is_empty())
        {
            path.push(":");
            path.push(before);
        }
        own.with("LD_LIBRARY_PATH", path)
    }
}

fn has_ggml(folder: &Path) -> bool {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("ggml-"))
}

/// `../lib/ollama` beside the binary, else two places of a build, else the binary's own folder.
fn library_folder(binary: &Path, working: &Path) -> PathBuf {
    let beside = binary.parent().unwrap_or(Path::new("/"));
    [
        beside.join("../lib/ollama"),
        beside.join("build/lib/ollama"),
        working.join("build/lib/ollama"),
    ]
    .into_iter()
    .find_map(|folder| folder.canonicalize().ok())
    .unwrap_or_else(|| beside.to_owned())
}

fn version(binary: &Path, setting: &Setting) -> Option<(u32, u32, u32)> {
    let setting = setting.within(Duration::from_secs(5));
    let outcome = child::program(&setting, Command::new(binary).arg("--version"));
    parse_version(&format!("{}\n{}", outcome.stdout, outcome.stderr))
}

/// `ollama version is 0.17.3`, or `Warning: client version is 0.17.3`.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text
        .rsplit_once("version is ")
        .and_then(|(_, rest)| rest.split_whitespace().next())?;
    let numbers = word.trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = numbers.split('.').map(str::parse);
    Some((
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next().and_then(Result::ok).unwrap_or(0),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_tell_eras() {
        assert_eq!(
            parse_version("ollama version is 0.17.3\n"),
            Some((0, 17, 3))
        );
        assert_eq!(
            parse_version(
                "Warning: could not connect to a running Ollama instance\nWarning: client version is 0.33.0-rc2\n"
            ),
            Some((0, 33, 0))
        );
        assert_eq!(parse_version("llama"), None);
        assert_eq!(Era::of((0, 1, 33)), Era::Before);
        assert_eq!(Era::of((0, 1, 34)), Era::C);
        assert_eq!(Era::of((0, 12, 3)), Era::C);
        assert_eq!(Era::of((0, 12, 4)), Era::D);
        assert_eq!(Era::of((0, 24, 0)), Era::D);
        assert_eq!(Era::of((0, 30, 0)), Era::E);
    }

    #[test]
    fn the_library_folder_is_looked_up_as_ollama_does() {
        let root = tempfile::tempdir().expect("a folder");
        let bin = root.path().join("bin");
        let lib = root.path().join("lib/ollama");
        std::fs::create_dir_all(&bin).expect("made");
        let binary = bin.join("ollama");
        assert_eq!(library_folder(&binary, root.path()), bin);
        std::fs::create_dir_all(&lib).expect("made");
        assert_eq!(
            library_folder(&binary, root.path()),
            lib.canonicalize().expect("exists")
        );
    }
}
