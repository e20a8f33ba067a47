//! Loading a library, and what the loader took for it.

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char};

/// The result of a load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Loaded {
    /// The loader's own message if it refused.
    pub error: Option<String>,
    /// The file that is this process's `libcuda.so.1` now.
    pub driver: Option<String>,
    /// Files that are mapped now.
    pub files: Vec<String>,
}

impl Loaded {
    /// The first mapped file whose name begins so (`libcudart.so`); where several can be mapped, [`taken`] tells which.
    #[must_use]
    pub fn file(&self, prefix: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|path| {
                path.rsplit('/')
                    .next()
                    .is_some_and(|name| name.starts_with(prefix))
            })
            .map(String::as_str)
    }
}

/// Opens a library as ggml does: `RTLD_NOW | RTLD_LOCAL`.
///
/// # Errors
/// The loader's message.
pub fn open(name: &str) -> Result<Library, String> {
    open_with(name, RTLD_NOW | RTLD_LOCAL)
}

/// Opens a library with these flags.
///
/// # Errors
/// The loader's message.
pub fn open_with(name: &str, flags: i32) -> Result<Library, String> {
    // SAFETY: constructors of a stranger's library run here. That is the purpose of a probe's process, which holds
    // nothing that they could spoil.
    unsafe { Library::open(Some(name), flags) }.map_err(|error| message(&error))
}

/// What `dlerror` said.
fn message(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// Loads and lists.
pub fn load(name: &str) -> Loaded {
    super::step(format!("loading {name}"));
    let library = open(name);
    let loaded = Loaded {
        error: library.as_ref().err().cloned(),
        driver: taken("libcuda.so.1"),
        files: mapped_files(),
    };
    // Unloading is no part of the question and could crash.
    std::mem::forget(library);
    loaded
}

/// The beginning of `struct link_map` (`<link.h>`).
#[repr(C)]
struct LinkMap {
    address: usize,
    name: *const c_char,
}

/// The file that the loader has for this name in this process, if it is loaded. A driver may have loaded another of the
/// same name privately, so the list of mappings does not tell.
#[must_use]
pub fn taken(name: &str) -> Option<String> {
    let handle = open_with(name, RTLD_NOW | RTLD_LOCAL | libc::RTLD_NOLOAD)
        .ok()?
        .into_raw();
    let mut map: *const LinkMap = std::ptr::null();
    // SAFETY: the handle is open, and RTLD_DI_LINKMAP stores one pointer to a link map that lives as long as it; its
    // name is a text of the loader's. The handle is closed last.
    unsafe {
        let found = libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) == 0
            && !map.is_null();
        let file = found.then(|| CStr::from_ptr((*map).name).to_string_lossy().into_owned());
        libc::dlclose(handle);
        file
    }
}

/// The files mapped into this process.
pub fn mapped_files() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.find('/').and_then(|at| line.get(at..)))
        .collect();
    files.into_iter().map(str::to_owned).collect()
}

/// The mapped file whose name begins so.
pub fn mapped(prefix: &str) -> Option<String> {
    let files = mapped_files();
    let loaded = Loaded {
        files,
        ..Loaded::default()
    };
    loaded.file(prefix).map(str::to_owned)
}
