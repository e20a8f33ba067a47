//! Asking the daemons of this machine: each answers at an abstract socket of its own.

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How the sockets' names begin, a process id behind it.
const PREFIX: &str = "vgpu-top-";
/// Longest answer that is read.
const MOST: usize = 4 << 20;
/// How long a daemon may take.
const LIMIT: Duration = Duration::from_secs(3);
/// Daemons asked at most.
const DAEMONS: usize = 256;
/// The version of the documents that this command understands.
const VERSION: u32 = 1;

/// What a daemon says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Document {
    version: u32,
    /// The daemon.
    pub daemon: Daemon,
    /// Its clients.
    pub clients: Vec<Client>,
}

/// A daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// Its process id.
    pub pid: u32,
    /// `cuda` or `software`.
    pub device: String,
    /// Clients it serves at once.
    pub max_clients: u64,
}

/// A client; totals since it began, sizes in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Client {
    /// Process id of its worker.
    pub worker: u32,
    /// Its user, unless it is in a virtual machine.
    pub user: Option<u32>,
    /// Its name, by its own word.
    pub program: Option<String>,
    /// Its channel, if it is in a virtual machine.
    pub channel: Option<u64>,
    /// Seconds since it began.
    pub seconds: u64,
    /// Calls executed.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Launches.
    pub launches: u64,
    /// Copies.
    pub copies: u64,
    /// Bytes of these.
    pub copied_bytes: u64,
    /// Waits that reached the worker.
    pub waits: u64,
    /// Records and values refused.
    pub refused: u64,
    /// Device memory charged.
    pub memory_used: u64,
    /// Device memory that it may hold; 0 for the device's.
    pub memory_limit: u64,
    /// The sticky error, 0 for none.
    pub sticky: u64,
}

/// What the daemons say that belong to root or to this user; those that do not answer are left out.
pub fn all() -> Vec<Document> {
    let sockets = std::fs::read("/proc/net/unix").unwrap_or_default();
    names(&String::from_utf8_lossy(&sockets))
        .iter()
        .filter_map(|name| ask(name, LIMIT))
        .collect()
}

/// The names in the kernel's list of sockets: `@` stands for the zero byte of an abstract one.
fn names(sockets: &str) -> Vec<String> {
    let mut names: Vec<String> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'))
        .filter(|name| {
            name.strip_prefix(PREFIX)
                .is_some_and(|pid| pid.parse::<u32>().is_ok())
        })
        .map(str::to_owned)
        .collect();
    names.sort();
    // A connection that is just being answered has the name, too.
    names.dedup();
    names.truncate(DAEMONS);
    names
}

fn ask(name: &str, limit: Duration) -> Option<Document> {
    let deadline = Instant::now() + limit;
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    let kind = SocketType::STREAM;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).ok()?;
    // A connection waits for a listener that does not accept as long as a send may wait.
    set_socket_timeout(&socket, Timeout::Send, Some(limit)).ok()?;
    connect(&socket, &address).ok()?;
    let mut stream = UnixStream::from(socket);
    // Anybody can take such a name: only root and this user are believed.
    let peer = socket_peercred(&stream).ok()?.uid;
    if !peer.is_root() && peer != rustix::process::geteuid() {
        return None;
    }
    let mut text = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .ok()?;
        match stream.read(&mut buffer).ok()? {
            0 => break,
            len => text.extend_from_slice(buffer.get(..len)?),
        }
        if text.len() > MOST {
            return None;
        }
    }
    let document: Document = serde_json::from_slice(&text).ok()?;
    (document.version == VERSION).then_some(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_daemons_are_asked() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01 1 @vgpu-top-12\n\
            0000: 00000003 00000000 00000000 0001 03 2 @vgpu-top-12\n\
            0000: 00000002 00000000 00010000 0001 01 3 @vgpu-top-x\n\
            0000: 00000002 00000000 00010000 0001 01 4 /run/vgpu-top-13\n\
            0000: 00000002 00000000 00010000 0001 01 5\n";
        assert_eq!(names(sockets), ["vgpu-top-12"]);
        assert!(names("").is_empty());
    }

    #[test]
    fn a_socket_that_nobody_answers_at_holds_nobody_up() {
        let name = format!("vgpu-top-test-{}", std::process::id());
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        let kind = SocketType::STREAM;
        let socket = || socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let listener = socket();
        rustix::net::bind(&listener, &address).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let limit = Duration::from_millis(50);
        let begun = Instant::now();
        // The first is connected and not answered, and stays in the queue, which is full then.
        assert!(ask(&name, limit).is_none());
        assert!(ask(&name, limit).is_none());
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
