//! ELF files as the loader reads them: class, machine, what is needed, defined and left open, and under which versions.

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Sym};
use object::{Endianness, FileKind, ReadCache, ReadRef};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why a file is not one that the loader takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It cannot be opened.
    Missing(String),
    /// It is something else.
    NotElf,
    /// It ends before its own headers say.
    Truncated,
}

/// A symbol that a file imports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// Its name.
    pub name: String,
    /// The version asked for and the library that shall have it.
    pub version: Option<(String, String)>,
}

/// What the loader reads in a file.
#[derive(Clone, Debug, Default)]
pub struct Elf {
    /// Whether it is of the 64-bit class.
    pub is_64: bool,
    /// `e_machine`.
    pub machine: u16,
    /// `PT_INTERP`: the loader of a program.
    pub interpreter: Option<String>,
    /// `DT_SONAME`.
    pub soname: Option<String>,
    /// `DT_NEEDED`.
    pub needed: Vec<String>,
    /// `DT_RUNPATH`, else `DT_RPATH`, not expanded.
    pub runpath: Option<String>,
    /// `DF_1_NODELETE`.
    pub no_delete: bool,
    /// Defined dynamic symbols with the versions that they are defined under.
    pub exports: BTreeMap<String, BTreeSet<String>>,
    /// Undefined, not weak.
    pub imports: BTreeSet<Import>,
    /// Names of the version nodes that it defines.
    pub versions: BTreeSet<String>,
    /// The newest `GLIBC_x.y` it needs.
    pub glibc: Option<(u32, u32)>,
}

impl Elf {
    /// Reads a file: of a large one only what its headers lead to, of anything that is no file nothing.
    ///
    /// # Errors
    /// What is wrong with it, as the loader would see it.
    pub fn read(path: &Path) -> Result<Self, Unreadable> {
        let missing = |error: std::io::Error| Unreadable::Missing(error.to_string());
        // A pipe that nobody writes to would be waited for without end.
        let file = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(missing)?;
        if !file.metadata().map_err(missing)?.is_file() {
            return Err(Unreadable::Missing("it is no file".to_owned()));
        }
        let data = ReadCache::new(file);
        match FileKind::parse(&data) {
            Ok(FileKind::Elf64) => parse::<elf::FileHeader64<Endianness>>(&data),
            Ok(FileKind::Elf32) => parse::<elf::FileHeader32<Endianness>>(&data),
            Err(_) if (&data).read_bytes_at(0, 4) == Ok(b"\x7fELF") => Err(Unreadable::Truncated),
            _ => Err(Unreadable::NotElf),
        }
    }

    /// Whether it is for this machine: 64-bit x86.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.is_64 && self.machine == elf::EM_X86_64
    }

    /// The architecture in words.
    #[must_use]
    pub fn architecture(&self) -> String {
        let name = match self.machine {
            elf::EM_X86_64 if !self.is_64 => "x32",
            elf::EM_X86_64 => "x86-64",
            elf::EM_386 => "32-bit x86",
            elf::EM_AARCH64 => "64-bit ARM",
            elf::EM_ARM => "32-bit ARM",
            elf::EM_PPC64 => "64-bit POWER",
            elf::EM_RISCV => "RISC-V",
            other => return format!("machine {other}"),
        };
        name.to_owned()
    }

    /// The names imported that begin as functions of CUDA's driver do.
    pub fn driver_imports(&self) -> impl Iterator<Item = &str> {
        self.imports
            .iter()
            .filter(|import| import.version.is_none() && is_driver_name(&import.name))
            .map(|import| import.name.as_str())
    }
}

/// Whether a name is one of the driver API: `cu` and a capital letter.
#[must_use]
pub fn is_driver_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next() == Some('c')
        && letters.next() == Some('u')
        && letters
            .next()
            .is_some_and(|letter| letter.is_ascii_uppercase())
}

type Data = ReadCache<File>;

