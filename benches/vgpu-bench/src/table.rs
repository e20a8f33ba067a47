//! The table: native beside shim, for the terminal and for `docs/`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::metric::Metric;
use crate::record::{Outcome, Record};
use crate::stats::{Rounds, Summary};

/// Where the table goes in a page that has other text around it.
const BEGIN: &str = "<!-- vgpu-bench: begin -->";
const END: &str = "<!-- vgpu-bench: end -->";

/// Column heads.
const HEADS: [&str; 7] = [
    "metric",
    "native: median, best",
    "shim: median, best",
    "ratio",
    "spread",
    "target",
    "ok?",
];

/// What became of one metric on one side, over all rounds.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Measured(Rounds),
    NotSupported,
    NotRun,
    Failed,
    /// No process said anything about it.
    Nothing,
}

/// Whether the shim did what was promised, for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    /// Missed by less than the rounds differ among themselves.
    MissedWithinSpread,
    NoTarget,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    metric: Metric,
    native: Cell,
    shim: Cell,
}

/// The whole comparison.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Row>,
    facts: BTreeMap<String, String>,
    remarks: Vec<String>,
}

impl Cell {
    /// A side that failed in one round has failed: the others would hide it.
    fn of(records: &[Record], id: &str) -> Self {
        let outcomes: Vec<&Outcome> = records
            .iter()
            .filter_map(|record| record.outcomes.get(id))
            .collect();
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Failed(_)))
        {
            return Self::Failed;
        }
        let summaries: Vec<Summary> = outcomes
            .iter()
            .filter_map(|outcome| outcome.summary().copied())
            .collect();
        match (Rounds::of(&summaries), outcomes.first()) {
            (Some(rounds), _) => Self::Measured(rounds),
            (None, Some(Outcome::NotSupported(_))) => Self::NotSupported,
            (None, Some(_)) => Self::NotRun,
            (None, None) => Self::Nothing,
        }
    }

    fn rounds(&self) -> Option<&Rounds> {
        match self {
            Self::Measured(rounds) => Some(rounds),
            _ => None,
        }
    }

    fn show(&self, metric: &Metric) -> String {
        let unit = metric.unit;
        match self {
            Self::Measured(rounds) => {
                let best = if unit.more_is_better() {
                    rounds.max
                } else {
                    rounds.min
                };
                format!("{}, {}", unit.show(rounds.median), unit.show(best))
            }
            Self::NotSupported => "not supported".to_owned(),
            Self::NotRun => "not run".to_owned(),
            Self::Failed => "FAILED".to_owned(),
            Self::Nothing => "–".to_owned(),
        }
    }
}

impl Row {
    /// Shim over native.
    fn ratio(&self) -> Option<f64> {
        let ratio = self.shim.rounds()?.median / self.native.rounds()?.median;
        ratio.is_finite().then_some(ratio)
    }

    /// The larger of the two sides' spreads.
    fn spread(&self) -> Option<f64> {
        let spread = |cell: &Cell| cell.rounds().map(|rounds| rounds.spread);
        match (spread(&self.native), spread(&self.shim)) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        }
    }

    fn verdict(&self) -> Verdict {
        let median = |cell: &Cell| cell.rounds().map(|rounds| rounds.median);
        let (native, shim) = (median(&self.native), median(&self.shim));
        match self.metric.target.is_met(native, shim) {
            None => Verdict::NoTarget,
            Some(true) => Verdict::Met,
            Some(false) => {
                let spread = self.spread().unwrap_or(0.0);
                let factor = if self.metric.unit.more_is_better() {
                    1.0 + spread
                } else {
                    1.0 - spread
                };
                match self
                    .metric
                    .target
                    .is_met(native, shim.map(|shim| shim * factor))
                {
                    Some(true) => Verdict::MissedWithinSpread,
                    _ => Verdict::Missed,
                }
            }
        }
    }

    fn columns(&self) -> [String; 7] {
        let verdict = match self.verdict() {
            Verdict::Met => "yes",
            Verdict::Missed => "NO",
            Verdict::MissedWithinSpread => "no (noise)",
            Verdict::NoTarget => "–",
        };
        let dash = || "–".to_owned();
        [
            self.metric.label.clone(),
            self.native.show(&self.metric),
            self.shim.show(&self.metric),
            self.ratio().map_or_else(dash, show_ratio),
            self.spread()
                .map_or_else(dash, |spread| format!("{:.0} %", spread * 100.0)),
            self.metric.target.show(self.metric.unit),
            verdict.to_owned(),
        ]
    }
}

/// A ratio with two decimals, or more where two would show none of it.
fn show_ratio(ratio: f64) -> String {
    if ratio < 0.1 {
        format!("{ratio:.4} ×")
    } else {
        format!("{ratio:.2} ×")
    }
}

