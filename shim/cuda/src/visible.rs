//! `CUDA_VISIBLE_DEVICES`: which of the backend's devices the program sees, and in which order.
//!
//! CUDA's rules: unset shows all; a list of ordinals or `GPU-` UUID prefixes, in the order given;
//! the list ends at the first entry that names no device (so an empty text or `-1` hides all); a
//! prefix that fits several devices hides all. A device that is named twice makes `cuInit` fail with
//! `INVALID_DEVICE` (seen with driver 580).

use vgpu_protocol::cuda::CUresult;

/// Ordinals of the backend's devices that are visible, in the program's order.
///
/// # Errors
/// `INVALID_DEVICE` when a device is named twice.
pub fn visible(setting: Option<&str>, uuids: &[[u8; 16]]) -> Result<Vec<usize>, CUresult> {
    let Some(setting) = setting else {
        return Ok((0..uuids.len()).collect());
    };
    let mut chosen = Vec::new();
    for entry in setting.split(',') {
        match parse(entry.trim(), uuids) {
            Entry::Device(ordinal) if chosen.contains(&ordinal) => {
                return Err(CUresult::INVALID_DEVICE);
            }
            Entry::Device(ordinal) => chosen.push(ordinal),
            Entry::Ambiguous => return Ok(Vec::new()),
            Entry::Nothing => break,
        }
    }
    Ok(chosen)
}

enum Entry {
    Device(usize),
    Ambiguous,
    Nothing,
}

fn parse(entry: &str, uuids: &[[u8; 16]]) -> Entry {
    if let Some(prefix) = entry.strip_prefix("GPU-") {
        let prefix = prefix.to_ascii_lowercase();
        let mut fitting = uuids
            .iter()
            .enumerate()
            .filter(|(_, uuid)| !prefix.is_empty() && text(uuid).starts_with(&prefix));
        return match (fitting.next(), fitting.next()) {
            (Some((ordinal, _)), None) => Entry::Device(ordinal),
            (Some(_), Some(_)) => Entry::Ambiguous,
            (None, _) => Entry::Nothing,
        };
    }
    // As atoi does: leading digits count, what follows does not.
    let digits: String = entry.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<usize>() {
        Ok(ordinal) if ordinal < uuids.len() => Entry::Device(ordinal),
        _ => Entry::Nothing,
    }
}

/// A UUID as NVIDIA's tools print it, without the `GPU-`.
fn text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 16] = [0xab, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    const B: [u8; 16] = [0xab, 0xce, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];

    fn of(setting: &str) -> Vec<usize> {
        visible(Some(setting), &[A, B]).unwrap()
    }

    #[test]
    fn unset_shows_all_and_empty_none() {
        assert_eq!(visible(None, &[A, B]).unwrap(), [0, 1]);
        assert!(of("").is_empty());
        assert!(of("-1").is_empty());
    }

    #[test]
    fn ordinals_reorder_and_end_at_the_first_bad_one() {
        assert_eq!(of("1,0"), [1, 0]);
        assert_eq!(of("1,-1,0"), [1]);
        assert_eq!(of("0,7,1"), [0]);
    }

    #[test]
    fn a_device_named_twice_is_an_error() {
        for setting in ["0,0", "1,0,1", "0,GPU-abcd"] {
            let seen = visible(Some(setting), &[A, B]);
            assert_eq!(seen, Err(CUresult::INVALID_DEVICE), "{setting}");
        }
        assert_eq!(of("0,7,0"), [0]);
    }

    #[test]
    fn uuids_and_their_unique_prefixes_name_devices() {
        assert_eq!(of("GPU-abcd0102-0304-0506-0708-090a0b0c0d0e"), [0]);
        assert_eq!(of("GPU-abce"), [1]);
        assert!(of("GPU-ab").is_empty(), "ambiguous");
        assert!(of("GPU-ff").is_empty());
        assert!(of("GPU-").is_empty());
    }
}
