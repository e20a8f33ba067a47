//! Facts about the machine that numbers are meaningless without.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Model of the first CPU, or `unknown`.
pub fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    model_in(&text).unwrap_or("unknown").to_owned()
}

fn model_in(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

/// Release of the running kernel, or `unknown`.
pub fn kernel() -> String {
    first_line("/proc/sys/kernel/osrelease")
}

/// Release of NVIDIA's kernel module, or `unknown` where there is none.
pub fn driver_release() -> String {
    let line = first_line("/proc/driver/nvidia/version");
    release_in(&line).unwrap_or("unknown").to_owned()
}

/// The word of digits and dots in the first line of the module's version file.
fn release_in(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| {
        word.contains('.')
            && word
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn first_line(path: impl AsRef<Path>) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// Now, in UTC, as `2026-01-31 23:59`.
pub fn now() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |past| past.as_secs());
    utc(seconds)
}

/// Seconds since 1970 as a date and time of the Gregorian calendar.
fn utc(seconds: u64) -> String {
    let (mut days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "{year}-{month:02}-{:02} {:02}:{:02}",
        days + 1,
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00");
        assert_eq!(utc(1_767_225_540), "2025-12-31 23:59");
        assert_eq!(utc(1_767_225_600), "2026-01-01 00:00");
    }

    #[test]
    fn the_driver_release_is_found_in_both_flavours() {
        let open =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build";
        assert_eq!(release_in(open), Some("580.95.05"));
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12";
        assert_eq!(release_in(closed), Some("535.183.01"));
        assert_eq!(release_in("nothing. here"), None);
    }

    #[test]
    fn the_cpu_model_is_found() {
        let text = "processor\t: 0\nmodel name\t: A CPU @ 2.0GHz\nmodel name\t: B\n";
        assert_eq!(model_in(text), Some("A CPU @ 2.0GHz"));
        assert_eq!(model_in(""), None);
    }
}
