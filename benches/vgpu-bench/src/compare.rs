//! `vgpu-bench compare`: processes of both sides, in turns.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::child::{self, What};
use crate::measure;
use crate::record::{self, Record};
use crate::table::{self, Table};

/// Names NVIDIA's library where `--native` does not.
const NATIVE_DRIVER: &str = "VGPU_NATIVE_DRIVER";

/// The backend's socket, as the shim itself looks for it.
const SOCKET: &str = "VGPU_SOCKET";

/// Where distributions and container runtimes put NVIDIA's library.
const PLACES: [&str; 6] = [
    "/usr/local/nvidia/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/wsl/lib",
];

/// Options of `vgpu-bench compare`.
#[derive(Debug, Args)]
pub struct Options {
    /// NVIDIA's libcuda.so.1. Default: VGPU_NATIVE_DRIVER, else the usual places
    #[arg(long, value_name = "PATH")]
    native: Option<PathBuf>,

    /// Socket of a running backend. Default: VGPU_SOCKET
    #[arg(long, value_name = "PATH", conflicts_with = "vgpu")]
    shim_socket: Option<PathBuf>,

    /// The client library. Default: that of the tree or build directory this program lies in
    #[arg(long, value_name = "PATH", conflicts_with = "vgpu")]
    shim: Option<PathBuf>,

    /// Run the shim's side with this `vgpu run`, which starts a backend itself
    #[arg(long, value_name = "PATH")]
    vgpu: Option<PathBuf>,

    /// Processes of each side
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Seconds after which a process is given up
    #[arg(long, value_name = "S", default_value_t = 240)]
    timeout: u64,

    /// Write the table to this page: between its marks, or as the whole page
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Write every process's numbers to this file, as tab-separated values
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,

    /// Fail also if a target is missed
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    what: What,
}

/// One of the two things compared.
#[derive(Debug)]
struct Side {
    name: &'static str,
    /// What is run before this program's own arguments.
    program: Vec<OsString>,
    library: PathBuf,
    environment: Vec<(&'static str, Option<OsString>)>,
    records: Vec<Record>,
    /// Whether a process of this side had to be given up: the next would take as long.
    hung: bool,
}

/// How a process ended that did not end well.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It took longer than this.
    GivenUp(Duration),
    /// It ended by itself with this status.
    Badly(ExitStatus),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GivenUp(limit) => write!(f, "given up after {} s", limit.as_secs()),
            Self::Badly(status) => write!(f, "ended with {status}"),
        }
    }
}

/// Compares; whether nothing failed.
///
/// # Errors
/// When a side cannot be found, is not what it should be, or files cannot be written.
pub fn compare(options: &Options) -> anyhow::Result<bool> {
    // Checked here once, so that a bad CPU is not reported by every process.
    options.what.cpu.resolve()?;
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    let mut sides = [native_side(options, &own)?, shim_side(options, &own)?];
    let held = hold_devices();
    let mut raw = Vec::new();
    let mut remarks = Vec::new();
    for round in 1..=options.rounds {
        for side in sides.iter_mut().filter(|side| !side.hung) {
            let in_round = || format!("{} in round {round}", side.name);
            let (text, ended) = run(side, options).with_context(in_round)?;
            let record = Record::parse(&text).with_context(in_round)?;
            check_library(side.name, &record)?;
            eprintln!("round {round} of {}: {} done", options.rounds, side.name);
            if let Some(ended) = &ended {
                remarks.push(format!("{}: {ended}", in_round()));
            }
            side.hung = matches!(ended, Some(Ended::GivenUp(_)));
            side.records.push(record);
            raw.push((side.name.to_owned(), round as usize, text));
        }
    }

    let [native, shim] = sides;
    let mut table = Table::new(&options.what.metrics(), &native.records, &shim.records);
    child::machine_facts(&mut table);
    table.fact("rounds", options.rounds.to_string());
    table.fact("devices kept initialised", held.len().to_string());
    table.fact("vgpu-bench", env!("CARGO_PKG_VERSION").to_owned());
    let whole = remarks.is_empty();
    remarks.into_iter().for_each(|remark| table.remark(remark));
    if options.what.quick {
        table.remark("quick run: these numbers mean nothing".to_owned());
    }
    print!("{}", table.text());
    if let Some(path) = &options.markdown {
        let page = if path.exists() {
            read(path)?
        } else {
            String::new()
        };
        write(path, &table::into_page(&page, &table.markdown()))?;
    }
    if let Some(path) = &options.raw {
        write(path, &record::raw_table(&raw))?;
    }
    let (met, all) = table.score();
    Ok(whole && table.failures() == 0 && (!options.strict || met == all))
}

