//! Layer 1: the socket, who may connect, and what answers.

use super::{Case, sandbox};
use crate::child::{self, After, Setting};
use crate::probe::Request;
use crate::probe::hello::Answer;
use crate::report::{Layer, Report};
use std::path::Path;
use std::time::Duration;

/// How long one greeting may take.
const LIMIT: Duration = Duration::from_secs(24);
/// What is worth a word.
const SLOW: Duration = Duration::from_secs(5);

/// What PCI adds to a virtio device id.
const MODERN: u16 = 0x1040;

/// Huge pages that a program's channel takes with the agent's usual heap.
const PAGES: u64 = 17;

/// Looks.
pub fn check(case: &mut Case, report: &mut Report) {
    if let Some(unit) = &case.target.unit {
        sandbox::check(unit, &case.socket, report);
    }
    let setting = case.setting.within(LIMIT);
    let socket = case.socket.to_string_lossy().into_owned();
    let request = Request::Hello {
        socket: socket.clone(),
        hold: true,
    };
    let mut first = match child::start(&setting, &request) {
        Ok(running) => running,
        Err(error) => {
            report.fault(
                Layer::Transport,
                format!(
                    "no probe can be started as user {}: {error:#}",
                    setting.identity.uid
                ),
            );
            return;
        }
    };
    // A second one while the first holds its session, as a discovering program has several children.
    first.wait_for_answer();
    let second = child::start(&setting, &request).map(|mut second| {
        second.wait_for_answer();
        second
    });
    let outcome = first.finish::<Answer>(After::Killed);
    match outcome.answer {
        Some(Answer::Session {
            driver,
            devices,
            minor,
        }) => {
            report.ok(
                Layer::Transport,
                format!(
                    "{socket}: a backend answers user {}: driver {}.{}, {devices} device(s), protocol minor {minor}",
                    setting.identity.uid,
                    driver / 1000,
                    driver % 1000 / 10
                ),
            );
            if outcome.wall > SLOW {
                report.warning(
                    Layer::Transport,
                    format!(
                        "the greeting took {:.1} s: this machine or the backend is overloaded",
                        outcome.wall.as_secs_f64()
                    ),
                );
            }
            pages(report);
            if devices == 0 {
                report
                    .fault(
                        Layer::Transport,
                        format!("the backend at {socket} has no device"),
                    )
                    .mend("see the daemon's log; start it with --device cuda or --device software");
            }
        }
        Some(answer) => {
            refused(&answer, &socket, &setting, report);
            return;
        }
        None => {
            report
                .fault(
                    Layer::Transport,
                    format!(
                        "greeting the backend at {socket} failed: {}",
                        outcome.failure()
                    ),
                )
                .evidence(outcome.last_words());
            return;
        }
    }
    let second = second.map(|running| running.finish::<Answer>(After::Killed));
    match second
        .as_ref()
        .map(|outcome| (&outcome.answer, &outcome.ending))
    {
        Ok((Some(Answer::Session { .. }), _)) => {}
        Ok((Some(answer), _)) => {
            report.fault(
                Layer::Transport,
                format!("the backend serves one client but not a second at the same time: {answer:?}"),
            )
            .mend("raise --max-clients-per-user of the daemon or the agent");
            return;
        }
        Ok((None, ending)) => {
            report.fault(
                Layer::Transport,
                format!("a second client at the same time gets no answer ({ending})"),
            );
            return;
        }
        Err(error) => {
            report.warning(Layer::Transport, format!("no second probe: {error:#}"));
            return;
        }
    }
    after_kills(&setting, &request, report);
}

/// Both sessions were ended by SIGKILL, as Ollama ends its runners; the backend must take the next one all the same.
fn after_kills(setting: &Setting, request: &Request, report: &mut Report) {
    let next = child::run::<Answer>(setting, request);
    if matches!(next.answer, Some(Answer::Session { .. })) {
        report.ok(
            Layer::Transport,
            "two clients at once are served, and a third after both were killed by SIGKILL",
        );
    } else {
        report
            .fault(
                Layer::Transport,
                format!(
                    "after two clients were killed by SIGKILL the next is not served: {}",
                    next.answer
                        .as_ref()
                        .map_or_else(|| next.failure(), |answer| format!("{answer:?}"))
                ),
            )
            .mend("restart the daemon or the agent; its log says whose sessions it still holds");
    }
}

