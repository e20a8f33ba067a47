//! Where in guest-physical memory the pages of processes lie (`Documentation/admin-guide/mm/pagemap.rst`).

use std::fmt::Display;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, ensure};

use crate::PAGE;

/// What the memory files that the host maps are called, `transport/channel/src/segment.rs`.
const SEGMENT: &str = "/memfd:vgpu-segment";

/// The frames of all segments that a process maps.
pub fn shared(process: &str) -> anyhow::Result<Vec<u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps"))
        .with_context(|| format!("no process {process}"))?;
    let mut addresses = Vec::new();
    for line in maps.lines().filter(|line| line.contains(SEGMENT)) {
        let range = line.split(' ').next().and_then(|range| {
            let (start, end) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some(number(start)?..number(end)?)
        });
        addresses.extend(range.context("a line of maps")?.step_by(PAGE));
    }
    ensure!(
        !addresses.is_empty(),
        "process {process} shares nothing with the host"
    );
    of(process, &addresses)
}

/// The frames at these addresses of a process.
pub fn of(process: impl Display, addresses: &[usize]) -> anyhow::Result<Vec<u64>> {
    let pagemap = File::open(format!("/proc/{process}/pagemap"))?;
    let memory = File::open(format!("/proc/{process}/mem"))?;
    let frame = |address: &usize| {
        // The process may not have touched the page, and is only told of pages that it has.
        memory.read_exact_at(&mut [0], *address as u64)?;
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, *address as u64 / 4096 * 8)?;
        let entry = u64::from_le_bytes(entry);
        let frame = entry & ((1 << 55) - 1);
        ensure!(
            entry >> 63 == 1 && frame != 0,
            "pagemap does not tell where {address:#x} lies"
        );
        Ok(frame * 4096 / PAGE as u64)
    };
    addresses.iter().map(frame).collect()
}
