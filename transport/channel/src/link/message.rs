//! The messages of the link: fixed sizes, little-endian, no padding.

use core::mem::{offset_of, size_of};

use static_assertions::const_assert_eq;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "vgpuhi!" and a zero byte, little-endian.
pub const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"vgpuhi!\0");
/// "vgpuyes" and a zero byte, little-endian.
pub const WELCOME_MAGIC: u64 = u64::from_le_bytes(*b"vgpuyes\0");
/// "grow" as a 32-bit number, little-endian.
pub const GROW_MAGIC: u32 = u32::from_le_bytes(*b"grow");

/// Version of the link and of the calls sent over the channel.
pub const MAJOR: u16 = 1;
/// See [`MAJOR`]. Since minor 1 servers answer [queries](super::query) and know the calls from 300 on.
pub const MINOR: u16 = 1;
/// Minor versions that two sides may be apart.
pub const MINOR_DISTANCE: u16 = 2;

/// Bytes of the environment block.
pub const ENVIRONMENT_BYTES: usize = 1024;

/// A diagnostic number for the set of calls that a side was built with.
pub type Fingerprint = u64;

/// The client's first and only message before it is accepted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Hello {
    /// [`HELLO_MAGIC`].
    pub magic: u64,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Index of the address window that the client holds.
    pub window: u32,
    /// Flags; unknown ones are ignored.
    pub flags: u32,
    /// Bytes used of the environment block.
    pub environment_len: u32,
    /// Diagnostic: the client's set of calls.
    pub fingerprint: Fingerprint,
    /// A number that stays the same for the life of the client's machine session (0 on the host).
    pub session: u64,
    /// Zero.
    pub reserved: [u64; 3],
    /// Settings as `NAME=value` entries, each ended by a zero byte.
    pub environment: [u8; ENVIRONMENT_BYTES],
}

const_assert_eq!(size_of::<Hello>(), 64 + ENVIRONMENT_BYTES);
const_assert_eq!(offset_of!(Hello, window), 12);
const_assert_eq!(offset_of!(Hello, fingerprint), 24);
const_assert_eq!(offset_of!(Hello, environment), 64);

/// Why a hello is not acceptable, or an environment entry does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not a hello at all.
    #[error("The first message is no hello")]
    Malformed,
    /// Of a version this side does not serve.
    #[error("Version {major}.{minor} of the channel is not served")]
    Version {
        /// The client's major version.
        major: u16,
        /// The client's minor version.
        minor: u16,
    },
    /// It names no window.
    #[error("There is no address window {0}")]
    Window(u32),
    /// The environment block breaks its format.
    #[error("The settings sent along are malformed")]
    Environment,
    /// The environment block is full.
    #[error("The settings sent along do not fit {ENVIRONMENT_BYTES} bytes")]
    EnvironmentFull,
}

impl Hello {
    /// A hello of this build for the window held.
    #[must_use]
    pub fn new(window: u32, fingerprint: Fingerprint) -> Hello {
        Hello {
            magic: HELLO_MAGIC,
            major: MAJOR,
            minor: MINOR,
            window,
            flags: 0,
            environment_len: 0,
            fingerprint,
            session: 0,
            reserved: [0; 3],
            environment: [0; ENVIRONMENT_BYTES],
        }
    }

    /// Adds a setting: a name of capital letters, digits and underscores, a value of printable ASCII.
    ///
    /// # Errors
    ///
    /// [`HelloError::Environment`] for other characters, [`HelloError::EnvironmentFull`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), HelloError> {
        if !name_is_valid(name) || !value_is_valid(value) {
            return Err(HelloError::Environment);
        }
        let start = self.environment_len as usize;
        let len = name.len() + value.len() + 2;
        let room = self
            .environment
            .get_mut(start..start + len)
            .ok_or(HelloError::EnvironmentFull)?;
        for (to, from) in room
            .iter_mut()
            .zip(name.bytes().chain([b'=']).chain(value.bytes()).chain([0]))
        {
            *to = from;
        }
        self.environment_len += len as u32;
        Ok(())
    }

    /// The settings, after checking the whole block.
    ///
    /// # Errors
    ///
    /// [`HelloError::Environment`].
    pub fn settings(&self) -> Result<Vec<(&str, &str)>, HelloError> {
        let malformed = HelloError::Environment;
        let used = self
            .environment
            .get(..self.environment_len as usize)
            .ok_or(malformed)?;
        let Some(entries) = used.strip_suffix(&[0]) else {
            return if used.is_empty() {
                Ok(Vec::new())
            } else {
                Err(malformed)
            };
        };
        entries
            .split(|&byte| byte == 0)
            .map(|entry| {
                let text = core::str::from_utf8(entry).map_err(|_| malformed)?;
                let (name, value) = text.split_once('=').ok_or(malformed)?;
                if name_is_valid(name) && value_is_valid(value) {
                    Ok((name, value))
                } else {
                    Err(malformed)
                }
            })
            .collect()
    }

    /// Reads and checks a hello from the bytes of one message.
    ///
    /// # Errors
    ///
    /// [`HelloError`], naming what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Hello, HelloError> {
        let hello = Hello::read_from_bytes(bytes).map_err(|_| HelloError::Malformed)?;
        if hello.magic != HELLO_MAGIC {
            return Err(HelloError::Malformed);
        }
        if hello.major != MAJOR || hello.minor.abs_diff(MINOR) > MINOR_DISTANCE {
            return Err(HelloError::Version {
                major: hello.major,
                minor: hello.minor,
            });
        }
        if crate::window::Window::by_index(hello.window).is_none() {
            return Err(HelloError::Window(hello.window));
        }
        hello.settings()?;
        Ok(hello)
    }
}

