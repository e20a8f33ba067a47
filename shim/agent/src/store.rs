//! The service manager's store of descriptors (`FDSTORE` of `sd_notify(3)`): where memory files outlive even a keeper and a
//! mapper that are killed together. Without a service manager it does nothing.
//!
//! Unsafe: taking over the descriptors that the manager hands to a restarted service, and one system call.

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use vgpu_channel::link::Socket;

/// What the names of stored memory files begin with.
const PREFIX: &str = "vgpu-segment-";
/// What the names of those begin with that hold a device's queues.
const QUEUES: &str = "vgpu-segment-queues-";
/// First descriptor that a service manager hands over.
const FIRST: i32 = 3;

/// The store.
#[derive(Debug, Default)]
pub struct Store {
    socket: Option<Socket>,
}

/// A memory file of an earlier keeper.
#[derive(Debug)]
pub struct Stored {
    /// What the manager knows it by.
    pub name: String,
    /// The file.
    pub file: OwnedFd,
}

impl Stored {
    /// Whether it holds a device's queues.
    #[must_use]
    pub fn is_queues(&self) -> bool {
        self.name.starts_with(QUEUES)
    }
}

/// Marks all descriptors but the standard ones to be closed in children.
fn inherit_nothing() {
    const CLOEXEC: libc::c_uint = 4;
    // SAFETY: no descriptor is closed here; what was opened on this side is marked already.
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, CLOEXEC) };
    if done < 0 {
        // Kernels before 5.11.
        tracing::debug!("inherited descriptors are passed on");
    }
}

impl Store {
    /// The store of this service, and what is in it. To be called once, before any other descriptor is opened.
    ///
    /// Whatever else was inherited is kept from this process's children.
    #[must_use]
    pub fn open() -> (Store, Vec<Stored>) {
        inherit_nothing();
        let variable = |name: &str| std::env::var(name).ok();
        let mine = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
        let count = variable("LISTEN_FDS").and_then(|count| count.parse().ok());
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let stored = match count {
            Some(count) if mine => take_over(count, &names),
            _ => Vec::new(),
        };
        let store = Store {
            socket: variable("NOTIFY_SOCKET").and_then(|path| connect(&path)),
        };
        (store, stored)
    }

    fn say(&self, text: &str, fds: &[BorrowedFd<'_>]) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(text.as_bytes(), fds)
        {
            tracing::warn!("the service manager cannot be told: {error}");
        }
    }

    /// The service is up.
    pub fn ready(&self) {
        self.say("READY=1", &[]);
    }

    /// Stores a memory file, and returns the name that it is stored by.
    pub fn keep(&self, id: u64, queues: bool, file: impl AsFd) -> String {
        let prefix = if queues { QUEUES } else { PREFIX };
        let name = format!("{prefix}{id:x}");
        let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
        self.say(&text, &[file.as_fd()]);
        name
    }

    /// Takes one out.
    pub fn remove(&self, name: &str) {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }
}

fn connect(path: &str) -> Option<Socket> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None => SocketAddrUnix::new(path),
    };
    let connected = address.and_then(|address| {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &address)?;
        Ok(Socket::from_fd(socket))
    });
    connected
        .map_err(|error| tracing::warn!("the service manager cannot be reached: {error}"))
        .ok()
}

fn take_over(count: i32, names: &str) -> Vec<Stored> {
    let mut names = names.split(':');
    (FIRST..FIRST.saturating_add(count.clamp(0, 65536)))
        .filter_map(|number| {
            // SAFETY: the service manager opened these numbers for this process and says so by its number; nothing else
            // owns them, and this is done once.
            let file = unsafe { OwnedFd::from_raw_fd(number) };
            let name = names.next().unwrap_or_default().to_owned();
            fcntl_setfd(&file, FdFlags::CLOEXEC).ok()?;
            // What is no memory file is closed.
            name.starts_with(PREFIX).then_some(Stored { name, file })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn the_manager_is_told_in_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let store = Store {
            socket: connect(path.to_str().unwrap()),
        };
        store.ready();
        let name = store.keep(0xab, false, std::io::stderr());
        store.remove(&name);
        let name = store.keep(0xac, true, std::io::stderr());
        let file = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        assert!(Stored { name, file }.is_queues());
        let mut heard = Vec::new();
        for _ in 0..4 {
            let mut bytes = [0; 100];
            let len = manager.recv(&mut bytes).unwrap();
            heard.push(String::from_utf8(bytes[..len].to_vec()).unwrap());
        }
        assert_eq!(
            heard,
            [
                "READY=1",
                "FDSTORE=1\nFDPOLL=0\nFDNAME=vgpu-segment-ab",
                "FDSTOREREMOVE=1\nFDNAME=vgpu-segment-ab",
                "FDSTORE=1\nFDPOLL=0\nFDNAME=vgpu-segment-queues-ac"
            ]
        );
        // Nobody there is no failure.
        Store::default().ready();
        assert!(connect("/nonexistent/socket").is_none());
    }
}
