//! Names that libraries hold and the shim does not have, each with the reason: [`FILE`].

use std::collections::BTreeSet;

use anyhow::{Context, bail};

use crate::places;

/// The list, from the repository's root.
pub const FILE: &str = "tests/wheels/absent.txt";

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// A name, in whatever library.
    Name(String),
    /// Every name of the libraries whose file names begin so.
    Library(String),
}

/// What may be missing.
#[derive(Debug, Default)]
pub struct Absent {
    entries: BTreeSet<Entry>,
    used: BTreeSet<Entry>,
}

impl Absent {
    /// Reads the list.
    pub fn read() -> anyhow::Result<Self> {
        let path = places::root().join(FILE);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text)
    }

    /// Reads the text of a list: `= reason`, then the lines that it holds for, `NAME` or `LIBRARY*`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut absent = Self::default();
        let mut reason = "";
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(text) = line.strip_prefix('=') {
                reason = text.trim();
                continue;
            }
            if reason.is_empty() {
                bail!("{FILE}: no reason for {line}");
            }
            let entry = match line.strip_suffix('*') {
                Some(library) => Entry::Library(library.to_owned()),
                None => Entry::Name(line.to_owned()),
            };
            if !absent.entries.insert(entry) {
                bail!("{FILE}: {line} is there twice");
            }
        }
        Ok(absent)
    }

    /// Whether `name` may be missing for the library in `file`.
    pub fn explains(&mut self, file: &str, name: &str) -> bool {
        let entry = self.entries.iter().find(|entry| match entry {
            Entry::Name(known) => known == name,
            Entry::Library(start) => file.starts_with(start.as_str()),
        });
        let Some(entry) = entry else {
            return false;
        };
        self.used.insert(entry.clone());
        true
    }

    /// The entries that explained nothing: the shim has them, or no library holds them any more.
    pub fn idle(&self) -> Vec<&Entry> {
        self.entries.difference(&self.used).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_explain_what_they_name_and_idle_ones_are_found() {
        let text = "# x\n= newer\ncuNew\ncuNever\n\n= of all platforms\nlibcupti.so*\n";
        let mut absent = Absent::parse(text).expect("well-formed");
        assert!(absent.explains("libcudart.so.13", "cuNew"));
        assert!(absent.explains("libcupti.so.13", "cuWhatever"));
        assert!(!absent.explains("libcudart.so.13", "cuWhatever"));
        assert_eq!(absent.idle(), [&Entry::Name("cuNever".to_owned())]);
    }

    #[test]
    fn an_entry_needs_a_reason_and_comes_once() {
        assert!(Absent::parse("cuNew\n").is_err());
        assert!(Absent::parse("= newer\ncuNew\ncuNew\n").is_err());
    }
}