/// Opens the driver's device files. A device that nobody has open is initialised anew by the next `cuInit`, which takes
/// a tenth of a second, and it would be chance which side meets it so.
fn hold_devices() -> Vec<fs::File> {
    (0..64)
        .map_while(|number| fs::File::open(format!("/dev/nvidia{number}")).ok())
        .collect()
}

fn native_side(options: &Options, own: &Path) -> anyhow::Result<Side> {
    let named = options
        .native
        .clone()
        .or_else(|| std::env::var_os(NATIVE_DRIVER).map(PathBuf::from));
    let library = match named {
        Some(path) => path,
        None => PLACES
            .iter()
            .map(|place| Path::new(place).join("libcuda.so.1"))
            .find(|path| path.exists())
            .with_context(|| {
                format!("NVIDIA's libcuda.so.1 is in none of the usual places; name it with --native or {NATIVE_DRIVER}")
            })?,
    };
    if !library.exists() {
        bail!("there is no {}", library.display());
    }
    // Not resolved further: what the driver loads lies beside the link, not beside its target.
    let library = std::path::absolute(&library)
        .with_context(|| format!("{} has no absolute path", library.display()))?;
    // The driver loads further libraries of its own by name: they must be found, and before
    // anything of ours that the path may hold.
    let folder = library.parent().unwrap_or(Path::new("/")).to_owned();
    Ok(Side {
        name: "native",
        program: vec![own.into()],
        library,
        environment: vec![
            ("LD_LIBRARY_PATH", Some(search_path(&folder))),
            (SOCKET, None),
        ],
        records: Vec::new(),
        hung: false,
    })
}

fn shim_side(options: &Options, own: &Path) -> anyhow::Result<Side> {
    let folder = own.parent().unwrap_or(Path::new("."));
    let socket = options
        .shim_socket
        .clone()
        .or_else(|| std::env::var_os(SOCKET).map(PathBuf::from));
    let beside = || Some(folder.join("vgpu")).filter(|path| path.exists());
    let vgpu = match (&options.vgpu, &socket, &options.shim) {
        (Some(path), _, _) => Some(path.clone()),
        (None, None, None) => beside(),
        _ => None,
    };
    if let Some(vgpu) = vgpu {
        let program = vec![vgpu.into(), "run".into(), "--".into(), own.into()];
        // `vgpu run` puts the client library first in the path.
        let library = PathBuf::from("libcuda.so.1");
        return Ok(Side {
            name: "shim",
            program,
            library,
            environment: Vec::new(),
            records: Vec::new(),
            hung: false,
        });
    }
    let Some(socket) = socket else {
        bail!("no backend: give --vgpu, --shim-socket or {SOCKET}");
    };
    let library = match &options.shim {
        Some(path) => path.clone(),
        None => ["../lib/libcuda.so.1", "libcuda.so"]
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.exists())
            .with_context(|| {
                format!(
                    "no client library beside {}; name it with --shim",
                    own.display()
                )
            })?,
    };
    Ok(Side {
        name: "shim",
        program: vec![own.into()],
        library,
        environment: vec![(SOCKET, Some(socket.into()))],
        records: Vec::new(),
        hung: false,
    })
}

/// The loader's search path with this folder first.
fn search_path(folder: &Path) -> OsString {
    let mut path = folder.as_os_str().to_owned();
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH").filter(|before| !before.is_empty()) {
        path.push(":");
        path.push(before);
    }
    path
}

