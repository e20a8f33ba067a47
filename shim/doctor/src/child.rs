//! Probes run in children: whatever a library does there (abort, hang, exit), the doctor survives and says so.
//!
//! The child is this very program, started through its descriptor so that users who cannot reach its folder can run it
//! all the same. Its descriptor 0 is the pipe that the answer goes through: the one standard stream that no library
//! writes to.

use crate::probe::{self, Line, Request};
pub use crate::setting::{Environment, Identity, Setting};
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Most bytes that a child can write to either of its outputs.
const OUTPUT_BYTES: u64 = 4 << 20;
/// Most bytes of them that are looked at.
const READ_BYTES: u64 = 256 << 10;
/// Most bytes of a line of an answer.
const ANSWER_BYTES: usize = 16 << 20;

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was killed when its time was up.
    TimeLimit,
    /// It was killed after it had answered, as was agreed.
    Killed,
    /// It could not be started.
    NotStarted(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exit(code) => write!(f, "exit status {code}"),
            Ending::Signal(signal) => write!(f, "killed by {}", signal_name(*signal)),
            Ending::TimeLimit => write!(f, "no answer in time"),
            Ending::Killed => write!(f, "killed after its answer"),
            Ending::NotStarted(error) => write!(f, "not started: {error}"),
        }
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("{name} ({signal})")
}

/// What a child left.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    /// Its answer, if it came to one.
    pub answer: Option<T>,
    /// The last step that it announced.
    pub step: String,
    /// How it ended.
    pub ending: Ending,
    /// What it, or the libraries in it, wrote to standard output.
    pub stdout: String,
    /// The same of standard error.
    pub stderr: String,
    /// How long it took until its answer.
    pub wall: Duration,
}

impl<T> Outcome<T> {
    /// How it ended and in which step, for a finding about a child without an answer.
    #[must_use]
    pub fn failure(&self) -> String {
        if self.step.is_empty() {
            self.ending.to_string()
        } else {
            format!("{} in {}", self.ending, self.step)
        }
    }

    /// The last lines of its standard error.
    #[must_use]
    pub fn last_words(&self) -> String {
        let lines: Vec<&str> = self.stderr.lines().collect();
        lines[lines.len().saturating_sub(4)..].join("\n")
    }
}

/// What becomes of a child that has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It ends by itself.
    Ends,
    /// It is killed by SIGKILL, as Ollama does with its runners.
    Killed,
}

/// A started probe.
#[derive(Debug)]
pub struct Running {
    child: Child,
    answer: File,
    stdout: File,
    stderr: File,
    start: Instant,
    deadline: Instant,
    received: Received,
}

/// What has come through the answer pipe.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    step: String,
    answer: Option<serde_json::Value>,
    after: Duration,
}

/// Runs a probe to its end.
pub fn run<T: DeserializeOwned>(setting: &Setting, request: &Request) -> Outcome<T> {
    let after = match request {
        Request::Ggml { hold: true, .. } | Request::Hello { hold: true, .. } => After::Killed,
        _ => After::Ends,
    };
    match start(setting, request) {
        Ok(running) => running.finish(after),
        Err(error) => Outcome {
            answer: None,
            step: String::new(),
            ending: Ending::NotStarted(format!("{error:#}")),
            stdout: String::new(),
            stderr: String::new(),
            wall: Duration::ZERO,
        },
    }
}

/// Starts a probe.
///
/// # Errors
/// When the system refuses.
pub fn start(setting: &Setting, request: &Request) -> anyhow::Result<Running> {
    let own = File::open("/proc/self/exe")
        .context("/proc/self/exe cannot be opened; is /proc mounted here?")?;
    let mut command = Command::new(format!("/proc/self/fd/{}", own.as_raw_fd()));
    command
        .arg0("vgpu")
        .arg(probe::COMMAND)
        .arg(serde_json::to_string(request)?);
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    spawn(&mut command, setting, Some((read, write)))
}

/// Starts any program under `setting`, without an answer pipe.
///
/// # Errors
/// When it cannot be started.
pub fn program(setting: &Setting, command: &mut Command) -> Outcome<()> {
    match spawn(command, setting, None) {
        Ok(running) => running.finish(After::Ends),
        Err(error) => Outcome {
            answer: None,
            step: String::new(),
            ending: Ending::NotStarted(format!("{error:#}")),
            stdout: String::new(),
            stderr: String::new(),
            wall: Duration::ZERO,
        },
    }
}