fn refused(answer: &Answer, socket: &str, setting: &Setting, report: &mut Report) {
    let user = setting.identity.uid;
    let (what, mend) = match answer {
        Answer::NoSocket => (
            format!("no backend: there is no socket {socket}"),
            start_command(socket),
        ),
        Answer::NobodyListens(error) => (
            format!("no backend: nobody listens at {socket} ({error})"),
            start_command(socket),
        ),
        Answer::NotPermitted => (
            format!("user {user} has no permission to connect to {socket} ({})", mode(socket)),
            permission_command(socket, user),
        ),
        Answer::Version(how) => (
            format!("the backend at {socket} is of another version: {how}"),
            "install the same version of vgpu on both sides".to_owned(),
        ),
        Answer::Silent => (
            format!("something listens at {socket} but does not answer a greeting in time"),
            "restart it: `systemctl restart vgpu-agent` in a virtual machine, the daemon vhost-user-vgpu on the host"
                .to_owned(),
        ),
        Answer::Refused(reason) => (
            format!("the backend at {socket} refuses: {reason}"),
            refusal_command(reason),
        ),
        Answer::Machine(reason) => (
            format!("this process cannot take part in a channel: {reason}"),
            "lift limits on address space (LimitAS=infinity, ulimit -v unlimited)".to_owned(),
        ),
        Answer::Session { .. } => return,
    };
    report.fault(Layer::Transport, what).mend(mend);
}

/// What makes somebody listen there.
fn start_command(socket: &str) -> String {
    if in_guest() {
        let pages = huge_pages("HugePages_Total:");
        let hint = if pages == Some(0) {
            "`sysctl vm.nr_hugepages=128` (there are no huge pages), then "
        } else {
            ""
        };
        format!("run {hint}`systemctl start vgpu-agent`, or `vgpu agent` as root")
    } else if socket == super::DEFAULT_SOCKET {
        "run `vhost-user-vgpu` as root (or `vgpu run -- PROGRAM`, which starts one)".to_owned()
    } else {
        format!("run `vhost-user-vgpu --listen {socket}`, or unset VGPU_SOCKET")
    }
}

fn refusal_command(reason: &str) -> String {
    let reason = reason.to_lowercase();
    if reason.contains("as many clients") {
        "raise --max-clients or --max-clients-per-user of the daemon or the agent".to_owned()
    } else if in_guest() && reason.contains("memory") {
        "run `sysctl vm.nr_hugepages=256`: the agent found no free huge pages".to_owned()
    } else {
        "see the log of the daemon or, in a virtual machine, `journalctl -u vgpu-agent`".to_owned()
    }
}

/// Whether this machine has a device of the kind that the agent drives.
fn in_guest() -> bool {
    let devices = std::fs::read_dir("/sys/bus/pci/devices")
        .into_iter()
        .flatten()
        .flatten();
    devices.into_iter().any(|device| {
        let read =
            |name: &str| std::fs::read_to_string(device.path().join(name)).unwrap_or_default();
        let number =
            |text: &str| u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
        number(&read("vendor")) == Some(vgpu_channel::link::virtio::PCI_VENDOR)
            && number(&read("device")) == Some(MODERN + vgpu_channel::link::virtio::DEVICE_ID)
    })
}

/// Pages that the kernel keeps, or has free, of the size that programs share with the host.
fn huge_pages(which: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(which))?;
    line.split_whitespace().next()?.parse().ok()
}

/// In a guest: whether there are huge pages left for one more program.
fn pages(report: &mut Report) {
    let (Some(total), Some(free), true) = (
        huge_pages("HugePages_Total:"),
        huge_pages("HugePages_Free:"),
        in_guest(),
    ) else {
        return;
    };
    let what = format!("{free} of {total} huge pages are free; a program begins with {PAGES}");
    if free < PAGES {
        report
            .warning(Layer::Transport, what)
            .mend(format!("run `sysctl vm.nr_hugepages={}`", total + 128));
    } else {
        report.ok(Layer::Transport, what);
    }
}

/// Owner and mode, for people.
fn mode(socket: &str) -> String {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata(socket) {
        Ok(file) => format!(
            "mode {:o}, user {}, group {}",
            file.mode() & 0o7777,
            file.uid(),
            file.gid()
        ),
        Err(error) => format!("{error}"),
    }
}

fn permission_command(socket: &str, user: u32) -> String {
    use std::os::unix::fs::MetadataExt;
    let closed_folder = Path::new(socket).parent().and_then(|folder| {
        let file = folder.metadata().ok()?;
        (file.mode() & 0o001 == 0 && file.uid() != user).then(|| folder.display().to_string())
    });
    match (closed_folder, std::fs::metadata(socket)) {
        (Some(folder), _) => format!("run `chmod a+x {folder}`"),
        (None, Ok(file)) if file.mode() & 0o020 != 0 && file.gid() != 0 => format!(
            "add the user to group {}: `usermod -aG {0} NAME`, then restart its service",
            file.gid()
        ),
        _ => format!("run `chmod a+rw {socket}`, or start the agent with --group"),
    }
}
