//! Questions about figures that are being heard or answered: several at once, each with its own time limit, so that one who
//! says nothing or does not read keeps nobody else waiting.

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long one question and its answer may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Conversations of one kind at once; further ones wait to be accepted, at most for [`LIMIT`].
const MOST: usize = 16;
/// Longest request.
const REQUEST: usize = 8 << 10;
/// What ends a request.
const END: &[u8] = b"\r\n\r\n";

#[derive(Debug)]
enum Stage {
    /// The request so far.
    Hearing(Vec<u8>),
    /// The answer, and how much of it was taken.
    Telling(Vec<u8>, usize),
    Over,
}

#[derive(Debug)]
struct Conversation {
    stream: OwnedFd,
    deadline: Instant,
    stage: Stage,
}

/// Conversations of one kind, over streams that do not block.
#[derive(Debug, Default)]
pub struct Conversations(Vec<Conversation>);

impl Conversations {
    /// Whether one more may begin.
    pub fn has_room(&self) -> bool {
        self.0.len() < MOST
    }

    /// Begins one with a request.
    pub fn hear(&mut self, stream: OwnedFd) {
        self.begin(stream, Stage::Hearing(Vec::new()));
    }

    /// Begins one with the answer.
    pub fn tell(&mut self, stream: OwnedFd, answer: Vec<u8>) {
        self.begin(stream, Stage::Telling(answer, 0));
    }

    fn begin(&mut self, stream: OwnedFd, stage: Stage) {
        self.0.push(Conversation {
            stream,
            deadline: Instant::now() + LIMIT,
            stage,
        });
    }

    /// Adds what they wait for.
    pub fn watch<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.extend(self.0.iter().map(|conversation| {
            let flags = match conversation.stage {
                Stage::Hearing(_) => PollFlags::IN,
                _ => PollFlags::OUT,
            };
            PollFd::new(&conversation.stream, flags)
        }));
    }

    /// When the first of them has taken too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.0
            .iter()
            .map(|conversation| conversation.deadline)
            .min()
    }

    /// Goes on with all of them as far as that is possible now; `answer` answers a request.
    pub fn advance(&mut self, answer: impl Fn(&[u8]) -> Vec<u8>) {
        let now = Instant::now();
        for conversation in &mut self.0 {
            conversation.advance(&answer);
        }
        self.0.retain(|conversation| {
            !matches!(conversation.stage, Stage::Over) && now < conversation.deadline
        });
    }
}

impl Conversation {
    fn advance(&mut self, answer: impl Fn(&[u8]) -> Vec<u8>) {
        if let Stage::Hearing(request) = &mut self.stage {
            match hear(&self.stream, request) {
                Heard::More => return,
                Heard::All => self.stage = Stage::Telling(answer(request), 0),
                Heard::Gone => self.stage = Stage::Over,
            }
        }
        if let Stage::Telling(text, taken) = &mut self.stage {
            while let Some(rest) = text.get(*taken..).filter(|rest| !rest.is_empty()) {
                match rustix::io::write(&self.stream, rest) {
                    Ok(count) => *taken += count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return,
                    // A peer that goes has lost interest.
                    Err(_) => break,
                }
            }
            self.stage = Stage::Over;
        }
    }
}

enum Heard {
    More,
    All,
    Gone,
}

/// Reads up to the end of the request's head, or what was said before the end.
fn hear(stream: &OwnedFd, request: &mut Vec<u8>) -> Heard {
    let mut buffer = [0; 1024];
    loop {
        match rustix::io::read(stream, &mut buffer) {
            Ok(0) => return Heard::All,
            Ok(len) => request.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Heard::More,
            Err(_) => return Heard::Gone,
        }
        if request.windows(END.len()).any(|end| end == END) {
            return Heard::All;
        }
        if request.len() > REQUEST {
            return Heard::Gone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, OwnedFd) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far.into())
    }

    #[test]
    fn those_who_say_nothing_keep_nobody_waiting() {
        let mut conversations = Conversations::default();
        let (mut slow, far) = pair();
        conversations.hear(far);
        let (mut quick, far) = pair();
        conversations.hear(far);
        quick.write_all(b"x\r\n\r\n").unwrap();
        slow.write_all(b"y\r\n").unwrap();
        conversations.advance(<[u8]>::to_vec);
        let mut said = String::new();
        quick.read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), conversations.0.len()), ("x\r\n\r\n", 1));
        slow.write_all(b"\r\n").unwrap();
        conversations.advance(<[u8]>::to_vec);
        said.clear();
        slow.read_to_string(&mut said).unwrap();
        assert_eq!((said.as_str(), conversations.0.len()), ("y\r\n\r\n", 0));
    }

    #[test]
    fn each_has_its_time_and_there_are_never_too_many() {
        let mut conversations = Conversations::default();
        let mut kept = Vec::new();
        while conversations.has_room() {
            let (near, far) = pair();
            kept.push(near);
            conversations.hear(far);
        }
        assert_eq!(kept.len(), MOST);
        conversations.0[0].deadline = Instant::now();
        conversations.advance(<[u8]>::to_vec);
        assert!(conversations.has_room());
        let mut rest = Vec::new();
        assert_eq!(kept[0].read_to_end(&mut rest).unwrap(), 0);
    }

    #[test]
    fn an_answer_that_is_not_read_waits_without_blocking() {
        let mut conversations = Conversations::default();
        let (mut near, far) = pair();
        let text = vec![7; 4 << 20];
        conversations.tell(far, text.clone());
        conversations.advance(|_| Vec::new());
        assert_eq!(conversations.0.len(), 1);
        let mut got = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while !conversations.0.is_empty() {
            let len = near.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..len]);
            conversations.advance(|_| Vec::new());
        }
        near.read_to_end(&mut got).unwrap();
        assert_eq!(got, text);
    }
}
