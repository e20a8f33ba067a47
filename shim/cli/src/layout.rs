//! Where the parts of the project lie relative to this command: in an installed tree
//! (`bin/vgpu`, `bin/vhost-user-vgpu`, the shims in `lib` or, after `vgpu install`, in `lib/vgpu`) or in a build directory.

use anyhow::{Context, Result, bail};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The parts that `vgpu run` needs.
#[derive(Debug)]
pub struct Layout {
    /// Directory that holds `libcuda.so.1`, as a rule `libnvidia-ml.so.1`, and nothing else that a program could pick up.
    pub library_dir: PathBuf,
    /// The backend.
    pub backend: PathBuf,
}

impl Layout {
    /// Finds the parts from the path of this very command.
    ///
    /// # Errors
    /// When the library is missing; the message says where it was looked for.
    pub fn find() -> Result<Self> {
        let command = std::env::current_exe().context("the path of this command is unknown")?;
        let bin = command
            .parent()
            .context("this command lies in no directory")?;
        Self::beside(bin)
    }

    fn beside(bin: &Path) -> Result<Self> {
        let backend = bin.join("vhost-user-vgpu");
        let installed = bin.join("../lib");
        for folder in [installed.join("vgpu"), installed.clone()] {
            if folder.join("libcuda.so.1").exists() {
                let library_dir = folder
                    .canonicalize()
                    .context("the library directory cannot be resolved")?;
                return Ok(Self {
                    library_dir,
                    backend,
                });
            }
        }
        let built = bin.join("libcuda.so");
        if !built.exists() {
            bail!(
                "libcuda.so.1 is neither in {} nor built as {}; run `cargo xtask dist`",
                installed.display(),
                built.display()
            );
        }
        // A directory of its own: the build directory is full of other libraries.
        let library_dir = bin.join("vgpu-lib");
        std::fs::create_dir_all(&library_dir)
            .with_context(|| format!("{}", library_dir.display()))?;
        let monitors = bin.join("libnvidia_ml.so");
        for (name, built) in [
            ("libcuda.so.1", &built),
            ("libcuda.so", &built),
            ("libnvidia-ml.so.1", &monitors),
        ] {
            match symlink(built, library_dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error)
                        .with_context(|| format!("{}", library_dir.join(name).display()));
                }
                _ => {}
            }
        }
        Ok(Self {
            library_dir,
            backend,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_tree_is_found() {
        let root = tempfile::tempdir().expect("a directory");
        let (bin, lib) = (root.path().join("bin"), root.path().join("lib"));
        std::fs::create_dir_all(&bin).expect("bin");
        std::fs::create_dir_all(&lib).expect("lib");
        std::fs::write(lib.join("libcuda.so.1"), b"").expect("library");
        let found = Layout::beside(&bin).expect("found");
        assert_eq!(found.library_dir, lib.canonicalize().expect("exists"));
        // A directory that other libraries share is not given to a program if there is one of our own.
        std::fs::create_dir(lib.join("vgpu")).expect("lib/vgpu");
        std::fs::write(lib.join("vgpu/libcuda.so.1"), b"").expect("library");
        let found = Layout::beside(&bin).expect("found");
        assert_eq!(
            found.library_dir,
            lib.canonicalize().expect("exists").join("vgpu")
        );
    }

    #[test]
    fn a_build_directory_gets_a_directory_with_the_right_name() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join("libcuda.so"), b"x").expect("library");
        let found = Layout::beside(root.path()).expect("found");
        assert_eq!(
            std::fs::read(found.library_dir.join("libcuda.so.1")).expect("linked"),
            b"x"
        );
        Layout::beside(root.path()).expect("a second time");
    }

    #[test]
    fn a_missing_library_says_where_it_was_looked_for() {
        let root = tempfile::tempdir().expect("a directory");
        let error = Layout::beside(root.path())
            .expect_err("nothing there")
            .to_string();
        assert!(error.contains("libcuda.so"), "{error}");
    }
}
