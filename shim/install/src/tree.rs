//! Paths inside the system that is changed. Its symbolic links mean paths of *that* system: an absolute link of an image
//! must not lead out of it.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Links followed for one path, as the kernel does.
const MAX_LINKS: usize = 40;

/// A system's root directory.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The system below `root`, which must be a directory.
    ///
    /// # Errors
    /// The system's error.
    pub fn new(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { root })
    }

    /// Its root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether it is the system that runs here.
    #[must_use]
    pub fn is_this_system(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where `path`, absolute in that system, lies here. Links among its folders are followed, its last part is not; parts
    /// that do not exist are taken as they are.
    #[must_use]
    pub fn place(&self, path: &Path) -> PathBuf {
        self.follow(path, false)
    }

    /// As [`Tree::place`], with a link at the end followed, too.
    #[must_use]
    pub fn target(&self, path: &Path) -> PathBuf {
        self.follow(path, true)
    }

    fn follow(&self, path: &Path, last: bool) -> PathBuf {
        let mut found = self.root.clone();
        let mut rest: Vec<PathBuf> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == Path::new("..") {
                if found != self.root {
                    found.pop();
                }
                continue;
            }
            let next = found.join(&part);
            let link = (last || !rest.is_empty()) && links < MAX_LINKS;
            match std::fs::read_link(&next) {
                Ok(target) if link => {
                    links += 1;
                    if target.is_absolute() {
                        found.clone_from(&self.root);
                    }
                    rest.extend(parts(&target));
                }
                _ => found = next,
            }
        }
        found
    }

    /// The folder that a path of that system is a folder of; only real folders count.
    #[must_use]
    pub fn has_folder(&self, path: &Path) -> bool {
        self.target(path).is_dir()
    }

    /// The names in a folder, sorted; none if there is no such folder.
    #[must_use]
    pub fn names(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(self.target(folder));
        let mut names: Vec<String> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

/// The parts of a path, last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_of_an_image_stay_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        symlink("/usr/lib", root.join("lib")).unwrap();
        symlink("../../../../etc", root.join("usr/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/usr/lib", root.join("usr/last")).unwrap();
        let tree = Tree::new(&root).unwrap();
        let place = |path: &str| tree.place(Path::new(path));
        assert_eq!(place("/lib/x.so"), root.join("usr/lib/x.so"));
        assert_eq!(place("/usr/up/passwd"), root.join("etc/passwd"));
        assert_eq!(place("/../../etc"), root.join("etc"));
        assert_eq!(place("/usr/last"), root.join("usr/last"));
        assert_eq!(tree.target(Path::new("/usr/last")), root.join("usr/lib"));
        assert!(place("/loop/x").starts_with(&root));
        assert!(tree.has_folder(Path::new("/lib")));
        assert_eq!(tree.names(Path::new("/usr")), ["last", "lib", "up"]);
        assert!(tree.names(Path::new("/none")).is_empty());
    }

    #[test]
    fn a_file_is_no_system() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Tree::new(file.path()).is_err());
    }
}
