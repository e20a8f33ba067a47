//! QEMU's monitor: one command at a time, as text.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long QEMU may take for an answer. More than the device waits for a backend that hangs, as it hangs along.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects; QEMU makes the socket while it starts.
    ///
    /// # Errors
    /// When there is no socket within ten seconds, or what answers is no monitor.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("QEMU's monitor does not listen");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        qmp.line()?;
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments, `stop` say, and returns the line with its result.
    ///
    /// # Errors
    /// When QEMU answers with an error, not at all, or is gone.
    pub fn execute(&mut self, command: &str) -> anyhow::Result<String> {
        self.raw(&format!("{{\"execute\":\"{command}\"}}"))
    }

    /// Sends a whole command, in JSON, and returns the line with its result. Events are skipped.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn raw(&mut self, json: &str) -> anyhow::Result<String> {
        self.stream.get_mut().write_all(json.as_bytes())?;
        self.stream.get_mut().write_all(b"\n")?;
        loop {
            let line = self.line()?;
            if line.starts_with("{\"return\"") {
                return Ok(line);
            }
            if line.starts_with("{\"error\"") {
                bail!("QEMU refuses {json}: {line}");
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = self
            .stream
            .read_line(&mut line)
            .context("QEMU's monitor does not answer")?;
        if read == 0 {
            bail!("QEMU is gone");
        }
        Ok(line)
    }
}
