//! Counting results, and the table at the end.

use std::time::Duration;

use vgpu_e2e::verdict::Verdict;

/// One line of the table.
#[derive(Debug)]
struct Row {
    name: String,
    passed: u32,
    failed: u32,
    skipped: u32,
    wall: Duration,
}

/// All results so far.
#[derive(Debug, Default)]
pub struct Summary {
    rows: Vec<Row>,
    remarks: Vec<String>,
}

impl Summary {
    /// Adds a step that ran many tests of its own.
    pub fn counted(&mut self, name: &str, passed: u32, failed: u32, skipped: u32, wall: Duration) {
        self.rows.push(Row {
            name: name.to_owned(),
            passed,
            failed,
            skipped,
            wall,
        });
    }

    /// Adds one verdict to the step `group`, and its reason to the remarks below the table.
    pub fn verdict(&mut self, group: &str, test: &str, verdict: &Verdict, wall: Duration) {
        let at = match self.rows.iter().position(|row| row.name == group) {
            Some(at) => at,
            None => {
                self.counted(group, 0, 0, 0, Duration::ZERO);
                self.rows.len() - 1
            }
        };
        let row = &mut self.rows[at];
        row.wall += wall;
        match verdict {
            Verdict::Passed => row.passed += 1,
            Verdict::Failed(_) => row.failed += 1,
            Verdict::Skipped(_) => row.skipped += 1,
        }
        if *verdict != Verdict::Passed {
            self.remark(&format!("{group}: {test}: {verdict}"));
        }
    }

    /// Adds a line below the table.
    pub fn remark(&mut self, text: &str) {
        self.remarks.push(text.to_owned());
    }

    /// Passed, failed and skipped over all steps.
    pub fn totals(&self) -> (u32, u32, u32) {
        self.rows.iter().fold((0, 0, 0), |(p, f, s), row| {
            (p + row.passed, f + row.failed, s + row.skipped)
        })
    }

    /// Prints the table, the remarks, and the totals alone on the last line.
    pub fn print(&self) {
        println!(
            "\n{:<28} {:>7} {:>7} {:>8} {:>9}",
            "step", "passed", "failed", "skipped", "seconds"
        );
        for row in &self.rows {
            println!(
                "{:<28} {:>7} {:>7} {:>8} {:>9.1}",
                row.name,
                row.passed,
                row.failed,
                row.skipped,
                row.wall.as_secs_f64()
            );
        }
        for remark in &self.remarks {
            println!("  {remark}");
        }
        let (passed, failed, skipped) = self.totals();
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }
}

/// Adds up the `test result:` lines of a `cargo test` run: passed, failed, ignored.
pub fn cargo_test_counts(output: &str) -> (u32, u32, u32) {
    let mut totals = (0, 0, 0);
    for line in output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("test result:"))
    {
        let count = |word: &str| {
            line.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word))
                .and_then(|number| number.trim().parse::<u32>().ok())
                .unwrap_or(0)
        };
        totals.0 += count(" passed");
        totals.1 += count(" failed");
        totals.2 += count(" ignored");
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_test_lines_are_added_up() {
        let output = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s\n";
        assert_eq!(cargo_test_counts(output), (13, 2, 1));
        assert_eq!(cargo_test_counts("error: could not compile"), (0, 0, 0));
    }

    #[test]
    fn verdicts_of_one_group_share_a_row() {
        let mut summary = Summary::default();
        summary.verdict("programs", "a", &Verdict::Passed, Duration::from_secs(1));
        summary.verdict(
            "programs",
            "b",
            &Verdict::Skipped("no pools".into()),
            Duration::from_secs(1),
        );
        summary.verdict(
            "programs",
            "c",
            &Verdict::Failed("wrong".into()),
            Duration::from_secs(1),
        );
        summary.counted("unit", 5, 0, 0, Duration::ZERO);
        assert_eq!(summary.totals(), (6, 1, 1));
        assert_eq!(summary.rows.len(), 2);
        assert_eq!(summary.remarks.len(), 2);
    }
}
