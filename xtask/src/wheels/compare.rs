//! What libraries want, set against what the shim has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Library;
use super::absent::Absent;
use super::driver::{self, Answer, Questions};
use crate::coverage;

/// `dlsym` alone is asked: what the loader does for an imported symbol.
const BY_SYMBOL: u32 = 0;

/// What became of the names of one library.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names of the driver's that lead to a function that does something.
    pub served: usize,
    /// Names of the driver's that lead to one that says `NOT_SUPPORTED`.
    pub refused: usize,
    /// Names of NVML's that are exported.
    pub nvml: usize,
    /// Names that lead nowhere, and the list says why.
    pub absent: usize,
    /// Names that lead nowhere, and nothing says why.
    pub missing: Vec<String>,
}

/// One report for each library, in their order.
pub fn compare(
    libraries: &[Library],
    dist: &Path,
    absent: &mut Absent,
) -> anyhow::Result<Vec<Report>> {
    let answers = driver::ask(dist, libraries.iter().flat_map(questions).collect())?;
    let implemented = coverage::implemented();
    Ok(libraries
        .iter()
        .map(|library| report(library, &answers, &implemented, absent))
        .collect())
}

fn questions(library: &Library) -> Questions {
    let imported = library.names.imported.iter().map(|name| (name, BY_SYMBOL));
    let asked = library
        .names
        .asked
        .iter()
        .map(|name| (name, library.wheel.cuda));
    imported
        .chain(asked)
        .map(|(name, version)| (name.clone(), version))
        .collect()
}

fn report(
    library: &Library,
    answers: &BTreeMap<(String, u32), Answer>,
    implemented: &BTreeSet<&str>,
    absent: &mut Absent,
) -> Report {
    let mut report = Report::default();
    for question in questions(library) {
        let name = &question.0;
        let export = match answers.get(&question) {
            Some(Answer::Resolved(export)) => export.as_str(),
            Some(Answer::Exported) => name.as_str(),
            Some(Answer::Unknown) | None => {
                if absent.explains(&library.file, name) {
                    report.absent += 1;
                } else {
                    report.missing.push(name.clone());
                }
                continue;
            }
        };
        if name.starts_with("nvml") {
            report.nvml += 1;
        } else if implemented.contains(export) {
            report.served += 1;
        } else {
            report.refused += 1;
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wheels::packages::EVERYDAY;
    use crate::wheels::scan::Names;

    #[test]
    fn each_name_is_counted_once_by_what_it_leads_to() {
        let library = Library {
            wheel: &EVERYDAY[0],
            file: "libx.so".to_owned(),
            names: Names {
                imported: ["cuInit".to_owned(), "cuGone".to_owned()].into(),
                asked: ["cuMemAlloc", "cuMemcpyBatchAsync", "nvmlInit_v2", "cuNew"]
                    .map(str::to_owned)
                    .into(),
            },
        };
        let version = library.wheel.cuda;
        let answers = BTreeMap::from([
            (("cuInit".to_owned(), 0), Answer::Exported),
            (("cuGone".to_owned(), 0), Answer::Unknown),
            (
                ("cuMemAlloc".to_owned(), version),
                Answer::Resolved("cuMemAlloc_v2".to_owned()),
            ),
            (
                ("cuMemcpyBatchAsync".to_owned(), version),
                Answer::Resolved("cuRefused".to_owned()),
            ),
            (("nvmlInit_v2".to_owned(), version), Answer::Exported),
            (("cuNew".to_owned(), version), Answer::Unknown),
        ]);
        let mut absent = Absent::parse("= newer\ncuNew\n").expect("well-formed");
        let found = report(&library, &answers, &coverage::implemented(), &mut absent);
        let expected = Report {
            served: 2,
            refused: 1,
            nvml: 1,
            absent: 1,
            missing: vec!["cuGone".to_owned()],
        };
        assert_eq!(found, expected);
        assert!(absent.idle().is_empty());
    }
}
