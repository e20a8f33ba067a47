//! `vgpu-bench measure`: one process, one library.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use crate::measure::{self, Plan, Session, Startup};
use crate::metric::Metric;
use crate::record::{self, Outcome, Record};
use crate::table::Table;
use crate::{machine, pin};

/// Options of `vgpu-bench measure`.
#[derive(Debug, Args)]
pub struct Options {
    /// The CUDA driver library
    #[arg(long, value_name = "PATH", default_value = "libcuda.so.1")]
    library: PathBuf,

    /// Where the numbers go; a table is printed instead if this is not given
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    #[command(flatten)]
    what: What,

    /// When this process was started, in nanoseconds of the monotonic clock; default: now
    #[arg(long, value_name = "NS", hide = true)]
    started: Option<u64>,
}

/// What is measured, and where.
#[derive(Clone, Debug, Args)]
pub struct What {
    /// Few repetitions and small sizes: shows that everything works, its numbers mean nothing
    #[arg(long)]
    pub quick: bool,

    /// Only metrics whose id contains this; the start is always measured
    #[arg(long, value_name = "PART")]
    pub only: Option<String>,

    /// CPU that the measuring thread is bound to during latencies: a number, `auto` or `none`
    #[arg(long, value_name = "CPU", default_value = "auto")]
    pub cpu: Cpu,
}

/// A choice of CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// The last one, if there are enough.
    Auto,
    /// None: the scheduler chooses.
    None,
    /// This one.
    Number(usize),
}

impl std::str::FromStr for Cpu {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            number => number.parse().map(Self::Number),
        }
    }
}

impl Cpu {
    /// The CPU meant.
    ///
    /// # Errors
    /// When this thread may not run on it.
    pub fn resolve(self) -> anyhow::Result<Option<usize>> {
        let allowed = pin::allowed().context("cannot find out which CPUs are allowed")?;
        match self {
            Self::Auto => Ok(pin::default_cpu(&allowed)),
            Self::None => Ok(None),
            Self::Number(cpu) if allowed.contains(&cpu) => Ok(Some(cpu)),
            Self::Number(cpu) => bail!("CPU {cpu} is not among those allowed: {allowed:?}"),
        }
    }
}

impl What {
    /// The rows these options choose.
    pub fn metrics(&self) -> Vec<Metric> {
        let cases = measure::catalogue(Plan::new(self.quick));
        cases
            .into_iter()
            .map(|case| case.metric)
            .filter(|metric| self.wants(&metric.id))
            .collect()
    }

    fn wants(&self, id: &str) -> bool {
        let part = self.only.as_deref().unwrap_or("");
        id.starts_with("start_") || id.contains(part)
    }
}

/// Where lines go: a file, written line by line so that a process that is ended leaves what it had,
/// and a copy.
struct Sink {
    file: Option<File>,
    text: String,
}

impl Sink {
    fn write(&mut self, line: &str) -> anyhow::Result<()> {
        self.text.push_str(line);
        match &mut self.file {
            Some(file) => file
                .write_all(line.as_bytes())
                .context("cannot write the numbers"),
            None => Ok(()),
        }
    }
}

/// Measures; whether every metric has a number, or is one the library does not support.
///
/// # Errors
/// When the library cannot be loaded, does not come to a first launch, or files cannot be written.
pub fn measure(options: &Options) -> anyhow::Result<bool> {
    let started = options
        .started
        .map_or_else(measure::monotonic, Duration::from_nanos);
    let cpu = options.what.cpu.resolve()?;
    let file = match &options.out {
        Some(path) => {
            let file = File::create(path);
            Some(file.with_context(|| format!("cannot create {}", path.display()))?)
        }
        None => None,
    };
    let mut sink = Sink {
        file,
        text: String::new(),
    };

    let (cuda, startup) = Startup::load(&options.library)
        .with_context(|| format!("{} cannot be loaded", options.library.display()))?;
    let session = Session::open(&cuda, startup, started).with_context(|| {
        format!(
            "{} does not get to a first launch",
            options.library.display()
        )
    })?;

    let version = cuda.version()?;
    sink.write(&record::fact_line(
        "library",
        if cuda.is_shim() { "vgpu" } else { "NVIDIA's" },
    ))?;
    sink.write(&record::fact_line(
        "device",
        &cuda.device_name(session.device)?,
    ))?;
    let version = format!("{}.{}", version / 1000, version % 1000 / 10);
    sink.write(&record::fact_line("CUDA version", &version))?;
    let cpu_text = cpu.map_or_else(|| "none".to_owned(), |cpu| cpu.to_string());
    sink.write(&record::fact_line("bound to CPU", &cpu_text))?;

    let mut good = true;
    for case in measure::catalogue(Plan::new(options.what.quick)) {
        let Metric { id, unit, .. } = &case.metric;
        if !options.what.wants(id) {
            continue;
        }
        sink.write(&record::started_line(id))?;
        let outcome = case.measure(&session, cpu);
        good &= !matches!(outcome, Outcome::Failed(_));
        sink.write(&record::outcome_line(id, *unit, &outcome))?;
    }
    if options.out.is_none() {
        let record = Record::parse(&sink.text).context("own numbers are not understood")?;
        let record = [record];
        let (native, shim) = if cuda.is_shim() {
            (&[][..], &record[..])
        } else {
            (&record[..], &[][..])
        };
        let mut table = Table::new(&options.what.metrics(), native, shim);
        machine_facts(&mut table);
        if options.what.quick {
            table.remark("quick run: these numbers mean nothing".to_owned());
        }
        print!("{}", table.text());
    }
    Ok(good)
}

/// What every table says about the machine.
pub fn machine_facts(table: &mut Table) {
    let cpus = pin::allowed().map_or(0, |cpus| cpus.len());
    table.fact("date (UTC)", machine::now());
    table.fact("CPU", format!("{} × {}", cpus, machine::cpu_model()));
    table.fact("kernel", machine::kernel());
    table.fact("NVIDIA kernel module", machine::driver_release());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_named_or_numbered() {
        assert_eq!("auto".parse(), Ok(Cpu::Auto));
        assert_eq!("none".parse(), Ok(Cpu::None));
        assert_eq!("7".parse(), Ok(Cpu::Number(7)));
        assert!("seven".parse::<Cpu>().is_err());
        assert!(Cpu::Number(usize::MAX).resolve().is_err());
    }

    #[test]
    fn a_filter_keeps_the_start() {
        let what = What {
            quick: true,
            only: Some("graph".into()),
            cpu: Cpu::None,
        };
        let ids: Vec<String> = what.metrics().into_iter().map(|metric| metric.id).collect();
        assert!(ids.contains(&"start_total".to_owned()) && ids.contains(&"graph_sync".to_owned()));
        assert!(!ids.contains(&"launch_sync".to_owned()));
    }

    #[test]
    fn a_missing_library_is_an_error_with_its_name() {
        let what = What {
            quick: true,
            only: None,
            cpu: Cpu::None,
        };
        let library = PathBuf::from("/nonexistent/libcuda.so.1");
        let error = measure(&Options {
            library,
            out: None,
            what,
            started: None,
        });
        assert!(
            error
                .expect_err("no library")
                .to_string()
                .contains("/nonexistent/libcuda.so.1")
        );
    }
}
