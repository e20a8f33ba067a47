//! What one process measured, and the text file in which it reaches the process that compares.
//!
//! One line per fact, fields separated by tabs:
//!
//! ```text
//! #  KEY  VALUE                                  about the machine
//! >  ID                                          this metric is being measured now
//! =  ID  UNIT  MEDIAN  MIN  MAX  P90  COUNT      a result
//! -  ID  KIND  MESSAGE                           no result: unsupported, notrun or failed
//! ```
//!
//! A line is complete only with its newline, and later lines about a metric replace earlier ones, so
//! that a process that is ended in between leaves a file that says what it was doing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cuda::Failure;
use crate::metric::Unit;
use crate::stats::Summary;

/// What became of one metric in one process.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was measured.
    Measured(Summary),
    /// The library does not offer the function; with the function and its error.
    NotSupported(String),
    /// This machine lacks something; with what.
    NotRun(String),
    /// It went wrong; with how.
    Failed(String),
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            failure if failure.is_not_supported() => Self::NotSupported(failure.to_string()),
            Failure::NotRun(why) => Self::NotRun(why),
            failure => Self::Failed(failure.to_string()),
        }
    }
}

impl Outcome {
    /// The numbers, if there are any.
    pub fn summary(&self) -> Option<&Summary> {
        match self {
            Self::Measured(summary) => Some(summary),
            _ => None,
        }
    }
}

/// The line that says that a metric is being measured.
pub fn started_line(id: &str) -> String {
    format!(">\t{id}\n")
}

/// The line of a fact about the machine.
pub fn fact_line(key: &str, value: &str) -> String {
    format!("#\t{}\t{}\n", one_field(key), one_field(value))
}

/// The line of a result.
pub fn outcome_line(id: &str, unit: Unit, outcome: &Outcome) -> String {
    let (kind, message) = match outcome {
        Outcome::Measured(s) => {
            return format!(
                "=\t{id}\t{}\t{}\t{}\t{}\t{}\t{}\n",
                unit.word(),
                s.median,
                s.min,
                s.max,
                s.p90,
                s.count
            );
        }
        Outcome::NotSupported(message) => ("unsupported", message),
        Outcome::NotRun(message) => ("notrun", message),
        Outcome::Failed(message) => ("failed", message),
    };
    format!("-\t{id}\t{kind}\t{}\n", one_field(message))
}

fn one_field(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

/// Everything one process wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Facts about the machine.
    pub facts: BTreeMap<String, String>,
    /// Outcomes by metric id.
    pub outcomes: BTreeMap<String, Outcome>,
}

/// A line that does not follow the form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number} is not understood: {line}")]
pub struct BadLine {
    /// Its number, from 1.
    pub number: usize,
    /// Its text.
    pub line: String,
}

impl Record {
    /// Parses a file; an incomplete last line is ignored.
    ///
    /// # Errors
    /// At the first complete line that does not follow the form.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut record = Self::default();
        for (at, line) in text.split_inclusive('\n').enumerate() {
            let Some(line) = line.strip_suffix('\n') else {
                break;
            };
            let fields: Vec<&str> = line.split('\t').collect();
            if record.take(&fields).is_none() {
                return Err(BadLine {
                    number: at + 1,
                    line: line.to_owned(),
                });
            }
        }
        Ok(record)
    }

    fn take(&mut self, fields: &[&str]) -> Option<()> {
        match *fields {
            ["#", key, value] => {
                self.facts.insert(key.to_owned(), value.to_owned());
            }
            [">", id] => {
                let ended = Outcome::Failed("the process ended during this metric".to_owned());
                self.outcomes.insert(id.to_owned(), ended);
            }
            ["=", id, _unit, median, min, max, p90, count] => {
                let summary = Summary {
                    median: median.parse().ok()?,
                    min: min.parse().ok()?,
                    max: max.parse().ok()?,
                    p90: p90.parse().ok()?,
                    count: count.parse().ok()?,
                };
                self.outcomes
                    .insert(id.to_owned(), Outcome::Measured(summary));
            }
            ["-", id, kind, message] => {
                let message = message.to_owned();
                let outcome = match kind {
                    "unsupported" => Outcome::NotSupported(message),
                    "notrun" => Outcome::NotRun(message),
                    "failed" => Outcome::Failed(message),
                    _ => return None,
                };
                self.outcomes.insert(id.to_owned(), outcome);
            }
            _ => return None,
        }
        Some(())
    }
}

/// The raw numbers of all processes in one table, with a header line.
pub fn raw_table(runs: &[(String, usize, String)]) -> String {
    let mut text = String::from("side\tround\tkind\tname\tfields\n");
    for (side, round, lines) in runs {
        for line in lines.lines().filter(|line| !line.starts_with('>')) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{side}\t{round}\t{line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: Summary = Summary {
        median: 8412.5,
        min: 8400.0,
        max: 9000.25,
        p90: 8800.0,
        count: 2000,
    };

    #[test]
    fn what_is_written_is_read() {
        let outcomes = [
            ("a", Outcome::Measured(SUMMARY)),
            (
                "b",
                Outcome::NotSupported("cuX: CUDA_ERROR_NOT_SUPPORTED (801)".into()),
            ),
            ("c", Outcome::NotRun("one device".into())),
            ("d", Outcome::Failed("cuY: CUDA_ERROR_UNKNOWN (999)".into())),
        ];
        let mut text = fact_line("gpu", "NVIDIA H100");
        for (id, outcome) in &outcomes {
            text += &started_line(id);
            text += &outcome_line(id, Unit::Nanoseconds, outcome);
        }
        let record = Record::parse(&text).expect("own text");
        assert_eq!(record.facts["gpu"], "NVIDIA H100");
        for (id, outcome) in outcomes {
            assert_eq!(record.outcomes[id], outcome);
        }
    }

    #[test]
    fn a_process_that_ends_leaves_the_name_of_its_metric() {
        let text =
            started_line("a") + &outcome_line("a", Unit::Nanoseconds, &Outcome::Measured(SUMMARY));
        let record = Record::parse(&(text + ">\tb\n=\tb\tns\t1\t1")).expect("cut off");
        assert_eq!(record.outcomes["a"], Outcome::Measured(SUMMARY));
        assert!(matches!(&record.outcomes["b"], Outcome::Failed(why) if why.contains("ended")));
    }

    #[test]
    fn messages_cannot_break_the_form() {
        let line = outcome_line(
            "a",
            Unit::PerSecond,
            &Outcome::Failed("two\nlines\tand tabs".into()),
        );
        let record = Record::parse(&line).expect("one line");
        assert_eq!(
            record.outcomes["a"],
            Outcome::Failed("two lines and tabs".into())
        );
    }

    #[test]
    fn a_strange_line_is_named() {
        let error =
            Record::parse("#\ta\tb\n=\tx\tns\tmany\t1\t1\t1\t1\n").expect_err("not a number");
        assert_eq!(error.number, 2);
    }

    #[test]
    fn raw_tables_have_side_and_round_on_every_line() {
        let lines =
            started_line("a") + &outcome_line("a", Unit::Nanoseconds, &Outcome::Measured(SUMMARY));
        let text = raw_table(&[("shim".into(), 2, lines)]);
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.lines()
                .nth(1)
                .expect("a line")
                .starts_with("shim\t2\t=\ta\tns\t8412.5\t")
        );
    }
}
