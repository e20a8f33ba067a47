//! `cargo xtask wheels`: NVIDIA's libraries, and others' that use the driver, from PyPI.
//!
//! Every name of a driver function that they import or ask for is looked up in the shim ([`compare`]), and those of NVIDIA are put to work
//! on the software device ([`behaviour`]). Both are part of `cargo xtask test`. The largest packages are not fetched there: what
//! their libraries ask for was written down ([`record`]).

mod absent;
mod behaviour;
mod compare;
mod driver;
mod packages;
mod record;
mod scan;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use vgpu_e2e::backend::Backend;
use vgpu_e2e::parts::Parts;
use vgpu_e2e::verdict::Verdict;

use crate::dist;
use crate::summary::Summary;
use absent::{Absent, Entry};
use packages::{EVERYDAY, RECORDED, Wheel};
use scan::Names;

/// Options of the verb.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Also fetch the largest packages (PyTorch, XLA: 2.5 GB unpacked) and write down what their libraries ask for, into
    /// tests/wheels/recorded.txt.
    #[arg(long)]
    all: bool,
    /// A dist/ folder to look at as it is, instead of making one.
    #[arg(long, value_name = "DIR")]
    dist: Option<PathBuf>,
}

/// A library with what it wants of the driver.
#[derive(Debug, PartialEq, Eq)]
struct Library {
    wheel: &'static Wheel,
    /// Its file's name.
    file: String,
    names: Names,
}

/// The verb.
pub fn wheels(options: &Options) -> anyhow::Result<()> {
    let dist = match &options.dist {
        Some(folder) => folder.clone(),
        None => dist::dist()?,
    };
    if options.all {
        record::write(RECORDED)?;
    }
    let mut summary = Summary::default();
    test(&mut summary, &dist)?;
    summary.print();
    let (_, failed, _) = summary.totals();
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    Ok(())
}

/// The part of `cargo xtask test`.
pub fn test(summary: &mut Summary, dist: &Path) -> anyhow::Result<()> {
    let mut libraries = Vec::new();
    for wheel in EVERYDAY {
        libraries.extend(libraries_of(wheel)?);
    }
    libraries.extend(record::read()?);
    names(summary, dist, &libraries)?;
    software_device(summary, dist)
}

/// The libraries of a package, fetched on first use, that have to do with the driver.
fn libraries_of(wheel: &'static Wheel) -> anyhow::Result<Vec<Library>> {
    let mut libraries: Vec<Library> = Vec::new();
    for path in packages::libraries(&wheel.fetched()?)? {
        let Some(names) = scan::scan(&path)?.filter(|names| !names.is_empty()) else {
            continue;
        };
        let file = path.file_name().unwrap_or_default();
        libraries.push(Library {
            wheel,
            file: file.to_string_lossy().into_owned(),
            names,
        });
    }
    Ok(libraries)
}

fn names(summary: &mut Summary, dist: &Path, libraries: &[Library]) -> anyhow::Result<()> {
    const STEP: &str = "names that libraries ask for";
    let start = Instant::now();
    let mut absent = Absent::read()?;
    let reports = compare::compare(libraries, dist, &mut absent)?;
    println!(
        "{:<40} {:<32} {:>8} {:>6} {:>7} {:>8} {:>5} {:>7}",
        "library", "package", "imported", "asked", "served", "refused", "NVML", "absent"
    );
    for (library, report) in libraries.iter().zip(reports) {
        println!(
            "{:<40} {:<32} {:>8} {:>6} {:>7} {:>8} {:>5} {:>7}",
            library.file,
            library.wheel.requirement,
            library.names.imported.len(),
            library.names.asked.len(),
            report.served,
            report.refused,
            report.nvml,
            report.absent
        );
        let verdict = if report.missing.is_empty() {
            Verdict::Passed
        } else {
            Verdict::Failed(format!(
                "the shim lacks {}; mend it, or say why in {}",
                report.missing.join(" "),
                absent::FILE
            ))
        };
        let name = format!("{} of {}", library.file, library.wheel.requirement);
        summary.verdict(STEP, &name, &verdict, Duration::ZERO);
    }
    let idle: Vec<&str> = absent
        .idle()
        .into_iter()
        .map(|entry| match entry {
            Entry::Name(name) | Entry::Library(name) => name.as_str(),
        })
        .collect();
    let verdict = if idle.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("no library lacks {} any more", idle.join(" ")))
    };
    summary.verdict(STEP, absent::FILE, &verdict, start.elapsed());
    Ok(())
}

fn software_device(summary: &mut Summary, dist: &Path) -> anyhow::Result<()> {
    let backend = Backend::start(&Parts::in_dist(dist)?, "software")?;
    for run in behaviour::runs()? {
        let (verdict, wall) = run.start(&backend)?;
        println!("{:<52} {:>6.2} s  {verdict}", run.label, wall.as_secs_f64());
        if matches!(verdict, Verdict::Failed(_)) {
            println!("    backend: {}", backend.last_words());
        }
        summary.verdict("NVIDIA's libraries", &run.label, &verdict, wall);
    }
    Ok(())
}
