//! Code images: a private, complete copy of what a client loads, so that the driver never reads
//! beyond it, and what is inside.
//!
//! A fatbin is a header (magic `0xba55ed50`, version, header size, body size) and entries: `u16`
//! kind (1 PTX, 2 ELF), `u32` header size at 4, `u64` padded payload size at 8, `u32` compressed size
//! at 16, `u32` compute capability at 28 (90 for 9.0), `u64` flags at 40 (`0x2000` LZ4, `0x8000`
//! zstd), `u64` uncompressed size at 56 (`cuda-driver-facts.md` 6).

use std::io::Read;
use vgpu_protocol::cuda::CUresult;

const FATBIN: u32 = 0xba55_ed50;
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;
/// Longest image that is taken.
pub const MAX_IMAGE: u64 = 1 << 30;
const PTX: u16 = 1;
const ELF: u16 = 2;
/// Longest payload that is unpacked to look inside.
const MAX_UNPACKED: u64 = 256 << 20;
/// Zero bytes behind each image: they end a PTX text, and keep a reader of structs inside. A copy made with room for them
/// is not moved again.
pub const PADDING: usize = 64;

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

    fn content(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// Shows what devices of the compute capabilities `archs` (90 for 9.0) may execute of the image:
    /// machine code for them, and PTX unless there is code for exactly each of them. Unpacks what is
    /// compressed.
    pub fn code(&self, archs: &[u32], mut show: impl FnMut(Code<'_>)) {
        let image = self.content();
        if image.starts_with(b"\x7fELF") {
            return show(Code::Machine(image));
        }
        if u32_at(image, 0) != Some(FATBIN) {
            return show(Code::Text(image));
        }
        for entry in executed(image, archs) {
            match entry {
                Some(entry) => show_entry(&entry, &mut show),
                None => return show(Code::Unreadable),
            }
        }
    }

    /// Whether [`Image::code`] would unpack anything.
    pub fn is_packed(&self, archs: &[u32]) -> bool {
        executed(self.content(), archs)
            .flatten()
            .any(|entry| entry.is_packed())
    }
}

/// The entries of a fatbin that devices of `archs` may execute; `None` for one of an unknown kind.
fn executed<'a>(image: &'a [u8], archs: &[u32]) -> impl Iterator<Item = Option<Entry<'a>>> {
    let runs = |arch: u32, entry: &Entry<'_>| {
        entry.kind == ELF && entry.arch / 10 == arch / 10 && entry.arch <= arch
    };
    let compiled =
        |arch: &u32| entries(image).any(|entry| entry.kind == ELF && entry.arch == *arch);
    let text_too = archs.is_empty() || !archs.iter().all(compiled);
    entries(image).filter_map(move |entry| match entry.kind {
        ELF => archs
            .iter()
            .any(|arch| runs(*arch, &entry))
            .then_some(Some(entry)),
        PTX => text_too.then_some(Some(entry)),
        _ => Some(None),
    })
}

/// Code inside an image.
#[derive(Debug)]
pub enum Code<'a> {
    /// A file of machine code.
    Machine(&'a [u8]),
    /// PTX, or what is neither a fatbin nor ELF.
    Text(&'a [u8]),
    /// Something that the driver may be able to read.
    Unreadable,
}

struct Entry<'a> {
    kind: u16,
    arch: u32,
    flags: u64,
    unpacked: u64,
    body: &'a [u8],
}

impl Entry<'_> {
    fn is_packed(&self) -> bool {
        self.flags & (LZ4 | ZSTD) != 0
    }
}

fn show_entry(entry: &Entry<'_>, show: &mut impl FnMut(Code<'_>)) {
    let unpacked;
    let body = if entry.is_packed() {
        let Some(bytes) = unpack(entry) else {
            return show(Code::Unreadable);
        };
        unpacked = bytes;
        &unpacked
    } else {
        entry.body
    };
    show(if entry.kind == ELF {
        Code::Machine(body)
    } else {
        Code::Text(body)
    });
}

fn unpack(entry: &Entry<'_>) -> Option<Vec<u8>> {
    if entry.unpacked > MAX_UNPACKED {
        return None;
    }
    if entry.flags & LZ4 != 0 {
        return lz4_flex::block::decompress(entry.body, entry.unpacked as usize).ok();
    }
    let mut bytes = Vec::with_capacity(usize::try_from(entry.unpacked).ok()?);
    let decoder = ruzstd::decoding::StreamingDecoder::new(entry.body).ok()?;
    decoder.take(entry.unpacked).read_to_end(&mut bytes).ok()?;
    Some(bytes)
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
            kind: u16_at(rest, 0)?,
            arch: u32_at(rest, 28)?,
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

    fn shown(image: Vec<u8>, archs: &[u32]) -> Vec<String> {
        let mut list = Vec::new();
        Image::new(image).unwrap().code(archs, |code| {
            list.push(match code {
                Code::Machine(bytes) => format!("machine {}", String::from_utf8_lossy(bytes)),
                Code::Text(bytes) => format!("text {}", String::from_utf8_lossy(bytes)),
                Code::Unreadable => "unreadable".to_owned(),
            });
        });
        list
    }

    #[test]
    fn shows_plain_text_and_what_is_compressed() {
        let text = b"many words, many words, many words";
        let packed = lz4_flex::block::compress(text);
        let expected = ["text many words, many words, many words"];
        for image in [
            text.to_vec(),
            fatbin(0, text, 0),
            fatbin(LZ4, &packed, text.len()),
        ] {
            assert_eq!(shown(image, &[]), expected);
        }
        let too_long = MAX_UNPACKED as usize + 1;
        assert_eq!(shown(fatbin(LZ4, &packed, too_long), &[]), ["unreadable"]);
        assert_eq!(shown(fatbin(ZSTD, text, 9), &[]), ["unreadable"]);
    }

    #[test]
    fn shows_machine_code_of_the_devices_and_else_text() {
        let mut both = fatbin(0, b"text", 0);
        let mut entry = fatbin(0, b"code", 0).split_off(16);
        entry[0] = 2;
        entry[28] = 86;
        both.extend(entry);
        let body = both.len() as u64 - 16;
        both[8..16].copy_from_slice(&body.to_le_bytes());
        let text_alone = ["text text"];
        assert_eq!(shown(both.clone(), &[86]), ["machine code"]);
        assert_eq!(shown(both.clone(), &[89]), ["text text", "machine code"]);
        assert_eq!(shown(both.clone(), &[80]), text_alone);
        assert_eq!(shown(both.clone(), &[90]), text_alone);
        assert_eq!(shown(both.clone(), &[]), text_alone);
        assert_eq!(
            shown(both.clone(), &[86, 90]),
            ["text text", "machine code"]
        );
        both[16] = 8;
        assert_eq!(shown(both, &[86]), ["unreadable"]);
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
