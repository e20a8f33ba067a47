//! What the daemon tells a worker: one message with the channel's descriptors, over the socket that
//! the worker is started with. After that the socket carries the link's own messages, the daemon
//! passing them on between worker and client: [`Welcome`](vgpu_channel::link::Welcome) from the
//! worker when it is ready, then growth requests with a segment's descriptor to the worker.
//!
//! In a virtual machine segments are [pieces](FilePiece) of the files behind its RAM. A list of them comes as a memory file,
//! followed by the files; the worker maps what is listed and closes them. [`QUIESCE`] and [`RESUME`], in the shape of a
//! growth request and answered in the shape of its answer, close and open the worker's [gate](crate::gate).

use crate::exchange::Exchange;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use vgpu_channel::control::ControlLayout;
use vgpu_channel::link::message::MESSAGE_FDS;
use vgpu_channel::link::{Event, Hello, LinkError, Socket};
use vgpu_channel::permits::Permits;
use vgpu_channel::segment::{FilePiece, Memory, Pieces, SegmentError, SegmentFd};
use vgpu_channel::server::Parts;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// "vgpuset" and a zero byte, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vgpuset\0");
/// [`Setup::device`]: NVIDIA's driver.
pub const DEVICE_CUDA: u32 = 1;
/// [`Setup::device`]: the software device.
pub const DEVICE_SOFTWARE: u32 = 2;
/// Most [software devices](Setup::software_devices).
pub const MAX_SOFTWARE_DEVICES: i32 = vgpu_software::MAX_DEVICES;
/// [`Setup::memory`]: each segment is a sealed memory file.
pub const MEMORY_FILES: u32 = 0;
/// [`Setup::memory`]: each segment is a list of pieces.
pub const MEMORY_PIECES: u32 = 1;
/// Files that the pieces of one message can lie in.
pub const MAX_PIECE_FILES: usize = MESSAGE_FDS - 7;
/// Pieces that one message can list.
pub const MAX_PIECES: usize = 4096;
/// Magic of a request to stop until [`RESUME`]: "quie", little-endian. Answered when nothing is under way any more.
pub const QUIESCE: u32 = u32::from_le_bytes(*b"quie");
/// Magic of a request to go on: "resu", little-endian. Not answered.
pub const RESUME: u32 = u32::from_le_bytes(*b"resu");
/// How long a worker may take for [`QUIESCE`].
pub const QUIESCE_TIME: Duration = Duration::from_secs(5);
/// Longest path of a socket, terminator included.
pub const PATH_BYTES: usize = 112;

/// The message. With it come, in this order: doorbell, wake, the page of [permits](vgpu_channel::permits), the page for
/// [figures](crate::figures), the socket of the [exchange](crate::exchange), and either control segment and heap segment, or the list of pieces (those of the control
/// segment first), a lock, and the files they lie in. The worker holds the lock as long as it
/// lives: a daemon that restarts serves the machine only when nobody holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Setup {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`DEVICE_CUDA`] or [`DEVICE_SOFTWARE`].
    pub device: u32,
    /// [`MEMORY_FILES`] or [`MEMORY_PIECES`].
    pub memory: u32,
    /// Software devices; 0 for NVIDIA's, which are all there are.
    pub software_devices: u32,
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
    /// Pieces of the control segment.
    pub control_pieces: u32,
    /// Pieces of the heap segment.
    pub heap_pieces: u32,
    /// Threads of this host that may spin at once: words of the page of permits.
    pub spin_permits: u32,
    /// The worker's number on that page.
    pub spin_holder: u32,
    /// Path of the daemon's socket, NUL-terminated: a worker that outlives its daemon removes it
    /// when nobody answers there. Empty when it must stay.
    pub listen: [u8; PATH_BYTES],
    /// The client's hello, checked by the daemon.
    pub hello: Hello,
}

/// The message, and what came with it.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub setup: Setup,
    /// The parts of a channel, whose link is the socket to the daemon.
    pub parts: Parts<Memory>,
    /// This process's permits to spin.
    pub permits: Permits,
    /// The page for figures.
    pub figures: OwnedFd,
    /// The way to what others share.
    pub exchange: Exchange,
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
    /// The page of permits is not what it should be.
    #[error("The page of permits to spin cannot be used: {0}")]
    Permits(#[source] io::Error),
    /// The message is not one of this version's daemon.
    #[error("The daemon's message is malformed")]
    Malformed,
}

