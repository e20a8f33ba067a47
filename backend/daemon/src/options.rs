//! The command line.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use vgpu_worker::setup::MAX_SOFTWARE_DEVICES as MAX_DEVICES;

/// What `--print-capabilities` prints, as other vhost-user daemons do.
pub const CAPABILITIES: &str = r#"{"type":"vgpu","features":[]}"#;

/// Serves CUDA to guests and containers: a worker process for each client.
#[derive(Clone, Debug, Parser)]
#[command(name = "vhost-user-vgpu", version)]
pub struct Options {
    /// Socket for processes of this host and its containers [default: /run/vgpu/vgpu.sock, or in
    /// XDG_RUNTIME_DIR/vgpu for users who cannot write there; none if a virtual machine is served].
    #[arg(long, value_name = "PATH")]
    pub listen: Option<PathBuf>,

    /// Socket for a virtual machine: QEMU connects there for its vhost-user-vgpu device.
    #[arg(
        long,
        visible_alias = "socket-path",
        value_name = "PATH",
        conflicts_with = "fd"
    )]
    pub vhost_user: Option<PathBuf>,

    /// As --vhost-user, with a listening socket that was handed over under this number.
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,

    /// Which device to serve. `auto` takes NVIDIA's driver if it works, else the software device.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub device: Device,

    /// Software devices to show, where those are served: for trying programs that use several.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEVICES)))]
    pub software_devices: u32,

    /// Device memory each client may hold, for example 8GiB [default: the whole device].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,

    /// Host memory shared with each client for pinned buffers, at most [default: half of the
    /// machine's].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub pinned: Option<u64>,

    /// Folder where NVIDIA's driver keeps compiled kernels, one folder for each user below it, or
    /// `off` [default: vgpu in XDG_CACHE_HOME or ~/.cache, for root /var/cache/vgpu].
    #[arg(long, value_name = "FOLDER")]
    pub compile_cache: Option<PathBuf>,

    /// Clients served at once, and as many in the virtual machine.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_clients: usize,

    /// Clients of one user served at once.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_clients_per_user: usize,

    /// End after so many seconds without a client.
    #[arg(long, value_name = "SECONDS")]
    pub idle_exit: Option<u64>,

    /// Where Prometheus may read figures about clients: an address and port such as 127.0.0.1:9400, or the path of a
    /// socket [default: nowhere]. Whoever can connect can read them.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,

    /// What clients' monitors are told about the device beyond what is their own. `host` adds what it does for everybody:
    /// utilisation, clocks, temperature, power, fans, PCI Express and ECC errors, from the host's own libnvidia-ml.so.1.
    #[arg(long, value_enum, default_value_t = NvmlScope::Own)]
    pub nvml: NvmlScope,

    /// The host's libnvidia-ml.so.1, if it is not where the loader and distributions have it.
    #[arg(long, global = true, value_name = "PATH")]
    pub nvml_library: Option<PathBuf>,

    /// How much to log to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,

    /// Print what this daemon can do, as JSON, and exit.
    #[arg(long)]
    pub print_capabilities: bool,

    /// What the daemon starts itself as.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Parts of the daemon that run as processes of their own.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve one client, whose channel comes over standard input.
    #[command(hide = true)]
    Worker,
    /// Say what devices NVIDIA's driver has here.
    #[command(hide = true)]
    Probe {
        /// Ask the software device instead, where it shows so many devices.
        #[arg(long, value_name = "N")]
        software: Option<u32>,
    },
    /// Say how much memory of devices is free, by the host's management library.
    #[command(hide = true)]
    Memory {
        /// Their UUIDs.
        devices: Vec<String>,
    },
    /// Say what the host's management library says of devices now.
    #[command(hide = true)]
    Figures {
        /// Their UUIDs.
        devices: Vec<String>,
    },
}

/// What monitors of clients see of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NvmlScope {
    /// What the device is, its memory, and the clients' own processes.
    Own,
    /// Also what the host's management library says of it.
    Host,
}

/// Devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// Whatever works.
    Auto,
    /// NVIDIA's driver.
    Cuda,
    /// The built-in software device.
    Software,
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
    /// Clients coming and going.
    Info,
    /// Details for developers.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The name as the command line takes it.
    pub fn name(self) -> &'static str {
        match self {
            LogLevel::Off => "off",
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl Options {
    /// Where to listen for processes of this host, if at all.
    pub fn socket(&self) -> Option<PathBuf> {
        let machine = self.vhost_user.is_some() || self.fd.is_some();
        match &self.listen {
            None if machine => None,
            None => Some(Self::default_socket()),
            path => path.clone(),
        }
    }

    fn default_socket() -> PathBuf {
        let user = rustix::process::geteuid();
        if user.is_root() {
            return PathBuf::from("/run/vgpu/vgpu.sock");
        }
        let directory = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(directory) => PathBuf::from(directory).join("vgpu"),
            None => std::env::temp_dir().join(format!("vgpu-{}", user.as_raw())),
        };
        directory.join("vgpu.sock")
    }

    /// Where compiled kernels are kept, `None` for nowhere.
    pub fn compile_cache(&self) -> Option<PathBuf> {
        if let Some(folder) = &self.compile_cache {
            return (folder.as_os_str() != "off").then(|| folder.clone());
        }
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from("/var/cache/vgpu"));
        }
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        base.or_else(home).map(|base| base.join("vgpu"))
    }

    /// Bytes of shared host memory each client may have.
    pub fn pinned_limit(&self) -> u64 {
        self.pinned.unwrap_or_else(|| {
            let info = rustix::system::sysinfo();
            (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) / 2
        })
    }
}

/// Reads a size: a number with an optional unit, binary whether or not an `i` says so.
fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no size; try 8GiB"))?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("{unit:?} is no unit of size; try KiB, MiB or GiB")),
    };
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_with_units() {
        for (text, bytes) in [
            ("4096", 4096),
            ("1K", 1 << 10),
            ("512MiB", 512 << 20),
            ("8 GB", 8 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "0", "-1", "1X", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
