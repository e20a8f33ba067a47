//! Reading ELF files: whether they keep to a C library, and which symbols an object leaves open.

use std::path::Path;

use anyhow::{Context, bail};
use object::{Object, ObjectSymbol};
use vgpu_e2e::elf::newest_glibc;

/// Fails when the file needs a C library newer than `limit`.
pub fn check_glibc(path: &Path, limit: (u32, u32)) -> anyhow::Result<()> {
    match newest_glibc(path)? {
        Some(found) if found > limit => bail!(
            "{} needs GLIBC {}.{}, newer than {}.{}",
            path.display(),
            found.0,
            found.1,
            limit.0,
            limit.1
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_needs_a_newer_library_is_named() {
        let me = std::env::current_exe().expect("a path");
        check_glibc(&me, (9, 0)).expect("no library is that new");
        let error = check_glibc(&me, (2, 1)).expect_err("every program needs more");
        assert!(error.to_string().contains("newer than 2.1"), "{error}");
    }
}
