//! The service units, and the service manager if one runs.

use crate::tree::Tree;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where an administrator's units are.
pub const UNITS: &str = "/etc/systemd/system";
/// What starts them with the machine.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
/// What the daemon's unit says by `CacheDirectory=`.
pub const CACHE: &str = "/var/cache/vgpu";
/// Where the number of huge pages is set at the next boot.
pub const SYSCTL: &str = "/etc/sysctl.d/60-vgpu.conf";
/// Where it is set at once.
pub const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

const AGENT: &str = include_str!("../../agent/vgpu-agent.service");
const DAEMON: &str = include_str!("../../../backend/daemon/vhost-user-vgpu.service");
const MACHINE: &str = include_str!("../../../backend/daemon/vhost-user-vgpu@.service");

/// A service of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// In a virtual machine: the agent.
    Agent,
    /// On the host: the daemon.
    Daemon,
    /// On the host: a template, for a daemon of each virtual machine. Whoever has a machine starts it.
    Machine,
}

impl Service {
    /// All of them.
    pub const ALL: [Service; 3] = [Service::Agent, Service::Daemon, Service::Machine];

    /// The unit's name.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Service::Agent => "vgpu-agent.service",
            Service::Daemon => "vhost-user-vgpu.service",
            Service::Machine => "vhost-user-vgpu@.service",
        }
    }

    /// What of it may run: the unit, or a pattern for what was made of the template.
    #[must_use]
    pub fn running(self) -> &'static str {
        match self {
            Service::Machine => "vhost-user-vgpu@*.service",
            other => other.unit(),
        }
    }

    /// The unit's file, for programs in `bin`.
    #[must_use]
    pub fn text(self, bin: &Path) -> String {
        let text = match self {
            Service::Agent => AGENT,
            Service::Daemon => DAEMON,
            Service::Machine => MACHINE,
        };
        text.replace("/usr/bin/", &format!("{}/", bin.display()))
    }

    /// Where the unit's file is.
    #[must_use]
    pub fn file(self) -> PathBuf {
        Path::new(UNITS).join(self.unit())
    }

    /// The link that starts it with the machine, where `vgpu install` makes one.
    #[must_use]
    pub fn wanted(self) -> Option<PathBuf> {
        (self != Service::Machine).then(|| Path::new(WANTS).join(self.unit()))
    }
}

/// Whether a system has systemd.
#[must_use]
pub fn is_there(tree: &Tree) -> bool {
    ["/usr/lib/systemd/system", "/lib/systemd/system"]
        .iter()
        .any(|folder| tree.has_folder(Path::new(folder)))
}

/// Whether systemd runs this very system.
#[must_use]
pub fn runs(tree: &Tree) -> bool {
    tree.is_this_system() && Path::new("/run/systemd/system").is_dir()
}

/// Has the service manager do something; `false`, with its own words on standard error, when it did not.
pub fn control(arguments: &[&str]) -> bool {
    Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_start_what_was_installed() {
        for service in Service::ALL {
            let text = service.text(Path::new("/opt/x/bin"));
            let start = text
                .lines()
                .find_map(|line| line.strip_prefix("ExecStart="))
                .unwrap();
            assert!(start.starts_with("/opt/x/bin/v"), "{start}");
            assert!(!text.contains("/usr/bin"), "{text}");
            assert!(text.contains("\nWantedBy=multi-user.target\n"));
        }
        assert!(DAEMON.contains("\nCacheDirectory=vgpu\n"));
        assert_eq!(CACHE, "/var/cache/vgpu");
    }
}