impl Setup {
    /// Receives the message and makes of its descriptors what they are for.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn receive(socket: Socket, timeout: Duration) -> Result<Received, SetupError> {
        let (bytes, fds) = socket.receive_with_fds::<{ size_of::<Setup>() }>(timeout)?;
        let setup = Setup::read_from_bytes(&bytes).map_err(|_| SetupError::Malformed)?;
        if setup.magic != MAGIC {
            return Err(SetupError::Malformed);
        }
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or(SetupError::Malformed);
        let (doorbell, wake, page) = (next()?, next()?, next()?);
        let permits = Permits::open(page.as_fd(), setup.spin_permits, setup.spin_holder)
            .map_err(SetupError::Permits)?;
        let figures = next()?;
        let exchange = Exchange::new(Socket::from_fd(next()?));
        let (control, heap): (Memory, Memory) = match setup.memory {
            MEMORY_FILES => {
                let control = SegmentFd::receive(next()?, setup.control_len)?;
                let heap = SegmentFd::receive(next()?, setup.heap_len)?;
                (control.into(), heap.into())
            }
            MEMORY_PIECES => {
                let list = next()?;
                // Held until the process is gone, whatever ends it.
                std::mem::forget(next()?);
                let counts = [setup.control_pieces as usize, setup.heap_pieces as usize];
                let files: Arc<[OwnedFd]> = fds.by_ref().collect();
                let mut lists = read_pieces(&list, &files, &counts)?;
                let (Some(heap), Some(control)) = (lists.pop(), lists.pop()) else {
                    return Err(SetupError::Malformed);
                };
                if (control.size(), heap.size()) != (setup.control_len, setup.heap_len) {
                    return Err(SetupError::Malformed);
                }
                (Memory::Pieces(control), Memory::Pieces(heap))
            }
            _ => return Err(SetupError::Malformed),
        };
        if fds.next().is_some() {
            return Err(SetupError::Malformed);
        }
        let parts = Parts {
            socket,
            hello: setup.hello,
            control,
            heap,
            doorbell: Event::from_fd(doorbell),
            wake: Event::from_fd(wake),
            layout: ControlLayout::new(setup.ring_slots),
        };
        Ok(Received {
            setup,
            parts,
            permits,
            figures,
            exchange,
        })
    }

    /// The daemon's socket path, if there is one.
    pub fn listen_path(&self) -> Option<std::path::PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let end = self.listen.iter().position(|&byte| byte == 0)?;
        let path = self.listen.get(..end).filter(|path| !path.is_empty())?;
        Some(std::ffi::OsStr::from_bytes(path).into())
    }
}

/// Writes a list of pieces, to be sent with the files.
///
/// # Errors
/// The system's error.
pub fn write_pieces(list: &[FilePiece]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("vgpu-pieces", rustix::fs::MemfdFlags::CLOEXEC)?;
    let bytes = list.as_bytes();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        at += rustix::io::pwrite(&file, rest, at as u64)?;
    }
    Ok(file)
}

/// Reads a list of pieces that consists of `counts` pieces for one segment after the other.
///
/// # Errors
/// [`SetupError`].
pub fn read_pieces(
    list: &OwnedFd,
    files: &Arc<[OwnedFd]>,
    counts: &[usize],
) -> Result<Vec<Pieces>, SetupError> {
    let count = counts
        .iter()
        .fold(0, |sum: usize, n| sum.saturating_add(*n));
    if count > MAX_PIECES {
        return Err(SetupError::Malformed);
    }
    // One more than there should be.
    let mut pieces = vec![FilePiece::new_zeroed(); count + 1];
    let whole = size_of::<FilePiece>() * count;
    let mut at = 0;
    let bytes = pieces.as_mut_bytes();
    while let Some(rest) = bytes.get_mut(at..) {
        match rustix::io::pread(list, rest, at as u64) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) => return Err(SetupError::Link(LinkError::System(error.into()))),
        }
    }
    if at != whole {
        return Err(SetupError::Malformed);
    }
    let mut rest = pieces.into_iter();
    counts
        .iter()
        .map(|count| Ok(Pieces::new(files, rest.by_ref().take(*count).collect())?))
        .collect()
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
    fn lists_of_pieces_arrive_as_they_were_or_not_at_all() {
        let piece = |file, offset, len| FilePiece {
            file,
            reserved: 0,
            offset,
            len,
        };
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let files: Arc<[OwnedFd]> = [file].into();
        let read = |list: &[FilePiece], counts: &[usize]| {
            let sizes = |pieces: Vec<Pieces>| pieces.iter().map(Pieces::size).collect::<Vec<_>>();
            read_pieces(&write_pieces(list).unwrap(), &files, counts).map(sizes)
        };
        const MIB2: u64 = 2 << 20;
        let good = [
            piece(0, 0, MIB2),
            piece(0, 4 * MIB2, 3 * MIB2),
            piece(0, MIB2, MIB2),
        ];
        assert_eq!(read(&good, &[1, 2]).unwrap(), [MIB2, 4 * MIB2]);
        assert_eq!(read(&good, &[3]).unwrap(), [5 * MIB2]);
        for counts in [&[1, 1][..], &[2, 2], &[], &[0, 3], &[usize::MAX, 4]] {
            assert!(read(&good, counts).is_err(), "{counts:?}");
        }
        for bad in [
            piece(1, 0, MIB2),
            piece(0, 1, MIB2),
            piece(0, 0, 4096),
            piece(0, 0, 0),
            piece(0, u64::MAX - MIB2 + 1, MIB2),
            piece(0, 0, 1 << 63),
        ] {
            assert!(read(&[bad], &[1]).is_err(), "{bad:?}");
        }
    }

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
