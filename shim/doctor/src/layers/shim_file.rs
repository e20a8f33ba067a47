//! Layer 2: our own library as a file, wherever one is found.

use super::Case;
use crate::elf::Elf;
use crate::loader::{self, Kind};
use crate::report::{Layer, Report};
use std::path::{Path, PathBuf};

/// Names of libc's that a library loaded into programs must not define: it would take the calls of the whole process.
const LIBC: [&str; 12] = [
    "dlopen", "dlsym", "dlclose", "open", "openat", "read", "write", "ioctl", "fgets", "mmap",
    "malloc", "execve",
];

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    let Some(path) = find(case) else {
        report
            .warning(
                Layer::Shim,
                "no libcuda.so.1 of vgpu's is found on this machine",
            )
            .mend("run `vgpu install`, or `cargo xtask dist` in a checkout");
        return;
    };
    match Elf::read(&path) {
        Ok(elf) => file(&path, &elf, case, report),
        Err(error) => {
            report
                .fault(
                    Layer::Shim,
                    format!("{} cannot be read: {error:?}", path.display()),
                )
                .mend("run `vgpu install` again");
        }
    }
}

/// The first copy that is ours: on the loader's way, else beside this command.
fn find(case: &Case) -> Option<PathBuf> {
    let mut places = loader::copies("libcuda.so.1", &case.setting);
    if let Some(bin) = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned))
    {
        places.extend([
            bin.join("../lib/libcuda.so.1"),
            bin.join("vgpu-lib/libcuda.so.1"),
            bin.join("libcuda.so"),
        ]);
    }
    places
        .into_iter()
        .find(|path| loader::kind(path) == Kind::Shim)
}

fn file(path: &Path, elf: &Elf, case: &Case, report: &mut Report) {
    let shown = path.display();
    if elf.soname.as_deref() != Some("libcuda.so.1") {
        report
            .fault(
                Layer::Shim,
                format!("{shown} has the SONAME {:?}, not libcuda.so.1: programs linked with CUDA do not accept it", elf.soname),
            )
            .mend("run `vgpu install` again");
    }
    match (elf.glibc, loader::own_glibc()) {
        (Some(needs), Some(have)) if needs > have => {
            report
                .fault(
                    Layer::Shim,
                    format!(
                        "{shown} needs glibc {}.{}, this machine has {}.{}",
                        needs.0, needs.1, have.0, have.1
                    ),
                )
                .mend("install the build of vgpu for older systems, or update this one");
        }
        _ => {}
    }
    if !elf.no_delete {
        report
            .warning(
                Layer::Shim,
                format!("{shown} may be unloaded (no NODELETE); Ollama up to 0.12.3 does that again and again"),
            )
            .mend("run `vgpu install` again");
    }
    for needed in &elf.needed {
        if loader::resolve(needed, path, elf, &case.setting).is_none() {
            report
                .fault(
                    Layer::Shim,
                    format!("{shown} needs {needed}, which is not found"),
                )
                .mend("install the package that has it");
        }
    }
    let taken: Vec<&str> = LIBC
        .into_iter()
        .filter(|name| elf.exports.contains_key(*name))
        .collect();
    if !taken.is_empty() {
        report
            .fault(
                Layer::Shim,
                format!(
                    "{shown} takes over functions of the C library: {}",
                    taken.join(", ")
                ),
            )
            .mend("replace it: `vgpu install`");
    }
    report.ok(
        Layer::Shim,
        format!(
            "{shown}: {} functions, SONAME and flags as they should be",
            elf.exports.len()
        ),
    );
}
