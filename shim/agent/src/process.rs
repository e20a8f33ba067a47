//! What the processes of the agent have in common: how they begin, their log, their limits.

use crate::messages::{START, Word};
use crate::options::LogLevel;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;
use vgpu_channel::link::Socket;
use zerocopy::transmute;

/// How long the keeper may take for its first word.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Starts the log on standard error.
pub fn start_log(level: LogLevel) {
    let filter = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // A second start, in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init();
}

/// The socket to the keeper, which a child finds as its standard input.
///
/// # Errors
///
/// A sentence.
pub fn keeper_socket() -> Result<Socket, String> {
    let fd = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| format!("standard input cannot be taken: {error}"))?;
    Ok(Socket::from_fd(fd))
}

/// The keeper's first word, with descriptors.
///
/// # Errors
///
/// A sentence.
pub fn receive_start(keeper: &Socket) -> Result<(Word, Vec<OwnedFd>), String> {
    let (bytes, fds) = keeper
        .receive_with_fds::<{ size_of::<Word>() }>(FIRST_WORD)
        .map_err(|error| {
            format!(
                "this command is started by `vgpu agent`, which did not say what to do: {error}"
            )
        })?;
    let word: Word = transmute!(bytes);
    if word.kind == START {
        Ok((word, fds))
    } else {
        Err("the keeper did not say start".to_owned())
    }
}

/// Each channel takes several descriptors; the usual soft limit is for programs that use `select`.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the limit on descriptors stays: {error}");
    }
}
