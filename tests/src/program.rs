//! The CUDA test programs under `tests/programs`, and the header comments in which each says what it needs.
//!
//! A program is one file: `runtime/NAME.cu` or `driver/NAME.cpp`. Its leading `//` lines may hold these keys:
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `variants:` | toolkits and ways of linking the runtime, e.g. `13-static 12-shared` | `13-static` |
//! | `nvcc:` | further compiler arguments | none |
//! | `run:` | one execution; words `NAME=VALUE` are environment, the rest arguments; the key may repeat | one plain run |
//! | `devices:` | software devices it is tried on; on fewer (and on whatever a GPU machine has) it tests what those allow | 1 |
//! | `rules:` | the rules of `docs/` on CUDA semantics that the program fails without | none |
//!
//! A file `NAME.expected` beside the source is the exact standard output of every run.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Which of CUDA's two interfaces a program is written against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// A `.cu` file compiled by nvcc, on top of libcudart.
    Runtime,
    /// A `.cpp` file compiled by the host compiler, linked with `libcuda.so.1` alone.
    Driver,
}

/// How a runtime program gets its libcudart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cudart {
    /// Linked into the program.
    Static,
    /// Loaded from `libcudart.so.N`.
    Shared,
}

/// A toolkit generation and a way of linking: one binary of a runtime program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    /// The toolkit's major version: 11, 12 or 13.
    pub toolkit: u32,
    /// How libcudart is linked.
    pub cudart: Cudart,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cudart = match self.cudart {
            Cudart::Static => "static",
            Cudart::Shared => "shared",
        };
        write!(f, "{}-{cudart}", self.toolkit)
    }
}

/// One execution of a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Environment variables set for it.
    pub environment: Vec<(String, String)>,
    /// Its command-line arguments.
    pub arguments: Vec<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let environment = self.environment.iter().map(|(k, v)| format!("{k}={v}"));
        let words: Vec<String> = environment.chain(self.arguments.iter().cloned()).collect();
        f.write_str(&words.join(" "))
    }
}

/// A test program and what its header asks for.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file's stem; also the name in its verdict line.
    pub name: String,
    /// The interface it is written against.
    pub api: Api,
    /// The source file.
    pub source: PathBuf,
    /// The binaries to build of a runtime program; empty for a driver program, which has exactly one.
    pub variants: Vec<Variant>,
    /// Further arguments for nvcc.
    pub compiler_arguments: Vec<String>,
    /// The executions of each binary; never empty.
    pub runs: Vec<Run>,
    /// Software devices that the backend should have for it.
    pub devices: u32,
    /// Numbers of the semantic rules that the program checks.
    pub rules: Vec<u32>,
    /// The exact standard output of every run, where the source has a `.expected` file beside it.
    pub expected: Option<PathBuf>,
}

/// Why the programs could not be listed.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// A folder or file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A header line holds a value that its key does not allow.
    #[error("{path}: '{value}' is no value for '{key}:'")]
    Header {
        /// The program's source.
        path: PathBuf,
        /// The key of the line.
        key: String,
        /// The offending word.
        value: String,
    },
}

impl Program {
    /// What every run must print, where that is fixed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn expected_output(&self) -> std::io::Result<Option<String>> {
        self.expected
            .as_ref()
            .map(std::fs::read_to_string)
            .transpose()
    }

    /// The file names of the program's binaries, each with its variant (none for a driver program).
    #[must_use]
    pub fn binaries(&self) -> Vec<(String, Option<Variant>)> {
        match self.api {
            Api::Driver => vec![(self.name.clone(), None)],
            Api::Runtime => self
                .variants
                .iter()
                .map(|v| (format!("{}.{v}", self.name), Some(*v)))
                .collect(),
        }
    }
}

