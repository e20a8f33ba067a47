//! What a shared library wants of the driver: the symbols it imports, and the names it asks for at run time.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use anyhow::Context;
use memchr::{memchr, memmem};
use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

/// Device code: most of such a library, and no place for names of the driver's functions.
const DEVICE_CODE: [&str; 3] = [".nv_fatbin", "__nv_relfatbin", ".nvFatBinSegment"];

/// How the end of one string and the beginning of a name look.
const PREFIXES: [&str; 2] = ["\0cu", "\0nvml"];

/// Names of the driver's and NVML's functions in one library.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Names {
    /// Symbols that the loader must find.
    pub imported: BTreeSet<String>,
    /// Strings that are exactly a name: what it may ask `cuGetProcAddress` or `dlsym` for.
    pub asked: BTreeSet<String>,
}

impl Names {
    /// Whether the library has to do with the driver at all.
    pub fn is_empty(&self) -> bool {
        self.imported.is_empty() && self.asked.is_empty()
    }
}

/// Reads the names; `None` for what is no ELF file.
pub fn scan(path: &Path) -> anyhow::Result<Option<Names>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let cache = ReadCache::new(file);
    let Ok(file) = object::File::parse(&cache) else {
        return Ok(None);
    };
    let mut names = Names::default();
    for symbol in file.dynamic_symbols().filter(ObjectSymbol::is_undefined) {
        let name = symbol.name()?;
        if is_name(name.as_bytes()) {
            names.imported.insert(name.to_owned());
        }
    }
    for section in file.sections() {
        let data = matches!(
            section.kind(),
            SectionKind::ReadOnlyData
                | SectionKind::ReadOnlyString
                | SectionKind::ReadOnlyDataWithRel
                | SectionKind::Data
        );
        if !data || DEVICE_CODE.contains(&section.name()?) {
            continue;
        }
        names.asked.extend(strings(section.data()?));
    }
    Ok(Some(names))
}

/// The zero-terminated strings in `data` that are names.
fn strings(data: &[u8]) -> impl Iterator<Item = String> {
    // A name at the very beginning has no zero before it.
    let first = std::iter::once(0);
    let further = PREFIXES.iter().flat_map(|prefix| {
        memmem::find_iter(data, prefix.as_bytes())
            .map(|at| at + 1)
            .collect::<Vec<_>>()
    });
    first
        .chain(further)
        .map(|start| {
            let text = &data[start..];
            &text[..memchr(0, text).unwrap_or(text.len())]
        })
        .filter(|text| is_name(text))
        .map(|text| String::from_utf8_lossy(text).into_owned())
}

/// Whether `text` is written as the driver's functions are (`cuInit`, `cuMemAlloc_v2`) or NVML's; `cublasCreate_v2` is not.
fn is_name(text: &[u8]) -> bool {
    let rest = match text {
        [b'c', b'u', rest @ ..] | [b'n', b'v', b'm', b'l', rest @ ..] => rest,
        _ => return false,
    };
    (3..=80).contains(&rest.len())
        && rest[0].is_ascii_uppercase()
        && rest[1..].iter().any(u8::is_ascii_lowercase)
        && rest
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_strings_of_the_drivers_form_are_names() {
        let data = b"\0cuInit\0cuMemAlloc_v2\0cublasCreate_v2\0call cuInit\0nvmlInit_v2\0cuda\0cuCtx\x80\0CUDA\0cu\0cuABC_\0";
        let found: Vec<String> = strings(data).collect();
        assert_eq!(found, ["cuInit", "cuMemAlloc_v2", "nvmlInit_v2"]);
        let edges: Vec<String> = strings(b"cuInit\0x\0cuCtxCreate").collect();
        assert_eq!(edges, ["cuInit", "cuCtxCreate"]);
    }

    #[test]
    fn this_test_itself_wants_nothing_of_the_driver_by_symbol() {
        let me = std::env::current_exe().expect("a path");
        let names = scan(&me).expect("readable").expect("an ELF file");
        assert!(names.imported.is_empty(), "{names:?}");
        let text = std::env::temp_dir();
        assert!(scan(&text.join("no such file")).is_err());
    }
}