impl Table {
    /// Builds the table from all processes of both sides; either may be empty.
    pub fn new(metrics: &[Metric], native: &[Record], shim: &[Record]) -> Self {
        let rows = metrics
            .iter()
            .map(|metric| Row {
                metric: metric.clone(),
                native: Cell::of(native, &metric.id),
                shim: Cell::of(shim, &metric.id),
            })
            .collect();
        let mut facts = BTreeMap::new();
        let mut remarks = Vec::new();
        for (side, records) in [("native", native), ("shim", shim)] {
            for record in records {
                for (key, value) in &record.facts {
                    facts.insert(format!("{side} {key}"), value.clone());
                }
                for metric in metrics {
                    let remark = match record.outcomes.get(&metric.id) {
                        Some(Outcome::NotSupported(why)) => format!("not supported: {why}"),
                        Some(Outcome::NotRun(why)) => format!("not run: {why}"),
                        Some(Outcome::Failed(why)) => format!("FAILED: {why}"),
                        _ => continue,
                    };
                    let remark = format!("{side}: {}: {remark}", metric.label);
                    if !remarks.contains(&remark) {
                        remarks.push(remark);
                    }
                }
            }
        }
        Self {
            rows,
            facts,
            remarks,
        }
    }

    /// Adds a fact about the machine.
    pub fn fact(&mut self, key: &str, value: String) {
        self.facts.insert(key.to_owned(), value);
    }

    /// Adds a line below the table.
    pub fn remark(&mut self, text: String) {
        self.remarks.push(text);
    }

    /// Rows in which the shim, or the only side that was measured, failed or said nothing while
    /// the other side has a number.
    pub fn failures(&self) -> usize {
        let failed = |row: &&Row| {
            row.shim == Cell::Failed
                || row.native == Cell::Failed
                || (row.shim == Cell::Nothing && row.native.rounds().is_some())
        };
        self.rows.iter().filter(failed).count()
    }

