//! What is kept of many samples, and of several rounds.

/// The distribution of the samples of one metric in one process, in the metric's unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Half of the samples are below.
    pub median: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// Nine tenths of the samples are at or below.
    pub p90: f64,
    /// Number of samples.
    pub count: usize,
}

impl Summary {
    /// Summarises samples; `None` if there are none or one is not a finite number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let p90 = *sorted.get((sorted.len() * 9).div_ceil(10).checked_sub(1)?)?;
        let count = sorted.len();
        Some(Self {
            median: median(&sorted)?,
            min,
            max,
            p90,
            count,
        })
    }
}

/// The smallest of sorted samples that `part` per cent of them do not exceed; `None` if there are none.
pub fn percentile(sorted: &[f64], part: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * part / 100.0).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The median of sorted numbers: the middle one, or the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get((sorted.len() / 2).checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

/// Several rounds of one metric on one side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounds {
    /// Median of the rounds' medians.
    pub median: f64,
    /// Smallest sample of all rounds.
    pub min: f64,
    /// Largest sample of all rounds.
    pub max: f64,
    /// Largest minus smallest of the rounds' medians, relative to their median: differences below
    /// it are noise. 0 for a single round.
    pub spread: f64,
}

impl Rounds {
    /// Combines rounds; `None` if there are none.
    pub fn of(rounds: &[Summary]) -> Option<Self> {
        let medians: Vec<f64> = rounds.iter().map(|round| round.median).collect();
        let of_medians = Summary::of(&medians)?;
        let spread = if of_medians.median > 0.0 {
            (of_medians.max - of_medians.min) / of_medians.median
        } else {
            0.0
        };
        Some(Self {
            median: of_medians.median,
            min: rounds
                .iter()
                .map(|round| round.min)
                .fold(f64::INFINITY, f64::min),
            max: rounds
                .iter()
                .map(|round| round.max)
                .fold(f64::NEG_INFINITY, f64::max),
            spread,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_of_samples_has_a_middle_one() {
        let summary = Summary::of(&[3.0, 1.0, 2.0]).expect("samples");
        assert_eq!(
            (summary.median, summary.min, summary.max, summary.count),
            (2.0, 1.0, 3.0, 3)
        );
    }

    #[test]
    fn an_even_number_of_samples_takes_the_mean_of_the_middle() {
        assert_eq!(
            Summary::of(&[4.0, 1.0, 2.0, 8.0]).expect("samples").median,
            3.0
        );
    }

    #[test]
    fn the_ninetieth_percentile_is_a_sample() {
        let samples: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(Summary::of(&samples).expect("samples").p90, 9.0);
        assert_eq!(Summary::of(&[7.0]).expect("a sample").p90, 7.0);
    }

    #[test]
    fn percentiles_are_samples() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        let shown: Vec<_> = [0.0, 10.0, 50.0, 99.0, 100.0]
            .map(|part| percentile(&sorted, part).expect("samples"))
            .to_vec();
        assert_eq!(shown, [1.0, 20.0, 100.0, 198.0, 200.0]);
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn no_samples_and_nonsense_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::of(&[f64::INFINITY]), None);
    }

    #[test]
    fn rounds_keep_the_extremes_and_the_spread_of_the_medians() {
        let round = |median, min, max| Summary {
            median,
            min,
            max,
            p90: max,
            count: 5,
        };
        let rounds = [
            round(10.0, 9.0, 30.0),
            round(12.0, 8.0, 20.0),
            round(11.0, 10.0, 12.0),
        ];
        let combined = Rounds::of(&rounds).expect("rounds");
        assert_eq!(
            (combined.median, combined.min, combined.max),
            (11.0, 8.0, 30.0)
        );
        assert!((combined.spread - 2.0 / 11.0).abs() < 1e-12);
        assert_eq!(Rounds::of(&rounds[..1]).expect("a round").spread, 0.0);
        assert_eq!(Rounds::of(&[]), None);
    }
}