fn spawn(
    command: &mut Command,
    setting: &Setting,
    pipe: Option<(OwnedFd, OwnedFd)>,
) -> anyhow::Result<Running> {
    let (stdout, stderr) = (output()?, output()?);
    let (answer, input) = match pipe {
        Some((read, write)) => (File::from(read), Stdio::from(write)),
        None => (File::open("/dev/null")?, Stdio::null()),
    };
    command
        .stdin(input)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .env_clear()
        .envs(setting.environment.iter().cloned())
        .process_group(0);
    let change = (setting.identity != Identity::own()).then(|| setting.identity.clone());
    let become_it = move || {
        if let Some(identity) = &change {
            // No more than 64 of them: nothing may be allocated here.
            let groups: [Gid; 64] =
                std::array::from_fn(|at| Gid::from_raw(*identity.groups.get(at).unwrap_or(&0)));
            let count = identity.groups.len().min(groups.len());
            rustix::thread::set_thread_groups(&groups[..count])?;
            rustix::thread::set_thread_gid(Gid::from_raw(identity.gid))?;
            rustix::thread::set_thread_uid(Uid::from_raw(identity.uid))?;
        }
        // Probes that abort leave no core files.
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        rustix::process::setrlimit(Resource::Core, none)?;
        // Whatever becomes of the doctor, no probe outlives it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(become_it) };
    Ok(Running {
        child: command.spawn()?,
        answer,
        stdout,
        stderr,
        start: Instant::now(),
        deadline: setting.deadline,
        received: Received::default(),
    })
}

/// A file in memory that takes a child's output: no reader is needed while it runs. It cannot grow beyond
/// [`OUTPUT_BYTES`]: a child that writes more is refused by the kernel.
fn output() -> rustix::io::Result<File> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("vgpu-doctor", flags)?;
    rustix::fs::ftruncate(&fd, OUTPUT_BYTES)?;
    let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&fd, seals)?;
    Ok(File::from(fd))
}

impl Running {
    /// Waits for the answer; a probe that holds something goes on holding it. Whether there is one.
    pub fn wait_for_answer(&mut self) -> bool {
        while self.received.answer.is_none() && self.readable() {
            let mut chunk = [0; 4096];
            match self.answer.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let new = chunk.get(..count).unwrap_or(&[]);
                    self.received.take(new, self.start);
                }
            }
        }
        self.received.answer.is_some()
    }

    /// Waits for the answer, then for the end or, with [`After::Killed`], makes it.
    pub fn finish<T: DeserializeOwned>(mut self, after: After) -> Outcome<T> {
        let answered = self.wait_for_answer();
        let ending = if answered && after == After::Killed {
            self.kill();
            Ending::Killed
        } else {
            match self.wait() {
                Some(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Ending::Exit(code),
                    (None, signal) => Ending::Signal(signal.unwrap_or_default()),
                },
                None => {
                    self.kill();
                    Ending::TimeLimit
                }
            }
        };
        let wall = if answered {
            self.received.after
        } else {
            self.start.elapsed()
        };
        Outcome {
            answer: self
                .received
                .answer
                .and_then(|answer| serde_json::from_value(answer).ok()),
            step: self.received.step,
            ending,
            stdout: contents(&mut self.stdout),
            stderr: contents(&mut self.stderr),
            wall,
        }
    }

    fn readable(&self) -> bool {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(
                &mut [PollFd::new(&self.answer, PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(ready) => return ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn wait(&mut self) -> Option<ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(group) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // The group may be gone already.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Received {
    /// Takes the whole lines out of what has come.
    fn take(&mut self, new: &[u8], start: Instant) {
        self.bytes.extend_from_slice(new);
        if self.bytes.len() > ANSWER_BYTES {
            // No probe says so much.
            self.bytes.clear();
        }
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            match serde_json::from_slice::<Line>(&line) {
                Ok(Line::Step(text)) => self.step = text,
                Ok(Line::Answer(value)) => {
                    self.answer = Some(value);
                    self.after = start.elapsed();
                }
                // A child that is not ours writes nothing here.
                Err(_) => {}
            }
        }
    }
}

/// What the child wrote, at most [`READ_BYTES`] of it: the rest of the file is zeros.
fn contents(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.take(READ_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => {
            let end = bytes.iter().rposition(|&byte| byte != 0);
            bytes.truncate(end.map_or(0, |last| last + 1));
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Err(error) => format!("(its output cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Outcome<()> {
        let setting = Setting {
            identity: Identity::own(),
            environment: std::env::vars_os().collect(),
            deadline: Instant::now() + Duration::from_secs(30),
        };
        program(&setting, Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn output_is_taken_and_ends_where_the_child_stopped() {
        let outcome = shell("echo out; echo err >&2; printf last");
        assert_eq!(outcome.ending, Ending::Exit(0));
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            ("out\nlast", "err\n")
        );
        assert_eq!(shell("true").stdout, "");
    }

    #[test]
    fn a_child_that_writes_without_end_fills_no_memory() {
        let outcome = shell("head -c 20000000 /dev/zero | tr '\\0' x; echo $? >&2");
        assert_eq!(outcome.stdout.len(), READ_BYTES as usize);
        assert!(outcome.stdout.starts_with("xxx"));
        assert!(
            !outcome.stderr.trim().ends_with("\n0"),
            "{}",
            outcome.stderr
        );
        assert!(
            outcome.stderr.lines().count() > 1,
            "tr was not refused: {}",
            outcome.stderr
        );
    }
}
