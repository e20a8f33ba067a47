//! A program that means harm: it writes over every segment of its channel while its calls go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cuda::Cuda;
use crate::say;
use crate::work::Worker;

/// What the shim calls the memory files of a channel, `transport/channel/src/segment.rs`.
const SEGMENT: &str = "/memfd:vgpu-segment";

/// Scribbles for `time`, then ends the process without a word to the driver.
pub fn run(cuda: &Cuda, time: Duration) -> ! {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut worker = Worker::new(cuda).ok();
            say("ready");
            // Without a channel it tries to get one, which is work for the agent and the host too.
            while let Some(working) = &mut worker {
                if working.round("launch").is_err() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        scope.spawn(|| {
            while segments().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // A moment of honest work first: the channel is in use then.
            std::thread::sleep(Duration::from_millis(500));
            let bytes = scribble(&segments(), time);
            say(&format!("scribbled {bytes}"));
            // SAFETY: ends the process; nothing runs after it.
            unsafe { libc::_exit(0) }
        });
    });
    unreachable!("the second thread ends the process")
}

/// Writes random words over `segments`, at first a few at a time, then all of them over and over; returns how many bytes.
fn scribble(segments: &[(usize, usize)], time: Duration) -> u64 {
    let start = Instant::now();
    let mut state = u64::from(std::process::id()) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = 0;
    while start.elapsed() < time {
        let sparse = start.elapsed() < time / 2;
        for &(address, len) in segments {
            let mut at = 0;
            while at < len {
                let word = random();
                // SAFETY: an aligned word of a mapping that the shim holds until the process ends; atomic, as others use
                // it. What it does to this process's own driver is the point of the exercise.
                let place = unsafe { AtomicU64::from_ptr((address + at) as *mut u64) };
                // Small numbers and single bits go deeper than noise does.
                let value = match word >> 62 {
                    0 => word,
                    1 => place.load(Ordering::Relaxed) ^ (1 << (word & 63)),
                    2 => word & 0xff,
                    _ => place.load(Ordering::Relaxed).wrapping_add(word & 0xfff),
                };
                place.store(value, Ordering::Relaxed);
                bytes += 8;
                at += if sparse {
                    8 * (1 + (word >> 32) as usize % 512)
                } else {
                    8
                };
            }
        }
    }
    bytes
}

/// Start and bytes of each writable mapping of a segment.
fn segments() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter(|line| line.contains(SEGMENT) && line.contains(" rw-s "))
        .filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let start = usize::from_str_radix(start, 16).ok()?;
            Some((start, usize::from_str_radix(end, 16).ok()? - start))
        })
        .collect()
}