fn parse<H: FileHeader<Endian = Endianness>>(data: &Data) -> Result<Elf, Unreadable> {
    read_all::<H>(data).ok_or(Unreadable::Truncated)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_all<H: FileHeader<Endian = Endianness>>(data: &Data) -> Option<Elf> {
    let length = data.len().ok()?;
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let mut found = Elf {
        is_64: header.is_type_64(),
        machine: header.e_machine(endian),
        ..Elf::default()
    };
    for segment in header.program_headers(endian, data).ok()? {
        let offset: u64 = segment.p_offset(endian).into();
        let end = offset.checked_add(segment.p_filesz(endian).into())?;
        if segment.p_type(endian) == elf::PT_LOAD && end > length {
            return None;
        }
        if let Ok(Some(path)) = segment.interpreter(endian, data) {
            found.interpreter = Some(text(path));
        }
    }
    let sections = header.sections(endian, data).ok()?;
    if let Some((entries, link)) = sections.dynamic(endian, data).ok()? {
        let strings = sections.strings(endian, data, link).ok()?;
        let mut rpath = None;
        for entry in entries {
            let tag = entry.d_tag(endian).into();
            let value: u64 = entry.d_val(endian).into();
            let string = || {
                let at = u32::try_from(value).ok()?;
                strings.get(at).ok().map(text)
            };
            match u32::try_from(tag).unwrap_or(u32::MAX) {
                elf::DT_NEEDED => found.needed.extend(string()),
                elf::DT_SONAME => found.soname = string(),
                elf::DT_RUNPATH => found.runpath = string(),
                elf::DT_RPATH => rpath = string(),
                elf::DT_FLAGS_1 => {
                    found.no_delete = value & u64::from(elf::DF_1_NODELETE) != 0;
                }
                _ => {}
            }
        }
        found.runpath = found.runpath.or(rpath);
    }
    let versions = sections.versions(endian, data).ok()?;
    let symbols = sections.symbols(endian, data, elf::SHT_DYNSYM).ok()?;
    for (index, symbol) in symbols.enumerate() {
        let Ok(name) = symbol.name(endian, symbols.strings()) else {
            continue;
        };
        if name.is_empty() {
            continue;
        }
        let version = versions.as_ref().and_then(|table| {
            let at = table.version_index(endian, index);
            table.version(at).ok().flatten()
        });
        if !symbol.is_undefined(endian) {
            found
                .exports
                .entry(text(name))
                .or_default()
                .extend(version.map(|version| text(version.name())));
        } else if symbol.st_bind() == elf::STB_GLOBAL {
            found.imports.insert(Import {
                name: text(name),
                version: version
                    .map(|version| (text(version.name()), text(version.file().unwrap_or(b"")))),
            });
        }
    }
    let mut newest = None;
    for import in &found.imports {
        let number = import
            .version
            .as_ref()
            .and_then(|(version, _)| version.strip_prefix("GLIBC_"))
            .and_then(glibc_version);
        newest = newest.max(number);
    }
    found.glibc = newest;
    if let Some((mut definitions, link)) = sections.gnu_verdef(endian, data).ok()? {
        let strings = sections.strings(endian, data, link).ok()?;
        while let Ok(Some((definition, mut names))) = definitions.next() {
            // The first entry names the file itself and is no node that a symbol can be asked for under.
            let of_the_file = definition.vd_flags.get(endian) & elf::VER_FLG_BASE != 0;
            if !of_the_file
                && let Ok(Some(name)) = names.next()
                && let Ok(name) = name.name(endian, strings)
            {
                found.versions.insert(text(name));
            }
        }
    }
    Some(found)
}

/// `2.36` of `GLIBC_2.36`, or of the answer of `gnu_get_libc_version`.
#[must_use]
pub fn glibc_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_itself_is_read() {
        let me = Elf::read(Path::new("/proc/self/exe")).expect("readable");
        assert!(me.is_64 && me.interpreter.is_some());
        assert!(me.needed.iter().any(|name| name == "libc.so.6"));
        assert!(me.glibc.is_some_and(|version| version >= (2, 2)));
        assert!(me.imports.iter().any(|import| import.version.is_some()));
    }

    #[test]
    fn a_file_cut_short_is_told_from_something_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x");
        let whole = std::fs::read("/proc/self/exe").expect("readable");
        for len in [4, 64, 5000, whole.len() / 2] {
            std::fs::write(&file, &whole[..len]).expect("written");
            assert_eq!(Elf::read(&file).err(), Some(Unreadable::Truncated), "{len}");
        }
        std::fs::write(&file, "#!/bin/sh\n").expect("written");
        assert_eq!(Elf::read(&file).err(), Some(Unreadable::NotElf));
    }

    #[test]
    fn what_is_no_file_is_not_waited_for_and_a_huge_one_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let made = std::process::Command::new("mkfifo")
            .arg(place("pipe"))
            .status()
            .expect("coreutils");
        assert!(made.success());
        std::os::unix::fs::symlink("loop", place("loop")).expect("linked");
        for path in [
            place("pipe"),
            place("loop"),
            folder.path().into(),
            place("none"),
        ] {
            let found = Elf::read(&path);
            assert!(
                matches!(found, Err(Unreadable::Missing(_))),
                "{path:?}: {found:?}"
            );
        }
        let huge = File::create(place("huge")).expect("made");
        // More than any machine's memory, and nothing on the disk.
        huge.set_len(1 << 42).expect("sparse");
        assert_eq!(Elf::read(&place("huge")).err(), Some(Unreadable::NotElf));
        std::io::Write::write_all(&mut &huge, b"\x7fELF").expect("written");
        assert_eq!(Elf::read(&place("huge")).err(), Some(Unreadable::Truncated));
    }

    #[test]
    fn names_of_the_driver_are_not_those_of_the_runtime() {
        assert!(is_driver_name("cuMemCreate"));
        assert!(!is_driver_name("cudaMalloc"));
        assert!(!is_driver_name("curl_easy"));
    }
}
