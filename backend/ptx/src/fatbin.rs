//! Finds the PTX in a module image.
//!
//! A fatbin is a header (magic `0xba55ed50`, version 1, header size, body size) followed by entries:
//! `u16` kind (1 PTX, 2 ELF) at 0, `u32` header size at 4, `u64` padded body size at 8, `u32`
//! compressed size at 16, `u32` architecture (75 for sm_75) at 28, `u64` flags at 40, `u64`
//! uncompressed size at 56. Flag `0x2000` marks an LZ4 block, `0x8000` a zstd frame. Nothing of this
//! is documented by the vendor; it was read off the output of nvcc 12 and 13.

use std::io::Read;

use crate::error::ImageError;

const MAGIC: u32 = 0xba55_ed50;
const KIND_PTX: u16 = 1;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;

/// Most bytes of PTX text accepted, after decompression. The largest seen in real modules is a few
/// megabytes.
pub const MAX_PTX_BYTES: usize = 32 << 20;

/// Takes the PTX text out of `image`, choosing in a fatbin the entry for the highest architecture
/// not above `max_sm` (80 for compute capability 8.0).
///
/// Accepts a fatbin (starting at its header, not at the wrapper that points to it; trailing bytes
/// are ignored) and PTX text, which may end at a NUL and begin with white space.
///
/// # Errors
///
/// [`ImageError::NoBinary`] for ELF images and for fatbins without PTX of a suitable architecture;
/// [`ImageError::Invalid`] for everything that is neither, or is damaged, or is larger than
/// [`MAX_PTX_BYTES`].
pub fn select_ptx(image: &[u8], max_sm: u32) -> Result<String, ImageError> {
    if image.starts_with(b"\x7fELF") {
        return Err(ImageError::NoBinary(
            "the image is machine code (ELF)".into(),
        ));
    }
    if read_u32(image, 0) == Some(MAGIC) {
        return from_fatbin(image, max_sm);
    }
    let text = text_of(image)?;
    if looks_like_ptx(&text) {
        Ok(text)
    } else {
        Err(ImageError::Invalid("neither a fatbin nor PTX text".into()))
    }
}

struct Entry<'a> {
    sm: u32,
    flags: u64,
    body: &'a [u8],
    unpacked: u64,
}

fn from_fatbin(image: &[u8], max_sm: u32) -> Result<String, ImageError> {
    let damaged = || ImageError::Invalid("damaged fatbin".into());
    let header = usize::from(read_u16(image, 6).ok_or_else(damaged)?);
    let size = usize::try_from(read_u64(image, 8).ok_or_else(damaged)?).map_err(|_| damaged())?;
    let end = header.checked_add(size).ok_or_else(damaged)?;
    let mut rest = image.get(header..end).ok_or_else(damaged)?;

    let mut best: Option<Entry<'_>> = None;
    let mut others = 0usize;
    let mut newer = None;
    while !rest.is_empty() {
        let kind = read_u16(rest, 0).ok_or_else(damaged)?;
        let head = read_u32(rest, 4).ok_or_else(damaged)? as usize;
        let padded =
            usize::try_from(read_u64(rest, 8).ok_or_else(damaged)?).map_err(|_| damaged())?;
        let next = head.checked_add(padded).ok_or_else(damaged)?;
        if head < 64 || next > rest.len() {
            return Err(damaged());
        }
        if kind == KIND_PTX {
            let sm = read_u32(rest, 28).ok_or_else(damaged)?;
            let flags = read_u64(rest, 40).ok_or_else(damaged)?;
            let packed = read_u32(rest, 16).ok_or_else(damaged)? as usize;
            let body = rest.get(head..next).ok_or_else(damaged)?;
            let body = if flags & (FLAG_LZ4 | FLAG_ZSTD) != 0 {
                body.get(..packed).ok_or_else(damaged)?
            } else {
                body
            };
            if sm > max_sm {
                newer = Some(sm);
            } else if best.as_ref().is_none_or(|b| sm > b.sm) {
                best = Some(Entry {
                    sm,
                    flags,
                    body,
                    unpacked: read_u64(rest, 56).ok_or_else(damaged)?,
                });
            }
        } else {
            others += 1;
        }
        rest = rest.get(next..).ok_or_else(damaged)?;
    }
    match (best, newer) {
        (Some(entry), _) => unpack(&entry),
        (None, Some(sm)) => Err(ImageError::NoBinary(format!(
            "the fatbin's PTX is for compute_{sm}, this device is sm_{max_sm}"
        ))),
        (None, None) => Err(ImageError::NoBinary(format!(
            "the fatbin holds {others} entries, none of them PTX"
        ))),
    }
}

fn unpack(entry: &Entry<'_>) -> Result<String, ImageError> {
    let size = usize::try_from(entry.unpacked).unwrap_or(usize::MAX);
    if entry.flags & FLAG_LZ4 != 0 {
        if size > MAX_PTX_BYTES {
            return Err(too_large());
        }
        let text = lz4_flex::block::decompress(entry.body, size)
            .map_err(|e| ImageError::Invalid(format!("damaged LZ4 block: {e}")))?;
        text_of(&text)
    } else if entry.flags & FLAG_ZSTD != 0 {
        let damaged = |e: String| ImageError::Invalid(format!("damaged zstd frame: {e}"));
        let decoder = ruzstd::decoding::StreamingDecoder::new(entry.body)
            .map_err(|e| damaged(e.to_string()))?;
        let mut text = Vec::new();
        decoder
            .take(MAX_PTX_BYTES as u64 + 1)
            .read_to_end(&mut text)
            .map_err(|e| damaged(e.to_string()))?;
        text_of(&text)
    } else {
        text_of(entry.body)
    }
}

