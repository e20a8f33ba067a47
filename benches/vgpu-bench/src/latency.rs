//! `vgpu-bench latency`: how long the channel itself takes, and launches that are waited for, as distributions rather than
//! as one number. In a virtual machine the distribution says which way an answer came: looked at in shared memory, or
//! through the monitor and the agent.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use vgpu_channel::client::Channel;
use vgpu_channel::link::Hello;
use vgpu_channel::ring::RecordHeader;
use vgpu_channel::wait::{SpinBudget, usable_cpus};
use vgpu_channel::window::Reservation;
use vgpu_protocol::number::{fingerprint, internal};
use vgpu_protocol::wire::RECORD_REPLY;

use crate::measure::{self, Plan, Session, Startup};
use crate::metric::Unit;
use crate::stats::percentile;

/// Long enough for a worker and an agent without work to fall asleep.
const REST: Duration = Duration::from_millis(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Rows of [`measure::catalogue`] that are shown as well.
const LAUNCHES: [&str; 2] = ["launch_sync", "launch_sync_blocking"];
/// What is shown of each distribution, in per cent.
const SHOWN: [f64; 6] = [0.0, 10.0, 50.0, 90.0, 99.0, 100.0];

/// Options of `vgpu-bench latency`.
#[derive(Debug, Args)]
pub struct Options {
    /// The backend's socket, or the agent's; default: `VGPU_SOCKET`, or the machine's own
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// The CUDA driver library
    #[arg(long, value_name = "PATH", default_value = "libcuda.so.1")]
    library: PathBuf,

    /// Few repetitions: shows that everything works, its numbers mean nothing
    #[arg(long)]
    quick: bool,
}

/// Measures and prints a table; whether every row has numbers.
///
/// # Errors
/// When there is no backend, or one that does not answer.
pub fn latency(options: &Options) -> anyhow::Result<bool> {
    println!("CPUs of this process: {}", usable_cpus());
    println!("| | samples | least | 10 % | median | 90 % | 99 % | most |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    let (often, seldom) = if options.quick { (20, 3) } else { (5_000, 200) };
    let mut ring = Ring::connect(options)?;
    let looking = SpinBudget::for_cpus(usize::MAX, Duration::from_secs(1));
    for (label, spin, rest, count) in [
        (
            "round trip, both sides looking at shared memory",
            looking,
            Duration::ZERO,
            often,
        ),
        (
            "round trip, the worker asleep, the program looking",
            looking,
            REST,
            seldom,
        ),
        (
            "round trip, the worker asleep and the program, too",
            SpinBudget::NONE,
            REST,
            seldom,
        ),
    ] {
        ring.channel.set_spin(spin);
        row(label, ring.samples(count, rest)?);
    }
    drop(ring);
    launches(options)
}

fn launches(options: &Options) -> anyhow::Result<bool> {
    let started = measure::monotonic();
    let (cuda, startup) = Startup::load(&options.library)
        .with_context(|| format!("{} cannot be loaded", options.library.display()))?;
    let session = Session::open(&cuda, startup, started)?;
    let mut good = true;
    for case in measure::catalogue(Plan::new(options.quick)) {
        if !LAUNCHES.contains(&case.metric.id.as_str()) {
            continue;
        }
        match case.samples(&session) {
            Ok(samples) => row(&case.metric.label, samples),
            Err(failure) => {
                println!("| {} | {failure} |", case.metric.label);
                good = false;
            }
        }
    }
    Ok(good)
}

fn row(label: &str, mut samples: Vec<f64>) {
    samples.sort_by(f64::total_cmp);
    let shown: Vec<String> = SHOWN
        .iter()
        .map(|&part| {
            percentile(&samples, part)
                .map_or_else(|| "–".to_owned(), |value| Unit::Nanoseconds.show(value))
        })
        .collect();
    println!("| {label} | {} | {} |", samples.len(), shown.join(" | "));
}

/// A channel of its own, without CUDA.
struct Ring {
    channel: Channel,
    slot: u64,
    sequence: u32,
}

impl Ring {
    fn connect(options: &Options) -> anyhow::Result<Self> {
        let reservation = Reservation::for_client()?;
        let hello = Hello::new(reservation.window().index, fingerprint());
        let socket = options
            .socket
            .clone()
            .or_else(|| std::env::var_os("VGPU_SOCKET").map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from("/run/vgpu/vgpu.sock"));
        let channel = Channel::connect(&socket, &hello, reservation)
            .with_context(|| format!("{}", socket.display()))?;
        let slot = channel.alloc_reply()?;
        Ok(Self {
            channel,
            slot,
            sequence: 0,
        })
    }

    /// Asks for nothing and waits for the answer.
    fn ping(&mut self) -> anyhow::Result<()> {
        self.sequence += 1;
        let header = RecordHeader {
            call: internal::PING,
            flags: RECORD_REPLY,
            reply_sequence: self.sequence,
            reply_address: self.slot,
            ..RecordHeader::default()
        };
        self.channel.post(&header, &[])?;
        let slot = self.channel.reply(self.slot)?;
        let (status, _) = self.channel.wait_reply(slot, self.sequence, Some(ANSWER))?;
        if status != 0 {
            bail!("the worker answers a ping with {status}");
        }
        Ok(())
    }

    /// Nanoseconds of each of `count` round trips with a `rest` before each.
    fn samples(&mut self, count: usize, rest: Duration) -> anyhow::Result<Vec<f64>> {
        let mut samples = Vec::with_capacity(count);
        for number in 0..count + count.div_ceil(10) {
            if !rest.is_zero() {
                std::thread::sleep(rest);
            }
            let begin = measure::monotonic();
            self.ping()?;
            let took = measure::monotonic().saturating_sub(begin);
            // The first tenth is warm-up.
            if number >= count.div_ceil(10) {
                samples.push(took.as_secs_f64() * 1e9);
            }
        }
        Ok(samples)
    }
}
