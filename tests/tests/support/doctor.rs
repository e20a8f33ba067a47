//! What the tests of `vgpu doctor` share.
#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vgpu_e2e::backend::{Backend, SOCKET};
use vgpu_e2e::diagnosis::{Question, library};

use crate::support::parts;

/// A temporary folder that everybody can read.
pub fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("vgpu-doctor-")
        .tempdir()
        .expect("a folder");
    // Tests ask as other users, too.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    folder
}

/// A question with the shim on the loader's path.
pub fn question(backend: &Backend) -> Question {
    Question::new(&parts())
        .variable(SOCKET, backend.socket())
        .variable("LD_LIBRARY_PATH", parts().library_folder)
}

/// The shim's folder after another one.
pub fn path_after(folder: &Path) -> String {
    format!("{}:{}", folder.display(), parts().library_folder.display())
}

/// A stub of the driver whose `cuInit` returns `code`.
pub fn stub(folder: &Path, name: &str, code: u32) -> PathBuf {
    let file = folder.join(name);
    let source = format!("int cuInit(unsigned f) {{ return {code}; }}\n");
    library(&file, &source, "libcuda.so.1", &[]).unwrap_or_else(|error| panic!("{error:#}"));
    file
}
