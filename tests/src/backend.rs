//! A backend of the test's own: a daemon with the software device (or another) on a socket in a temporary folder.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{kill_group, wait};
use crate::parts::Parts;

/// The environment variable by which the shim finds the socket of its backend.
pub const SOCKET: &str = "VGPU_SOCKET";

/// Marks every process that a backend or its clients start, so that leftovers can be found.
pub const MARK: &str = "VGPU_E2E_MARK";

/// A running daemon; ended when dropped.
#[derive(Debug)]
pub struct Backend {
    child: Child,
    parts: Parts,
    arguments: Vec<OsString>,
    folder: tempfile::TempDir,
    mark: String,
}

impl Backend {
    /// Starts the daemon with `device` (`auto`, `cuda` or `software`) and waits until it accepts connections.
    ///
    /// # Errors
    /// When it cannot be started, ends at once, or does not listen within 30 s; the message holds its last words.
    pub fn start(parts: &Parts, device: &str) -> anyhow::Result<Self> {
        Self::start_with(parts, device, Vec::new())
    }

    /// As [`Backend::start`], with more arguments for the daemon.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        parts: &Parts,
        device: &str,
        arguments: Vec<OsString>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vgpu-e2e-").tempdir()?;
        let mark = folder.path().display().to_string();
        let log = folder.path().join("daemon.log");
        let socket = folder.path().join("vgpu.sock");
        let child = Self::spawn(parts, device, &arguments, &socket, &log, &mark)?;
        let mut backend = Self {
            child,
            parts: parts.clone(),
            arguments,
            folder,
            mark,
        };
        backend.wait_until_listening()?;
        Ok(backend)
    }

    fn spawn(
        parts: &Parts,
        device: &str,
        arguments: &[OsString],
        socket: &Path,
        log: &Path,
        mark: &str,
    ) -> anyhow::Result<Child> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&parts.daemon);
        command
            .arg("--listen")
            .arg(socket)
            .args(["--device", device])
            .args(arguments)
            .env(MARK, mark)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        // A group of its own: the whole backend can be ended by it, and a signal to the test's group spares it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .spawn()
            .with_context(|| format!("cannot start {}", parts.daemon.display()))
    }

    fn wait_until_listening(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !listens(&self.socket()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended with {status}: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("the daemon does not listen: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts another daemon on the same socket after the first was killed.
    ///
    /// # Errors
    /// As [`Backend::start`].
    pub fn restart(&mut self, device: &str) -> anyhow::Result<()> {
        self.end();
        let _ = std::fs::remove_file(self.socket());
        self.child = Self::spawn(
            &self.parts,
            device,
            &self.arguments,
            &self.socket(),
            &self.log_file(),
            &self.mark,
        )?;
        self.wait_until_listening()
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The socket that clients connect to.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("vgpu.sock")
    }

    /// The folder of the socket and the log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the daemon and its workers write their log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("daemon.log")
    }

    /// The value of [`MARK`] in the environment of everything this backend and its clients start.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" / ")
    }

    /// Makes `command` a client of this backend: the shim first in the loader's path, the socket, the mark.
    ///
    /// `further` are more folders for the loader's path (a libcudart, say).
    pub fn attach(&self, command: &mut Command, further: &[&Path]) {
        let mut folders = vec![self.parts.library_folder.clone()];
        folders.extend(further.iter().map(|path| path.to_path_buf()));
        folders.extend(
            std::env::var_os("LD_LIBRARY_PATH")
                .iter()
                .flat_map(std::env::split_paths),
        );
        // Only a folder name with a colon cannot be joined; the loader could not use it either.
        let path = std::env::join_paths(folders)
            .unwrap_or_else(|_| self.parts.library_folder.clone().into());
        command
            .env("LD_LIBRARY_PATH", path)
            .env(SOCKET, self.socket())
            .env(MARK, &self.mark);
    }

    /// Asks the daemon to end as a service manager does, and returns its exit status; `None` when it did not within 15 s.
    ///
    /// # Errors
    /// When the system refuses the wait.
    pub fn terminate(&mut self) -> std::io::Result<Option<std::process::ExitStatus>> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        wait(&mut self.child, Duration::from_secs(15))
    }

    fn end(&mut self) {
        kill_group(&self.child);
        let _ = self.child.wait();
    }
}

/// Whether somebody accepts connections at `socket`, which must be of the link's type, `SOCK_SEQPACKET`.
#[must_use]
pub fn listens(socket: &Path) -> bool {
    connect(socket).is_ok()
}

/// Connects to a backend's socket without saying anything.
///
/// # Errors
/// The system's error: nobody listens, or the path is no such socket.
pub fn connect(socket: &Path) -> rustix::io::Result<OwnedFd> {
    let fd = net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    net::connect(&fd, &SocketAddrUnix::new(socket)?)?;
    Ok(fd)
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !matches!(self.terminate(), Ok(Some(_))) {
            self.end();
        }
    }
}
