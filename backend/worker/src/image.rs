//! Code images: a private, complete copy of what a client loads, so that the driver never reads
//! beyond it, and a look inside for code that prints.
//!
//! A fatbin is a header (magic `0xba55ed50`, version, header size, body size) and entries: `u16`
//! kind, `u32` header size at 4, `u64` padded payload size at 8, `u32` compressed size at 16, `u64`
//! flags at 40 (`0x2000` LZ4, `0x8000` zstd), `u64` uncompressed size at 56 (`cuda-driver-facts.md`
//! 6).

use std::io::Read;
use vgpu_protocol::cuda::CUresult;

const FATBIN: u32 = 0xba55_ed50;
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// Longest image that is taken.
pub const MAX_IMAGE: u64 = 1 << 30;
/// Longest payload that is unpacked to look inside; a longer one counts as printing.
const MAX_UNPACKED: u64 = 256 << 20;
/// How device code names the function behind `printf`.
const PRINTS: &[u8] = b"vprintf";
/// Zero bytes behind each image: they end a PTX text, and keep a reader of structs inside.
const PADDING: usize = 64;

/// A checked image.
#[derive(Debug)]
pub struct Image {
    bytes: Vec<u8>,
    len: usize,
}

impl Image {
    /// Takes over the copy of an image.
    ///
    /// # Errors
    /// `INVALID_IMAGE` when it claims to be longer than it is.
    pub fn new(mut bytes: Vec<u8>) -> Result<Self, CUresult> {
        let len = bytes.len();
        let claimed = if u32_at(&bytes, 0) == Some(FATBIN) {
            fatbin_len(&bytes)
        } else if bytes.starts_with(b"\x7fELF") {
            elf_len(&bytes)
        } else if bytes.is_empty() {
            None
        } else {
            Some(len as u64)
        };
        match claimed {
            Some(claimed) if claimed <= len as u64 => {
                bytes.resize(len.saturating_add(PADDING), 0);
                Ok(Self { bytes, len })
            }
            _ => Err(CUresult::INVALID_IMAGE),
        }
    }

    /// Address of the image, which zero bytes follow.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    /// Bytes of the image without what follows it.
    pub fn byte_count(&self) -> usize {
        self.len
    }

    /// Whether code in the image prints. Unpacks what is compressed.
    pub fn prints(&self) -> bool {
        let image = self.bytes.get(..self.len).unwrap_or(&[]);
        contains(image, PRINTS) || entries(image).any(|entry| entry_prints(&entry))
    }
}

struct Entry<'a> {
    flags: u64,
    unpacked: u64,
    body: &'a [u8],
}

fn entry_prints(entry: &Entry<'_>) -> bool {
    if entry.flags & (LZ4 | ZSTD) == 0 {
        return false; // Found by the search of the whole image.
    }
    if entry.unpacked > MAX_UNPACKED {
        return true;
    }
    let text = if entry.flags & LZ4 != 0 {
        lz4_flex::block::decompress(entry.body, entry.unpacked as usize).ok()
    } else {
        let mut text = Vec::new();
        ruzstd::decoding::StreamingDecoder::new(entry.body)
            .ok()
            .and_then(|decoder| {
                decoder
                    .take(entry.unpacked)
                    .read_to_end(&mut text)
                    .ok()
                    .map(|_| text)
            })
    };
    // What cannot be read here may still be read by the driver.
    text.is_none_or(|text| contains(&text, PRINTS))
}

fn entries(image: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    let mut rest = match (u32_at(image, 0), u16_at(image, 6)) {
        (Some(FATBIN), Some(header)) => image.get(usize::from(header)..).unwrap_or(&[]),
        _ => &[],
    };
    std::iter::from_fn(move || {
        let header = u32_at(rest, 4)? as usize;
        let padded = usize::try_from(u64_at(rest, 8)?).ok()?;
        if header < 64 {
            return None;
        }
        let next = header.checked_add(padded)?;
        let body = rest.get(header..next)?;
        let packed = u32_at(rest, 16)? as usize;
        let entry = Entry {
            flags: u64_at(rest, 40)?,
            unpacked: u64_at(rest, 56)?,
            body: body.get(..packed).filter(|_| packed > 0).unwrap_or(body),
        };
        rest = rest.get(next..)?;
        Some(entry)
    })
}

