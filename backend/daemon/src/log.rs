//! The daemon's log, and its workers'. What a worker writes may have been chosen by its client: it
//! is escaped, cut to a length and to a rate before it gets into the log.

use crate::options::LogLevel;
use crate::outlet::Outlet;
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing_subscriber::filter::LevelFilter;

/// Longest line of a worker that is logged, in bytes.
const LINE: usize = 512;
/// Lines of one worker logged within [`PERIOD`].
const LINES: u32 = 50;
/// See [`LINES`].
const PERIOD: Duration = Duration::from_secs(1);

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Starts the daemon's log on standard error; it ends with [`Outlet::finish`].
///
/// # Errors
/// Without a thread to write it.
pub fn start(level: LogLevel) -> io::Result<Outlet> {
    let outlet = Outlet::start(io::stderr())?;
    let writer = outlet.clone();
    tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_target(false)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    Ok(outlet)
}

/// Starts a worker's log on standard error, which the daemon reads; time and place are added there.
pub fn start_worker(level: LogLevel) {
    tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .with_level(false)
        .with_writer(std::io::stderr)
        .init();
}

/// A limit on what somebody outside can have logged: [`LINES`] within [`PERIOD`].
#[derive(Debug)]
pub struct Limit {
    state: Mutex<(Instant, u32, u64)>,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            state: Mutex::new((Instant::now(), 0, 0)),
        }
    }
}

impl Limit {
    /// Logs a warning, unless there were too many lately. How many were left out is said with the next one.
    pub fn warn(&self, line: fmt::Arguments<'_>) {
        if let Some(left_out) = self.take() {
            if left_out > 0 {
                tracing::warn!("{left_out} more lines not logged");
            }
            tracing::warn!("{line}");
        }
    }

    /// Whether a line may be logged, with how many before it were not.
    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, lines, left_out) = &mut *state;
        if since.elapsed() >= PERIOD {
            (*since, *lines) = (Instant::now(), 0);
        }
        if *lines >= LINES {
            *left_out += 1;
            return None;
        }
        *lines += 1;
        Some(std::mem::take(left_out))
    }
}

/// Lines from one worker on their way into the log.
#[derive(Debug)]
pub struct Relay {
    worker: u32,
    line: Vec<u8>,
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl Relay {
    /// Nothing read yet.
    pub fn new(worker: u32) -> Self {
        Self {
            worker,
            line: Vec::new(),
            since: Instant::now(),
            lines: 0,
            suppressed: 0,
        }
    }

    /// Takes what was read from the worker.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE {
                self.line.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        if self.since.elapsed() >= PERIOD {
            self.say_suppressed();
            (self.since, self.lines) = (Instant::now(), 0);
        }
        if self.lines >= LINES {
            self.suppressed += 1;
            return;
        }
        self.lines += 1;
        tracing::info!("worker {}: {}", self.worker, line.escape_ascii());
    }

    fn say_suppressed(&mut self) {
        if self.suppressed > 0 {
            let lines = std::mem::take(&mut self.suppressed);
            tracing::warn!("worker {}: {lines} more lines not logged", self.worker);
        }
    }

    /// The worker is gone.
    pub fn finish(&mut self) {
        self.end_line();
        self.say_suppressed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_complaints_is_cut() {
        let limit = Limit::default();
        let logged = (0..LINES + 7).filter(|_| limit.take().is_some()).count();
        assert_eq!(logged, LINES as usize);
        limit.state.lock().unwrap().0 -= PERIOD;
        assert_eq!((limit.take(), limit.take()), (Some(7), Some(0)));
    }

    #[test]
    fn a_flood_of_lines_is_cut() {
        let mut relay = Relay::new(1);
        relay.feed(&b"x\n".repeat(LINES as usize + 7));
        assert_eq!(relay.suppressed, 7);
        relay.feed(&vec![b'y'; 10 * LINE]);
        assert_eq!(relay.line.len(), LINE);
    }
}
