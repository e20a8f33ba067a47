//! What was made: the list by which everything is undone. It is written before the first change.

use crate::tree::Tree;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where it lies in the system that was changed.
pub const PATH: &str = "/var/lib/vgpu/install.json";

/// The layout that this release writes and reads.
const VERSION: u32 = 1;

/// Largest manifest that is read.
const MOST: u64 = 1 << 20;

/// How far an installation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Some of it may be there.
    Unfinished,
    /// All of it is there.
    Installed,
}

/// One thing that was made. Paths are those of the system that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A folder that was not there.
    Folder {
        /// Its path.
        path: PathBuf,
    },
    /// A file that was not there.
    File {
        /// Its path.
        path: PathBuf,
        /// Hashes of the contents it may have: more than one while an installation takes another's place.
        hashes: Vec<u64>,
    },
    /// A symbolic link that was not there.
    Link {
        /// Its path.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// A file that another program, `ldconfig`, made because of the installation and that was not there.
    Generated {
        /// Its path.
        path: PathBuf,
    },
    /// A number of the running kernel.
    Setting {
        /// Its path.
        path: PathBuf,
        /// The value before.
        before: u64,
        /// The value set.
        value: u64,
    },
}

impl Entry {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Entry::Folder { path }
            | Entry::File { path, .. }
            | Entry::Link { path, .. }
            | Entry::Generated { path }
            | Entry::Setting { path, .. } => path,
        }
    }
}

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// How far it is.
    pub state: State,
    /// What was made, in this order.
    pub entries: Vec<Entry>,
}

impl Manifest {
    /// An installation that begins.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        Self {
            version: VERSION,
            state: State::Unfinished,
            entries,
        }
    }

    /// The manifest of a system, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is of another release's layout.
    pub fn load(tree: &Tree) -> Result<Option<Self>> {
        let path = tree.target(Path::new(PATH));
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{}", path.display())),
        };
        ensure!(
            file.metadata()?.len() <= MOST,
            "{} is no manifest of vgpu install",
            path.display()
        );
        let manifest: Self = serde_json::from_reader(std::io::BufReader::new(file))
            .with_context(|| format!("{} is no manifest of vgpu install", path.display()))?;
        ensure!(
            manifest.version == VERSION,
            "{} is of another release of vgpu: uninstall with that one",
            path.display()
        );
        Ok(Some(manifest))
    }

    /// Writes it so that a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// The system's error.
    pub fn save(&self, tree: &Tree) -> Result<()> {
        let path = tree.target(Path::new(PATH));
        let new = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = std::fs::File::create(&new)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes what an installation leaves that was ended before its manifest had its name: nothing else was made then.
    pub fn sweep(tree: &Tree) {
        let path = tree.target(Path::new(PATH));
        // Whatever is not there need not go; a folder with something in it stays.
        let _ = std::fs::remove_file(path.with_extension("new"));
        if let Some(folder) = path.parent() {
            let _ = std::fs::remove_dir(folder);
        }
    }

    /// Removes it.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(tree: &Tree) -> Result<()> {
        let path = tree.target(Path::new(PATH));
        // Left by a crash in the middle of `save`.
        let _ = std::fs::remove_file(path.with_extension("new"));
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// The entry for a path.
    #[must_use]
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path() == path)
    }
}

/// A hash that tells a file from what somebody else put in its place (64-bit FNV-1a); it withstands no attacker, who
/// would need root to be here.
#[must_use]
pub fn hash(content: &[u8]) -> u64 {
    content.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_comes_back_as_it_was_or_with_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path()).unwrap();
        assert_eq!(Manifest::load(&tree).unwrap(), None);
        let manifest = Manifest::new(vec![
            Entry::Folder { path: "/a".into() },
            Entry::File {
                path: "/a/b".into(),
                hashes: vec![hash(b"x"), 3],
            },
            Entry::Setting {
                path: "/c".into(),
                before: 1,
                value: 2,
            },
        ]);
        manifest.save(&tree).unwrap();
        assert_eq!(Manifest::load(&tree).unwrap(), Some(manifest.clone()));
        let path = folder.path().join("var/lib/vgpu/install.json");
        for text in [
            "",
            "{}",
            "[1]",
            "{\"version\":9,\"state\":\"installed\",\"entries\":[]}",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(Manifest::load(&tree).is_err(), "{text}");
        }
        Manifest::remove(&tree).unwrap();
        assert_eq!(Manifest::load(&tree).unwrap(), None);
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
