//! What the system is that is to be changed: whether the shims can work there, and whether a real driver is there.

use crate::shim::{self, Owner};
use crate::tree::Tree;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The oldest C library that the shims work with.
pub const OLDEST_GLIBC: (u32, u32) = (2, 28);

/// Where distributions keep the libraries of a 64-bit system.
pub const LIBRARY_FOLDERS: [&str; 2] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64"];

/// Where a driver is looked for beside the loader's own folders.
const DRIVER_FOLDERS: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

/// Fails, in one sentence, where the shims cannot be loaded: on systems of another C library or an older one.
///
/// # Errors
/// That sentence.
pub fn check_c_library(tree: &Tree) -> Result<()> {
    let shell = tree.target(Path::new("/bin/sh"));
    let loader = shim::interpreter(&shell).unwrap_or_default();
    let has_glibc = tree
        .target(Path::new("/lib64/ld-linux-x86-64.so.2"))
        .exists();
    let musl = loader.contains("ld-musl")
        || !has_glibc && tree.target(Path::new("/lib/ld-musl-x86_64.so.1")).exists();
    if musl {
        bail!(
            "this system's C library is musl, which cannot load the shims or NVIDIA's own libraries: use a distribution \
             with glibc 2.28 or newer, or a container of one"
        );
    }
    for folder in LIBRARY_FOLDERS
        .iter()
        .chain(&["/lib/x86_64-linux-gnu", "/lib64"])
    {
        let library = tree.target(&Path::new(folder).join("libc.so.6"));
        if let Some(found) = shim::glibc_version(&library)
            && found < OLDEST_GLIBC
        {
            bail!(
                "this system's C library is glibc {}.{}; the shims need 2.28 or newer (Ubuntu 20.04, Debian 11, RHEL 8)",
                found.0,
                found.1
            );
        }
    }
    Ok(())
}

/// The first library of somebody else's that programs may take for their driver, among the places where a driver lies and
/// `known`, what the loader knows. What lies or leads below `ours` is not somebody else's.
#[must_use]
pub fn foreign_driver(
    tree: &Tree,
    names: &[String],
    known: &[PathBuf],
    ours: &Path,
) -> Option<PathBuf> {
    let placed = DRIVER_FOLDERS
        .iter()
        .flat_map(|folder| names.iter().map(move |name| Path::new(folder).join(name)));
    known.iter().cloned().chain(placed).find(|path| {
        let target = tree.target(path);
        !target.starts_with(ours) && shim::owner(&target) == Owner::Other
    })
}

/// The Debian package that a file belongs to.
#[must_use]
pub fn package(tree: &Tree, path: &Path) -> Option<String> {
    let lists = Path::new("/var/lib/dpkg/info");
    let resolved = tree.target(path);
    let inside = Path::new("/").join(resolved.strip_prefix(tree.root()).ok()?);
    let wanted = [
        path.to_string_lossy().into_owned(),
        inside.to_string_lossy().into_owned(),
    ];
    tree.names(lists)
        .into_iter()
        .filter(|name| name.ends_with(".list"))
        .find(|name| {
            std::fs::read_to_string(tree.target(&lists.join(name))).is_ok_and(|text| {
                text.lines()
                    .any(|line| wanted.iter().any(|path| path == line))
            })
        })
        .map(|name| name.trim_end_matches(".list").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree_with(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let tree = Tree::new(folder.path()).unwrap();
        (folder, tree)
    }

    #[test]
    fn musl_is_told_by_its_loader() {
        let (_folder, tree) = tree_with(&[("lib/ld-musl-x86_64.so.1", b"")]);
        let said = check_c_library(&tree).unwrap_err().to_string();
        assert!(said.contains("musl"), "{said}");
        let (_folder, tree) = tree_with(&[
            ("lib/ld-musl-x86_64.so.1", b""),
            ("lib64/ld-linux-x86-64.so.2", b""),
        ]);
        check_c_library(&tree).unwrap();
    }

    #[test]
    fn this_machine_is_fit() {
        check_c_library(&Tree::new(Path::new("/")).unwrap()).unwrap();
    }

    #[test]
    fn another_driver_is_found_with_its_package() {
        let driver = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let place = "usr/lib/x86_64-linux-gnu/libcuda.so.1";
        let list = format!("/usr/lib\n/{place}\n");
        let (_folder, tree) = tree_with(&[
            (place, &driver),
            ("var/lib/dpkg/info/libcuda1:amd64.list", list.as_bytes()),
        ]);
        let names = ["libcuda.so.1".to_owned()];
        let found = foreign_driver(&tree, &names, &[], Path::new("/none")).unwrap();
        assert_eq!(found, Path::new("/").join(place));
        assert_eq!(foreign_driver(&tree, &names, &[], tree.root()), None);
        assert_eq!(package(&tree, &found).as_deref(), Some("libcuda1:amd64"));
        let (_folder, tree) = tree_with(&[(place, b"no library")]);
        assert_eq!(foreign_driver(&tree, &names, &[], Path::new("/none")), None);
    }
}