/// Runs one process: what it wrote, and how it ended if not by itself with success or with rows
/// that failed.
fn run(side: &Side, options: &Options) -> anyhow::Result<(String, Option<Ended>)> {
    let out = tempfile::NamedTempFile::new().context("no file for the numbers")?;
    let (program, before) = side.program.split_first().context("no program")?;
    let mut command = Command::new(program);
    command
        .args(before)
        .arg("measure")
        .arg("--library")
        .arg(&side.library)
        .arg("--out")
        .arg(out.path());
    if options.what.quick {
        command.arg("--quick");
    }
    if let Some(part) = &options.what.only {
        command.arg("--only").arg(part);
    }
    let cpu = options.what.cpu.resolve()?;
    command
        .arg("--cpu")
        .arg(cpu.map_or_else(|| "none".to_owned(), |cpu| cpu.to_string()));
    for (name, value) in &side.environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
        .arg("--started")
        .arg(measure::monotonic().as_nanos().to_string());
    let mut process = command
        .spawn()
        .with_context(|| format!("{} cannot be run", program.to_string_lossy()))?;
    let limit = Duration::from_secs(options.timeout);
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break Some(status);
        }
        if begin.elapsed() > limit {
            process
                .kill()
                .context("a process that hangs cannot be ended")?;
            process.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = read(out.path())?;
    Ok((text, how_it_ended(status, limit)))
}

/// `None` if the process ended with success, or with rows that failed and say so themselves.
fn how_it_ended(status: Option<ExitStatus>, limit: Duration) -> Option<Ended> {
    match status {
        None => Some(Ended::GivenUp(limit)),
        Some(status) if status.success() => None,
        Some(status) if status.code() == Some(i32::from(crate::ROWS_FAILED)) => None,
        Some(status) => Some(Ended::Badly(status)),
    }
}

/// Numbers of the wrong library under the right name would be worse than none.
fn check_library(side: &str, record: &Record) -> anyhow::Result<()> {
    let expected = if side == "shim" { "vgpu" } else { "NVIDIA's" };
    match record.facts.get("library").map(String::as_str) {
        Some(library) if library == expected => Ok(()),
        Some(library) => bail!("the {side} side loaded {library} library"),
        // It ended before it could say, and left no numbers either.
        None if record.outcomes.is_empty() => Ok(()),
        None => bail!("the {side} side does not say which library it loaded"),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn record(library: &str) -> Record {
        let mut record = Record::default();
        record.facts.insert("library".into(), library.into());
        record
    }

    #[test]
    fn each_side_must_have_loaded_its_library() {
        assert!(check_library("shim", &record("vgpu")).is_ok());
        assert!(check_library("native", &record("NVIDIA's")).is_ok());
        assert!(check_library("native", &record("vgpu")).is_err());
        assert!(check_library("shim", &Record::default()).is_ok());
        let nameless = Record::parse("-\ta\tnotrun\twhy\n").expect("a line");
        assert!(check_library("shim", &nameless).is_err());
    }

    #[test]
    fn failed_rows_are_not_a_failed_process() {
        let limit = Duration::from_secs(3);
        let exit = |code: i32| Some(ExitStatus::from_raw(code << 8));
        assert_eq!(how_it_ended(exit(0), limit), None);
        assert_eq!(
            how_it_ended(exit(i32::from(crate::ROWS_FAILED)), limit),
            None
        );
        assert!(how_it_ended(exit(101), limit).is_some());
        let given_up = how_it_ended(None, limit).expect("given up");
        assert_eq!(given_up.to_string(), "given up after 3 s");
        let killed = how_it_ended(Some(ExitStatus::from_raw(11)), limit)
            .expect("a signal")
            .to_string();
        assert!(killed.contains("signal"), "{killed}");
    }

    #[test]
    fn the_native_folder_comes_first() {
        let path = search_path(Path::new("/driver"))
            .into_string()
            .expect("text");
        assert!(path == "/driver" || path.starts_with("/driver:"));
    }
}
