//! What an image says about which of its kernels print.
//!
//! In machine code, `.nv.callgraph` lists who calls whom as pairs of symbols, and kernels have bit 4 of their symbol's
//! `st_other`. Where that does not settle it, every kernel counts as printing: for PTX text that names the function, for a
//! device function that prints and may be called through a pointer, for what cannot be read.

use crate::image::{Code, Image};
use memchr::memmem;
use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolIndex};
use std::collections::{BTreeSet, HashMap};

/// How device code names the function behind `printf`.
const PRINTS: &str = "vprintf";

/// The bit of `st_other` that marks a kernel (`STO_CUDA_ENTRY`).
const KERNEL: u8 = 0x10;

/// Callers from this number on are no symbols but marks of the compiler's.
const MARKS: u32 = 0xffff_fff0;

/// The kernels of an image that print.
#[derive(Debug, PartialEq, Eq)]
pub enum Printers {
    /// These.
    Kernels(BTreeSet<Vec<u8>>),
    /// Perhaps any.
    Any,
}

impl Printers {
    /// Looks through what devices of the compute capabilities `archs` (90 for 9.0) may execute of an image. Without
    /// `archs` that is its PTX.
    #[must_use]
    pub fn of(image: &Image, archs: &[u32]) -> Self {
        let mut kernels = BTreeSet::new();
        let mut any = false;
        image.code(archs, |code| match code {
            Code::Machine(elf) if !any => match of_elf(elf) {
                Some(found) => kernels.extend(found),
                None => any = true,
            },
            Code::Text(text) => any |= names_it(text),
            Code::Unreadable => any = true,
            Code::Machine(_) => {}
        });
        if any {
            Self::Any
        } else {
            Self::Kernels(kernels)
        }
    }
}

/// The printing kernels of a file of machine code; `None` for perhaps any.
fn of_elf(elf: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    if !names_it(elf) {
        return Some(BTreeSet::new());
    }
    let file = ElfFile::<FileHeader64<LittleEndian>>::parse(elf).ok()?;
    let prints = file
        .symbols()
        .find(|symbol| symbol.name_bytes() == Ok(PRINTS.as_bytes()))?;
    let graph = file.section_by_name(".nv.callgraph")?.data().ok()?;
    let mut callers: HashMap<u32, Vec<u32>> = HashMap::new();
    for pair in graph.chunks_exact(8) {
        let caller = u32::from_le_bytes(pair.first_chunk().copied()?);
        let callee = u32::from_le_bytes(pair.last_chunk().copied()?);
        if caller < MARKS && callee < MARKS {
            callers.entry(callee).or_default().push(caller);
        }
    }
    let mut kernels = BTreeSet::new();
    // Taken out as they are followed, so that a circle ends.
    let mut open = callers.remove(&u32::try_from(prints.index().0).ok()?)?;
    while let Some(caller) = open.pop() {
        open.extend(callers.remove(&caller).unwrap_or_default());
        let symbol = file.symbol_by_index(SymbolIndex(caller as usize)).ok()?;
        if symbol.elf_symbol().st_other & KERNEL == 0 {
            return None;
        }
        kernels.insert(symbol.name_bytes().ok()?.to_vec());
    }
    Some(kernels)
}

