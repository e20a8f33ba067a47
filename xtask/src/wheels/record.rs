//! What the libraries of the largest packages ask for, written down: [`FILE`]. A test that reads it needs no download.

use std::fmt::Write;

use anyhow::{Context, bail};

use super::packages::{self, Wheel};
use super::scan::Names;
use super::{Library, libraries_of};
use crate::places;

/// The record, from the repository's root.
const FILE: &str = "tests/wheels/recorded.txt";

const HEADING: &str = "# What libraries import from the driver's libraries and ask them for, written by `cargo xtask wheels --all`.\n";

/// Fetches `wheels` and writes down what they ask for.
pub fn write(wheels: &'static [Wheel]) -> anyhow::Result<()> {
    let mut libraries = Vec::new();
    for wheel in wheels {
        libraries.extend(libraries_of(wheel)?);
    }
    let path = places::root().join(FILE);
    std::fs::write(&path, text(&libraries)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The libraries written down.
pub fn read() -> anyhow::Result<Vec<Library>> {
    let path = places::root().join(FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text)
}

fn text(libraries: &[Library]) -> anyhow::Result<String> {
    let mut text = HEADING.to_owned();
    for library in libraries {
        writeln!(text, "\n{} {}", library.wheel.requirement, library.file)?;
        for (kind, names) in [
            ("import", &library.names.imported),
            ("ask", &library.names.asked),
        ] {
            for name in names {
                writeln!(text, "{kind} {name}")?;
            }
        }
    }
    Ok(text)
}

fn parse(text: &str) -> anyhow::Result<Vec<Library>> {
    let mut libraries: Vec<Library> = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (word, rest) = line
            .split_once(' ')
            .with_context(|| format!("{FILE}: {line}"))?;
        let names = libraries.last_mut().map(|library| &mut library.names);
        match (word, names) {
            ("import", Some(names)) => {
                names.imported.insert(rest.to_owned());
            }
            ("ask", Some(names)) => {
                names.asked.insert(rest.to_owned());
            }
            ("import" | "ask", None) => bail!("{FILE}: {line} belongs to no library"),
            (requirement, _) => libraries.push(Library {
                wheel: packages::named(requirement)
                    .with_context(|| format!("{FILE} is older: `cargo xtask wheels --all`"))?,
                file: rest.to_owned(),
                names: Names::default(),
            }),
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheels::packages::RECORDED;

    #[test]
    fn what_is_written_is_read() {
        let names = Names {
            imported: ["cuInit".to_owned()].into(),
            asked: ["cuMemAlloc_v2".to_owned(), "nvmlInit_v2".to_owned()].into(),
        };
        let library = Library {
            wheel: &RECORDED[0],
            file: "libx.so".to_owned(),
            names,
        };
        let text = text(std::slice::from_ref(&library)).expect("written");
        assert_eq!(parse(&text).expect("read"), [library]);
        assert!(parse("ask cuInit\n").is_err());
        assert!(parse("torch==0.0.1 libx.so\n").is_err());
    }

    #[test]
    fn every_package_that_is_not_fetched_is_in_the_record() {
        let libraries = read().expect("read");
        for wheel in RECORDED {
            assert!(
                libraries
                    .iter()
                    .any(|library| library.wheel.requirement == wheel.requirement),
                "{} is not in {FILE}: `cargo xtask wheels --all`",
                wheel.requirement
            );
        }
    }
}
