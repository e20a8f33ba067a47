//! How long to sleep between two looks at the queues of a device without interrupts.

use std::time::Duration;

/// Shortest sleep.
const SHORTEST: Duration = Duration::from_micros(50);
/// Longest sleep.
const LONGEST: Duration = Duration::from_millis(5);

/// A sleep that grows by half while nothing happens.
#[derive(Debug)]
pub struct Nap(Duration);

impl Nap {
    /// The shortest.
    #[must_use]
    pub fn new() -> Nap {
        Nap(SHORTEST)
    }

    /// Something happened.
    pub fn reset(&mut self) {
        self.0 = SHORTEST;
    }

    /// How long to sleep now. The next one is longer.
    pub fn take(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now + now / 2).min(LONGEST);
        now
    }
}

impl Default for Nap {
    fn default() -> Self {
        Nap::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_to_a_limit_and_start_over() {
        let mut nap = Nap::new();
        let first = nap.take();
        assert_eq!(first, SHORTEST);
        let mut last = first;
        for _ in 0..20 {
            let now = nap.take();
            assert!(now >= last);
            last = now;
        }
        assert_eq!(last, LONGEST);
        nap.reset();
        assert_eq!(nap.take(), SHORTEST);
    }
}
