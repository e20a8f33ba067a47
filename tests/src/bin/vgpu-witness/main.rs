//! Root's witness in a guest that ends and begins again while programs run: which pages the host may write to, and that
//! none of them is written to once it is somebody else's.
//!
//! | arguments | does |
//! |---|---|
//! | `frames PID…` | prints `frames` and the page frames of 2 MiB that these processes share with the host |
//! | `hold COUNT` | takes COUNT pages of the pool and fills them; prints `held` and their frames; when its input ends, it prints `kept COUNT`, or what changed (status 1) |
//! | `kexec KERNEL INITRD` | becomes this kernel, with the command line of the running one |
//!
//! Frames are hexadecimal numbers of 2 MiB of guest-physical memory.

mod frames;
mod kexec;
mod pattern;

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};

/// Bytes of a page of the pool.
const PAGE: usize = 2 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["frames", processes @ ..] => {
            let mut all = Vec::new();
            for process in processes {
                all.extend(frames::shared(process)?);
            }
            say("frames", &all)
        }
        ["hold", count] => hold(count.parse().context("COUNT is a number")?),
        ["kexec", kernel, initrd] => kexec::become_kernel(kernel, initrd),
        _ => bail!("frames PID… | hold COUNT | kexec KERNEL INITRD"),
    }
}

fn hold(count: usize) -> anyhow::Result<()> {
    let pages = pattern::Pages::take(count)?;
    let held = frames::of(std::process::id(), &pages.addresses())?;
    pages.fill()?;
    say("held", &held)?;
    // An input that cannot be read is as good as one that ended.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    if let Some((page, at, value)) = pages.changed() {
        let frame = held.get(page).copied().unwrap_or_default();
        bail!("changed: frame {frame:x}, byte {at:#x} begins {value:#x}");
    }
    say(&format!("kept {count}"), &[])
}

fn say(what: &str, frames: &[u64]) -> anyhow::Result<()> {
    let mut line = what.to_owned();
    for frame in frames {
        line.push_str(&format!(" {frame:x}"));
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
