//! Where the loader looks for libraries, and what the copies of `libcuda.so.1` that lie about are.

use crate::child::Setting;
use crate::elf::{Elf, Unreadable};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What only our libraries export.
const OUR_MARK: &str = "vgpu_shim_marker";

/// Folders that loaders search without being told, and those where Ollama from 0.1.34 to 0.12.3 looks by name.
const USUAL: [&str; 9] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
];

/// What a `libcuda.so.1` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Shim,
    /// NVIDIA's driver, of this version.
    Nvidia(String),
    /// CUDA's stub to link against.
    Stub,
    /// For another kind of processor.
    Foreign(String),
    /// A link to nothing.
    Dangling(PathBuf),
    /// No file at all: what instead.
    NoFile(&'static str),
    /// A file that may not be read, with the system's error.
    Unreadable(String),
    /// No library at all, or cut short.
    Broken,
    /// Somebody else's.
    Unknown,
}

/// Looks at a file.
#[must_use]
pub fn kind(path: &Path) -> Kind {
    match path.metadata() {
        Ok(file) => match file.file_type() {
            kind if kind.is_file() => {}
            kind if kind.is_dir() => return Kind::NoFile("a folder"),
            kind if kind.is_fifo() => {
                return Kind::NoFile("a named pipe: programs that load it wait without end");
            }
            _ => return Kind::NoFile("no ordinary file"),
        },
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Kind::NoFile("a symbolic link that leads to itself");
        }
        Err(error) => match std::fs::read_link(path) {
            Ok(target) if error.kind() == ErrorKind::NotFound => return Kind::Dangling(target),
            _ => return Kind::Unreadable(error.to_string()),
        },
    }
    let elf = match Elf::read(path) {
        Ok(elf) => elf,
        Err(Unreadable::Missing(error)) => return Kind::Unreadable(error),
        Err(Unreadable::NotElf | Unreadable::Truncated) => return Kind::Broken,
    };
    if !elf.is_ours() {
        return Kind::Foreign(elf.architecture());
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real
        .parent()
        .is_some_and(|folder| folder.ends_with("stubs"))
    {
        return Kind::Stub;
    }
    if elf.exports.contains_key(OUR_MARK) {
        return Kind::Shim;
    }
    let name = real
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    match name.strip_prefix("libcuda.so.") {
        // 1 is the name of the interface, 1.1 that of a driver for other machines.
        Some(version) if version.contains('.') && !version.starts_with("1.") => {
            Kind::Nvidia(version.to_owned())
        }
        _ => Kind::Unknown,
    }
}

/// The folders of `LD_LIBRARY_PATH`, in order.
#[must_use]
pub fn path_folders(setting: &Setting) -> Vec<PathBuf> {
    setting
        .variable("LD_LIBRARY_PATH")
        .map(|value| {
            std::env::split_paths(value)
                .filter(|folder| !folder.as_os_str().is_empty())
                .collect()
        })
        .unwrap_or_default()
}

/// What the loader's cache has of a name, in its order.
#[must_use]
pub fn cached(name: &str) -> Vec<PathBuf> {
    for program in ["/sbin/ldconfig", "/usr/sbin/ldconfig", "ldconfig"] {
        if let Ok(output) = Command::new(program).arg("-p").output() {
            return in_cache(&String::from_utf8_lossy(&output.stdout), name);
        }
    }
    Vec::new()
}

/// Lines of `ldconfig -p`: `NAME (KIND) => PATH`.
fn in_cache(text: &str, name: &str) -> Vec<PathBuf> {
    text.lines()
        .filter(|line| line.split_whitespace().next() == Some(name))
        .filter_map(|line| line.split(" => ").nth(1).map(PathBuf::from))
        .collect()
}

/// Every file of this name where a loader or a discovering program may look, in the loader's order.
#[must_use]
pub fn copies(name: &str, setting: &Setting) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = path_folders(setting)
        .into_iter()
        .map(|folder| folder.join(name))
        .collect();
    found.extend(cached(name));
    found.extend(USUAL.iter().map(|folder| Path::new(folder).join(name)));
    let mut seen = BTreeSet::new();
    found.retain(|path| {
        path.symlink_metadata().is_ok()
            && seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone()))
    });
    found
}

/// The file that the loader takes for a name that `consumer` needs: preloaded, from the path, beside it, from the cache.
#[must_use]
pub fn resolve(name: &str, consumer: &Path, elf: &Elf, setting: &Setting) -> Option<PathBuf> {
    let preloaded = setting
        .variable("LD_PRELOAD")
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default();
    for file in preloaded.split([' ', ':']).filter(|file| !file.is_empty()) {
        let soname = Elf::read(Path::new(file)).ok().and_then(|elf| elf.soname);
        if soname.as_deref() == Some(name) {
            return Some(PathBuf::from(file));
        }
    }
    let origin = consumer.parent().unwrap_or(Path::new("/"));
    let beside = elf
        .runpath
        .iter()
        .flat_map(|text| text.split(':'))
        .filter(|text| !text.is_empty())
        .map(|text| PathBuf::from(text.replace("$ORIGIN", &origin.to_string_lossy())));
    path_folders(setting)
        .into_iter()
        .chain(beside)
        .map(|folder| folder.join(name))
        .chain(cached(name))
        .chain(USUAL.iter().map(|folder| Path::new(folder).join(name)))
        .find(|path| Elf::read(path).is_ok_and(|elf| elf.is_ours()))
}

/// The newest C library version that this machine's `libc.so.6` defines.
#[must_use]
pub fn own_glibc() -> Option<(u32, u32)> {
    let libc = crate::probe::library::mapped("libc.so.6")?;
    Elf::read(Path::new(&libc))
        .ok()?
        .versions
        .iter()
        .filter_map(|version| version.strip_prefix("GLIBC_"))
        .filter_map(crate::elf::glibc_version)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_read_by_exact_name() {
        let text = "3 libs found in cache\n\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/libcuda.so.1\n\tlibcuda.so (libc6) => /x/libcuda.so\n";
        assert_eq!(
            in_cache(text, "libcuda.so.1"),
            [PathBuf::from("/usr/lib/libcuda.so.1")]
        );
    }

    #[test]
    fn links_to_nothing_and_text_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("libcuda.so.1");
        std::os::unix::fs::symlink("gone", &file).expect("linked");
        assert_eq!(kind(&file), Kind::Dangling(PathBuf::from("gone")));
        std::fs::remove_file(&file).expect("removed");
        std::fs::write(&file, "text").expect("written");
        assert_eq!(kind(&file), Kind::Broken);
        std::fs::remove_file(&file).expect("removed");
        std::os::unix::fs::symlink("libcuda.so.1", &file).expect("linked");
        let looped = Kind::NoFile("a symbolic link that leads to itself");
        assert_eq!(kind(&file), looped);
        assert_eq!(kind(folder.path()), Kind::NoFile("a folder"));
        assert_eq!(
            kind(Path::new("/dev/null")),
            Kind::NoFile("no ordinary file")
        );
    }
}
