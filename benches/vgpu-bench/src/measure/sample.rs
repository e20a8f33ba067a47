//! Ways of turning calls into samples.

use std::time::{Duration, Instant};

use super::Samples;
use crate::cuda::Failure;

/// A duration as a sample.
pub fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// Times one run of `work`.
pub fn time(work: impl FnOnce() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}

/// Nanoseconds of each of `count` calls, after `warm_up` untimed ones.
pub fn each(
    warm_up: usize,
    count: usize,
    mut call: impl FnMut() -> Result<(), Failure>,
) -> Samples {
    for _ in 0..warm_up {
        call()?;
    }
    (0..count)
        .map(|_| time(&mut call).map(nanoseconds))
        .collect()
}

/// Nanoseconds per call of `bursts` bursts of `size` calls, with an untimed `settle` after each, so
/// that no burst meets the work of the one before. The first burst is warm-up.
pub fn bursts(
    bursts: usize,
    size: usize,
    mut call: impl FnMut() -> Result<(), Failure>,
    mut settle: impl FnMut() -> Result<(), Failure>,
) -> Samples {
    let mut samples = Vec::with_capacity(bursts);
    for burst in 0..=bursts {
        let took = time(|| (0..size).try_for_each(|_| call()))?;
        settle()?;
        if burst > 0 {
            samples.push(nanoseconds(took) / size as f64);
        }
    }
    Ok(samples)
}

/// Per second, from nanoseconds for one.
pub fn per_second(samples: Vec<f64>) -> Vec<f64> {
    samples
        .into_iter()
        .map(|nanoseconds| 1e9 / nanoseconds)
        .collect()
}

/// Bytes per second, from the nanoseconds that `bytes` took.
pub fn bytes_per_second(bytes: usize, samples: Vec<f64>) -> Vec<f64> {
    samples
        .into_iter()
        .map(|nanoseconds| bytes as f64 * 1e9 / nanoseconds)
        .collect()
}

/// Bytes without a pattern, different for every seed: zeros would hide what was never written.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    // Xorshift needs a state other than zero.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Compares what arrived with what was sent.
pub fn same(got: &[u8], expected: &[u8], what: &str) -> Result<(), Failure> {
    if got == expected {
        return Ok(());
    }
    let at = got
        .iter()
        .zip(expected)
        .position(|(a, b)| a != b)
        .unwrap_or(got.len());
    Err(Failure::Content(format!(
        "{what} differs from byte {at} of {}",
        expected.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn bursts_settle_after_each_and_drop_the_first() {
        let (calls, settled) = (Cell::new(0), Cell::new(0));
        let count = |counter: &Cell<usize>| {
            counter.set(counter.get() + 1);
            Ok(())
        };
        let samples = bursts(3, 5, || count(&calls), || count(&settled)).expect("no failure");
        assert_eq!((samples.len(), calls.get(), settled.get()), (3, 20, 4));
    }

    #[test]
    fn a_failure_ends_the_measurement() {
        let failing = || Err(Failure::Missing("cuX"));
        assert_eq!(each(0, 5, failing), Err(Failure::Missing("cuX")));
    }

    #[test]
    fn noise_depends_on_the_seed_and_has_the_length() {
        assert_eq!(noise(13, 1).len(), 13);
        assert_ne!(noise(64, 1), noise(64, 2));
        assert_eq!(noise(64, 5), noise(64, 5));
    }

    #[test]
    fn a_difference_is_located() {
        let error = same(&[1, 2, 4], &[1, 2, 3], "a copy").expect_err("different");
        assert_eq!(
            error.to_string(),
            "wrong content: a copy differs from byte 2 of 3"
        );
    }

    #[test]
    fn rates() {
        assert_eq!(per_second(vec![1000.0]), [1e6]);
        assert_eq!(bytes_per_second(500, vec![1000.0]), [5e8]);
    }
}
