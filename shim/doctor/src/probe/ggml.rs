//! A ggml runner's way to the GPU: scan folders, load `libggml-cuda*.so`, ask it for devices.
//!
//! The steps are those of ggml's registry (`ggml_backend_load_best`): first every `libggml-cuda-*.so` is opened and asked
//! for its score; if none has one, `libggml-cuda.so`. What ggml does silently is told here.

use super::library::open;
use super::{runtime, step};
use crate::report::Device;
use libloading::os::unix::Library;
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// What became of one file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Backend {
    /// The file.
    pub file: String,
    /// Why it was refused, in the loader's or our words; none if it was taken.
    pub refused: Option<String>,
    /// `api_version` of what it registers.
    pub api_version: i32,
    /// The name it registers, `CUDA`.
    pub name: String,
    /// Its devices.
    pub devices: Vec<Device>,
    /// The architectures it has code for (`750,800`), if it tells.
    pub architectures: Option<String>,
}

/// What a runner ends up with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Every file that was tried, in order.
    pub backends: Vec<Backend>,
}

impl Answer {
    /// All devices.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.backends.iter().flat_map(|backend| &backend.devices)
    }
}

/// Does it.
pub fn ask(folders: &[String], file: Option<&str>, list: bool) -> Answer {
    let mut answer = Answer::default();
    for folder in folders {
        for file in candidates(Path::new(folder)) {
            let backend = load(&file);
            let taken = backend.refused.is_none();
            answer.backends.push(backend);
            if taken {
                break;
            }
        }
    }
    if let Some(file) = file {
        let backend = load(Path::new(file));
        if let Some(error) = &backend.refused {
            // ggml says so aloud for GGML_BACKEND_PATH only.
            eprintln!("load_backend: failed to load {file}: {error}");
        }
        answer.backends.push(backend);
    }
    if list {
        print_list(&answer);
    }
    answer
}

/// `libggml-cuda-*.so` with a score, the best first, then `libggml-cuda.so`.
fn candidates(folder: &Path) -> Vec<PathBuf> {
    let mut scored = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("libggml-cuda-") && name.ends_with(".so") && entry.path().is_file() {
            let score = score(&entry.path());
            if score > 0 {
                scored.push((score, entry.path()));
            }
        }
    }
    scored.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    let mut files: Vec<PathBuf> = scored.into_iter().map(|(_, path)| path).collect();
    let plain = folder.join("libggml-cuda.so");
    if plain.exists() {
        files.push(plain);
    }
    files
}

fn score(path: &Path) -> c_int {
    step(format!("scoring {}", path.display()));
    let Ok(library) = open(&path.to_string_lossy()) else {
        return 0;
    };
    // SAFETY: ggml's published signature.
    let score = unsafe {
        library
            .get::<unsafe extern "C" fn() -> c_int>(b"ggml_backend_score\0")
            .map_or(0, |function| function())
    };
    std::mem::forget(library);
    score
}

fn load(path: &Path) -> Backend {
    let file = path.to_string_lossy().into_owned();
    step(format!("loading {file}"));
    let mut backend = Backend {
        file: file.clone(),
        ..Backend::default()
    };
    match open(&file) {
        Ok(library) => {
            if let Err(reason) = register(&library, &mut backend) {
                backend.refused = Some(reason);
            }
            std::mem::forget(library);
        }
        Err(error) => backend.refused = Some(error),
    }
    backend
}

/// A registry entry or a device of ggml's: a pointer that only ggml looks into.
type Opaque = *mut c_void;

/// `struct ggml_backend_feature`.
#[repr(C)]
struct Feature {
    name: *const c_char,
    value: *const c_char,
}

