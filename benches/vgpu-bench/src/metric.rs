//! What a number means, how it is written, and what it is to be.

/// Unit of a metric's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds; less is better.
    Nanoseconds,
    /// Operations per second; more is better.
    PerSecond,
    /// Bytes per second; more is better.
    BytesPerSecond,
    /// Per cent of one CPU; less is better.
    PercentOfCpu,
}

impl Unit {
    /// Word for the raw file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::PerSecond => "1/s",
            Self::BytesPerSecond => "B/s",
            Self::PercentOfCpu => "%cpu",
        }
    }

    /// Whether a larger value is the better one.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::BytesPerSecond)
    }

    /// A value for people, with three digits where that makes sense.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Nanoseconds if value < 1e3 => format!("{} ns", three_digits(value)),
            Self::Nanoseconds if value < 1e6 => format!("{} µs", three_digits(value / 1e3)),
            Self::Nanoseconds if value < 1e9 => format!("{} ms", three_digits(value / 1e6)),
            Self::Nanoseconds => format!("{} s", three_digits(value / 1e9)),
            Self::PerSecond if value < 1e3 => format!("{}/s", three_digits(value)),
            Self::PerSecond if value < 1e6 => format!("{} k/s", three_digits(value / 1e3)),
            Self::PerSecond => format!("{} M/s", three_digits(value / 1e6)),
            Self::BytesPerSecond => format!("{} GB/s", three_digits(value / 1e9)),
            Self::PercentOfCpu => format!("{value:.2} %"),
        }
    }
}

/// Three significant digits, but no fewer than the integer part has.
fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        // The bounds are where rounding would add a digit before the point.
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// What the shim's median is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Nothing is promised; the row is there to be seen.
    None,
    /// At most this many times native.
    RatioAtMost(f64),
    /// At least this many times native.
    RatioAtLeast(f64),
    /// At most this, in the metric's unit.
    AtMost(f64),
}

impl Target {
    /// The target for people.
    pub fn show(self, unit: Unit) -> String {
        match self {
            Self::None => "–".to_owned(),
            Self::RatioAtMost(ratio) => format!("≤ {ratio} ×"),
            Self::RatioAtLeast(ratio) => format!("≥ {ratio} ×"),
            Self::AtMost(value) => format!("≤ {}", unit.show(value)),
        }
    }

    /// Whether it is met; `None` if there is no target, or nothing to compare with.
    pub fn is_met(self, native: Option<f64>, shim: Option<f64>) -> Option<bool> {
        let shim = shim?;
        match self {
            Self::None => None,
            Self::AtMost(value) => Some(shim <= value),
            Self::RatioAtMost(ratio) => Some(shim <= ratio * native?),
            Self::RatioAtLeast(ratio) => Some(shim >= ratio * native?),
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Stable name in raw files: lower case, digits and underscores.
    pub id: String,
    /// Name in the table.
    pub label: String,
    /// Unit of the samples.
    pub unit: Unit,
    /// What is promised.
    pub target: Target,
}

/// A number of bytes as a label: `64 B`, `16 KiB`, `256 MiB`.
pub fn size_label(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b % (1 << 10) == 0 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

/// The same as a part of an id: `64b`, `16kib`, `256mib`.
pub fn size_id(bytes: usize) -> String {
    size_label(bytes).to_ascii_lowercase().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_choose_their_unit() {
        let show = |value| Unit::Nanoseconds.show(value);
        assert_eq!(show(8.4), "8.40 ns");
        assert_eq!(show(340.2), "340 ns");
        assert_eq!(show(8_412.0), "8.41 µs");
        assert_eq!(show(84_000.0), "84.0 µs");
        assert_eq!(show(190e6), "190 ms");
        assert_eq!(show(1.5e9), "1.50 s");
    }

    #[test]
    fn rounding_never_adds_a_fourth_digit() {
        assert_eq!(three_digits(9.996), "10.0");
        assert_eq!(three_digits(9.99), "9.99");
        assert_eq!(three_digits(99.96), "100");
    }

    #[test]
    fn rates_and_shares() {
        assert_eq!(Unit::PerSecond.show(373_134.0), "373 k/s");
        assert_eq!(Unit::PerSecond.show(2.5e6), "2.50 M/s");
        assert_eq!(Unit::BytesPerSecond.show(54.23e9), "54.2 GB/s");
        assert_eq!(Unit::PercentOfCpu.show(0.0), "0.00 %");
    }

    #[test]
    fn targets_compare_medians() {
        assert_eq!(
            Target::RatioAtMost(0.5).is_met(Some(8.0), Some(4.0)),
            Some(true)
        );
        assert_eq!(
            Target::RatioAtMost(0.5).is_met(Some(8.0), Some(4.1)),
            Some(false)
        );
        assert_eq!(
            Target::RatioAtLeast(2.0).is_met(Some(9.0), Some(18.0)),
            Some(true)
        );
        assert_eq!(
            Target::RatioAtLeast(2.0).is_met(Some(9.0), Some(17.0)),
            Some(false)
        );
        assert_eq!(Target::AtMost(20.0).is_met(None, Some(19.0)), Some(true));
    }

    #[test]
    fn without_a_number_nothing_is_met_or_missed() {
        assert_eq!(Target::RatioAtMost(1.0).is_met(None, Some(1.0)), None);
        assert_eq!(Target::AtMost(1.0).is_met(Some(1.0), None), None);
        assert_eq!(Target::None.is_met(Some(1.0), Some(1.0)), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(size_label(4), "4 B");
        assert_eq!(size_label(16 << 10), "16 KiB");
        assert_eq!(size_label(1536), "1536 B");
        assert_eq!(size_id(256 << 20), "256mib");
    }
}
