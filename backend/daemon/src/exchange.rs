//! The exchange: what workers of one user, or of one machine, share by tokens.
//!
//! A token is 32 random bytes, so it cannot be guessed; it is good for workers of the same [`Domain`] only, for as long as
//! the worker that left something for it lives and does not withdraw it, and a worker can leave so many only. The daemon
//! never looks at what is left, nor uses a descriptor that comes with it: both go to the worker that fetches them.

use rustix::rand::{GetRandomFlags, getrandom};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vgpu_channel::link::{LinkError, Socket};
use vgpu_worker::exchange::{
    Answer, DONE, FETCH, FULL, HANDLE_BYTES, LEAVE, MAGIC, Request, TOKEN_BYTES, Token, UNKNOWN,
    WITHDRAW,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Most that one worker can have left.
const MAX_LEFT: usize = 4096;
/// Most of it with descriptors, which count against the daemon's own.
const MAX_DESCRIPTORS: usize = 256;
/// Messages of one worker that are served before others have their turn.
const TURN: usize = 16;

/// Who may open what others share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Processes of this user of the host.
    User(u32),
    /// Processes of the machine: one at a time is served.
    Machine,
}

#[derive(Debug)]
struct Left {
    domain: Domain,
    member: u64,
    kind: u32,
    handle: [u8; HANDLE_BYTES],
    descriptor: Option<Arc<OwnedFd>>,
}

#[derive(Debug, Default)]
struct Table {
    left: HashMap<Token, Left>,
    members: u64,
}

/// What is shared by all workers of this daemon.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    table: Arc<Mutex<Table>>,
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Every change of it is a single one.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    /// A place for a new worker, and the descriptor that the worker gets.
    ///
    /// # Errors
    /// The system's error.
    pub fn join(&self, domain: Domain) -> io::Result<(Member, OwnedFd)> {
        let (near, far) = Socket::pair()?;
        rustix::io::ioctl_fionbio(&near, true)?;
        let mut table = lock(&self.table);
        table.members += 1;
        let member = Member {
            socket: near,
            exchange: self.clone(),
            domain,
            number: table.members,
        };
        Ok((member, far.into_fd()))
    }
}

/// A worker's place in the exchange. What it left goes with it.
#[derive(Debug)]
pub struct Member {
    socket: Socket,
    exchange: Exchange,
    domain: Domain,
    number: u64,
}

impl AsFd for Member {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut table = lock(&self.exchange.table);
        table.left.retain(|_, left| left.member != self.number);
    }
}

impl Member {
    /// Serves what the worker asks for, a bounded amount at a time. Whether it may go on: a worker that breaks the format,
    /// or takes no answers, may not.
    pub fn serve(&self) -> bool {
        for _ in 0..TURN {
            let received = self
                .socket
                .receive_with_fds::<{ size_of::<Request>() }>(Duration::ZERO);
            let (bytes, mut fds) = match received {
                Ok(received) => received,
                Err(LinkError::TimedOut) => return true,
                Err(_) => return false,
            };
            let request = match Request::read_from_bytes(&bytes) {
                Ok(request) if request.magic == MAGIC && fds.len() <= 1 => request,
                _ => return false,
            };
            let (answer, descriptor) = match request.operation {
                LEAVE => (self.leave(&request, fds.pop()), None),
                FETCH => self.fetch(&request),
                WITHDRAW => {
                    self.withdraw(request.token);
                    continue;
                }
                _ => return false,
            };
            let fds: Vec<_> = descriptor.iter().map(|fd| fd.as_fd()).collect();
            if self.socket.send(answer.as_bytes(), &fds).is_err() {
                return false;
            }
        }
        true
    }

    fn leave(&self, request: &Request, descriptor: Option<OwnedFd>) -> Answer {
        let mut token = [0; TOKEN_BYTES];
        // That many bytes are never cut short.
        if getrandom(&mut token, GetRandomFlags::empty()) != Ok(TOKEN_BYTES) {
            return answer(FULL);
        }
        let mut table = lock(&self.exchange.table);
        let (mut all, mut with_descriptor) = (0, 0);
        for left in table.left.values() {
            if left.member == self.number {
                all += 1;
                with_descriptor += usize::from(left.descriptor.is_some());
            }
        }
        if all >= MAX_LEFT || descriptor.is_some() && with_descriptor >= MAX_DESCRIPTORS {
            return answer(FULL);
        }
        let left = Left {
            domain: self.domain,
            member: self.number,
            kind: request.kind,
            handle: request.handle,
            descriptor: descriptor.map(Arc::new),
        };
        table.left.insert(token, left);
        Answer {
            token,
            ..answer(DONE)
        }
    }

    fn fetch(&self, request: &Request) -> (Answer, Option<Arc<OwnedFd>>) {
        let table = lock(&self.exchange.table);
        match table.left.get(&request.token) {
            Some(left) if left.domain == self.domain && left.kind == request.kind => {
                let answer = Answer {
                    handle: left.handle,
                    ..answer(DONE)
                };
                (answer, left.descriptor.clone())
            }
            _ => (answer(UNKNOWN), None),
        }
    }

    fn withdraw(&self, token: Token) {
        let mut table = lock(&self.exchange.table);
        if table
            .left
            .get(&token)
            .is_some_and(|left| left.member == self.number)
        {
            table.left.remove(&token);
        }
    }
}