fn too_large() -> ImageError {
    ImageError::Invalid(format!("more than {MAX_PTX_BYTES} bytes of PTX"))
}

/// The text up to the first NUL. Comments may hold any bytes, so bad UTF-8 is replaced, not refused.
fn text_of(bytes: &[u8]) -> Result<String, ImageError> {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    if end > MAX_PTX_BYTES {
        return Err(too_large());
    }
    Ok(String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned())
}

/// PTX begins with white space, a comment or a directive, and says its version near the top.
fn looks_like_ptx(text: &str) -> bool {
    let start = text.trim_start();
    (start.starts_with('.') || start.starts_with('/')) && text.contains(".version")
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)] // an index out of range is a failed test
mod tests {
    use super::*;

    const TEXT: &str = ".version 7.0\n.target sm_70\n.address_size 64\n";

    fn entry(kind: u16, sm: u32, flags: u64, body: &[u8], unpacked: usize) -> Vec<u8> {
        let padded = body.len().next_multiple_of(8);
        let mut e = vec![0u8; 64 + padded];
        e[0..2].copy_from_slice(&kind.to_le_bytes());
        e[4..8].copy_from_slice(&64u32.to_le_bytes());
        e[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
        e[16..20].copy_from_slice(&(body.len() as u32).to_le_bytes());
        e[28..32].copy_from_slice(&sm.to_le_bytes());
        e[40..48].copy_from_slice(&flags.to_le_bytes());
        e[56..64].copy_from_slice(&(unpacked as u64).to_le_bytes());
        e[64..64 + body.len()].copy_from_slice(body);
        e
    }

    fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
        let body = entries.concat();
        let mut f = Vec::new();
        f.extend(MAGIC.to_le_bytes());
        f.extend(1u16.to_le_bytes());
        f.extend(16u16.to_le_bytes());
        f.extend((body.len() as u64).to_le_bytes());
        f.extend(body);
        f
    }

    #[test]
    fn text_is_taken_up_to_nul_and_may_begin_with_white_space() {
        let image = format!("\n  {TEXT}\0garbage");
        assert_eq!(
            select_ptx(image.as_bytes(), 80).unwrap(),
            format!("\n  {TEXT}")
        );
    }

    #[test]
    fn garbage_and_elf_are_told_apart() {
        assert!(matches!(
            select_ptx(b"hello", 80),
            Err(ImageError::Invalid(_))
        ));
        assert!(matches!(select_ptx(b"", 80), Err(ImageError::Invalid(_))));
        assert!(matches!(
            select_ptx(b"\x7fELF....", 80),
            Err(ImageError::NoBinary(_))
        ));
    }

    #[test]
    fn highest_suitable_entry_wins_plain_and_lz4() {
        let new = TEXT.replace("sm_70", "sm_75");
        let packed = lz4_flex::block::compress(new.as_bytes());
        let f = fatbin(&[
            entry(2, 80, 0, b"\x7fELF", 4),
            entry(KIND_PTX, 70, 0, TEXT.as_bytes(), TEXT.len()),
            entry(KIND_PTX, 75, FLAG_LZ4, &packed, new.len()),
            entry(KIND_PTX, 90, 0, b"not for us", 10),
        ]);
        assert_eq!(select_ptx(&f, 80).unwrap(), new);
        assert_eq!(select_ptx(&f, 70).unwrap(), TEXT);
        assert!(matches!(select_ptx(&f, 60), Err(ImageError::NoBinary(_))));
    }

    #[test]
    fn zstd_entries_are_unpacked() {
        let packed = ruzstd::encoding::compress_to_vec(
            TEXT.as_bytes(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let f = fatbin(&[entry(KIND_PTX, 75, FLAG_ZSTD, &packed, TEXT.len())]);
        assert_eq!(select_ptx(&f, 80).unwrap(), TEXT);
    }

    #[test]
    fn only_elf_is_no_binary() {
        let f = fatbin(&[entry(2, 80, 0, b"\x7fELF", 4)]);
        assert!(matches!(select_ptx(&f, 80), Err(ImageError::NoBinary(_))));
    }

    #[test]
    fn every_truncation_is_an_error_or_text() {
        let packed = lz4_flex::block::compress(TEXT.as_bytes());
        let f = fatbin(&[entry(KIND_PTX, 75, FLAG_LZ4, &packed, TEXT.len())]);
        for n in 0..f.len() {
            assert!(select_ptx(&f[..n], 80).is_err());
        }
        let huge = fatbin(&[entry(KIND_PTX, 75, FLAG_LZ4, &packed, usize::MAX)]);
        assert!(matches!(select_ptx(&huge, 80), Err(ImageError::Invalid(_))));
    }
}
