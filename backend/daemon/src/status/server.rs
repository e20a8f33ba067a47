//! The thread that answers: `vgpu top` at an abstract socket, Prometheus where `--metrics` says.

use super::conversation::Conversations;
use super::document::document;
use super::exposition::{CONTENT_TYPE, exposition};
use super::registry::Registry;
use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vgpu_status::{Daemon, socket_name};

/// How long to rest when the system has no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Where Prometheus asks.
#[derive(Debug)]
enum Metrics {
    Tcp(TcpListener),
    /// With the file, which is removed at the end.
    Unix(UnixListener, PathBuf),
}

impl AsFd for Metrics {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Metrics::Tcp(listener) => listener.as_fd(),
            Metrics::Unix(listener, _) => listener.as_fd(),
        }
    }
}

/// The sockets' owner: dropping it removes the file of `--metrics`.
#[derive(Debug)]
pub struct Status {
    file: Option<PathBuf>,
}

impl Drop for Status {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Gone already if somebody tidied up.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Starts to answer. `metrics` is an address and port, or the path of a socket.
///
/// # Errors
/// When `metrics` cannot be listened at.
pub fn start(daemon: Daemon, registry: Registry, metrics: Option<&str>) -> Result<Status> {
    let metrics = metrics.map(listen).transpose()?;
    let file = match &metrics {
        Some(Metrics::Unix(_, file)) => Some(file.clone()),
        _ => None,
    };
    let top = SocketAddr::from_abstract_name(socket_name(daemon.pid))
        .and_then(|address| UnixListener::bind_addr(&address))
        .inspect_err(|error| tracing::warn!("vgpu top will not see this daemon: {error}"))
        .ok();
    if let Some(top) = &top {
        top.set_nonblocking(true)?;
    }
    std::thread::Builder::new()
        .name("status".to_owned())
        .spawn(move || serve(&daemon, &registry, top.as_ref(), metrics.as_ref()))
        .context("no thread for figures")?;
    Ok(Status { file })
}

fn listen(address: &str) -> Result<Metrics> {
    let cannot = || format!("cannot listen at {address} for --metrics");
    if !address.contains('/') {
        let listener = TcpListener::bind(address).with_context(cannot)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        tracing::info!("metrics at http://{bound}/metrics");
        return Ok(Metrics::Tcp(listener));
    }
    let path = Path::new(address);
    if std::os::unix::net::UnixStream::connect(path).is_err() && is_socket(path) {
        // Left by a daemon that was killed.
        std::fs::remove_file(path).with_context(cannot)?;
    }
    let listener = UnixListener::bind(path).with_context(cannot)?;
    listener.set_nonblocking(true)?;
    tracing::info!("metrics at {address}");
    Ok(Metrics::Unix(listener, path.to_owned()))
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn serve(
    daemon: &Daemon,
    registry: &Registry,
    top: Option<&UnixListener>,
    metrics: Option<&Metrics>,
) {
    if top.is_none() && metrics.is_none() {
        return;
    }
    let mut operators = Conversations::default();
    let mut scrapers = Conversations::default();
    loop {
        let mut fds = Vec::new();
        let top = top.filter(|_| operators.has_room());
        let metrics = metrics.filter(|_| scrapers.has_room());
        fds.extend(top.map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(metrics.map(|listener| PollFd::new(listener, PollFlags::IN)));
        operators.watch(&mut fds);
        scrapers.watch(&mut fds);
        let deadlines = operators.deadline().into_iter().chain(scrapers.deadline());
        if wait(&mut fds, deadlines.min()).is_err() {
            // Never a spinning loop, whatever is wrong.
            std::thread::sleep(PAUSE);
        }
        drop(fds);
        // Nobody here speaks before the answer, so there is nothing to answer to what they say.
        operators.advance(|_| Vec::new());
        scrapers.advance(|request| respond(request, registry));
        for outcome in [
            top.map(|listener| accept_operator(listener, daemon, registry, &mut operators)),
            metrics.map(|listener| {
                let stream = accept_scraper(listener)?;
                scrapers.hear(stream);
                Ok(())
            }),
        ] {
            match outcome {
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Some(Err(error)) => {
                    tracing::debug!("a question about figures was not answered: {error}");
                    std::thread::sleep(PAUSE);
                }
                _ => {}
            }
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> rustix::io::Result<usize> {
    let timeout = deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        rustix::event::Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    rustix::event::poll(fds, timeout.as_ref())
}

/// One question of `vgpu top`: the connection is the question.
fn accept_operator(
    listener: &UnixListener,
    daemon: &Daemon,
    registry: &Registry,
    operators: &mut Conversations,
) -> io::Result<()> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?.uid;
    if !peer.is_root() && peer != rustix::process::geteuid() {
        // Other users' programs are nobody's business.
        return Ok(());
    }
    let text = serde_json::to_vec(&document(daemon, registry))?;
    operators.tell(stream.into(), text);
    Ok(())
}

fn accept_scraper(listener: &Metrics) -> io::Result<OwnedFd> {
    Ok(match listener {
        Metrics::Tcp(listener) => {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            stream.into()
        }
        Metrics::Unix(listener, _) => {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            stream.into()
        }
    })
}

/// The whole answer to a scrape.
fn respond(request: &[u8], registry: &Registry) -> Vec<u8> {
    let (status, kind, body) = answer(request, registry);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

fn answer(request: &[u8], registry: &Registry) -> (&'static str, &'static str, String) {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = request
        .split(|&byte| byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/metrics" | b"/")) => match exposition(registry) {
            Ok(text) => ("200 OK", CONTENT_TYPE, text),
            Err(_) => ("500 Internal Server Error", PLAIN, String::new()),
        },
        (Some(b"GET"), Some(_)) => ("404 Not Found", PLAIN, "/metrics\n".to_owned()),
        _ => ("400 Bad Request", PLAIN, "GET /metrics\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_scrape_is_answered_with_figures() {
        let registry = Registry::default();
        let status = |request: &[u8]| answer(request, &registry).0;
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\n\r\n"), "200 OK");
        assert_eq!(
            status(b"GET /../etc/passwd HTTP/1.1\r\n\r\n"),
            "404 Not Found"
        );
        for garbage in [&b""[..], b"\xff\x00\r\n", b"POST /metrics HTTP/1.1\r\n"] {
            assert_eq!(status(garbage), "400 Bad Request");
        }
    }
}
