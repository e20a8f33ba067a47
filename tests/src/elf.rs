//! Reading ELF files: what they need of the C library, and what a shared library says of itself to the loader.

use std::path::Path;

use anyhow::Context;
use object::elf::{DF_1_NODELETE, DT_FLAGS_1, DT_NEEDED, DT_SONAME};
use object::read::elf::{Dyn, ElfFile64};
use object::{Endianness, Object};

/// The newest C library that what runs in a guest may need: AlmaLinux 8's, whose release Ubuntu 20.04, Debian 11 and
/// everything later surpass.
pub const GUEST_GLIBC: (u32, u32) = (2, 28);

/// The newest C library that what runs on the host may need: Debian 12's, where the project is built and tested.
pub const HOST_GLIBC: (u32, u32) = (2, 36);

/// The environment variable by which a test is told that the guest's part was built for a newer C library than
/// [`GUEST_GLIBC`], as `2.36`: without a network there is nothing to build it with.
pub const GLIBC: &str = "VGPU_DIST_GLIBC";

/// The newest C library that the guest's part under test may need.
#[must_use]
pub fn guest_limit() -> (u32, u32) {
    let told = std::env::var(GLIBC).ok();
    told.and_then(|text| parse_version(&text))
        .unwrap_or(GUEST_GLIBC)
}

/// What the loader reads of a shared library, beside its symbols.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Its own name.
    pub soname: Option<String>,
    /// The libraries it needs.
    pub needed: Vec<String>,
    /// Whether it is never unloaded.
    pub no_delete: bool,
    /// The names it exports that carry a version.
    pub versioned: usize,
}

/// The newest `GLIBC_x.y` version among the symbols that the file imports; `None` when it imports none.
///
/// # Errors
/// When the file cannot be read or is no 64-bit ELF file.
pub fn newest_glibc(path: &Path) -> anyhow::Result<Option<(u32, u32)>> {
    let data = read(path)?;
    let file = parse(path, &data)?;
    let endian = file.endian();
    let sections = file.elf_section_table();
    let mut newest = None;
    if let Some((mut needs, link)) = sections.gnu_verneed(endian, &*data)? {
        let strings = sections.strings(endian, &*data, link)?;
        while let Some((_, mut versions)) = needs.next()? {
            while let Some(version) = versions.next()? {
                let name = String::from_utf8_lossy(version.name(endian, strings)?);
                if let Some(number) = name.strip_prefix("GLIBC_").and_then(parse_version) {
                    newest = newest.max(Some(number));
                }
            }
        }
    }
    Ok(newest)
}

/// What a shared library says of itself.
///
/// # Errors
/// As [`newest_glibc`].
pub fn dynamic(path: &Path) -> anyhow::Result<Dynamic> {
    let data = read(path)?;
    let file = parse(path, &data)?;
    let endian = file.endian();
    let sections = file.elf_section_table();
    let mut found = Dynamic::default();
    if let Some((mut definitions, _)) = sections.gnu_verdef(endian, &*data)? {
        while definitions.next()?.is_some() {
            found.versioned += 1;
        }
    }
    let Some((entries, link)) = sections.dynamic(endian, &*data)? else {
        return Ok(found);
    };
    let strings = sections.strings(endian, &*data, link)?;
    for entry in entries {
        let text = || -> anyhow::Result<String> {
            Ok(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned())
        };
        let tag = entry.tag32(endian).unwrap_or_default();
        match tag {
            DT_SONAME => found.soname = Some(text()?),
            DT_NEEDED => found.needed.push(text()?),
            DT_FLAGS_1 => found.no_delete = entry.d_val(endian) & u64::from(DF_1_NODELETE) != 0,
            _ => {}
        }
    }
    Ok(found)
}

/// The names that a shared library exports.
///
/// # Errors
/// As [`newest_glibc`].
pub fn exports(path: &Path) -> anyhow::Result<Vec<String>> {
    let data = read(path)?;
    let exports = parse(path, &data)?.exports()?;
    Ok(exports
        .iter()
        .map(|export| String::from_utf8_lossy(export.name()).into_owned())
        .collect())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn parse<'a>(path: &Path, data: &'a [u8]) -> anyhow::Result<ElfFile64<'a, Endianness>> {
    ElfFile64::parse(data).with_context(|| format!("{} is no ELF file", path.display()))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert_eq!(parse_version("2.2.5"), Some((2, 2)));
        assert!(parse_version("2.36") > parse_version("2.4"));
        assert_eq!(parse_version("PRIVATE"), None);
    }

    #[test]
    fn this_test_itself_needs_some_glibc() {
        let me = std::env::current_exe().expect("a path");
        let newest = newest_glibc(&me)
            .expect("readable")
            .expect("it is linked dynamically");
        assert!(newest >= (2, 2), "{newest:?}");
        let dynamic = dynamic(&me).expect("readable");
        assert_eq!(dynamic.soname, None);
        assert!(
            dynamic.needed.contains(&"libc.so.6".to_owned()),
            "{dynamic:?}"
        );
    }
}