fn name_is_valid(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn value_is_valid(value: &str) -> bool {
    value.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u32)]
pub enum LinkStatus {
    /// Accepted.
    #[error("Accepted")]
    Ok = 0,
    /// The request breaks the format.
    #[error("The server did not understand the request")]
    Malformed = 1,
    /// The versions do not fit together.
    #[error("The server does not serve this version")]
    Version = 2,
    /// The server cannot hold the window.
    #[error("The server cannot use the address window")]
    Window = 3,
    /// A limit on connections or rates is reached; later may work.
    #[error("The server serves as many clients as it may")]
    Busy = 4,
    /// There is no device.
    #[error("The server has no device")]
    NoDevice = 5,
    /// There is no memory, or a quota on it is reached.
    #[error("The server has no memory left for this")]
    NoMemory = 6,
    /// Not allowed to this client.
    #[error("The server does not allow this")]
    Denied = 7,
    /// The server failed; its log says why.
    #[error("The server failed")]
    Internal = 8,
}

impl LinkStatus {
    /// The status with this number; unknown numbers count as failures of the server.
    #[must_use]
    pub const fn from_word(word: u32) -> LinkStatus {
        match word {
            0 => LinkStatus::Ok,
            1 => LinkStatus::Malformed,
            2 => LinkStatus::Version,
            3 => LinkStatus::Window,
            4 => LinkStatus::Busy,
            5 => LinkStatus::NoDevice,
            6 => LinkStatus::NoMemory,
            7 => LinkStatus::Denied,
            _ => LinkStatus::Internal,
        }
    }
}

impl From<HelloError> for LinkStatus {
    fn from(error: HelloError) -> Self {
        match error {
            HelloError::Version { .. } => LinkStatus::Version,
            HelloError::Window(_) => LinkStatus::Window,
            HelloError::Malformed | HelloError::Environment | HelloError::EnvironmentFull => {
                LinkStatus::Malformed
            }
        }
    }
}

/// The server's answer to a hello. With [`LinkStatus::Ok`] it carries four descriptors: control segment, heap segment,
/// doorbell, wake.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Welcome {
    /// [`WELCOME_MAGIC`].
    pub magic: u64,
    /// A [`LinkStatus`].
    pub status: u32,
    /// Index of the window, as the client chose it.
    pub window: u32,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Flags; unknown ones are ignored.
    pub flags: u32,
    /// Diagnostic: the server's set of calls.
    pub fingerprint: Fingerprint,
    /// Address of the control segment.
    pub control_address: u64,
    /// Bytes of the control segment.
    pub control_len: u64,
    /// Address of the heap segment.
    pub heap_address: u64,
    /// Bytes of the heap segment.
    pub heap_len: u64,
}

const_assert_eq!(size_of::<Welcome>(), 64);
const_assert_eq!(offset_of!(Welcome, fingerprint), 24);
const_assert_eq!(offset_of!(Welcome, control_address), 32);

/// Descriptors that one message can carry.
pub const MESSAGE_FDS: usize = 16;

/// Descriptors that come with an accepting welcome.
pub const WELCOME_FDS: usize = 4;

/// The client asks for another heap segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GrowRequest {
    /// [`GROW_MAGIC`].
    pub magic: u32,
    /// Number that the answer repeats.
    pub id: u32,
    /// Bytes wanted; a multiple of 2 MiB.
    pub bytes: u64,
}

const_assert_eq!(size_of::<GrowRequest>(), 16);

/// The server's answer to a [`GrowRequest`]. With [`LinkStatus::Ok`] it carries the segment's descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct GrowResponse {
    /// [`GROW_MAGIC`].
    pub magic: u32,
    /// Number of the request.
    pub id: u32,
    /// A [`LinkStatus`].
    pub status: u32,
    /// Zero.
    pub reserved: u32,
    /// Address of the segment.
    pub address: u64,
    /// Bytes of the segment.
    pub len: u64,
}

const_assert_eq!(size_of::<GrowResponse>(), 32);
const_assert_eq!(offset_of!(GrowResponse, address), 16);
