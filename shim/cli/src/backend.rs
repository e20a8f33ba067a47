//! Finding a backend, and starting one of our own if nobody listens.

use anyhow::{Context, Result, bail};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vgpu_channel::link::Socket;

/// How long a backend may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Seconds without a client after which a backend that we started ends.
const IDLE_EXIT: &str = "10";

/// The socket used when nothing else is said: the machine's own, or else this user's.
pub fn default_socket() -> PathBuf {
    let machine = PathBuf::from("/run/vgpu/vgpu.sock");
    if answers(&machine) {
        return machine;
    }
    let directory = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => PathBuf::from(directory).join("vgpu"),
        None => std::env::temp_dir().join(format!("vgpu-{}", rustix::process::getuid().as_raw())),
    };
    directory.join("vgpu.sock")
}

/// Whether a backend answers at this path.
pub fn answers(path: &Path) -> bool {
    Socket::connect(path, Duration::from_secs(1)).is_ok()
}

/// Starts a backend that listens at `path` and ends by itself when idle.
///
/// # Errors
/// When it cannot be started or does not come up in time.
pub fn start(program: &Path, path: &Path, device: &str, memory: Option<&str>) -> Result<()> {
    let directory = path.parent().context("the socket path has no directory")?;
    if !directory.exists() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("{}", directory.display()))?;
    }
    let log_path = directory.join("backend.log");
    let log =
        std::fs::File::create(&log_path).with_context(|| format!("{}", log_path.display()))?;
    let mut command = Command::new(program);
    command
        .arg("--listen")
        .arg(path)
        .args(["--device", device, "--idle-exit", IDLE_EXIT]);
    if let Some(memory) = memory {
        command.args(["--memory", memory]);
    }
    // A process group of its own: an interrupt at the terminal is for the program.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0);
    let mut backend = command
        .spawn()
        .with_context(|| format!("the backend {} cannot be started", program.display()))?;
    let deadline = Instant::now() + START_TIMEOUT;
    while !answers(path) {
        if let Some(status) = backend.try_wait()? {
            // Another `vgpu run` may have been faster.
            if answers(path) {
                return Ok(());
            }
            bail!(
                "the backend ended at once ({status}); {}",
                last_line(&log_path)
            );
        }
        if Instant::now() > deadline {
            // It is of no use any more; nothing to be done if it cannot be ended.
            let _ = backend.kill();
            bail!(
                "the backend did not listen within {START_TIMEOUT:?}; see {}",
                log_path.display()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    match text.lines().last() {
        Some(line) => format!("it said: {line}"),
        None => "it said nothing".to_owned(),
    }
}
