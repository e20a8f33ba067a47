//! Worker processes: started from nothing, ended by force, always reaped.

use crate::exchange::Member;
use crate::log::Relay;
use crate::options::LogLevel;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use vgpu_channel::link::{Hello, Socket};
use vgpu_channel::permits::Seat;
use vgpu_worker::setup::allowed_setting;

/// Folders with NVIDIA's libraries that the loader does not know by itself: the driver loads its
/// compilers by bare names.
const LIBRARY_FOLDERS: &[&str] = &["/usr/local/nvidia/lib64", "/usr/lib/wsl/lib"];

/// This very program with an environment from nothing: where libraries are, and which devices the
/// operator lets it see.
pub fn own_command() -> Command {
    // The link stays right when the file is replaced by an update.
    let mut command = Command::new("/proc/self/exe");
    command.env_clear().current_dir("/").process_group(0);
    let folders: Vec<&str> = LIBRARY_FOLDERS
        .iter()
        .copied()
        .filter(|folder| Path::new(folder).is_dir())
        .collect();
    if !folders.is_empty() {
        command.env("LD_LIBRARY_PATH", OsString::from(folders.join(":")));
    }
    if let Some(devices) = std::env::var_os("CUDA_VISIBLE_DEVICES") {
        command.env("CUDA_VISIBLE_DEVICES", devices);
    }
    command
}

/// Where no MPS server of the host is ever found (`isolation.md` 13).
const NO_MPS: &str = "/nonexistent";

/// Most bytes of compiled kernels kept for one user.
const CACHE_BYTES: &str = "1073741824";

/// Where the driver keeps what it compiles: a folder that no other user's or machine's worker is told
/// of. `None`, with a line in the log, when it cannot be made.
fn compile_cache(folder: &Path) -> Option<PathBuf> {
    let folder = std::path::absolute(folder).ok()?;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    match made {
        Ok(()) => Some(folder),
        Err(error) => {
            tracing::warn!("no compile cache in {}: {error}", folder.display());
            None
        }
    }
}

/// A worker process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    pidfd: OwnedFd,
    /// Frees, with this value, what the process held on the page of permits.
    _seat: Seat,
    /// The daemon's end of the link.
    pub socket: Socket,
    /// Its place in the exchange.
    exchange: Member,
    log: ChildStderr,
    relay: Relay,
}

impl Worker {
    /// Starts a worker with the client's settings, as far as they are allowed, the folder for what
    /// its driver compiles, a seat on the page of permits and a place in the exchange. To be called from the main thread
    /// only: a worker ends when the thread that started it does.
    ///
    /// # Errors
    /// The system's error.
    pub fn start(
        hello: &Hello,
        cache: Option<&Path>,
        level: LogLevel,
        seat: Seat,
        exchange: Member,
    ) -> io::Result<Worker> {
        let (near, far) = Socket::pair()?;
        rustix::io::ioctl_fionbio(&near, true)?;
        let mut command = own_command();
        for (name, value) in hello.settings().unwrap_or_default() {
            if allowed_setting(name, value) {
                command.env(name, value);
            }
        }
        command.env("CUDA_MPS_PIPE_DIRECTORY", NO_MPS);
        match cache.and_then(compile_cache) {
            Some(folder) => command
                .env("CUDA_CACHE_PATH", folder)
                .env("CUDA_CACHE_MAXSIZE", CACHE_BYTES),
            None => command.env("CUDA_CACHE_DISABLE", "1"),
        };
        let mut child = command
            .args(["worker", "--log-level", level.name()])
            .stdin(Stdio::from(far.into_fd()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let made = (|| {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let pidfd = pidfd_open(pid.ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
            let log = child.stderr.take().ok_or(Errno::BADF)?;
            rustix::io::ioctl_fionbio(&log, true)?;
            Ok::<_, Errno>((pidfd, log))
        })();
        match made {
            Ok((pidfd, log)) => Ok(Worker {
                relay: Relay::new(child.id()),
                child,
                pidfd,
                _seat: seat,
                socket: near,
                exchange,
                log,
            }),
            Err(error) => {
                // It has nothing yet, so it ends at once.
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Readable once the process is dead.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when it asks the exchange.
    pub fn exchange(&self) -> BorrowedFd<'_> {
        self.exchange.as_fd()
    }

    /// Serves what it asks the exchange.
    pub fn serve_exchange(&mut self) {
        if !self.exchange.serve() {
            // A worker keeps its socket open as long as it lives.
            self.kill();
        }
    }

    /// Its log, readable when there is something.
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Passes on what it logged, a bounded amount at a time. Whether there can be more.
    pub fn read_log(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.log, &mut buffer) {
            Ok(0) => false,
            Ok(len) => {
                self.relay.feed(buffer.get(..len).unwrap_or(&[]));
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// Ends it by force.
    pub fn kill(&mut self) {
        // Fails only for a process that is dead already.
        let _ = self.child.kill();
    }

    /// Reaps it if it is dead.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        // What it said last explains its end best.
        for _ in 0..16 {
            let mut buffer = [0; 4096];
            match rustix::io::read(&self.log, &mut buffer) {
                Ok(len) if len > 0 => self.relay.feed(buffer.get(..len).unwrap_or(&[])),
                _ => break,
            }
        }
        self.relay.finish();
        Some(status)
    }
}
