//! Reading a test program's verdict from what it printed and how it ended.

use std::fmt;

use crate::command::Output;

/// The exit status by which a program says that it was skipped.
pub const SKIPPED: i32 = 77;

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and every check held.
    Passed,
    /// It ran and a check failed, or it crashed, hung or contradicted itself; with the reason.
    Failed(String),
    /// It could not run here; with the reason.
    Skipped(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Passed => f.write_str("passed"),
            Verdict::Failed(why) => write!(f, "FAILED: {why}"),
            Verdict::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// Judges one run of the program `name`: the last line of its standard output and its exit status must agree, and
/// its whole output must equal `expected` where one is given.
#[must_use]
pub fn judge(name: &str, output: &Output, expected: Option<&str>) -> Verdict {
    let last = output.stdout.lines().last().unwrap_or_default();
    let code = output.status.and_then(|status| status.code());
    let said = |word: &str| {
        last.strip_prefix(word)
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|rest| rest.strip_prefix(name))
    };
    match code {
        Some(0) if said("PASS") == Some("") => match expected {
            Some(expected) if expected != output.stdout => {
                Verdict::Failed(difference(expected, &output.stdout))
            }
            _ => Verdict::Passed,
        },
        Some(SKIPPED) => match said("SKIP").and_then(|rest| rest.strip_prefix(": ")) {
            Some(why) if !why.is_empty() => Verdict::Skipped(why.to_owned()),
            _ => Verdict::Failed("skipped without a reason".to_owned()),
        },
        _ => Verdict::Failed(reason(last, output)),
    }
}

fn reason(last: &str, output: &Output) -> String {
    if let Some(why) = last.strip_prefix("FAIL ") {
        return why.to_owned();
    }
    let stderr = output.stderr.lines().last().unwrap_or_default();
    let spoken = if stderr.is_empty() { last } else { stderr };
    format!("{} after '{spoken}'", output.ending())
}

fn difference(expected: &str, got: &str) -> String {
    let mut lines = got.lines();
    for (number, want) in expected.lines().enumerate() {
        let found = lines.next();
        if found != Some(want) {
            let found = found.unwrap_or("(end of output)");
            return format!("output line {} is '{found}', not '{want}'", number + 1);
        }
    }
    format!("output goes on with '{}'", lines.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    fn output(raw_status: Option<i32>, stdout: &str, stderr: &str) -> Output {
        Output {
            status: raw_status.map(ExitStatus::from_raw),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            wall: Duration::ZERO,
        }
    }

    #[test]
    fn a_pass_needs_both_the_line_and_the_status() {
        assert_eq!(
            judge("a", &output(Some(0), "x\nPASS a\n", ""), None),
            Verdict::Passed
        );
        assert!(matches!(
            judge("a", &output(Some(0), "x\n", ""), None),
            Verdict::Failed(_)
        ));
        assert!(matches!(
            judge("a", &output(Some(0), "PASS ab\n", ""), None),
            Verdict::Failed(_)
        ));
        assert!(matches!(
            judge("a", &output(Some(11), "PASS a\n", ""), None),
            Verdict::Failed(_)
        ));
    }

    #[test]
    fn a_skip_needs_a_reason() {
        let skip = 77 << 8;
        assert_eq!(
            judge(
                "a",
                &output(Some(skip), "SKIP a: line 3: no pools\n", ""),
                None
            ),
            Verdict::Skipped("line 3: no pools".into())
        );
        assert!(matches!(
            judge("a", &output(Some(skip), "", ""), None),
            Verdict::Failed(_)
        ));
    }

    #[test]
    fn crashes_hangs_and_failures_say_what_happened() {
        let why = |o: &Output| match judge("a", o, None) {
            Verdict::Failed(why) => why,
            other => panic!("{other}"),
        };
        assert_eq!(
            why(&output(Some(11), "hello\n", "")),
            "signal 11 after 'hello'"
        );
        assert_eq!(why(&output(None, "", "boom\n")), "time limit after 'boom'");
        assert_eq!(
            why(&output(Some(256), "FAIL a: line 5: bad\n", "")),
            "a: line 5: bad"
        );
    }

    #[test]
    fn an_expected_output_is_compared_line_by_line() {
        let got = output(Some(0), "one\ntwo\nPASS a\n", "");
        assert_eq!(
            judge("a", &got, Some("one\ntwo\nPASS a\n")),
            Verdict::Passed
        );
        assert_eq!(
            judge("a", &got, Some("one\n2\nPASS a\n")),
            Verdict::Failed("output line 2 is 'two', not '2'".into())
        );
        assert_eq!(
            judge("a", &got, Some("one\ntwo\n")),
            Verdict::Failed("output goes on with 'PASS a'".into())
        );
    }
}
