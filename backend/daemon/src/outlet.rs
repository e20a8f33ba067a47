//! Standard error that makes nobody wait. Whoever reads it may stop, and a disk may be slow; the event loop, which every
//! client waits for, must not. Lines wait in a queue for a thread that writes them; what finds it full is left out, and how
//! much that was is said once there is room.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

/// Lines that may wait.
const LINES: usize = 1024;
/// How long the end of the process waits for lines to be written.
const END: Duration = Duration::from_secs(1);
/// Between two tries to end.
const PAUSE: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    End(Sender<()>),
}

/// Where lines are put. Copies are the same queue; each write is a line.
#[derive(Clone, Debug)]
pub struct Outlet {
    queue: SyncSender<Message>,
    left_out: Arc<AtomicU64>,
}

impl Outlet {
    /// An outlet to `to`.
    ///
    /// # Errors
    /// Without a thread.
    pub fn start(to: impl Write + Send + 'static) -> io::Result<Outlet> {
        let (queue, lines) = sync_channel(LINES);
        let left_out = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&left_out);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(to, &lines, &count))?;
        Ok(Outlet { queue, left_out })
    }

    /// Waits a moment until what was put so far is written.
    pub fn finish(&self) {
        let deadline = Instant::now() + END;
        let (done, wait) = channel();
        let mut message = Message::End(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            std::thread::sleep(PAUSE);
        }
        // If it is not over by then, the lines are lost.
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write_all(mut to: impl Write, lines: &Receiver<Message>, left_out: &AtomicU64) {
    while let Ok(message) = lines.recv() {
        // A log that cannot be written has nowhere to say so.
        let _ = match message {
            Message::Line(line) => to.write_all(&line),
            Message::End(done) => done.send(()).map_err(io::Error::other),
        };
        let count = left_out.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(
                to,
                "{count} lines of the log are left out: they were not read in time"
            );
        }
    }
}

impl Write for Outlet {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines_come_out_in_order_and_a_reader_that_stops_makes_nobody_wait() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut outlet = Outlet::start(near).unwrap();
        let line = [b'x'; 4096];
        // More than the socket and the queue hold.
        for _ in 0..LINES + 1024 {
            outlet.write_all(&line).unwrap();
        }
        assert!(outlet.left_out.load(Ordering::Relaxed) > 0);
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut far, &mut text).unwrap();
            String::from_utf8(text).unwrap()
        });
        // Until the queue has room again, a line may be left out, too.
        let deadline = Instant::now() + Duration::from_secs(20);
        while outlet.left_out.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(PAUSE);
        }
        outlet.write_all(b"\nlast\n").unwrap();
        outlet.finish();
        drop(outlet);
        let text = reader.join().unwrap();
        assert!(text.starts_with("xxxx") && text.ends_with("\nlast\n"));
        assert!(
            text.contains("lines of the log are left out"),
            "{}",
            text.len()
        );
    }
}
