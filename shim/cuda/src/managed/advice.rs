//! What a program advised about its managed memory, by ranges of pages.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Granularity of advice, as CUDA rounds ranges.
const PAGE: u64 = 4096;

/// Advice about a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Mostly read.
    pub read_mostly: bool,
    /// Best kept in host memory.
    pub prefers_host: bool,
    /// Accessed by the host.
    pub host_accesses: bool,
}

/// Advice about all managed memory. Ranges do not overlap; what is in none has no advice.
#[derive(Debug, Default)]
pub struct Advice {
    /// By their first address: the end, and what was advised.
    ranges: BTreeMap<u64, (u64, Hints)>,
}

static ADVICE: Mutex<Advice> = Mutex::new(Advice {
    ranges: BTreeMap::new(),
});

/// Runs `body` with the advice about this process's managed memory.
pub fn with<T>(body: impl FnOnce(&mut Advice) -> T) -> T {
    body(&mut ADVICE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// First address and end of the pages that hold a range.
pub fn pages(start: u64, len: u64) -> (u64, u64) {
    let end = start.saturating_add(len);
    (
        start - start % PAGE,
        end.checked_next_multiple_of(PAGE).unwrap_or(end),
    )
}

impl Advice {
    /// Changes the advice about `start .. end`.
    pub fn change(&mut self, start: u64, end: u64, change: impl Fn(&mut Hints)) {
        let mut at = start;
        for (from, to, hints) in self.take(start, end) {
            self.put(at, from, Hints::default(), &change);
            self.put(from, to, hints, &change);
            at = to;
        }
        self.put(at, end, Hints::default(), &change);
    }

    fn put(&mut self, start: u64, end: u64, mut hints: Hints, change: &impl Fn(&mut Hints)) {
        change(&mut hints);
        if start < end && hints != Hints::default() {
            self.ranges.insert(start, (end, hints));
        }
    }

    /// Takes out what lies in `start .. end`, in order; what ranges have outside stays.
    fn take(&mut self, start: u64, end: u64) -> Vec<(u64, u64, Hints)> {
        let mut touched: Vec<_> = self
            .ranges
            .range(..end)
            .rev()
            .take_while(|(_, (to, _))| *to > start)
            .map(|(from, (to, hints))| (*from, *to, *hints))
            .collect();
        touched.reverse();
        for (from, to, hints) in &mut touched {
            self.ranges.remove(from);
            if *from < start {
                self.ranges.insert(*from, (start, *hints));
                *from = start;
            }
            if *to > end {
                self.ranges.insert(end, (*to, *hints));
                *to = end;
            }
        }
        touched
    }

    /// Whether `pick` is true of all of `start .. end`.
    pub fn all(&self, start: u64, end: u64, pick: impl Fn(&Hints) -> bool) -> bool {
        let mut left = end;
        for (from, (to, hints)) in self.ranges.range(..end).rev() {
            if *to < left || !pick(hints) {
                return false;
            }
            if *from <= start {
                return true;
            }
            left = *from;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_holds_for_just_the_pages_it_was_given_for() {
        let mut advice = Advice::default();
        let (a, b, c, d) = (0x1000, 0x2000, 0x4000, 0x8000);
        let mostly = |hints: &Hints| hints.read_mostly;
        advice.change(a, d, |hints| hints.read_mostly = true);
        assert!(advice.all(a, d, mostly) && advice.all(b, c, mostly));
        assert!(!advice.all(0, d, mostly) && !advice.all(a, d + 0x1000, mostly));
        advice.change(b, c, |hints| hints.read_mostly = false);
        assert!(advice.all(a, b, mostly) && advice.all(c, d, mostly));
        assert!(!advice.all(a, d, mostly) && !advice.all(b, c, mostly));
        advice.change(a, c, |hints| hints.host_accesses = true);
        assert!(advice.all(a, c, |hints| hints.host_accesses));
        assert!(advice.all(a, b, |hints| hints.host_accesses && hints.read_mostly));
        advice.change(0, d, |hints| *hints = Hints::default());
        assert!(advice.ranges.is_empty());
    }

    #[test]
    fn ranges_are_whole_pages() {
        assert_eq!(pages(0x1001, 1), (0x1000, 0x2000));
        assert_eq!(pages(0x1000, 0x1000), (0x1000, 0x2000));
    }
}