fn fatbin_len(image: &[u8]) -> Option<u64> {
    u64::from(u16_at(image, 6)?).checked_add(u64_at(image, 8)?)
}

/// End of everything that the headers of a 64-bit ELF file point to.
fn elf_len(image: &[u8]) -> Option<u64> {
    const NOBITS: u32 = 8;
    // 64-bit, little-endian.
    if image.get(4..6)? != [2, 1] {
        return None;
    }
    let table_end = |offset: usize, entry: usize, count: usize| -> Option<u64> {
        let (start, size, count) = (
            u64_at(image, offset)?,
            u64::from(u16_at(image, entry)?),
            u64::from(u16_at(image, count)?),
        );
        start.checked_add(size.checked_mul(count)?)
    };
    let mut end = 64.max(table_end(32, 54, 56)?).max(table_end(40, 58, 60)?);
    let (sections, size, count) = (
        usize::try_from(u64_at(image, 40)?).ok()?,
        usize::from(u16_at(image, 58)?),
        usize::from(u16_at(image, 60)?),
    );
    for index in 0..count {
        let at = sections.checked_add(size.checked_mul(index)?)?;
        let header = image.get(at..)?;
        if u32_at(header, 4)? != NOBITS {
            end = end.max(u64_at(header, 24)?.checked_add(u64_at(header, 32)?)?);
        }
    }
    Some(end)
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}
fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatbin(flags: u64, body: &[u8], unpacked: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(FATBIN.to_le_bytes());
        bytes.extend([1, 0, 16, 0]);
        bytes.extend((64 + body.len() as u64).to_le_bytes());
        let mut entry = [0_u8; 64];
        entry[0] = 1;
        entry[4] = 64;
        entry[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
        entry[16..20].copy_from_slice(&(body.len() as u32).to_le_bytes());
        entry[40..48].copy_from_slice(&flags.to_le_bytes());
        entry[56..64].copy_from_slice(&(unpacked as u64).to_le_bytes());
        bytes.extend(entry);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn finds_printing_code_in_text_and_compressed_entries() {
        let text = b".extern .func (.param .b32 r) vprintf ( .param .b64 a );".repeat(3);
        let packed = lz4_flex::block::compress(&text);
        for (image, prints) in [
            (text.clone(), true),
            (b".version 8.0".to_vec(), false),
            (fatbin(0, &text, 0), true),
            (fatbin(LZ4, &packed, text.len()), true),
            (
                fatbin(LZ4, &lz4_flex::block::compress(b"nothing here"), 12),
                false,
            ),
        ] {
            assert_eq!(Image::new(image).unwrap().prints(), prints);
        }
    }

    #[test]
    fn refuses_images_that_claim_more_than_there_is() {
        let mut long = fatbin(0, b"x", 0);
        long[8] = 0xff;
        assert_eq!(Image::new(long).err(), Some(CUresult::INVALID_IMAGE));
        let mut elf = vec![0; 128];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[40] = 64; // One section header at 64 …
        elf[58] = 64;
        elf[60] = 1;
        elf[64 + 32] = 1; // … whose section is one byte …
        elf[64 + 24] = 255; // … beyond the end.
        assert_eq!(Image::new(elf.clone()).err(), Some(CUresult::INVALID_IMAGE));
        elf[64 + 24] = 3;
        assert!(Image::new(elf).is_ok());
        assert_eq!(Image::new(Vec::new()).err(), Some(CUresult::INVALID_IMAGE));
    }

    #[test]
    fn text_is_terminated() {
        let image = Image::new(b".version 8.0".to_vec()).unwrap();
        assert_eq!(image.bytes.get(image.byte_count()), Some(&0));
    }
}
