//! The three commands, for [`crate::Options`] and its like: what `vgpu` calls.

use crate::keeper::{Keeper, Programs};
use crate::mapper;
use crate::options::{MapperOptions, Options, ParserOptions};
use crate::process::{raise_descriptor_limit, start_log};
use crate::store::{Store, Stored};
use crate::{MAPPER_COMMAND, PARSER_COMMAND, parser, pci};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vgpu_channel::link::Listener;

fn exit(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            tracing::error!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

/// `vgpu agent`.
#[must_use]
pub fn agent(options: &Options) -> ExitCode {
    // Before anything else opens a descriptor.
    let (store, stored) = Store::open();
    start_log(options.limits.log_level);
    exit(keep(options, store, stored))
}

/// The mapper process.
#[must_use]
pub fn mapper(options: &MapperOptions) -> ExitCode {
    start_log(options.limits.log_level);
    exit(mapper::start::run(options))
}

/// The parser process.
#[must_use]
pub fn parser(options: &ParserOptions) -> ExitCode {
    start_log(options.limits.log_level);
    exit(parser::run(options))
}

fn keep(options: &Options, store: Store, stored: Vec<Stored>) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "the agent drives a device and pins memory, for which it must be root: `sudo vgpu agent`, or the systemd unit vgpu-agent.service"
                .to_owned(),
        );
    }
    // The same look that the mapper takes, so that a machine without the device hears of it before anything is made.
    pci::find::find(options.limits.device.as_deref())
        .map_err(|error| mapper::error_text(&error))?;
    let signals =
        catch_signals().map_err(|error| format!("signals cannot be received: {error}"))?;
    raise_descriptor_limit();
    let listener = listen(&options.socket, options.group.as_deref())?;
    tracing::info!("listening on {}", options.socket.display());
    let arguments = |command: &str, more: &[String]| {
        let mut arguments = vec![OsString::from(command)];
        arguments.extend(more.iter().map(OsString::from));
        arguments.extend(options.limits.arguments());
        arguments
    };
    let programs = Programs {
        // The link stays right when the file is replaced by an update.
        program: PathBuf::from("/proc/self/exe"),
        mapper: arguments(MAPPER_COMMAND, &[]),
        reset: arguments(MAPPER_COMMAND, &["--reset-only".to_owned()]),
        parser: arguments(PARSER_COMMAND, &[format!("--user={}", options.user)]),
    };
    Keeper::new(programs, listener, signals)
        .with_store(store, stored)
        .run()
}

/// A stream that becomes readable at SIGTERM and SIGINT.
///
/// # Errors
///
/// The system's error.
pub fn catch_signals() -> io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for signal in [15, 2] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(read)
}

fn listen(path: &Path, group: Option<&str>) -> Result<Listener, String> {
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    }
    let group = group.map(group_number).transpose()?;
    // Nobody else connects before the group is set.
    let mode = if group.is_some() { 0o600 } else { 0o666 };
    let listener = Listener::bind_with_mode(path, mode).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            format!(
                "another agent or daemon answers at {}: end that one, or choose another --socket",
                path.display()
            )
        } else {
            format!("cannot listen on {}: {error}", path.display())
        }
    })?;
    if let Some(group) = group {
        let narrowed = chown(path, None, Some(group)).and_then(|()| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        });
        narrowed
            .map_err(|error| format!("{} cannot be given to the group: {error}", path.display()))?;
    }
    Ok(listener)
}

/// The number of a group by its name or number.
fn group_number(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group")
        .map_err(|error| format!("/etc/group cannot be read: {error}"))?;
    groups
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let number = fields.nth(1)?;
            (name == group).then(|| number.parse().ok())?
        })
        .ok_or_else(|| format!("there is no group {group}: make it with `groupadd {group}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_go_by_name_and_number() {
        assert_eq!(group_number("root"), Ok(0));
        assert_eq!(group_number("4711"), Ok(4711));
        assert!(group_number("no-such-group").is_err());
    }

    #[test]
    fn a_socket_is_open_to_all_or_to_a_group() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/vgpu.sock");
        let listener = listen(&path, None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
        assert!(listen(&path, None).unwrap_err().contains("another agent"));
        drop(listener);
        let own = path.parent().unwrap().metadata().unwrap().gid().to_string();
        let _listener = listen(&path, Some(&own)).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
    }
}
