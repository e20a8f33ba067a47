//! One channel of the machine, from the request that opens it until nothing of it is left.

use super::ring::Chain;
use super::table::Files;
use crate::client::Terms;
use crate::exchange::Domain;
use crate::facts::Held;
use crate::process::Worker;
use crate::status::registry::{Entry, Origin};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use vgpu_channel::link::message::{GROW_MAGIC, GrowRequest, GrowResponse, Hello, Welcome};
use vgpu_channel::link::virtio::Open;
use vgpu_channel::link::{Event, LinkError, LinkStatus};
use vgpu_channel::segment::FilePiece;
use vgpu_worker::setup::{MAGIC, MEMORY_PIECES, PATH_BYTES, QUIESCE, RESUME, Setup, write_pieces};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How long a worker may take until it welcomes its client.
const START: Duration = Duration::from_secs(30);

/// Where a channel is in its life.
#[derive(Debug)]
pub enum Stage {
    /// The worker is getting ready; the request waits for it.
    Starting { deadline: Instant, open: Chain },
    /// The worker serves.
    Serving,
    /// The worker was killed, and is to be reaped.
    Ending,
    /// The worker is reaped. The driver still has to close the channel.
    Ended,
}

/// What a worker does about a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It runs.
    None,
    /// It was asked to stop.
    Asked,
    /// It stands still.
    Still,
}

/// An answer on its way to the driver.
#[derive(Debug)]
pub enum Answer {
    /// To an open.
    Welcome(Chain, Box<Welcome>),
    /// To a growth.
    Grown(Chain, GrowResponse),
    /// To a close.
    Closed(Chain),
}

/// A channel.
#[derive(Debug)]
pub struct Channel {
    /// The driver's number.
    pub number: u64,
    /// The process in the guest.
    process: u32,
    /// Its worker, until it is reaped.
    pub worker: Option<Worker>,
    /// Where it is.
    pub stage: Stage,
    /// The pause.
    pub pause: Pause,
    doorbell: Event,
    /// Signalled by the worker.
    pub wake: Event,
    /// Bytes of all its segments.
    pub bytes: u64,
    /// Maps of all its segments in the worker.
    pub maps: usize,
    growth: Option<(Chain, u32)>,
    /// Its row for the operator, while it has a worker.
    entry: Option<Entry>,
    refused: Option<(Chain, LinkStatus)>,
    closing: Vec<Chain>,
    /// Whether the driver is done with it, or never had it.
    pub forget: bool,
    /// A wake is to be told.
    pub woke: bool,
    /// The end is to be told.
    pub ended: bool,
}

/// The segments of a new channel, as parts of files.
#[derive(Debug)]
pub struct Segments<'t> {
    /// The control segment's.
    pub control: Vec<FilePiece>,
    /// The heap's.
    pub heap: Vec<FilePiece>,
    /// The files they lie in.
    pub files: Files<'t>,
}

fn bytes_of(list: &[FilePiece]) -> u64 {
    list.iter().map(|piece| piece.len).sum()
}

fn refusal(status: LinkStatus) -> Box<Welcome> {
    let mut welcome = Welcome::new_zeroed();
    welcome.magic = vgpu_channel::link::message::WELCOME_MAGIC;
    welcome.major = vgpu_channel::link::message::MAJOR;
    welcome.minor = vgpu_channel::link::message::MINOR;
    welcome.status = status as u32;
    Box::new(welcome)
}

/// The answer to an open that leads to no channel.
pub fn refuse_open(chain: Chain, status: LinkStatus) -> Answer {
    Answer::Welcome(chain, refusal(status))
}

/// The answer to a growth that is refused.
pub fn refuse_growth(chain: Chain, id: u32, status: LinkStatus) -> Answer {
    let mut response = GrowResponse::new_zeroed();
    (response.magic, response.id, response.status) = (GROW_MAGIC, id, status as u32);
    Answer::Grown(chain, response)
}

