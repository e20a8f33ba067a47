//! `vgpu top`: who uses the GPU through this host's daemons, and how much.

mod ask;
mod screen;
mod table;

use anyhow::{Result, bail};
use clap::Args;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use vgpu_status::Document;

/// Options of `vgpu top`.
#[derive(Debug, Args)]
pub struct Options {
    /// Print one table, made from a second's figures, and end.
    #[arg(long)]
    once: bool,

    /// Print the daemons' figures as JSON, totals since each client began, and end.
    #[arg(long, conflicts_with = "once")]
    json: bool,

    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Two looks at all daemons, some time apart.
#[derive(Debug, Default)]
struct Looks {
    before: Option<(Instant, Vec<Document>)>,
    now: Option<(Instant, Vec<Document>)>,
}

impl Looks {
    /// Looks again.
    fn look(&mut self) {
        self.before = self.now.take();
        self.now = Some((Instant::now(), ask::all()));
    }

    /// The rows of the table, as rates where there are two looks.
    fn rows(&self) -> Vec<table::Row> {
        let Some((now, documents)) = &self.now else {
            return Vec::new();
        };
        let before = self.before.as_ref();
        let seconds = before.map(|(before, _)| now.duration_since(*before).as_secs_f64());
        let old = before.map_or(&[][..], |(_, documents)| documents);
        table::rows(documents, old, seconds)
    }
}

/// Shows the figures.
///
/// # Errors
/// When no daemon answers, or the terminal fails.
pub fn top(options: &Options) -> Result<ExitCode> {
    let mut looks = Looks::default();
    looks.look();
    let documents = looks.now.iter().flat_map(|(_, documents)| documents);
    if documents.clone().next().is_none() {
        bail!("{}", nobody());
    }
    if options.json {
        let documents: Vec<&Document> = documents.collect();
        println!("{}", serde_json::to_string_pretty(&documents)?);
        return Ok(ExitCode::SUCCESS);
    }
    let interval = Duration::from_secs(options.interval);
    if options.once || !std::io::stdout().is_terminal() {
        std::thread::sleep(interval);
        looks.look();
        print!("{}", table::text(&looks.rows()));
        return Ok(ExitCode::SUCCESS);
    }
    screen::run(looks, interval)?;
    Ok(ExitCode::SUCCESS)
}

/// Why there is nothing to show.
fn nobody() -> &'static str {
    use vgpu_agent::pci::find::{FindError, USUAL_ID, find};
    let guest = match find(None) {
        Ok(found) => found.iter().any(|device| device.id == USUAL_ID),
        // Not root: there is a virtio device that the kernel leaves alone.
        Err(FindError::Hidden(_)) => true,
        Err(_) => false,
    };
    if guest {
        return "the figures are kept by the daemon on the host of this virtual machine: run `vgpu top` there";
    }
    "no daemon of yours answers on this machine: start vhost-user-vgpu, or use sudo for another user's daemon"
}
