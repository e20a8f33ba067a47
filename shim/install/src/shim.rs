//! Reading shared libraries: whose is this `libcuda.so.1`, and which C library is this?

use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object};
use std::path::Path;

/// How a name begins that every shim exports beside those of the library it stands for: by it one tells them from the
/// real ones.
pub const MARKER: &[u8] = b"vgpu_shim";

/// Largest library that is looked into.
const MOST: u64 = 512 << 20;

/// Whose a library is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One of our shims.
    Vgpu,
    /// Somebody else's.
    Other,
    /// It is no 64-bit library for this kind of processor, so no program of ours would load it.
    Nobody,
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let length = path
        .metadata()
        .ok()
        .filter(std::fs::Metadata::is_file)?
        .len();
    (length <= MOST).then(|| std::fs::read(path).ok())?
}

/// Whose the library at `path` is. An unreadable file is nobody's.
#[must_use]
pub fn owner(path: &Path) -> Owner {
    let Some(data) = read(path) else {
        return Owner::Nobody;
    };
    let Ok(file) = ElfFile64::<Endianness>::parse(&*data) else {
        return Owner::Nobody;
    };
    if file.elf_header().e_machine(file.endian()) != object::elf::EM_X86_64 {
        return Owner::Nobody;
    }
    let ours = file.exports().is_ok_and(|exports| {
        exports
            .iter()
            .any(|export| export.name().starts_with(MARKER))
    });
    if ours { Owner::Vgpu } else { Owner::Other }
}

/// The library's own name, by which the loader knows it.
#[must_use]
pub fn soname(path: &Path) -> Option<String> {
    let data = read(path)?;
    let file = ElfFile64::<Endianness>::parse(&*data).ok()?;
    let endian = file.endian();
    let sections = file.elf_section_table();
    let (entries, link) = sections.dynamic(endian, &*data).ok()??;
    let strings = sections.strings(endian, &*data, link).ok()?;
    let entry = entries
        .iter()
        .find(|entry| entry.tag32(endian) == Some(object::elf::DT_SONAME))?;
    String::from_utf8(entry.string(endian, strings).ok()?.to_vec()).ok()
}

/// The loader that a program asks for.
#[must_use]
pub fn interpreter(path: &Path) -> Option<String> {
    let data = read(path)?;
    let file = ElfFile64::<Endianness>::parse(&*data).ok()?;
    let endian = file.endian();
    let name = file
        .elf_program_headers()
        .iter()
        .find_map(|header| header.interpreter(endian, &*data).ok().flatten())?;
    String::from_utf8(name.to_vec()).ok()
}

/// The newest version of its names that a C library defines: its own.
#[must_use]
pub fn glibc_version(path: &Path) -> Option<(u32, u32)> {
    let data = read(path)?;
    let file = ElfFile64::<Endianness>::parse(&*data).ok()?;
    let endian = file.endian();
    let sections = file.elf_section_table();
    let (mut definitions, link) = sections.gnu_verdef(endian, &*data).ok()??;
    let strings = sections.strings(endian, &*data, link).ok()?;
    let mut newest = None;
    while let Ok(Some((_, mut names))) = definitions.next() {
        while let Ok(Some(name)) = names.next() {
            let text = name.name(endian, strings).ok();
            newest = newest.max(text.and_then(|text| version(std::str::from_utf8(text).ok()?)));
        }
    }
    newest
}

fn version(name: &str) -> Option<(u32, u32)> {
    let (major, minor) = name.strip_prefix("GLIBC_")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version("GLIBC_2.28"), Some((2, 28)));
        assert_eq!(version("GLIBC_2.2.5"), Some((2, 2)));
        assert_eq!(version("GLIBC_PRIVATE"), None);
    }

    #[test]
    fn this_program_is_no_library_of_ours_and_has_a_loader() {
        let me = std::env::current_exe().unwrap();
        assert_eq!(owner(&me), Owner::Other);
        assert_eq!(soname(&me), None);
        assert!(interpreter(&me).unwrap().contains("ld-linux"));
        assert_eq!(owner(Path::new("/etc/passwd")), Owner::Nobody);
        assert_eq!(owner(Path::new("/none")), Owner::Nobody);
        assert_eq!(owner(Path::new("/")), Owner::Nobody);
    }
}
