//! An installation of Ollama for a test: a program that tells its version, over the real libraries.
#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vgpu_e2e::backend::{Backend, SOCKET};
use vgpu_e2e::diagnosis::{Diagnosis, Question, program};

use crate::support::parts;

/// The releases of the npm package whose libraries are used: an old one and the newest.
pub const RELEASES: [&str; 2] = ["3.14.0", "3.22.1"];

/// One version of each era.
pub const ERAS: [(&str, &str); 3] = [
    ("0.12.3", "0.1.34 to 0.12.3"),
    ("0.17.3", "0.12.4 to 0.24"),
    ("0.33.0", "from 0.30 on"),
];

/// The version of the code that the seed of this project ran.
pub const SEED: &str = "0.17.3";

/// The folder that `cargo xtask ggml` made.
pub fn fetched() -> PathBuf {
    let folder = std::env::var_os("VGPU_GGML").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/ggml"),
        PathBuf::from,
    );
    assert!(
        folder.exists(),
        "{} is missing; `cargo xtask ggml` fetches it",
        folder.display()
    );
    folder.canonicalize().expect("it exists")
}

/// An installation of Ollama: a program that tells its version, and the real libraries where it has them.
pub struct Installation {
    root: TempDir,
}

impl Installation {
    /// With the libraries of an npm release, telling this version.
    pub fn new(release: &str, version: &str) -> Self {
        let root = tempfile::Builder::new()
            .prefix("vgpu-ollama-")
            .tempdir()
            .expect("a folder");
        let installation = Self { root };
        for folder in ["bin", "lib/ollama/cuda_v13"] {
            std::fs::create_dir_all(installation.path(folder)).expect("made");
        }
        let source = format!(
            "int puts(const char *); int main() {{ puts(\"ollama version is {version}\"); return 0; }}"
        );
        program(&installation.binary(), &source, &[]).expect("compiled");
        let from = fetched();
        place(
            &from.join(release).join("libggml-base.so"),
            &installation.path("lib/ollama/libggml-base.so"),
        );
        place(
            &from.join(release).join("libggml-cuda.so"),
            &installation.cuda("libggml-cuda.so"),
        );
        for name in ["libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"] {
            place(&from.join("runtime").join(name), &installation.cuda(name));
        }
        installation
    }

    /// A path below its root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The program.
    pub fn binary(&self) -> PathBuf {
        self.path("bin/ollama")
    }

    /// A file of the CUDA folder.
    pub fn cuda(&self, name: &str) -> PathBuf {
        self.path("lib/ollama/cuda_v13").join(name)
    }

    /// Puts something else in the place of a library.
    pub fn replace(&self, name: &str, make: impl FnOnce(&Path)) {
        let path = self.cuda(name);
        std::fs::remove_file(&path).expect("it is there");
        make(&path);
    }

    /// A question about it with the shim on the loader's path.
    pub fn question(&self, backend: &Backend) -> Question {
        Question::new(&parts())
            .variable(SOCKET, backend.socket())
            .variable("LD_LIBRARY_PATH", parts().library_folder)
            .program(&self.binary())
    }

    /// That question, answered.
    pub fn ask(&self, backend: &Backend) -> Diagnosis {
        self.question(backend).ask()
    }
}

/// A link to the one copy, for half a gigabyte is not to be copied for each test.
pub fn place(from: &Path, to: &Path) {
    if std::fs::hard_link(from, to).is_err() {
        symlink(from, to).expect("linked");
    }
}
