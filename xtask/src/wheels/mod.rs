//! `cargo xtask wheels`: NVIDIA's libraries, and others that use the driver, from PyPI.

mod driver;
mod packages;
mod scan;

use std::path::Path;

use crate::dist;
use packages::{EVERYDAY, RECORDED};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long)]
    all: bool,
}

pub fn wheels(options: &Options) -> anyhow::Result<()> {
    let mut q = driver::Questions::new();
    let mut libs = Vec::new();
    for wheel in EVERYDAY.iter().chain(if options.all { RECORDED } else { &[] }) {
        let folder = wheel.fetched()?;
        for path in packages::libraries(&folder)? {
            let start = std::time::Instant::now();
            let Some(names) = scan::scan(&path)? else { continue };
            eprintln!("{} {:?} {} {}", path.display(), start.elapsed(), names.imported.len(), names.asked.len());
            for name in names.imported.iter().chain(&names.asked) {
                q.insert((name.clone(), wheel.cuda));
            }
            libs.push((path, wheel.cuda, names));
        }
    }
    let answers = driver::ask(Path::new("dist"), q)?;
    for (path, cuda, names) in libs {
        for (kind, list) in [("imported", &names.imported), ("asked", &names.asked)] {
            let mut unknown = Vec::new();
            for name in list {
                if answers[&(name.clone(), cuda)] == driver::Answer::Unknown {
                    unknown.push(name.as_str());
                }
            }
            if !list.is_empty() {
                println!("{} {kind} {} unknown: {}", path.file_name().unwrap().to_string_lossy(), list.len(), unknown.join(" "));
            }
        }
    }
    Ok(())
}
