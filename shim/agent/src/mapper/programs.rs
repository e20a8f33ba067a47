//! The socket to the parser, which speaks for the programs.

use super::{BACKLOG, EVENTS, Mapper, MapperError, PARSER_SOCKET, Parser, error_text, watch};
use crate::device::Device;
use crate::messages::{BODY_BYTES, HERE, ToMapper, ToParser};
use rustix::event::epoll;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use vgpu_channel::link::{LinkError, LinkStatus, Socket};
use zerocopy::IntoBytes;
use zerocopy::transmute;

impl<D: Device> Mapper<D> {
    pub(super) fn say(
        &mut self,
        kind: u32,
        status: LinkStatus,
        channel: u64,
        body: &[u8],
        fds: Vec<OwnedFd>,
    ) {
        let Some(parser) = &mut self.parser else {
            return;
        };
        let mut message = ToParser {
            kind,
            status: status as u32,
            channel,
            body: [0; BODY_BYTES],
        };
        for (to, from) in message.body.iter_mut().zip(body) {
            *to = *from;
        }
        parser.out.push_back((message, fds));
        if parser.out.len() > BACKLOG {
            self.drop_parser("it does not listen");
        }
    }

    /// Sends what the parser takes.
    pub(super) fn flush(&mut self) {
        let Some(parser) = &mut self.parser else {
            return;
        };
        let mut gone = false;
        parser.blocked = false;
        while let Some((message, fds)) = parser.out.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match parser.socket.send(message.as_bytes(), &borrowed) {
                Ok(()) => {
                    parser.out.pop_front();
                }
                Err(LinkError::TimedOut) => {
                    parser.blocked = true;
                    break;
                }
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        if gone {
            self.drop_parser("it is gone");
        }
    }

    /// The parser is gone or must go: its channels are closed. The keeper starts another one.
    pub(super) fn drop_parser(&mut self, why: &str) {
        let Some(parser) = self.parser.take() else {
            return;
        };
        tracing::warn!("the parser is dropped: {why}");
        let _ = epoll::delete(&self.epoll, parser.socket.as_fd());
        drop(parser);
        self.waiting.clear();
        self.questions.clear();
        for number in self.channels.numbers() {
            // A queue that fails here fails the whole device at the next turn.
            if let Err(error) = self.close(number) {
                tracing::error!("channel {number}: {}", error_text(&error));
            }
        }
    }

    pub(super) fn new_parser(&mut self, fd: OwnedFd) -> io::Result<()> {
        self.drop_parser("there is a new one");
        rustix::io::ioctl_fionbio(&fd, true)?;
        watch(&self.epoll, fd.as_fd(), PARSER_SOCKET)?;
        self.parser = Some(Parser {
            socket: Socket::from_fd(fd),
            out: VecDeque::new(),
            blocked: false,
        });
        self.say(HERE, LinkStatus::Ok, 0, &[], vec![]);
        Ok(())
    }

    pub(super) fn parser_speaks(&mut self) -> Result<(), MapperError> {
        // A bounded number at once, so that nobody else starves.
        for _ in 0..EVENTS {
            let Some(parser) = &self.parser else {
                return Ok(());
            };
            let received = parser
                .socket
                .receive_plain::<{ size_of::<ToMapper>() }>(Duration::ZERO);
            match received {
                Ok(bytes) => self.asked(transmute!(bytes))?,
                Err(LinkError::TimedOut) => return Ok(()),
                Err(LinkError::Closed) => {
                    self.drop_parser("it is gone");
                    return Ok(());
                }
                Err(_) => {
                    self.drop_parser("it sent nonsense");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
