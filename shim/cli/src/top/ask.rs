//! Asking the daemons of this machine: each answers at an abstract socket of its own.

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_status::{Document, SOCKET_PREFIX, VERSION};

/// Longest answer that is read.
const MOST: usize = 4 << 20;
/// How long all of them together may take.
const LIMIT: Duration = Duration::from_secs(3);
/// Daemons asked at most.
const DAEMONS: usize = 256;
/// Daemons asked at the same time.
const AT_ONCE: usize = 16;

/// What the daemons say that belong to root or to this user; those that do not answer are left out.
pub fn all() -> Vec<Document> {
    let sockets = std::fs::read("/proc/net/unix").unwrap_or_default();
    ask_all(
        &names(&String::from_utf8_lossy(&sockets)),
        Instant::now() + LIMIT,
    )
}

/// Asks all of them until `deadline`, several at once, so that those who do not answer cost the others nothing; in the
/// order of their names.
fn ask_all(names: &[String], deadline: Instant) -> Vec<Document> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..names.len().min(AT_ONCE) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(at) else {
                        return;
                    };
                    if let Some(document) = ask(name, deadline) {
                        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                        answers.insert(at, document);
                    }
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.into_values().collect()
}

/// The names in the kernel's list of sockets: `@` stands for the zero byte of an abstract one.
fn names(sockets: &str) -> Vec<String> {
    let mut names: Vec<String> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'))
        .filter(|name| {
            name.strip_prefix(SOCKET_PREFIX)
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

fn ask(name: &str, deadline: Instant) -> Option<Document> {
    let limit = deadline.checked_duration_since(Instant::now())?;
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    let kind = SocketType::STREAM;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).ok()?;
    // A connection waits for a listener that does not accept as long as a send may wait.
    set_socket_timeout(
        &socket,
        Timeout::Send,
        Some(limit.max(Duration::from_millis(1))),
    )
    .ok()?;
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
        // The first is connected and not answered, and stays in the queue, which is full then; many more do not add up.
        let names = vec![name; DAEMONS];
        assert!(ask_all(&names, begun + limit).is_empty());
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