/// Whether the function behind `printf` is named anywhere in `code`.
fn names_it(code: &[u8]) -> bool {
    memmem::find(code, PRINTS.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::elf::{EM_CUDA, ET_EXEC, SHN_UNDEF, SHT_PROGBITS};
    use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};

    const ABSOLUTE: u16 = object::elf::SHN_ABS;

    /// A file of machine code with the symbols `names`, numbered from 1, of which `kernels` are kernels, and the call graph
    /// `calls`.
    fn machine_code(names: &[&str], kernels: &[&str], calls: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(object::Endianness::Little, true, &mut bytes);
        let graph: Vec<u8> = calls
            .iter()
            .flat_map(|(caller, callee)| [caller.to_le_bytes(), callee.to_le_bytes()].concat())
            .collect();
        writer.reserve_file_header();
        writer.reserve_null_symbol_index();
        let strings: Vec<_> = names
            .iter()
            .map(|name| {
                writer.reserve_symbol_index(None);
                writer.add_string(name.as_bytes())
            })
            .collect();
        let graph_name = writer.add_section_name(b".nv.callgraph");
        writer.reserve_null_section_index();
        writer.reserve_section_index();
        writer.reserve_symtab_section_index();
        writer.reserve_strtab_section_index();
        writer.reserve_shstrtab_section_index();
        let graph_at = writer.reserve(graph.len(), 4);
        writer.reserve_symtab();
        writer.reserve_strtab();
        writer.reserve_shstrtab();
        writer.reserve_section_headers();

        writer
            .write_file_header(&FileHeader {
                os_abi: 0,
                abi_version: 0,
                e_type: ET_EXEC,
                e_machine: EM_CUDA,
                e_entry: 0,
                e_flags: 0,
            })
            .unwrap();
        writer.write_align(4);
        writer.write(&graph);
        writer.write_null_symbol();
        for (name, string) in names.iter().zip(strings) {
            let defined = *name != PRINTS;
            writer.write_symbol(&Sym {
                name: Some(string),
                section: None,
                st_info: 0x12,
                st_other: if kernels.contains(name) { KERNEL } else { 0 },
                st_shndx: if defined { ABSOLUTE } else { SHN_UNDEF },
                st_value: 0,
                st_size: 0,
            });
        }
        writer.write_strtab();
        writer.write_shstrtab();
        writer.write_null_section_header();
        writer.write_section_header(&SectionHeader {
            name: Some(graph_name),
            sh_type: SHT_PROGBITS,
            sh_flags: 0,
            sh_addr: 0,
            sh_offset: graph_at as u64,
            sh_size: graph.len() as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: 4,
            sh_entsize: 8,
        });
        writer.write_symtab_section_header(1);
        writer.write_strtab_section_header();
        writer.write_shstrtab_section_header();
        bytes
    }

    fn printers(names: &[&str], kernels: &[&str], calls: &[(u32, u32)]) -> Printers {
        let image = Image::new(machine_code(names, kernels, calls)).unwrap();
        Printers::of(&image, &[90])
    }

    fn kernels(names: &[&str]) -> Printers {
        Printers::Kernels(names.iter().map(|name| name.as_bytes().to_vec()).collect())
    }

    #[test]
    fn the_call_graph_names_the_kernels_that_print() {
        let names = ["quiet", PRINTS, "loud", "louder"];
        let marks = (0, u32::MAX);
        let all = ["quiet", "loud", "louder"];
        let calls = [marks, (3, 2), (4, 3), (3, 4)];
        assert_eq!(printers(&names, &all, &calls), kernels(&["loud", "louder"]));
        assert_eq!(printers(&["quiet"], &all, &[marks]), kernels(&[]));
    }

    #[test]
    fn what_the_call_graph_does_not_settle_may_be_any_kernel() {
        let names = ["kernel", PRINTS, "function"];
        let function_prints = [(1, 3), (3, 2)];
        assert_eq!(
            printers(&names, &["kernel"], &function_prints),
            Printers::Any
        );
        assert_eq!(printers(&names, &["kernel"], &[(1, 3)]), Printers::Any);
        assert_eq!(printers(&names, &["kernel"], &[(77, 2)]), Printers::Any);
        let mut torn = machine_code(&names, &["kernel"], &[(1, 2)]);
        torn[0x3a] = 1; // The size of a section's header.
        let torn = Image::new(torn).unwrap();
        assert_eq!(Printers::of(&torn, &[90]), Printers::Any);
    }

    #[test]
    fn text_that_prints_may_be_any_kernel() {
        let image = |text: &[u8]| Image::new(text.to_vec()).unwrap();
        let loud = image(b".extern .func (.param .b32 r) vprintf ( .param .b64 a );");
        assert_eq!(Printers::of(&loud, &[]), Printers::Any);
        assert_eq!(Printers::of(&image(b".version 8.0"), &[]), kernels(&[]));
    }
}