/// Lists the programs under `folder` (the repository's `tests/programs`), sorted by name.
///
/// # Errors
/// [`ProgramError`] when a file cannot be read or a header holds a value outside its key's range.
pub fn discover(folder: &Path) -> Result<Vec<Program>, ProgramError> {
    let mut programs = Vec::new();
    for (sub, extension, api) in [
        ("runtime", "cu", Api::Runtime),
        ("driver", "cpp", Api::Driver),
    ] {
        let path = folder.join(sub);
        let entries = std::fs::read_dir(&path).map_err(|source| ProgramError::Read {
            path: path.clone(),
            source,
        })?;
        for entry in entries {
            let source = entry
                .map_err(|source| ProgramError::Read {
                    path: path.clone(),
                    source,
                })?
                .path();
            if source.extension() == Some(OsStr::new(extension)) {
                programs.push(read(source, api)?);
            }
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

fn read(source: PathBuf, api: Api) -> Result<Program, ProgramError> {
    let text = std::fs::read_to_string(&source).map_err(|error| ProgramError::Read {
        path: source.clone(),
        source: error,
    })?;
    let name = source
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let expected = source.with_extension("expected");
    let mut program = Program {
        name,
        api,
        variants: Vec::new(),
        compiler_arguments: Vec::new(),
        runs: Vec::new(),
        devices: 1,
        rules: Vec::new(),
        expected: expected.exists().then_some(expected),
        source,
    };
    for line in text.lines().map_while(|line| line.strip_prefix("//")) {
        let Some((key, value)) = line.trim().split_once(':') else {
            continue;
        };
        let words = value.split_whitespace();
        let refuse = |word: &str| ProgramError::Header {
            path: program.source.clone(),
            key: key.to_owned(),
            value: word.to_owned(),
        };
        match key {
            "variants" => {
                for word in words {
                    let variant = parse_variant(word).ok_or_else(|| refuse(word))?;
                    program.variants.push(variant);
                }
            }
            "nvcc" => program.compiler_arguments.extend(words.map(str::to_owned)),
            "run" => program.runs.push(parse_run(value)),
            "devices" => {
                for word in words {
                    program.devices = word.parse().map_err(|_| refuse(word))?;
                }
            }
            "rules" => {
                for word in words {
                    program.rules.push(word.parse().map_err(|_| refuse(word))?);
                }
            }
            _ => {}
        }
    }
    if program.runs.is_empty() {
        program.runs.push(Run::default());
    }
    if program.variants.is_empty() && api == Api::Runtime {
        program.variants.push(Variant {
            toolkit: 13,
            cudart: Cudart::Static,
        });
    }
    Ok(program)
}

fn parse_variant(word: &str) -> Option<Variant> {
    let (toolkit, cudart) = word.split_once('-')?;
    let toolkit = match toolkit {
        "11" => 11,
        "12" => 12,
        "13" => 13,
        _ => return None,
    };
    let cudart = match cudart {
        "static" => Cudart::Static,
        "shared" => Cudart::Shared,
        _ => return None,
    };
    Some(Variant { toolkit, cudart })
}

fn parse_run(value: &str) -> Run {
    let mut run = Run::default();
    for word in value.split_whitespace() {
        match word.split_once('=') {
            Some((name, setting)) if run.arguments.is_empty() => {
                run.environment.push((name.to_owned(), setting.to_owned()))
            }
            _ => run.arguments.push(word.to_owned()),
        }
    }
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_the_repository_is_listed_with_a_known_header() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
        let programs = discover(&folder).expect("the programs are readable");
        assert!(programs.len() >= 40, "{} programs", programs.len());
        assert!(programs.iter().all(|p| !p.binaries().is_empty()));
        let named = |name: &str| programs.iter().find(|p| p.name == name).expect(name);
        assert!(named("device_printf").expected.is_some());
        assert_eq!(named("sync_mode").runs.len(), 2);
        assert_eq!(named("vector_add").variants.len(), 5);
        assert_eq!(
            (named("vector_add").devices, named("peers").devices),
            (1, 2)
        );
    }

    #[test]
    fn each_source_names_itself_in_its_verdict() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
        for program in discover(&folder).expect("the programs are readable") {
            let text = std::fs::read_to_string(&program.source).expect("readable");
            let declared = format!("TEST(\"{}\");", program.name);
            assert!(
                text.contains(&declared),
                "{} lacks {declared}",
                program.name
            );
        }
    }

    #[test]
    fn a_run_line_splits_into_environment_and_arguments() {
        let run = parse_run(" A=1 B=two three four=4");
        assert_eq!(
            run.environment,
            [("A".into(), "1".into()), ("B".into(), "two".into())]
        );
        assert_eq!(run.arguments, ["three", "four=4"]);
        assert_eq!(run.to_string(), "A=1 B=two three four=4");
    }

    #[test]
    fn unknown_variants_are_refused() {
        assert!(parse_variant("10-static").is_none());
        assert!(parse_variant("13-dynamic").is_none());
        assert_eq!(
            parse_variant("12-shared").map(|v| v.to_string()).as_deref(),
            Some("12-shared")
        );
    }
}
