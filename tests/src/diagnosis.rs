//! `vgpu doctor` as a program to be run, faults to plant for it, and its report taken apart.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::command;
use crate::parts::Parts;

/// What the doctor promises for all of it, in every case.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A question to the doctor, in an environment that holds nothing but what the test puts there.
#[derive(Debug)]
pub struct Question {
    command: Command,
    subject: Vec<PathBuf>,
}

impl Question {
    /// About the environment itself.
    #[must_use]
    pub fn new(parts: &Parts) -> Self {
        let mut command = Command::new(&parts.vgpu);
        command
            .args(["doctor", "--json"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Self {
            command,
            subject: Vec::new(),
        }
    }

    /// With an argument (`--pid`, `--unit` and theirs).
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// With a variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// About a program.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.subject.push(program.to_owned());
        self
    }

    /// The answer. Panics when there is none, when it took longer than promised, or when status and report differ.
    #[must_use]
    pub fn ask(mut self) -> Diagnosis {
        if !self.subject.is_empty() {
            self.command.arg("--").args(&self.subject);
        }
        let start = Instant::now();
        let output = command::run(&mut self.command, LIMIT).expect("the doctor runs");
        let wall = start.elapsed();
        // A hook that the test preloads may print after the report.
        let mut values = serde_json::Deserializer::from_str(&output.stdout).into_iter::<Value>();
        let Some(Ok(report)) = values.next() else {
            panic!(
                "no report; {}, stderr: {}, stdout: {}",
                output.ending(),
                output.stderr,
                output.stdout
            );
        };
        assert!(wall < LIMIT, "it took {wall:?}");
        let diagnosis = Diagnosis(report);
        assert_eq!(
            output.ending(),
            format!("exit {}", diagnosis.status()),
            "the exit status is the report's"
        );
        diagnosis
    }
}

/// The doctor's report.
#[derive(Debug)]
pub struct Diagnosis(pub Value);

impl Diagnosis {
    /// The exit status that it names.
    #[must_use]
    pub fn status(&self) -> u64 {
        self.0["status"].as_u64().unwrap_or(u64::MAX)
    }

    /// The verdict line.
    #[must_use]
    pub fn verdict(&self) -> &str {
        self.0["verdict"].as_str().unwrap_or_default()
    }

    /// Panics unless the verdict is a fault of this layer whose line, mending included, holds all `words`.
    pub fn assert_verdict(&self, layer: u64, words: &[&str]) {
        let verdict = self.verdict();
        assert_eq!(self.status(), 10 + layer, "{}", self.pretty());
        assert!(
            verdict.starts_with(&format!("layer {layer}: ")),
            "{verdict}"
        );
        for word in words {
            assert!(verdict.contains(word), "'{word}' is not in: {verdict}");
        }
    }

    /// Panics unless some finding of at least this severity (`note`, `warning`, `fault`) holds all `words` in its
    /// sentence and its mending.
    pub fn assert_finding(&self, severity: &str, words: &[&str]) {
        let found = self.findings().any(|finding| {
            let text = format!(
                "{} {}",
                finding["what"].as_str().unwrap_or_default(),
                finding["mend"].as_str().unwrap_or_default()
            );
            finding["severity"].as_str() == Some(severity)
                && words.iter().all(|word| text.contains(word))
        });
        assert!(found, "no {severity} with {words:?} in {}", self.pretty());
    }

    /// Panics unless a GPU was found and nothing is wrong.
    pub fn assert_found(&self) {
        assert_eq!(self.status(), 0, "{}", self.pretty());
        assert!(
            self.verdict().starts_with("GPU found: "),
            "{}",
            self.verdict()
        );
    }

    /// The findings.
    pub fn findings(&self) -> impl Iterator<Item = &Value> {
        self.0["findings"].as_array().into_iter().flatten()
    }

    /// The devices that a program whose name holds `part` would find.
    #[must_use]
    pub fn devices_of(&self, part: &str) -> Vec<&Value> {
        let discoveries = self.0["discoveries"].as_array().into_iter().flatten();
        discoveries
            .filter(|discovery| {
                discovery["program"]
                    .as_str()
                    .is_some_and(|name| name.contains(part))
            })
            .flat_map(|discovery| discovery["devices"].as_array().into_iter().flatten())
            .collect()
    }

    fn pretty(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap_or_default()
    }
}

/// Compiles C into a shared library with this SONAME (none if empty); further arguments go to the compiler.
///
/// # Errors
/// The compiler's.
pub fn library(to: &Path, source: &str, soname: &str, further: &[&str]) -> anyhow::Result<()> {
    let mut arguments = vec!["-shared".to_owned(), "-fPIC".to_owned()];
    if !soname.is_empty() {
        arguments.push(format!("-Wl,-soname,{soname}"));
    }
    arguments.extend(further.iter().map(|argument| (*argument).to_owned()));
    compile(to, source, &arguments)
}

/// Compiles C into a program.
///
/// # Errors
/// The compiler's.
pub fn program(to: &Path, source: &str, further: &[&str]) -> anyhow::Result<()> {
    let further: Vec<String> = further.iter().map(|text| (*text).to_owned()).collect();
    compile(to, source, &further)
}

fn compile(to: &Path, source: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut name = to.as_os_str().to_owned();
    name.push(".c");
    let file = PathBuf::from(name);
    std::fs::write(&file, source).with_context(|| format!("{}", file.display()))?;
    let mut command = Command::new("gcc");
    command
        .args(["-O1", "-w", "-o"])
        .args([to, &file])
        .args(arguments);
    let output = command::run(&mut command, Duration::from_secs(120))?;
    if output.ending() != "exit 0" {
        bail!("gcc: {}", output.stderr);
    }
    std::fs::remove_file(&file)?;
    Ok(())
}
