//! What the daemon tells a worker: one message with the channel's descriptors, over the socket that
//! the worker is started with. After that the socket carries the link's own messages, the daemon
//! passing them on between worker and client: [`Welcome`](vgpu_channel::link::Welcome) from the
//! worker when it is ready, then growth requests with a segment's descriptor to the worker.

use std::os::fd::OwnedFd;
use std::time::Duration;
use vgpu_channel::control::ControlLayout;
use vgpu_channel::link::{Event, Hello, LinkError, Socket};
use vgpu_channel::segment::{SegmentError, SegmentFd};
use vgpu_channel::server::Parts;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// "vgpuset" and a zero byte, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vgpuset\0");
/// [`Setup::device`]: NVIDIA's driver.
pub const DEVICE_CUDA: u32 = 1;
/// [`Setup::device`]: the software device.
pub const DEVICE_SOFTWARE: u32 = 2;
/// Longest path of a socket, terminator included.
pub const PATH_BYTES: usize = 112;

/// The message. With it come, in this order: control segment, heap segment, doorbell, wake.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Setup {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`DEVICE_CUDA`] or [`DEVICE_SOFTWARE`].
    pub device: u32,
    /// Zero.
    pub reserved: u32,
    /// Bytes of device memory that the client may hold; 0 for no limit.
    pub quota: u64,
    /// Slots of the command ring.
    pub ring_slots: u64,
    /// Bytes of the control segment.
    pub control_len: u64,
    /// Bytes of the heap segment.
    pub heap_len: u64,
    /// Path of the daemon's socket, NUL-terminated: a worker that outlives its daemon removes it
    /// when nobody answers there. Empty when it must stay.
    pub listen: [u8; PATH_BYTES],
    /// The client's hello, checked by the daemon.
    pub hello: Hello,
}

/// Why a worker could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The socket failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A segment is not what it should be.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The message is not one of this version's daemon.
    #[error("The daemon's message is malformed")]
    Malformed,
}

impl Setup {
    /// Receives the message and turns its descriptors into the parts of a channel, whose link is
    /// the socket to the daemon.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn receive(socket: Socket, timeout: Duration) -> Result<(Setup, Parts), SetupError> {
        let (bytes, fds) = socket.receive_with_fds::<{ size_of::<Setup>() }>(timeout)?;
        let setup = Setup::read_from_bytes(&bytes).map_err(|_| SetupError::Malformed)?;
        if setup.magic != MAGIC {
            return Err(SetupError::Malformed);
        }
        let [control, heap, doorbell, wake] =
            <[OwnedFd; 4]>::try_from(fds).map_err(|_| SetupError::Malformed)?;
        let parts = Parts {
            socket,
            hello: setup.hello,
            control: SegmentFd::receive(control, setup.control_len)?,
            heap: SegmentFd::receive(heap, setup.heap_len)?,
            doorbell: Event::from_fd(doorbell),
            wake: Event::from_fd(wake),
            layout: ControlLayout::new(setup.ring_slots),
        };
        Ok((setup, parts))
    }

    /// The daemon's socket path, if there is one.
    pub fn listen_path(&self) -> Option<std::path::PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let end = self.listen.iter().position(|&byte| byte == 0)?;
        let path = self.listen.get(..end).filter(|path| !path.is_empty())?;
        Some(std::ffi::OsStr::from_bytes(path).into())
    }
}

/// Environment variables of a client that its worker gets too, if their values are plausible: each
/// changes how the driver works and names nothing of the host (`isolation.md` 13).
pub fn allowed_setting(name: &str, value: &str) -> bool {
    let number = |most: u32| value.parse::<u32>().is_ok_and(|value| value <= most);
    match name {
        "CUDA_MODULE_LOADING" => matches!(value, "LAZY" | "EAGER" | "DEFAULT"),
        "CUDA_MODULE_DATA_LOADING" => matches!(value, "LAZY" | "EAGER" | "DEFAULT"),
        "CUDA_DEVICE_MAX_CONNECTIONS" | "CUDA_DEVICE_MAX_COPY_CONNECTIONS" => number(32),
        "CUDA_FORCE_PTX_JIT"
        | "CUDA_DISABLE_PTX_JIT"
        | "CUDA_FORCE_JIT"
        | "CUDA_DISABLE_JIT"
        | "CUDA_CACHE_DISABLE"
        | "CUDA_AUTO_BOOST" => number(1),
        "CUDA_DEVICE_ORDER" => matches!(value, "FASTEST_FIRST" | "PCI_BUS_ID"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_name_something_of_the_host_never_pass() {
        assert!(allowed_setting("CUDA_MODULE_LOADING", "LAZY"));
        assert!(allowed_setting("CUDA_DEVICE_MAX_CONNECTIONS", "8"));
        for (name, value) in [
            ("CUDA_MODULE_LOADING", "/etc/passwd"),
            ("CUDA_DEVICE_MAX_CONNECTIONS", "999"),
            ("CUDA_CACHE_PATH", "/tmp"),
            ("CUDA_INJECTION64_PATH", "/tmp/x.so"),
            ("CUDA_COREDUMP_FILE", "/tmp/x"),
            ("CUDA_MPS_PIPE_DIRECTORY", "/tmp"),
            ("LD_PRELOAD", "x"),
            ("CUDA_VISIBLE_DEVICES", "0"),
        ] {
            assert!(!allowed_setting(name, value), "{name}={value}");
        }
    }
}