fn answer(status: u32) -> Answer {
    let mut answer = Answer::new_zeroed();
    (answer.magic, answer.status) = (MAGIC, status);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_protocol::cuda::CUresult;
    use vgpu_worker::exchange::{EVENT, Exchange as Asking, MEMORY};

    /// A worker's two sides, the daemon's served by a thread until the worker's end is closed.
    fn worker(exchange: &Exchange, domain: Domain) -> (Asking, std::thread::JoinHandle<()>) {
        let (member, far) = exchange.join(domain).expect("a pair of sockets");
        let served = std::thread::spawn(move || {
            let readable = rustix::event::PollFlags::IN;
            loop {
                let mut fds = [rustix::event::PollFd::new(&member, readable)];
                rustix::event::poll(&mut fds, None).expect("poll");
                if !member.serve() {
                    return;
                }
            }
        });
        (Asking::new(Socket::from_fd(far)), served)
    }

    fn handle(byte: u8) -> [u8; HANDLE_BYTES] {
        [byte; HANDLE_BYTES]
    }

    #[test]
    fn a_token_is_good_for_its_kind_its_domain_and_its_life() {
        let exchange = Exchange::default();
        let (exporter, served) = worker(&exchange, Domain::User(7));
        let (neighbour, _) = worker(&exchange, Domain::User(7));
        let (stranger, _) = worker(&exchange, Domain::User(8));
        let (guest, _) = worker(&exchange, Domain::Machine);
        let token = exporter.leave(MEMORY, (handle(1), None)).expect("a token");
        let other = exporter.leave(MEMORY, (handle(1), None)).expect("a token");
        assert_ne!(token, other);
        let found = neighbour.fetch(MEMORY, token).expect("an answer");
        assert_eq!(found.map(|(handle, _)| handle), Some(handle(1)));
        assert!(neighbour.fetch(EVENT, token).expect("an answer").is_none());
        assert!(stranger.fetch(MEMORY, token).expect("an answer").is_none());
        assert!(guest.fetch(MEMORY, token).expect("an answer").is_none());
        let mut forged = token;
        forged[31] ^= 1;
        assert!(
            neighbour
                .fetch(MEMORY, forged)
                .expect("an answer")
                .is_none()
        );
        // Nobody else's to withdraw; the question behind it makes sure that it was heard.
        neighbour.withdraw(token);
        assert!(neighbour.fetch(MEMORY, token).expect("an answer").is_some());
        exporter.withdraw(other);
        assert!(exporter.fetch(MEMORY, other).expect("an answer").is_none());
        drop(exporter);
        served.join().expect("the end of the exporter is seen");
        assert!(neighbour.fetch(MEMORY, token).expect("an answer").is_none());
    }

    #[test]
    fn descriptors_travel_and_are_counted() {
        let exchange = Exchange::default();
        let (exporter, _) = worker(&exchange, Domain::Machine);
        let (importer, _) = worker(&exchange, Domain::Machine);
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
        let token = exporter
            .leave(MEMORY, (handle(2), Some(file())))
            .expect("a token");
        for _ in 0..2 {
            let (_, descriptor) = importer
                .fetch(MEMORY, token)
                .expect("an answer")
                .expect("it is there");
            let stat = rustix::fs::fstat(descriptor.expect("a descriptor")).expect("stat");
            assert_eq!(
                stat.st_rdev,
                rustix::fs::stat("/dev/null").expect("stat").st_rdev
            );
        }
        for _ in 1..MAX_DESCRIPTORS {
            exporter
                .leave(MEMORY, (handle(3), Some(file())))
                .expect("room");
        }
        let more = exporter.leave(MEMORY, (handle(3), Some(file())));
        assert_eq!(more, Err(CUresult::OUT_OF_MEMORY));
        assert!(exporter.leave(MEMORY, (handle(3), None)).is_ok());
        exporter.withdraw(token);
        assert!(exporter.leave(MEMORY, (handle(3), Some(file()))).is_ok());
    }

    #[test]
    fn a_worker_can_leave_so_many_only_and_others_are_not_kept_out() {
        let exchange = Exchange::default();
        let (greedy, _) = worker(&exchange, Domain::Machine);
        let (other, _) = worker(&exchange, Domain::Machine);
        for _ in 0..MAX_LEFT {
            greedy.leave(EVENT, (handle(4), None)).expect("room");
        }
        let more = greedy.leave(EVENT, (handle(4), None));
        assert_eq!(more, Err(CUresult::OUT_OF_MEMORY));
        assert!(other.leave(EVENT, (handle(5), None)).is_ok());
    }

    #[test]
    fn a_worker_that_breaks_the_format_is_not_served() {
        let exchange = Exchange::default();
        for bytes in [vec![0; size_of::<Request>()], vec![1; 3], Vec::new()] {
            let (member, far) = exchange.join(Domain::Machine).expect("a pair of sockets");
            let far = Socket::from_fd(far);
            if bytes.is_empty() {
                drop(far);
            } else {
                far.send(&bytes, &[]).expect("sent");
            }
            assert!(!member.serve(), "{} bytes", bytes.len());
        }
    }
}
