//! What the integration tests share: a client process under watch.
#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vgpu_e2e::backend::Backend;
use vgpu_e2e::command::wait;
use vgpu_e2e::parts::Parts;

/// How long a healthy part may take for anything, on the busiest machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The parts under test.
pub fn parts() -> Parts {
    Parts::locate().unwrap_or_else(|error| panic!("{error:#}"))
}

/// One test at a time: they count processes and processor time.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device under test: that of `VGPU_E2E_DEVICE`, else the software device.
pub fn device() -> String {
    std::env::var("VGPU_E2E_DEVICE").unwrap_or_else(|_| "software".to_owned())
}

/// A backend with the device under test, or a panic with its last words.
pub fn backend() -> Backend {
    Backend::start(&parts(), &device()).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The command that starts `e2e-client MODE`, not yet attached to a backend. `VGPU_E2E_CLIENT` says where the program is
/// when the test runs on another machine than the one that built it.
pub fn client_command(mode: &str) -> Command {
    let elsewhere = std::env::var_os("VGPU_E2E_CLIENT");
    let mut command =
        Command::new(elsewhere.unwrap_or_else(|| env!("CARGO_BIN_EXE_e2e-client").into()));
    command
        .arg(mode)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// A running `e2e-client`; killed when dropped.
pub struct Client {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Client {
    /// Starts a client of `backend`.
    pub fn start(backend: &Backend, mode: &str) -> Self {
        let mut command = client_command(mode);
        backend.attach(&mut command, &[]);
        Self::spawn(&mut command)
    }

    /// Starts a client as `command` says.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the client starts");
        let output = child.stdout.take().expect("its output is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            lines,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its first verified round.
    pub fn wait_until_ready(&self) {
        match self.line(PATIENCE) {
            Some(line) if line == "ready" => {}
            other => panic!("the client said {other:?} instead of 'ready'"),
        }
    }

    /// Its next line, if one comes within `limit`.
    pub fn line(&self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Tells it to finish, and returns its last line.
    pub fn finish(mut self) -> String {
        drop(self.input.take());
        self.end(PATIENCE).1
    }

    /// Waits until it ends by itself; its exit code (none for a signal) and last line. Panics when it outlives `limit`.
    pub fn end(&mut self, limit: Duration) -> (Option<i32>, String) {
        let status = wait(&mut self.child, limit)
            .expect("the wait works")
            .unwrap_or_else(|| panic!("the client still runs after {limit:?}"));
        let last = self.lines.iter().last().unwrap_or_default();
        (status.code(), last)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9`, and reaps it.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `condition` holds; panics with `what` after `limit`.
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
