//! Placing variables one behind the other.

use super::{Lowered, invalid};

/// A growing area of memory.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    size: u32,
}

impl Layout {
    /// Places `size` bytes; fails when the area would exceed `limit` bytes.
    pub(crate) fn add(&mut self, size: u64, align: u64, limit: u32) -> Lowered<u32> {
        let start = u64::from(self.size).next_multiple_of(align.clamp(1, 4096));
        match start.checked_add(size) {
            Some(end) if end <= u64::from(limit) => {
                self.size = end as u32;
                Ok(start as u32)
            }
            _ => invalid(format!(
                "{size} bytes do not fit: at most {limit} bytes exist"
            )),
        }
    }

    /// Bytes used.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Bytes used, rounded up so that something aligned to `align` may follow.
    pub(crate) fn end_aligned(&self, align: u32) -> u32 {
        if self.size == 0 {
            0
        } else {
            self.size.next_multiple_of(align.clamp(1, 4096))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_and_limit() {
        let mut layout = Layout::default();
        assert_eq!(layout.add(1, 1, 64).unwrap(), 0);
        assert_eq!(layout.add(8, 8, 64).unwrap(), 8);
        assert!(layout.add(64, 1, 64).is_err());
        assert!(layout.add(u64::MAX, 1, 64).is_err());
        assert_eq!(layout.end_aligned(16), 16);
    }
}