    /// Targets met, and targets that could be compared.
    pub fn score(&self) -> (usize, usize) {
        let verdicts = || self.rows.iter().map(Row::verdict);
        let met = verdicts()
            .filter(|&verdict| verdict == Verdict::Met)
            .count();
        let all = verdicts()
            .filter(|&verdict| verdict != Verdict::NoTarget)
            .count();
        (met, all)
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let heads = HEADS.map(str::to_owned);
        let lines: Vec<[String; 7]> = std::iter::once(heads)
            .chain(self.rows.iter().map(Row::columns))
            .collect();
        let mut widths = [0; 7];
        for line in &lines {
            for (width, column) in widths.iter_mut().zip(line) {
                *width = column.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for (key, value) in &self.facts {
            push(&mut text, format_args!("{key}: {value}\n"));
        }
        text.push('\n');
        for line in &lines {
            let mut out = String::new();
            for (at, (column, width)) in line.iter().zip(widths).enumerate() {
                // The name is read from the left, numbers from the right.
                if at == 0 {
                    push(&mut out, format_args!("{column:<width$}"));
                } else {
                    push(&mut out, format_args!("  {column:>width$}"));
                }
            }
            push(&mut text, format_args!("{}\n", out.trim_end()));
        }
        text.push('\n');
        for remark in &self.remarks {
            push(&mut text, format_args!("{remark}\n"));
        }
        let (met, all) = self.score();
        push(
            &mut text,
            format_args!(
                "targets met: {met} of {all}; rows failed: {}\n",
                self.failures()
            ),
        );
        text
    }

    /// For a page of documentation.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.facts {
            push(&mut text, format_args!("- {key}: {value}\n"));
        }
        push(&mut text, format_args!("\n| {} |\n", HEADS.join(" | ")));
        text.push_str("|---|---:|---:|---:|---:|---:|:---:|\n");
        for row in &self.rows {
            let columns = row.columns().map(|column| column.replace('|', "\\|"));
            push(&mut text, format_args!("| {} |\n", columns.join(" | ")));
        }
        let (met, all) = self.score();
        push(
            &mut text,
            format_args!(
                "\nTargets met: {met} of {all}; rows failed: {}.\n",
                self.failures()
            ),
        );
        if !self.remarks.is_empty() {
            text.push('\n');
        }
        for remark in &self.remarks {
            push(&mut text, format_args!("- {remark}\n"));
        }
        text
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = text.write_fmt(what);
}

/// Puts the table between the marks of a page, or makes it the page if there are none.
pub fn into_page(page: &str, table: &str) -> String {
    let marked = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
    });
    marked.unwrap_or_else(|| format!("{BEGIN}\n{table}{END}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::{Target, Unit};

    fn metric(id: &str, unit: Unit, target: Target) -> Metric {
        Metric {
            id: id.into(),
            label: format!("the {id}"),
            unit,
            target,
        }
    }

    fn record(outcomes: &[(&str, Outcome)]) -> Record {
        let outcomes = outcomes
            .iter()
            .map(|(id, o)| ((*id).to_owned(), o.clone()))
            .collect();
        Record {
            outcomes,
            ..Record::default()
        }
    }

    fn measured(median: f64) -> Outcome {
        let summary = Summary {
            median,
            min: median * 0.9,
            max: median * 2.0,
            p90: median,
            count: 9,
        };
        Outcome::Measured(summary)
    }

    fn columns(table: &Table, row: usize) -> [String; 7] {
        table.rows[row].columns()
    }

    #[test]
    fn a_row_shows_both_sides_and_their_ratio() {
        let metrics = [metric("sync", Unit::Nanoseconds, Target::RatioAtMost(1.0))];
        let native = [record(&[("sync", measured(8400.0))])];
        let shim = [record(&[("sync", measured(4200.0))])];
        let table = Table::new(&metrics, &native, &shim);
        let expected = [
            "the sync",
            "8.40 µs, 7.56 µs",
            "4.20 µs, 3.78 µs",
            "0.50 ×",
            "0 %",
            "≤ 1 ×",
            "yes",
        ];
        assert_eq!(columns(&table, 0), expected);
        assert_eq!((table.score(), table.failures()), ((1, 1), 0));
    }

    #[test]
    fn the_best_of_a_rate_is_the_largest() {
        let metrics = [metric("rate", Unit::PerSecond, Target::None)];
        let table = Table::new(&metrics, &[], &[record(&[("rate", measured(1000.0))])]);
        assert_eq!(columns(&table, 0)[2], "1.00 k/s, 2.00 k/s");
        assert_eq!(columns(&table, 0)[1], "–");
    }

    #[test]
    fn what_is_not_supported_has_no_number_and_no_verdict() {
        let metrics = [metric("reg", Unit::Nanoseconds, Target::RatioAtMost(1.0))];
        let native = [record(&[("reg", measured(10.0))])];
        let shim = [record(&[("reg", Outcome::NotSupported("cuX: 801".into()))])];
        let table = Table::new(&metrics, &native, &shim);
        assert_eq!(
            columns(&table, 0)[2..],
            ["not supported", "–", "0 %", "≤ 1 ×", "–"]
        );
        assert_eq!(table.failures(), 0);
        assert!(
            table
                .text()
                .contains("shim: the reg: not supported: cuX: 801")
        );
    }

    #[test]
    fn one_failed_round_fails_the_row() {
        let metrics = [metric("copy", Unit::Nanoseconds, Target::AtMost(5.0))];
        let failed = Outcome::Failed("cuMemcpyDtoH_v2: CUDA_ERROR_ILLEGAL_ADDRESS (700)".into());
        let shim = [
            record(&[("copy", measured(1.0))]),
            record(&[("copy", failed)]),
        ];
        let table = Table::new(&metrics, &[], &shim);
        assert_eq!(columns(&table, 0)[2], "FAILED");
        assert_eq!((table.failures(), table.score()), (1, (0, 0)));
    }

    #[test]
    fn a_row_the_shim_never_came_to_is_a_failure() {
        let metrics = [metric("last", Unit::Nanoseconds, Target::None)];
        let table = Table::new(&metrics, &[record(&[("last", measured(1.0))])], &[]);
        assert_eq!(table.failures(), 1);
    }

    #[test]
    fn a_miss_smaller_than_the_spread_is_called_noise() {
        let metrics = [metric("sync", Unit::Nanoseconds, Target::RatioAtMost(1.0))];
        let side = |a, b, c| [a, b, c].map(|median| record(&[("sync", measured(median))]));
        let table = Table::new(
            &metrics,
            &side(90.0, 100.0, 110.0),
            &side(104.0, 105.0, 106.0),
        );
        assert_eq!(columns(&table, 0)[6], "no (noise)");
        let table = Table::new(
            &metrics,
            &side(90.0, 100.0, 110.0),
            &side(140.0, 150.0, 160.0),
        );
        assert_eq!(columns(&table, 0)[6], "NO");
    }

    #[test]
    fn text_columns_line_up() {
        let metrics = [
            metric("a", Unit::Nanoseconds, Target::AtMost(20.0)),
            metric("longer", Unit::BytesPerSecond, Target::RatioAtLeast(0.99)),
        ];
        let side = [record(&[("a", measured(8.0)), ("longer", measured(55e9))])];
        let text = Table::new(&metrics, &side, &side).text();
        let ends: Vec<usize> = text
            .lines()
            .filter(|line| line.starts_with("the ") || line.starts_with("metric"))
            .map(|line| line.chars().count())
            .collect();
        assert_eq!(ends.len(), 3);
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
    }

    #[test]
    fn markdown_rows_have_as_many_columns_as_the_head() {
        let metrics = [metric("a|b", Unit::Nanoseconds, Target::None)];
        let text = Table::new(&metrics, &[], &[record(&[("a|b", measured(1.0))])]).markdown();
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| bars(line) == 8), "{text}");
    }

    #[test]
    fn a_page_keeps_what_is_around_the_table() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nAfter\n");
        let filled = into_page(&page, "new\n");
        assert_eq!(filled, format!("# Title\n\n{BEGIN}\nnew\n{END}\n\nAfter\n"));
        assert_eq!(into_page(&filled, "new\n"), filled);
        assert_eq!(into_page("", "new\n"), format!("{BEGIN}\nnew\n{END}\n"));
    }
}
