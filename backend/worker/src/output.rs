//! Text that device code prints. The driver writes it to the worker's standard output when it
//! synchronises; that is a pipe back into this process, and what comes out goes to the client.

use crate::gate::Gate;
use crate::live::lock;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vgpu_channel::server::Channel;

/// How long one delivery waits for a client that does not read, before text is cut.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where device text comes from.
#[derive(Debug)]
pub struct Output {
    /// Reading end of standard output, non-blocking; the lock makes one reader's text arrive whole
    /// before another finds the pipe empty.
    pipe: Option<Mutex<OwnedFd>>,
}

impl Output {
    /// Standard output is left alone, for both sides in one process.
    pub const fn none() -> Self {
        Self { pipe: None }
    }

    /// Turns standard output of this process into a pipe to itself.
    ///
    /// # Errors
    /// The system's error.
    pub fn capture() -> std::io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        rustix::stdio::dup2_stdout(&write)?;
        Ok(Self {
            pipe: Some(Mutex::new(read)),
        })
    }

    /// Delivers all text that the driver has written so far.
    pub fn deliver(&self, channel: &Channel) {
        if self.pipe.is_none() {
            return;
        }
        // SAFETY: a null stream flushes all of them; the C library locks each.
        unsafe { libc::fflush(std::ptr::null_mut()) };
        self.drain(channel);
    }

    fn drain(&self, channel: &Channel) {
        let Some(pipe) = &self.pipe else { return };
        let pipe = lock(pipe);
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&*pipe, &mut buffer) {
                Ok(0) => return,
                Ok(len) => forward(channel, buffer.get(..len).unwrap_or(&[])),
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Delivers text as it comes, so that a driver that prints more than a pipe holds does not
    /// block. Runs on a thread of its own and never returns.
    pub fn relay(self: &Output, channel: &Arc<Channel>, gate: &Gate) {
        let Some(pipe) = &self.pipe else { return };
        let Ok(watched) = lock(pipe).try_clone() else {
            tracing::error!("device text cannot be relayed: out of descriptors");
            return;
        };
        loop {
            let mut fds = [PollFd::new(&watched, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {
                    let _open = gate.pass();
                    self.drain(channel);
                }
                Err(error) => {
                    tracing::error!("device text cannot be relayed: {error}");
                    return;
                }
            }
        }
    }
}

/// Hands text to the client, waiting a little for room.
fn forward(channel: &Channel, text: &[u8]) {
    let mut rest = text;
    let start = Instant::now();
    loop {
        let taken = channel.output().write(rest);
        rest = rest.get(taken..).unwrap_or(&[]);
        if rest.is_empty() || start.elapsed() > PATIENCE {
            // Wakes the reader, and counts what is cut.
            channel.print(rest);
            return;
        }
        channel.print(&[]);
        std::thread::sleep(Duration::from_millis(1));
    }
}
