//! `VGPU_STATS=1`: what the calls of this process did, said when it ends. Per exported function: calls, how many crossed to
//! the worker, how many waited, and the time spent in them; and what copies moved. It goes where the log goes, standard
//! error or a file, whether or not `VGPU_LOG` asks for more.
//!
//! Without the variable each count costs one load of a static. With it, a call costs two looks at the clock and a lock.

use crate::client::{self, Client};
use crate::{environment, log};
use core::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_channel::shm;

/// Nobody has looked at the environment yet.
const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// The process that is counted: a child that it forks has other calls.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// What one function did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Row {
    calls: u64,
    crossed: u64,
    waited: u64,
    time: Duration,
}

static ROWS: Mutex<BTreeMap<&'static str, Row>> = Mutex::new(BTreeMap::new());

/// What the host side of a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostSide {
    /// Memory that the worker and the device share.
    Pinned,
    /// The program's own.
    Pageable,
}

/// Copies of one kind.
#[derive(Debug)]
struct Copies {
    /// How many.
    count: AtomicU64,
    /// Bytes that the program asked for.
    bytes: AtomicU64,
}

impl Copies {
    const fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

static PINNED: Copies = Copies::new();
static PAGEABLE: Copies = Copies::new();

/// Bytes that CPUs of this process copied for copies of either kind.
static COPIED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Records sent by this thread.
    static CROSSED: Cell<u64> = const { Cell::new(0) };
    /// Waits of this thread, for an answer or for the device.
    static WAITED: Cell<u64> = const { Cell::new(0) };
}

/// Whether anything is counted.
#[inline]
fn on() -> bool {
    STATE.load(Ordering::Relaxed) == ON
}

/// A call that has begun.
#[derive(Debug)]
pub struct Begun {
    at: Instant,
    crossed: u64,
    waited: u64,
}

/// Begins a call; nothing if nothing is counted.
#[inline]
pub fn begin() -> Option<Begun> {
    if STATE.load(Ordering::Relaxed) == OFF {
        return None;
    }
    begin_counting()
}

#[cold]
fn begin_counting() -> Option<Begun> {
    if STATE.load(Ordering::Relaxed) == UNKNOWN {
        let state = if environment::flag("VGPU_STATS") {
            PROCESS.store(std::process::id(), Ordering::Relaxed);
            shm::count_copies();
            ON
        } else {
            OFF
        };
        STATE.store(state, Ordering::Relaxed);
    }
    on().then(|| Begun {
        at: Instant::now(),
        crossed: CROSSED.get(),
        waited: WAITED.get(),
    })
}

/// Ends a call of `name`.
#[cold]
pub fn end(name: &'static str, begun: &Begun) {
    let time = begun.at.elapsed();
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    let row = rows.entry(name).or_default();
    row.calls += 1;
    row.crossed += u64::from(CROSSED.get() != begun.crossed);
    row.waited += u64::from(WAITED.get() != begun.waited);
    row.time += time;
}

/// Notes that the calling thread has sent a record.
#[inline]
pub fn crossed() {
    if on() {
        CROSSED.set(CROSSED.get() + 1);
    }
}

/// Notes that the calling thread waits for an answer or for the device.
#[inline]
pub fn waits() {
    if on() {
        WAITED.set(WAITED.get() + 1);
    }
}

/// Notes a copy that the program asked for.
#[inline]
pub fn copy(side: HostSide, bytes: u64) {
    if on() {
        let copies = match side {
            HostSide::Pinned => &PINNED,
            HostSide::Pageable => &PAGEABLE,
        };
        copies.count.fetch_add(1, Ordering::Relaxed);
        copies.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Notes bytes that a CPU of this process copied for a copy.
#[inline]
pub fn copied_by_cpu(bytes: u64) {
    if on() {
        COPIED.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Says everything, when the process ends: behind its exit handlers, in which calls are still made.
extern "C" fn report() {
    if on() && PROCESS.load(Ordering::Relaxed) == std::process::id() {
        // A panic must not leave through the C library.
        let _ = std::panic::catch_unwind(say);
    }
}

#[used]
// SAFETY: the loader calls what stands in this section once, without arguments, when the process ends.
#[unsafe(link_section = ".fini_array")]
static REPORT: extern "C" fn() = report;

fn say() {
    let rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    for line in table(&rows) {
        log::always(format_args!("{line}"));
    }
    for (name, copies) in [("pinned", &PINNED), ("pageable", &PAGEABLE)] {
        log::always(format_args!(
            "copies from and to {name} memory: {}, of {} bytes",
            copies.count.load(Ordering::Relaxed),
            copies.bytes.load(Ordering::Relaxed)
        ));
    }
    log::always(format_args!(
        "bytes copied by CPUs of this process: {} for these copies; {} between its own and shared memory in all, records and answers included",
        COPIED.load(Ordering::Relaxed),
        shm::copied_bytes()
    ));
    if let Some(counters) = client::connected().and_then(Client::counters) {
        log::always(format_args!(
            "bytes copied by CPUs of the worker: {} between its own and shared memory in all",
            counters.copied
        ));
    }
}

/// The rows, those that took most time first.
fn table(rows: &BTreeMap<&'static str, Row>) -> Vec<String> {
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by_key(|(_, row)| core::cmp::Reverse(row.time));
    let mut lines = vec![format!(
        "{:<40} {:>10} {:>10} {:>10} {:>14}",
        "function", "calls", "crossed", "waited", "time in µs"
    )];
    lines.extend(sorted.into_iter().map(|(name, row)| {
        format!(
            "{name:<40} {:>10} {:>10} {:>10} {:>14.1}",
            row.calls,
            row.crossed,
            row.waited,
            row.time.as_secs_f64() * 1e6
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_time() {
        let row = |micros| Row {
            calls: 3,
            crossed: 2,
            waited: 1,
            time: Duration::from_micros(micros),
        };
        let rows = BTreeMap::from([("cuA", row(5)), ("cuB", row(7000))]);
        let words: Vec<Vec<String>> = table(&rows)
            .iter()
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        assert_eq!(
            words,
            [
                ["cuB", "3", "2", "1", "7000.0"],
                ["cuA", "3", "2", "1", "5.0"]
            ]
        );
    }
}
