//! The greeting: does somebody at the socket serve this user, and with what?

use super::step;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use vgpu_channel::client::{Channel, ConnectError};
use vgpu_channel::link::{Hello, LinkError, LinkStatus, Socket};
use vgpu_channel::window::Reservation;
use vgpu_protocol::number;
use vgpu_protocol::wire::{Snapshot, read_prefix};

/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long the backend may take for its answer: it may have to initialise a driver first, on a busy machine. Programs wait
/// [longer](vgpu_channel::client::WELCOME_TIMEOUT); what they would not notice must not be a verdict.
const WELCOME: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A session was opened.
    Session {
        /// The driver's version, e.g. 13000.
        driver: u32,
        /// Devices of the backend.
        devices: u32,
        /// The backend's minor version.
        minor: u16,
    },
    /// There is no such file.
    NoSocket,
    /// A file, but nobody listens.
    NobodyListens(String),
    /// The user may not connect.
    NotPermitted,
    /// The backend speaks another version.
    Version(String),
    /// It took the connection and did not answer.
    Silent,
    /// It refused, with a reason of its own.
    Refused(String),
    /// The machine, not the backend, refused (address space, memory).
    Machine(String),
}

/// Opens a session; the second value keeps it open.
pub fn ask(socket: &str) -> (Answer, Option<Channel>) {
    match open(socket) {
        Ok((answer, channel)) => (answer, Some(channel)),
        Err(answer) => (answer, None),
    }
}

fn open(socket: &str) -> Result<(Answer, Channel), Answer> {
    step("reserving addresses");
    let reservation =
        Reservation::for_client().map_err(|error| Answer::Machine(error.to_string()))?;
    step("connecting");
    let connection = Socket::connect(Path::new(socket), CONNECT).map_err(connect_error)?;
    step("greeting");
    let hello = Hello::new(reservation.window().index, number::fingerprint());
    let channel =
        Channel::over(connection, &hello, reservation, WELCOME).map_err(|error| match error {
            ConnectError::Version { major, minor } => {
                Answer::Version(format!("it speaks version {major}.{minor}"))
            }
            ConnectError::Link(LinkError::Refused(LinkStatus::Version)) => {
                Answer::Version("it says so".to_owned())
            }
            ConnectError::Link(LinkError::TimedOut) => Answer::Silent,
            other => Answer::Refused(other.to_string()),
        })?;
    let area = channel.snapshot();
    let (snapshot, _) = read_prefix::<Snapshot>(&area)
        .ok_or_else(|| Answer::Refused("it sent no list of devices".to_owned()))?;
    if snapshot.init_status != 0 {
        return Err(Answer::Refused(format!(
            "its own driver did not initialise: {}",
            crate::codes::name(snapshot.init_status)
        )));
    }
    let answer = Answer::Session {
        driver: snapshot.driver_version,
        devices: snapshot.device_count,
        minor: channel.server_minor(),
    };
    Ok((answer, channel))
}

fn connect_error(error: LinkError) -> Answer {
    match error {
        LinkError::NoServer { source, .. } => match source.kind() {
            std::io::ErrorKind::NotFound => Answer::NoSocket,
            std::io::ErrorKind::PermissionDenied => Answer::NotPermitted,
            _ => Answer::NobodyListens(source.to_string()),
        },
        LinkError::TimedOut => Answer::Silent,
        other => Answer::NobodyListens(other.to_string()),
    }
}
