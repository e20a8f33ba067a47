//! The command line of `vgpu agent`, and of the processes that it starts itself.

use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Options of `vgpu agent`: serves the programs of this virtual machine.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Socket to serve programs on.
    #[arg(long, value_name = "PATH", default_value = "/run/vgpu/vgpu.sock")]
    pub socket: PathBuf,

    /// Let only members of this group (name or number) connect [default: everybody may].
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// User (number) that the process which listens to programs runs as.
    #[arg(long, value_name = "UID", default_value_t = 65534)]
    pub user: u32,

    /// What the other processes work with.
    #[command(flatten)]
    pub limits: Limits,
}

/// What `vgpu agent` passes on to its processes.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// Shared memory that each program begins with, for example 32MiB; it grows when needed.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "32MiB")]
    pub heap: u64,

    /// Programs served at once; the host's limit counts too.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_clients: usize,

    /// Programs of one user served at once.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_clients_per_user: usize,

    /// PCI address of the device, for example 0000:00:04.0 [default: the first one found].
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,

    /// How to reach the device.
    #[arg(long, value_enum, default_value_t = Access::Auto)]
    pub access: Access,

    /// How much to log to standard error.
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
}

/// Options of the mapper process.
#[derive(Clone, Debug, Args)]
pub struct MapperOptions {
    /// Only reset the device.
    #[arg(long, hide = true)]
    pub reset_only: bool,
    /// As given to `vgpu agent`.
    #[command(flatten)]
    pub limits: Limits,
}

/// Options of the parser process.
#[derive(Clone, Debug, Args)]
pub struct ParserOptions {
    /// User to become.
    #[arg(long, default_value_t = 65534)]
    pub user: u32,
    /// As given to `vgpu agent`.
    #[command(flatten)]
    pub limits: Limits,
}

/// Ways to a device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// VFIO where there is an IOMMU and the vfio-pci driver, else sysfs.
    Auto,
    /// VFIO, with interrupts.
    Vfio,
    /// Files in /sys, without interrupts.
    Sysfs,
}

/// Amounts of log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What looks wrong.
    Warn,
    /// Programs coming and going.
    Info,
    /// Details for developers.
    Debug,
    /// Everything.
    Trace,
}

fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

impl Limits {
    /// The same options as arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            format!("--heap={}", self.heap),
            format!("--max-clients={}", self.max_clients),
            format!("--max-clients-per-user={}", self.max_clients_per_user),
            format!("--access={}", name(&self.access)),
            format!("--log-level={}", name(&self.log_level)),
        ];
        if let Some(device) = &self.device {
            arguments.push(format!("--device={device}"));
        }
        arguments.into_iter().map(OsString::from).collect()
    }
}

/// Reads a size: bytes, or with KiB, MiB, GiB (also K, M, G); in whole pages of 2 MiB.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1_u64 << 30,
        other => return Err(format!("{other} is no unit; use KiB, MiB or GiB")),
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or("not a size")?;
    let page = vgpu_channel::segment::SEGMENT_ALIGN;
    if bytes == 0 || !bytes.is_multiple_of(page) || bytes > vgpu_channel::segment::SEGMENT_MAX {
        return Err("must be a multiple of 2 MiB, at most 64 GiB".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Test {
        #[command(flatten)]
        mapper: MapperOptions,
    }

    #[test]
    fn options_survive_being_passed_on() {
        let given = [
            "x",
            "--heap",
            "4M",
            "--device=0000:00:09.0",
            "--access=vfio",
            "--max-clients=3",
        ];
        let first = Test::try_parse_from(given).unwrap().mapper.limits;
        assert_eq!(first.heap, 4 << 20);
        let again = std::iter::once(OsString::from("x")).chain(first.arguments());
        let second = Test::try_parse_from(again).unwrap().mapper.limits;
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }

    #[test]
    fn sizes_are_whole_pages() {
        assert_eq!(parse_size("2097152"), Ok(2 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        for bad in ["", "1M", "3", "2X", "0", "99999999999G", "128G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
