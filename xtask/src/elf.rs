//! Reading ELF files: what they need of the C library, and which symbols an object leaves open.

use std::path::Path;

use anyhow::{Context, bail};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSymbol};

/// The newest C library that a distributed binary may need: Debian 12's, where the project is built and tested.
pub const NEWEST_GLIBC: (u32, u32) = (2, 36);

/// The newest `GLIBC_x.y` version among the symbols that the file imports; `None` when it imports none.
pub fn newest_glibc(path: &Path) -> anyhow::Result<Option<(u32, u32)>> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = ElfFile64::<Endianness>::parse(&*data)
        .with_context(|| format!("{} is no ELF file", path.display()))?;
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

/// Fails when the file needs a C library newer than [`NEWEST_GLIBC`].
pub fn check_glibc(path: &Path) -> anyhow::Result<()> {
    match newest_glibc(path)? {
        Some(found) if found > NEWEST_GLIBC => bail!(
            "{} needs GLIBC {}.{}, newer than {}.{}",
            path.display(),
            found.0,
            found.1,
            NEWEST_GLIBC.0,
            NEWEST_GLIBC.1
        ),
        _ => Ok(()),
    }
}

/// The names of the symbols that an object file uses and does not define.
pub fn undefined_symbols(path: &Path) -> anyhow::Result<Vec<String>> {
    let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*data)
        .with_context(|| format!("{} is no object file", path.display()))?;
    let mut names = Vec::new();
    for symbol in file.symbols().filter(ObjectSymbol::is_undefined) {
        let name = symbol.name()?;
        if !name.is_empty() {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
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
    }
}
