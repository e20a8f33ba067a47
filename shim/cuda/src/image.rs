//! Finding the extent of a code image. CUDA's load functions take a pointer without a length:
//! fatbin wrappers, fatbins, ELF files and PTX text (`cuda-driver-facts.md` §6).
//!
//! The program owns this memory and vouches for it, as it does towards the real driver; still no
//! header is believed beyond reason.

use core::ffi::{CStr, c_char, c_void};
use vgpu_protocol::cuda::CUresult;

const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const FATBIN_MAGIC: u32 = 0xba55_ed50;
const ELF_MAGIC: u32 = u32::from_le_bytes([0x7f, b'E', b'L', b'F']);

/// Largest image that is sent, in bytes: more than any library ships in one piece.
const MAX_IMAGE: u64 = 4 << 30;

/// An image in the program's memory.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    start: *const u8,
    len: usize,
}

impl Image {
    /// The bytes.
    ///
    /// # Safety
    /// The program keeps the image alive and unchanged meanwhile, as CUDA demands of it.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: `locate` found this extent from the image's own headers.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }
}

/// Fixed part of an ELF-64 header.
#[repr(C)]
#[derive(Clone, Copy)]
struct ElfHeader {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_offset: u64,
    section_offset: u64,
    flags: u32,
    header_size: u16,
    program_size: u16,
    program_count: u16,
    section_size: u16,
    section_count: u16,
    names: u16,
}

/// ELF-64 section header.
#[repr(C)]
#[derive(Clone, Copy)]
struct ElfSection {
    name: u32,
    kind: u32,
    flags: u64,
    addr: u64,
    offset: u64,
    size: u64,
    rest: [u64; 3],
}

const SHT_NOBITS: u32 = 8;

/// Extent of the image at `image`; for a wrapper, of the fatbin inside.
///
/// # Errors
/// `INVALID_VALUE` for null, `INVALID_IMAGE` for what cannot be an image, `NOT_SUPPORTED` for
/// prelinked wrappers of several fatbins.
pub fn locate(image: *const c_void) -> Result<Image, CUresult> {
    if image.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: for every read below: the program passed this pointer to a CUDA load function, whose
    // contract is that a complete image lies there; only what its headers announce is read. Reads
    // are unaligned because PTX text and embedded images need not be aligned.
    unsafe {
        let start: *const u8 = image.cast();
        let first = start.read();
        if first != 0xb1 && first != 0x50 && first != 0x7f {
            return Ok(text(start));
        }
        match start.cast::<u32>().read_unaligned() {
            WRAPPER_MAGIC => {
                let version = start.add(4).cast::<u32>().read_unaligned();
                let data = start.add(8).cast::<*const u8>().read_unaligned();
                let prelinked = start.add(16).cast::<*const c_void>().read_unaligned();
                if version == 2 && !prelinked.is_null() {
                    return Err(CUresult::NOT_SUPPORTED);
                }
                if data.is_null() || data.cast::<u32>().read_unaligned() != FATBIN_MAGIC {
                    return Err(CUresult::INVALID_IMAGE);
                }
                fatbin(data)
            }
            FATBIN_MAGIC => fatbin(start),
            ELF_MAGIC => elf(start),
            _ => Ok(text(start)),
        }
    }
}

/// # Safety
/// A terminated text lies at `start`.
unsafe fn text(start: *const u8) -> Image {
    // SAFETY: the caller's contract.
    let len = unsafe { CStr::from_ptr(start.cast::<c_char>()) }
        .to_bytes()
        .len();
    Image { start, len }
}

/// # Safety
/// A fatbin header lies at `start`.
unsafe fn fatbin(start: *const u8) -> Result<Image, CUresult> {
    // SAFETY: the caller's contract: the header is 16 bytes.
    let (header, body) = unsafe {
        (
            start.add(6).cast::<u16>().read_unaligned(),
            start.add(8).cast::<u64>().read_unaligned(),
        )
    };
    extent(start, u64::from(header).checked_add(body))
}

/// # Safety
/// An ELF file lies at `start`.
unsafe fn elf(start: *const u8) -> Result<Image, CUresult> {
    // SAFETY: the caller's contract.
    let header = unsafe { start.cast::<ElfHeader>().read_unaligned() };
    let table =
        |offset: u64, size: u16, count: u16| offset.checked_add(u64::from(size) * u64::from(count));
    let mut end = table(
        header.program_offset,
        header.program_size,
        header.program_count,
    )
    .max(table(
        header.section_offset,
        header.section_size,
        header.section_count,
    ));
    if usize::from(header.section_size) == size_of::<ElfSection>() {
        for index in 0..usize::from(header.section_count) {
            let at = usize::try_from(header.section_offset).map_err(|_| CUresult::INVALID_IMAGE)?;
            // SAFETY: the header announces this section header.
            let section = unsafe {
                start
                    .add(at + index * size_of::<ElfSection>())
                    .cast::<ElfSection>()
                    .read_unaligned()
            };
            if section.kind != SHT_NOBITS {
                end = end.max(section.offset.checked_add(section.size));
            }
        }
    }
    extent(start, end)
}

fn extent(start: *const u8, len: Option<u64>) -> Result<Image, CUresult> {
    match len {
        Some(len) if len > 0 && len <= MAX_IMAGE => Ok(Image {
            start,
            len: len as usize,
        }),
        _ => Err(CUresult::INVALID_IMAGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(bytes: &[u8]) -> Result<usize, CUresult> {
        locate(bytes.as_ptr().cast()).map(|image| image.len)
    }

    #[test]
    fn text_ends_at_its_terminator() {
        assert_eq!(located(b"\n  .version 8.0\n\0 beyond"), Ok(16));
    }

    #[test]
    fn fatbins_and_wrappers_have_the_announced_length() {
        let mut fatbin = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
        fatbin.extend_from_slice(&32_u64.to_le_bytes());
        fatbin.resize(48, 0);
        assert_eq!(located(&fatbin), Ok(48));
        let mut wrapper = WRAPPER_MAGIC.to_le_bytes().to_vec();
        wrapper.extend_from_slice(&1_u32.to_le_bytes());
        wrapper.extend_from_slice(&(fatbin.as_ptr() as u64).to_le_bytes());
        wrapper.extend_from_slice(&0_u64.to_le_bytes());
        assert_eq!(located(&wrapper), Ok(48));
    }

    #[test]
    fn an_absurd_length_is_an_invalid_image() {
        let mut fatbin = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
        fatbin.extend_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(located(&fatbin), Err(CUresult::INVALID_IMAGE));
        assert_eq!(
            locate(core::ptr::null()).map(|image| image.len),
            Err(CUresult::INVALID_VALUE)
        );
    }

    #[test]
    fn elf_reaches_to_its_last_section() {
        let mut file = vec![0_u8; 64 + 2 * 64 + 100];
        file[..4].copy_from_slice(&[0x7f, b'E', b'L', b'F']);
        file[40..48].copy_from_slice(&64_u64.to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        file[60..62].copy_from_slice(&2_u16.to_le_bytes());
        file[64 + 64 + 24..64 + 64 + 32].copy_from_slice(&192_u64.to_le_bytes());
        file[64 + 64 + 32..64 + 64 + 40].copy_from_slice(&100_u64.to_le_bytes());
        assert_eq!(located(&file), Ok(292));
    }
}
