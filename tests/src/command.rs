//! Running a command with a time limit, its output captured, and nothing of it left behind.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// How it ended; `None` when it ran past its limit and was killed.
    pub status: Option<ExitStatus>,
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// How long it ran.
    pub wall: Duration,
}

impl Output {
    /// The exit status in words: `exit 1`, `signal 11`, or `time limit`.
    #[must_use]
    pub fn ending(&self) -> String {
        match self.status {
            None => "time limit".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "unknown".to_owned(),
            },
        }
    }
}

/// Runs `command` in a process group of its own and waits for at most `limit`; then the whole group is killed.
///
/// The output goes through files, not pipes: a grandchild that keeps them open cannot hold this call up.
///
/// # Errors
/// When the command cannot be started or its output cannot be read.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let mut stdout = tempfile::tempfile()?;
    let mut stderr = tempfile::tempfile()?;
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()?;
    let status = wait(&mut child, limit)?;
    let wall = start.elapsed();
    if status.is_none() {
        kill_group(&child);
        child.wait()?;
    }
    Ok(Output {
        status,
        stdout: contents(&mut stdout)?,
        stderr: contents(&mut stderr)?,
        wall,
    })
}

/// Waits for `child` for at most `limit`; `None` when it still runs then.
///
/// # Errors
/// When the system refuses the wait.
pub fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(None);
        }
        std::thread::sleep(pause.min(deadline - now));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Kills the process group that `child` leads; does nothing when it is gone already.
pub fn kill_group(child: &Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // The only failure is that nobody is left to kill.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn contents(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_captured() {
        let output = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Duration::from_secs(20),
        )
        .expect("sh runs");
        assert_eq!(output.stdout, "out\n");
        assert_eq!(output.stderr, "err\n");
        assert_eq!(output.ending(), "exit 3");
    }

    #[test]
    fn a_command_past_its_limit_is_killed_with_its_children() {
        let output = run(
            Command::new("sh").args(["-c", "sleep 600 & echo $!; wait"]),
            Duration::from_millis(500),
        )
        .expect("sh runs");
        assert_eq!(output.ending(), "time limit");
        let sleeper: u32 = output.stdout.trim().parse().expect("a process id");
        let deadline = Instant::now() + Duration::from_secs(20);
        while crate::process::is_alive(sleeper) {
            assert!(Instant::now() < deadline, "the grandchild lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_grandchild_holding_the_output_does_not_delay_the_answer() {
        let output = run(
            Command::new("sh").args(["-c", "sleep 5 & echo done"]),
            Duration::from_secs(20),
        )
        .expect("sh runs");
        assert_eq!(output.ending(), "exit 0");
        assert_eq!(output.stdout, "done\n");
    }
}
