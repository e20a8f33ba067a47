//! Where things lie in the repository.

use std::path::PathBuf;

/// The repository's root.
pub fn root() -> PathBuf {
    // xtask lies directly below the root, so its manifest folder always has a parent.
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// The CUDA test programs.
pub fn programs() -> PathBuf {
    root().join("tests/programs")
}

/// Downloads and what is built from them; ignored by git, kept between runs.
pub fn cache() -> PathBuf {
    root().join(".cache")
}

/// The distribution folder.
pub fn dist() -> PathBuf {
    root().join("dist")
}
