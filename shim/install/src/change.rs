//! Making and undoing one thing.

use crate::manifest::{Entry, hash};
use crate::tree::Tree;
use anyhow::{Context, Result};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where a file comes from.
#[derive(Clone, Debug)]
pub enum Content {
    /// A copy of this file.
    Copy(PathBuf),
    /// This text.
    Text(String),
}

impl Content {
    /// The bytes.
    ///
    /// # Errors
    /// The system's error.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        match self {
            Content::Copy(path) => {
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
            }
            Content::Text(text) => Ok(text.clone().into_bytes()),
        }
    }
}

/// How a path is, compared with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is there.
    Nothing,
    /// What the entry says.
    Same,
    /// Something else.
    Other,
}

/// Compares what is there with an entry. Generated files are whatever they are.
#[must_use]
pub fn compare(tree: &Tree, entry: &Entry) -> Found {
    let place = tree.place(entry.path());
    let Ok(metadata) = place.symlink_metadata() else {
        return Found::Nothing;
    };
    let same = match entry {
        Entry::Folder { .. } => metadata.is_dir(),
        Entry::File { hashes, .. } => {
            metadata.is_file()
                && std::fs::read(&place).is_ok_and(|content| hashes.contains(&hash(&content)))
        }
        Entry::Link { target, .. } => std::fs::read_link(&place).is_ok_and(|link| link == *target),
        Entry::Generated { .. } => metadata.is_file(),
        Entry::Setting { value, .. } => read_number(&place) == Some(*value),
    };
    if same { Found::Same } else { Found::Other }
}

/// The number in a file of /proc.
#[must_use]
pub fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Beside `path`, where a file is written before it gets its name.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".vgpu-new");
    path.with_file_name(name)
}

/// Makes a folder.
///
/// # Errors
/// The system's error, but not that it is there.
pub fn make_folder(tree: &Tree, path: &Path) -> Result<()> {
    let place = tree.place(path);
    match std::fs::create_dir(&place) {
        Err(error) if !(error.kind() == io::ErrorKind::AlreadyExists && place.is_dir()) => {
            Err(error).with_context(|| format!("cannot make {}", place.display()))
        }
        // Whatever the umask is, everybody's loader must get through.
        _ => Ok(std::fs::set_permissions(
            &place,
            PermissionsExt::from_mode(0o755),
        )?),
    }
}

/// Makes a file, or puts it in the place of an older one in one step: a program that has that one mapped keeps it.
///
/// # Errors
/// The system's error.
pub fn make_file(tree: &Tree, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let place = tree.place(path);
    let new = unfinished(&place);
    let write = || -> io::Result<()> {
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        io::Write::write_all(&mut file, content)?;
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&new, &place)
    };
    write().with_context(|| format!("cannot write {}", place.display()))
}

/// Makes a link, or replaces one in one step.
///
/// # Errors
/// The system's error.
pub fn make_link(tree: &Tree, path: &Path, target: &Path) -> Result<()> {
    let place = tree.place(path);
    let new = unfinished(&place);
    let write = || -> io::Result<()> {
        let _ = std::fs::remove_file(&new);
        symlink(target, &new)?;
        std::fs::rename(&new, &place)
    };
    write().with_context(|| format!("cannot make the link {}", place.display()))
}

/// What undoing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It is gone now.
    Removed,
    /// It was not there.
    Nothing,
    /// It stays, for this reason.
    Left(&'static str),
}

/// Undoes an entry.
///
/// # Errors
/// The system's error.
pub fn undo(tree: &Tree, entry: &Entry) -> Result<Undone> {
    let place = tree.place(entry.path());
    let cannot = || format!("cannot remove {}", place.display());
    if matches!(entry, Entry::File { .. } | Entry::Link { .. }) {
        // Left by a crash.
        let _ = std::fs::remove_file(unfinished(&place));
    }
    if matches!(entry, Entry::Generated { .. }) {
        // As ldconfig calls what it has not finished.
        let mut name = place.clone().into_os_string();
        name.push("~");
        let _ = std::fs::remove_file(name);
    }
    match (compare(tree, entry), entry) {
        (Found::Nothing, _) => Ok(Undone::Nothing),
        (Found::Other, Entry::Setting { .. }) => Ok(Undone::Left("was set anew since")),
        (Found::Other, _) => Ok(Undone::Left("is not what vgpu install made")),
        (Found::Same, Entry::Folder { .. }) => match std::fs::remove_dir(&place) {
            Ok(()) => Ok(Undone::Removed),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Ok(Undone::Left("holds something else"))
            }
            Err(error) => Err(error).with_context(cannot),
        },
        (Found::Same, Entry::Setting { before, .. }) => {
            std::fs::write(&place, format!("{before}\n"))
                .with_context(|| format!("cannot set {}", place.display()))?;
            Ok(Undone::Removed)
        }
        (Found::Same, _) => {
            std::fs::remove_file(&place).with_context(cannot)?;
            Ok(Undone::Removed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_put_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path()).unwrap();
        let path = Path::new("/file");
        make_file(&tree, path, b"ours", 0o644).unwrap();
        let entry = Entry::File {
            path: path.into(),
            hashes: vec![hash(b"ours")],
        };
        std::fs::write(folder.path().join("file"), "theirs").unwrap();
        assert!(matches!(undo(&tree, &entry).unwrap(), Undone::Left(_)));
        assert!(folder.path().join("file").exists());
        make_file(&tree, path, b"ours", 0o644).unwrap();
        assert_eq!(undo(&tree, &entry).unwrap(), Undone::Removed);
        assert_eq!(undo(&tree, &entry).unwrap(), Undone::Nothing);
        let link = Entry::Link {
            path: "/link".into(),
            target: "/a".into(),
        };
        make_link(&tree, link.path(), Path::new("/b")).unwrap();
        assert!(matches!(undo(&tree, &link).unwrap(), Undone::Left(_)));
        make_link(&tree, link.path(), Path::new("/a")).unwrap();
        assert_eq!(undo(&tree, &link).unwrap(), Undone::Removed);
    }

    #[test]
    fn a_folder_with_something_in_it_stays() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path()).unwrap();
        let entry = Entry::Folder { path: "/d".into() };
        make_folder(&tree, entry.path()).unwrap();
        make_folder(&tree, entry.path()).unwrap();
        std::fs::write(folder.path().join("d/x"), "").unwrap();
        assert!(matches!(undo(&tree, &entry).unwrap(), Undone::Left(_)));
        std::fs::remove_file(folder.path().join("d/x")).unwrap();
        assert_eq!(undo(&tree, &entry).unwrap(), Undone::Removed);
    }
}
