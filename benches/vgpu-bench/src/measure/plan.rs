//! How much of everything.

use std::time::Duration;

/// Sizes and repetitions of one run of the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Single calls timed one by one.
    pub calls: usize,
    /// Bursts timed.
    pub bursts: usize,
    /// Launches in a burst: no more than half of the shim's ring, and far below the thousand or so
    /// launches after which a native stream makes its caller wait.
    pub burst: usize,
    /// Launches in a row that are too many for any queue to hide.
    pub sustained: usize,
    /// How often those are repeated.
    pub sustained_repeats: usize,
    /// Calls between two readings of the clock where one call is shorter than reading it.
    pub local_calls: usize,
    /// Sizes of small copies in bytes.
    pub small: &'static [usize],
    /// Sizes of large copies in bytes.
    pub large: &'static [usize],
    /// Large copies timed one by one.
    pub large_repeats: usize,
    /// Nodes of the graph.
    pub nodes: usize,
    /// Threads, and streams of each.
    pub threads: usize,
    /// Streams of each thread.
    pub streams: usize,
    /// Launches of each thread.
    pub thread_launches: usize,
    /// Record, wait and launch triples in a row.
    pub events: usize,
    /// How long the kernel runs behind which a copy is enqueued.
    pub busy: Duration,
    /// Copies enqueued behind it, one at a time.
    pub busy_repeats: usize,
    /// How long nothing is done.
    pub idle: Duration,
}

impl Plan {
    /// What is published.
    pub const fn full() -> Self {
        Self {
            calls: 2_000,
            bursts: 200,
            burst: 500,
            sustained: 100_000,
            sustained_repeats: 3,
            local_calls: 10_000,
            small: &[4, 64, 4 << 10, 16 << 10, 64 << 10],
            large: &[64 << 20, 256 << 20],
            large_repeats: 15,
            nodes: 100,
            threads: 4,
            streams: 4,
            thread_launches: 25_000,
            events: 10_000,
            busy: Duration::from_millis(2),
            busy_repeats: 50,
            idle: Duration::from_secs(2),
        }
    }

    /// Enough to see that everything works, also on the software device: its numbers mean nothing.
    pub const fn quick() -> Self {
        Self {
            calls: 10,
            bursts: 3,
            burst: 20,
            sustained: 200,
            sustained_repeats: 1,
            local_calls: 50,
            small: &[4, 64, 4 << 10, 16 << 10, 64 << 10],
            large: &[1 << 20],
            large_repeats: 2,
            nodes: 10,
            threads: 4,
            streams: 4,
            thread_launches: 40,
            events: 20,
            busy: Duration::from_micros(200),
            busy_repeats: 2,
            idle: Duration::from_millis(100),
        }
    }

    /// The full or the quick plan.
    pub const fn new(quick: bool) -> Self {
        if quick { Self::quick() } else { Self::full() }
    }

    /// Calls made before the first is timed.
    pub fn warm_up(&self) -> usize {
        self.calls.div_ceil(10)
    }
}