impl Channel {
    /// Starts a worker for a channel and hands it what it is to map.
    ///
    /// # Errors
    /// The system's refusal, with the request, which is not answered yet.
    pub fn start(
        number: u64,
        open: &Open,
        segments: &Segments<'_>,
        terms: &Terms,
        cache: Option<&Path>,
        lock: BorrowedFd<'_>,
        chain: Chain,
    ) -> Result<Channel, (Chain, std::io::Error)> {
        let begin = |segments: &Segments<'_>| {
            let (doorbell, wake) = (Event::new()?, Event::new()?);
            let all = [&segments.control[..], &segments.heap[..]].concat();
            let list = write_pieces(&all)?;
            let seat = terms.spin.seat();
            let setup = Setup {
                magic: MAGIC,
                device: terms.device,
                memory: MEMORY_PIECES,
                software_devices: terms.software_devices,
                reserved: 0,
                quota: terms.quota,
                ring_slots: terms.ring_slots,
                control_len: bytes_of(&segments.control),
                heap_len: bytes_of(&segments.heap),
                control_pieces: segments.control.len() as u32,
                heap_pieces: segments.heap.len() as u32,
                spin_permits: terms.spin.count(),
                spin_holder: seat.holder,
                // The socket's file is the daemon's own matter.
                listen: [0; PATH_BYTES],
                hello: open.hello,
            };
            let page = terms.registry.prepare(Origin::Channel(number))?;
            let (member, exchange) = terms.exchange.join(Domain::Machine)?;
            let mut fds = vec![
                doorbell.as_fd(),
                wake.as_fd(),
                terms.spin.as_fd(),
                page.as_fd(),
                exchange.as_fd(),
                list.as_fd(),
                lock,
            ];
            fds.extend(segments.files.descriptors());
            let worker = Worker::start(&open.hello, cache, terms.level, seat, member)?;
            // A fresh socket has room for one message.
            let sent = worker.socket.send(setup.as_bytes(), &fds);
            drop(fds);
            let entry = page.serve(worker.id());
            Ok::<_, std::io::Error>((
                worker,
                entry,
                sent,
                doorbell,
                wake,
                bytes_of(&all),
                all.len(),
            ))
        };
        match begin(segments) {
            Ok((worker, entry, sent, doorbell, wake, bytes, maps)) => {
                let mut channel = Channel {
                    number,
                    process: open.process,
                    worker: Some(worker),
                    stage: Stage::Starting {
                        deadline: Instant::now() + START,
                        open: chain,
                    },
                    pause: Pause::None,
                    doorbell,
                    wake,
                    bytes,
                    maps,
                    growth: None,
                    entry: Some(entry),
                    refused: None,
                    closing: Vec::new(),
                    forget: false,
                    woke: false,
                    ended: false,
                };
                if let Err(error) = sent {
                    tracing::error!("channel {number}: its worker cannot be told: {error}");
                    channel.end(LinkStatus::Internal);
                }
                Ok(channel)
            }
            Err(error) => Err((chain, error)),
        }
    }

    /// Whether the driver may name it.
    pub fn is_open(&self) -> bool {
        !self.forget
    }

    /// What its process holds of the device, as `asker` in the same guest sees it.
    pub fn held(&self, asker: u32) -> Option<Held> {
        Some(Held {
            process: self.process,
            own: self.process == asker && asker != 0,
            bytes: self.entry.as_ref()?.held(),
        })
    }

    /// When its worker must have spoken.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Starting { deadline, .. } => Some(*deadline),
            _ => None,
        }
    }

    /// Whether nothing of it is under way: no answer is owed, and the worker, if there is one, stands still.
    pub fn is_still(&self) -> bool {
        let owes = self.growth.is_some() || self.refused.is_some() || !self.closing.is_empty();
        let quiet = match self.stage {
            Stage::Serving => self.pause == Pause::Still,
            Stage::Ended => true,
            Stage::Starting { .. } | Stage::Ending => false,
        };
        quiet && !owes
    }

    /// Rings the worker's doorbell.
    pub fn ring(&self) {
        self.doorbell.signal();
    }

    /// Ends the worker by force. It is over once the worker is reaped.
    pub fn end(&mut self, status: LinkStatus) {
        let Some(worker) = &mut self.worker else {
            return;
        };
        worker.kill();
        let stage = std::mem::replace(&mut self.stage, Stage::Ending);
        if let Stage::Starting { open, .. } = stage {
            self.refused = Some((open, status));
            self.forget = true;
        }
    }

    /// The driver closes the channel. The answer, if the worker is gone already.
    pub fn close(&mut self, chain: Chain) -> Option<Answer> {
        self.forget = true;
        if self.worker.is_none() {
            return Some(Answer::Closed(chain));
        }
        self.end(LinkStatus::Internal);
        self.closing.push(chain);
        None
    }

    /// Whether another growth can begin.
    pub fn can_grow(&self) -> bool {
        matches!(self.stage, Stage::Serving) && self.growth.is_none()
    }

    /// Has the worker map another segment.
    pub fn grow(&mut self, chain: Chain, id: u32, list: &[FilePiece], files: &Files<'_>) {
        let request = GrowRequest {
            magic: GROW_MAGIC,
            id,
            bytes: bytes_of(list),
        };
        self.growth = Some((chain, id));
        self.bytes = self.bytes.saturating_add(request.bytes);
        self.maps += list.len();
        let sent = write_pieces(list)
            .map_err(LinkError::System)
            .and_then(|list| {
                let mut fds = vec![list.as_fd()];
                fds.extend(files.descriptors());
                match &self.worker {
                    Some(worker) => worker.socket.send(request.as_bytes(), &fds),
                    None => Err(LinkError::Closed),
                }
            });
        if let Err(error) = sent {
            tracing::warn!(
                "channel {}: its worker cannot be told: {error}",
                self.number
            );
            self.end(LinkStatus::Internal);
        }
    }

    fn tell(&mut self, magic: u32) -> bool {
        let request = GrowRequest {
            magic,
            id: 0,
            bytes: 0,
        };
        let told = self
            .worker
            .as_ref()
            .is_some_and(|worker| worker.socket.send(request.as_bytes(), &[]).is_ok());
        if !told {
            self.end(LinkStatus::Internal);
        }
        told
    }

    /// Asks the worker to stand still.
    pub fn quiesce(&mut self) {
        let runs = matches!(self.stage, Stage::Starting { .. } | Stage::Serving);
        if runs && self.pause == Pause::None && self.tell(QUIESCE) {
            self.pause = Pause::Asked;
        }
    }

    /// Has the worker go on.
    pub fn resume(&mut self) {
        if matches!(self.stage, Stage::Serving) && self.pause != Pause::None && self.tell(RESUME) {
            self.pause = Pause::None;
        }
    }

    /// The worker's socket is readable.
    pub fn worker_speaks(&mut self) -> Option<Answer> {
        match self.stage {
            Stage::Starting { .. } => self.welcome(),
            Stage::Serving => self.response(),
            Stage::Ending | Stage::Ended => None,
        }
    }

    fn welcome(&mut self) -> Option<Answer> {
        let worker = self.worker.as_ref()?;
        // Its death is seen, and told, by its pidfd.
        let (bytes, _) = worker
            .socket
            .receive_with_fds::<{ size_of::<Welcome>() }>(Duration::ZERO)
            .ok()?;
        let welcome = Welcome::read_from_bytes(&bytes).ok()?;
        let status = LinkStatus::from_word(welcome.status);
        if status != LinkStatus::Ok {
            tracing::warn!("channel {}: the worker refused: {status}", self.number);
            self.end(status);
            return None;
        }
        tracing::info!("channel {}: served by worker {}", self.number, worker.id());
        match std::mem::replace(&mut self.stage, Stage::Serving) {
            Stage::Starting { open, .. } => Some(Answer::Welcome(open, Box::new(welcome))),
            _ => None,
        }
    }

    fn response(&mut self) -> Option<Answer> {
        let worker = self.worker.as_ref()?;
        let received = worker
            .socket
            .receive_with_fds::<{ size_of::<GrowResponse>() }>(Duration::ZERO);
        let response = match received {
            Ok((bytes, _)) => GrowResponse::read_from_bytes(&bytes).ok()?,
            Err(LinkError::TimedOut | LinkError::Closed) => return None,
            Err(error) => {
                tracing::warn!("channel {}: its worker misbehaves: {error}", self.number);
                self.end(LinkStatus::Internal);
                return None;
            }
        };
        let ok = response.status == LinkStatus::Ok as u32;
        match response.magic {
            QUIESCE if self.pause == Pause::Asked && ok => {
                self.pause = Pause::Still;
                None
            }
            GROW_MAGIC if self.growth.is_some() => {
                let (chain, id) = self.growth.take()?;
                // What the worker may have mapped nevertheless stays the channel's.
                let answer = if ok {
                    Answer::Grown(chain, GrowResponse { id, ..response })
                } else {
                    refuse_growth(chain, id, LinkStatus::Internal)
                };
                Some(answer)
            }
            _ => {
                tracing::warn!("channel {}: its worker does not stand still", self.number);
                self.end(LinkStatus::Internal);
                None
            }
        }
    }

    /// The worker is dead: reaps it and gives all answers that waited for that.
    pub fn worker_died(&mut self) -> Vec<Answer> {
        let Some(worker) = &mut self.worker else {
            return Vec::new();
        };
        let Some(status) = worker.reap() else {
            return Vec::new();
        };
        match self.stage {
            Stage::Ending => tracing::info!("worker {} ended", worker.id()),
            _ => tracing::warn!("worker {} ended by itself: {status}", worker.id()),
        }
        self.worker = None;
        self.entry = None;
        let mut answers = Vec::new();
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Starting { open, .. } => {
                self.forget = true;
                answers.push(refuse_open(open, LinkStatus::Internal));
            }
            _ => self.ended = !self.forget,
        }
        self.woke = false;
        answers.extend(
            self.refused
                .take()
                .map(|(chain, status)| refuse_open(chain, status)),
        );
        answers.extend(
            self.growth
                .take()
                .map(|(chain, id)| refuse_growth(chain, id, LinkStatus::Internal)),
        );
        answers.extend(self.closing.drain(..).map(Answer::Closed));
        answers
    }

    /// What the log says about who is behind it.
    pub fn introduce(number: u64, open: &Open) -> String {
        let Hello { window, .. } = open.hello;
        format!(
            "channel {number}: process {} of user {} in the guest, window {window}",
            open.process, open.user
        )
    }
}