fn register(library: &Library, backend: &mut Backend) -> Result<(), String> {
    let missing = |name: &str| format!("{name} is missing");
    // SAFETY: the names belong to these signatures in ggml-backend.h and ggml-backend-impl.h, unchanged since 2024; they
    // are looked up in the library and what it needs (libggml-base.so). Pointers come from ggml and go back to it. The
    // first field of a registry entry is its api_version. A null entry is passed on to nothing.
    unsafe {
        let init = library
            .get::<unsafe extern "C" fn() -> Opaque>(b"ggml_backend_init\0")
            .map_err(|_| missing("ggml_backend_init"))?;
        let name = library
            .get::<unsafe extern "C" fn(Opaque) -> *const c_char>(b"ggml_backend_reg_name\0")
            .map_err(|_| missing("ggml_backend_reg_name"))?;
        let count = library
            .get::<unsafe extern "C" fn(Opaque) -> usize>(b"ggml_backend_reg_dev_count\0")
            .map_err(|_| missing("ggml_backend_reg_dev_count"))?;
        let device = library
            .get::<unsafe extern "C" fn(Opaque, usize) -> Opaque>(b"ggml_backend_reg_dev_get\0")
            .map_err(|_| missing("ggml_backend_reg_dev_get"))?;
        let description = library
            .get::<unsafe extern "C" fn(Opaque) -> *const c_char>(b"ggml_backend_dev_description\0")
            .map_err(|_| missing("ggml_backend_dev_description"))?;
        let memory = library
            .get::<unsafe extern "C" fn(Opaque, *mut usize, *mut usize)>(
                b"ggml_backend_dev_memory\0",
            )
            .map_err(|_| missing("ggml_backend_dev_memory"))?;
        step(format!("ggml_backend_init of {}", backend.file));
        let entry = init();
        if entry.is_null() {
            return Err("ggml_backend_init returned nothing".to_owned());
        }
        backend.api_version = entry.cast::<c_int>().read();
        backend.name = text(name(entry));
        for at in 0..count(entry).min(64) {
            step(format!("device {at} of {}", backend.file));
            let handle = device(entry, at);
            let (mut free, mut total) = (0, 0);
            memory(handle, &raw mut free, &raw mut total);
            let ordinal = c_int::try_from(at).unwrap_or(c_int::MAX);
            let mut found = runtime::device_of_loaded(ordinal).unwrap_or_default();
            found.library.clone_from(&backend.name);
            found.name = text(description(handle));
            found.memory_free = free as u64;
            found.memory_total = total as u64;
            backend.devices.push(found);
        }
        backend.architectures = architectures(library, entry);
    }
    Ok(())
}

/// The feature `ARCHS`.
///
/// # Safety
/// `entry` is a registry entry of this library's.
unsafe fn architectures(library: &Library, entry: Opaque) -> Option<String> {
    // SAFETY: ggml's published signatures; the list ends with a null name.
    unsafe {
        let lookup = library
            .get::<unsafe extern "C" fn(Opaque, *const c_char) -> Opaque>(
                b"ggml_backend_reg_get_proc_address\0",
            )
            .ok()?;
        let function = lookup(entry, c"ggml_backend_get_features".as_ptr());
        if function.is_null() {
            return None;
        }
        let features: unsafe extern "C" fn(Opaque) -> *const Feature =
            std::mem::transmute(function);
        let mut at = features(entry);
        while !at.is_null() && !(*at).name.is_null() {
            if text((*at).name) == "ARCHS" {
                return Some(text((*at).value));
            }
            at = at.add(1);
        }
    }
    None
}

/// # Safety
/// Null or a C string.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's contract.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// What `llama-server --list-devices --verbose` prints: the architectures on standard error, the devices on standard
/// output.
fn print_list(answer: &Answer) {
    for backend in &answer.backends {
        if let Some(list) = &backend.architectures {
            eprintln!("system_info: {} : ARCHS = {list} |", backend.name);
        }
    }
    println!("Available devices:");
    for backend in &answer.backends {
        for (at, device) in backend.devices.iter().enumerate() {
            println!(
                "  {}{at}: {} ({} MiB, {} MiB free)",
                backend.name,
                device.name,
                device.memory_total >> 20,
                device.memory_free >> 20
            );
        }
    }
}
