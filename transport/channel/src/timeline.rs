//! Timeline words: monotonic 32-bit counters in the heap, one per stream, each on its own cache line.
//!
//! A word is written by the device or by the server and only grows, modulo 2^32. Two positions are compared by the sign
//! of their difference, which is right while they are less than 2^31 apart; the ring bounds the commands in flight to
//! far less.

/// Bytes that one timeline word takes: a cache line, so that two streams never share one.
pub const WORD_BYTES: u64 = 64;

/// Whether a timeline that reads `word` has reached `target`, across the wrap at 2^32.
#[must_use]
pub const fn reached(word: u32, target: u32) -> bool {
    word.wrapping_sub(target) as i32 >= 0
}

/// Whether `a` lies before `b` on a timeline, across the wrap at 2^32.
#[must_use]
pub const fn before(a: u32, b: u32) -> bool {
    !reached(a, b)
}

/// The later one of two positions of one timeline.
#[must_use]
pub const fn later(a: u32, b: u32) -> u32 {
    if reached(a, b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_across_the_wrap() {
        assert!(reached(5, 5));
        assert!(reached(6, 5));
        assert!(!reached(4, 5));
        assert!(reached(3, u32::MAX - 3));
        assert!(!reached(u32::MAX - 3, 3));
        assert!(before(u32::MAX, 0));
        assert_eq!(later(u32::MAX, 1), 1);
        assert_eq!(later(1, u32::MAX), 1);
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_wide_counters(start in 0u64..u64::from(u32::MAX) * 3, ahead in 0u64..(1 << 31)) {
            let (earlier, later_position) = (start as u32, (start + ahead) as u32);
            proptest::prop_assert!(reached(later_position, earlier));
            proptest::prop_assert_eq!(reached(earlier, later_position), ahead == 0);
        }
    }
}
