//! What a service's sandbox keeps from it. Our transport is a unix socket and memory passed over it; device nodes, sysfs
//! and other address families are of no use to it and may be closed.

use crate::report::{Layer, Report};
use crate::unit::Unit;
use std::path::Path;

/// Looks at the unit's properties.
pub fn check(unit: &Unit, socket: &Path, report: &mut Report) {
    let name = &unit.name;
    let mend = |line: &str| {
        format!(
            "run `systemctl edit {name}`, add `[Service]` and `{line}`, then `systemctl restart {name}`"
        )
    };
    let families = unit.first("RestrictAddressFamilies");
    let listed = families
        .split_whitespace()
        .any(|word| word.trim_start_matches('~') == "AF_UNIX");
    if !families.is_empty() && listed == families.starts_with('~') {
        report
            .fault(
                Layer::Transport,
                format!("the service {name} may not use unix sockets (RestrictAddressFamilies={families})"),
            )
            .mend(mend("RestrictAddressFamilies=AF_UNIX"));
    }
    for property in ["RootDirectory", "RootImage"] {
        let value = unit.first(property);
        if !value.is_empty() && value != "/" {
            report
                .warning(
                    Layer::Transport,
                    format!("the service {name} has a root folder of its own ({property}={value}): socket and shim must be in it"),
                )
                .mend(mend("BindPaths=/run/vgpu"));
        }
    }
    for property in ["InaccessiblePaths", "TemporaryFileSystem"] {
        for path in unit.first(property).split_whitespace() {
            let path = path.trim_start_matches(['-', '+']);
            let path = path.split(':').next().unwrap_or(path);
            if socket.starts_with(path) {
                report
                    .fault(
                        Layer::Transport,
                        format!(
                            "{} is hidden from the service {name} ({property}={path})",
                            socket.display()
                        ),
                    )
                    .mend(mend("BindPaths=/run/vgpu"));
            }
        }
    }
    let hidden = [
        ("PrivateTmp", "/tmp"),
        ("PrivateTmp", "/var/tmp"),
        ("ProtectHome", "/home"),
        ("ProtectHome", "/root"),
        ("ProtectHome", "/run/user"),
    ];
    for (property, folder) in hidden {
        if unit.says_yes(property) && socket.starts_with(folder) {
            report
                .fault(
                    Layer::Transport,
                    format!("{} is hidden from the service {name} ({property}=yes)", socket.display()),
                )
                .mend("let the backend listen at /run/vgpu/vgpu.sock and unset VGPU_SOCKET in the unit");
        }
    }
    if !matches!(
        unit.first("LimitAS"),
        "" | "infinity" | "18446744073709551615"
    ) {
        report
            .fault(
                Layer::Transport,
                format!("the service {name} has a limit on address space (LimitAS={}); the shim reserves a large range", unit.first("LimitAS")),
            )
            .mend(mend("LimitAS=infinity"));
    }
    harmless(unit, report);
}

/// Settings that keep a program from a real GPU, named so that nobody chases them.
fn harmless(unit: &Unit, report: &mut Report) {
    let mut words = Vec::new();
    if matches!(unit.first("DevicePolicy"), "closed" | "strict") {
        words.push(format!("DevicePolicy={}", unit.first("DevicePolicy")));
    }
    for property in [
        "PrivateDevices",
        "PrivateUsers",
        "ProtectKernelTunables",
        "MemoryDenyWriteExecute",
    ] {
        if unit.says_yes(property) {
            words.push(format!("{property}=yes"));
        }
    }
    if !words.is_empty() {
        report.note(
            Layer::Transport,
            format!(
                "sandbox of {}: {} keep a program from /dev/nvidia*, sysfs or code made at run time; vgpu needs only its unix socket",
                unit.name,
                words.join(", ")
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(shown: &str) -> Vec<String> {
        let mut report = Report::default();
        check(
            &Unit::parse("ollama", shown),
            Path::new("/run/vgpu/vgpu.sock"),
            &mut report,
        );
        let faults = report
            .findings
            .iter()
            .filter(|f| f.severity == crate::report::Severity::Fault);
        faults.map(|finding| finding.what.clone()).collect()
    }

    #[test]
    fn a_list_of_families_without_unix_and_one_against_unix_are_faults() {
        assert_eq!(
            faults("RestrictAddressFamilies=AF_INET AF_INET6\n").len(),
            1
        );
        assert_eq!(faults("RestrictAddressFamilies=~AF_UNIX\n").len(), 1);
        assert!(faults("RestrictAddressFamilies=AF_UNIX AF_INET\n").is_empty());
        assert!(faults("RestrictAddressFamilies=~AF_PACKET\n").is_empty());
        assert!(faults("RestrictAddressFamilies=\n").is_empty());
    }

    #[test]
    fn closed_devices_are_none() {
        assert!(faults("DevicePolicy=closed\nPrivateDevices=yes\nPrivateUsers=yes\n").is_empty());
        assert_eq!(faults("InaccessiblePaths=-/run/vgpu\n").len(), 1);
        assert_eq!(faults("LimitAS=1000000\n").len(), 1);
    }
}
