//! The two queues of the device, with the buffers that travel in them, in one 2 MiB page.
//!
//! | offset | what |
//! |---|---|
//! | 0 | control queue |
//! | 8 KiB | doorbell queue |
//! | 16 KiB | 64 notices of 16 bytes |
//! | 20 KiB | 128 rings of 8 bytes |
//! | 64 KiB | 56 requests of 16 KiB, the last 512 bytes of each for the answer |
//! | 1 MiB | one request of 1 MiB, for long lists of pieces |

use crate::queue::{Addresses, Buffer, Queue, QueueError};
use std::collections::VecDeque;
use vgpu_channel::link::virtio::{
    CONTROL_QUEUE, DOORBELL_QUEUE, Notice, QUEUE_SIZE, QUEUES, Request, Ring,
};
use vgpu_channel::segment::SEGMENT_ALIGN;
use vgpu_channel::shm::View;
use zerocopy::{FromBytes, IntoBytes};

const DOORBELL_OFFSET: usize = 8 << 10;
const NOTICE_OFFSET: usize = 16 << 10;
const RING_OFFSET: usize = 20 << 10;
const REQUEST_OFFSET: usize = 64 << 10;
const REQUEST_BYTES: usize = 16 << 10;
const BIG_OFFSET: usize = 1 << 20;
const BIG_BYTES: usize = 1 << 20;
const ANSWER_BYTES: usize = 512;

/// Notices that the device may keep.
const NOTICES: usize = 64;
/// Rings on their way.
const RINGS: usize = 128;
/// Requests on their way, but for the big one.
const REQUESTS: usize = 56;
/// Bytes of a notice.
const NOTICE_BYTES: usize = size_of::<Notice>();

/// Entries that the device's queues need at least: a chain of two for each request, and all notices and rings.
pub const LEAST_ENTRIES: u16 = 16;

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// One of the `KIND_` numbers.
    pub kind: u32,
    /// The channel.
    pub channel: u64,
}

#[derive(Debug)]
struct Pending {
    tag: Tag,
    bytes: Vec<u8>,
    answer: usize,
}

/// An answer of the host.
#[derive(Debug)]
pub struct Answer {
    /// What it answers.
    pub tag: Tag,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// Both queues.
#[derive(Debug)]
pub struct Rings {
    page: View,
    base: u64,
    control: Queue,
    doorbell: Queue,
    requests: Vec<Option<Tag>>,
    pending: VecDeque<Pending>,
    free_rings: Vec<usize>,
    /// Channels whose doorbell waits for room.
    waiting: VecDeque<u64>,
    notify: [bool; QUEUES],
}

/// A token of the doorbell queue is a notice below this number, else a ring.
const RING_TOKEN: u64 = NOTICES as u64;

impl Rings {
    /// Empty queues in `page`, which lies at guest-physical `base`; notices are given to the device.
    ///
    /// # Errors
    ///
    /// [`QueueError`]: the page is too small.
    pub fn new(
        page: &View,
        base: u64,
        most: [u16; QUEUES],
        interrupts: bool,
    ) -> Result<Rings, QueueError> {
        let size = |queue: usize| {
            let most = most.get(queue).copied().unwrap_or(0).clamp(1, QUEUE_SIZE);
            // The largest power of two that is no larger.
            1_u16 << most.ilog2()
        };
        let whole = SEGMENT_ALIGN as usize;
        let control = page.slice(0, DOORBELL_OFFSET)?;
        let doorbell = page.slice(DOORBELL_OFFSET, NOTICE_OFFSET - DOORBELL_OFFSET)?;
        let doorbell_size = size(DOORBELL_QUEUE);
        let mut rings = Rings {
            page: page.slice(0, whole)?,
            base,
            control: Queue::new(control, size(CONTROL_QUEUE), interrupts)?,
            doorbell: Queue::new(doorbell, doorbell_size, interrupts)?,
            requests: vec![None; REQUESTS + 1],
            pending: VecDeque::new(),
            free_rings: (0..RINGS).collect(),
            waiting: VecDeque::new(),
            notify: [false; QUEUES],
        };
        // A small queue keeps half its entries for rings.
        for notice in 0..NOTICES.min(usize::from(doorbell_size) / 2) {
            rings.post(notice)?;
        }
        Ok(rings)
    }

    /// Where the queues lie.
    #[must_use]
    pub fn addresses(&self) -> [Addresses; QUEUES] {
        [
            self.control.addresses(self.base),
            self.doorbell.addresses(self.base + DOORBELL_OFFSET as u64),
        ]
    }

    fn buffer(&self, offset: usize, len: usize) -> Option<Buffer> {
        Some(Buffer {
            address: self.base + offset as u64,
            len: u32::try_from(len).ok()?,
        })
    }

    fn post(&mut self, notice: usize) -> Result<(), QueueError> {
        let offset = NOTICE_OFFSET + notice * NOTICE_BYTES;
        self.page.write(offset, &[0; NOTICE_BYTES])?;
        let buffer = self.buffer(offset, NOTICE_BYTES);
        self.doorbell.add(None, buffer, notice as u64)?;
        if let Some(flag) = self.notify.get_mut(DOORBELL_QUEUE) {
            *flag = true;
        }
        Ok(())
    }

    /// Sends a request, as soon as there is room. `parts` follow its head, `answer` bytes are expected back.
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`] when it is too long for any room.
    pub fn request(&mut self, tag: Tag, parts: &[&[u8]], answer: usize) -> Result<(), QueueError> {
        let head = Request {
            kind: tag.kind,
            reserved: 0,
            channel: tag.channel,
        };
        let mut bytes = head.as_bytes().to_vec();
        for part in parts {
            bytes.extend_from_slice(part);
        }
        if bytes.len() > BIG_BYTES - ANSWER_BYTES || answer > ANSWER_BYTES {
            return Err(QueueError::Memory(vgpu_channel::shm::OutOfRange {
                at: 0,
                len: bytes.len() as u64,
            }));
        }
        self.pending.push_back(Pending { tag, bytes, answer });
        self.send_pending()
    }

    fn place(slot: usize) -> (usize, usize) {
        if slot == REQUESTS {
            (BIG_OFFSET, BIG_BYTES)
        } else {
            (REQUEST_OFFSET + slot * REQUEST_BYTES, REQUEST_BYTES)
        }
    }

    fn send_pending(&mut self) -> Result<(), QueueError> {
        while let Some(pending) = self.pending.front() {
            let fits = |slot: &usize| {
                let (_, bytes) = Self::place(*slot);
                self.requests.get(*slot).is_some_and(Option::is_none)
                    && pending.bytes.len() <= bytes - ANSWER_BYTES
            };
            let Some(slot) = (0..=REQUESTS).find(fits) else {
                return Ok(());
            };
            let (offset, bytes) = Self::place(slot);
            let answer = offset + bytes - ANSWER_BYTES;
            self.page.write(offset, &pending.bytes)?;
            self.page.write(answer, &[0; ANSWER_BYTES])?;
            let readable = self.buffer(offset, pending.bytes.len());
            let writable = self.buffer(answer, pending.answer);
            match self.control.add(readable, writable, slot as u64) {
                Ok(()) => {}
                Err(QueueError::Full) => return Ok(()),
                Err(error) => return Err(error),
            }
            if let Some(place) = self.requests.get_mut(slot) {
                *place = Some(pending.tag);
            }
            self.pending.pop_front();
            if let Some(flag) = self.notify.get_mut(CONTROL_QUEUE) {
                *flag = true;
            }
        }
        Ok(())
    }

    /// Requests that are not answered.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.requests.iter().flatten().count() + self.pending.len()
    }

    /// The next answer.
    ///
    /// # Errors
    ///
    /// [`QueueError::Broken`].
    pub fn answer(&mut self) -> Result<Option<Answer>, QueueError> {
        let Some(used) = self.control.take()? else {
            return Ok(None);
        };
        let slot = usize::try_from(used.token).map_err(|_| QueueError::Broken)?;
        let tag = self
            .requests
            .get_mut(slot)
            .and_then(Option::take)
            .ok_or(QueueError::Broken)?;
        let (offset, bytes) = Self::place(slot);
        let mut answer = vec![0; used.written as usize];
        self.page.read(offset + bytes - ANSWER_BYTES, &mut answer)?;
        self.send_pending()?;
        Ok(Some(Answer { tag, bytes: answer }))
    }

    /// Rings a channel's doorbell on the host, as soon as there is room.
    ///
    /// # Errors
    ///
    /// [`QueueError`].
    pub fn ring(&mut self, channel: u64) -> Result<(), QueueError> {
        // One that is not sent yet covers this one.
        if !self.waiting.contains(&channel) {
            self.waiting.push_back(channel);
        }
        self.send_rings()
    }

    fn send_rings(&mut self) -> Result<(), QueueError> {
        while let (Some(&channel), Some(&slot)) = (self.waiting.front(), self.free_rings.last()) {
            let offset = RING_OFFSET + slot * size_of::<Ring>();
            self.page.write(offset, Ring { channel }.as_bytes())?;
            let readable = self.buffer(offset, size_of::<Ring>());
            match self.doorbell.add(readable, None, RING_TOKEN + slot as u64) {
                Ok(()) => {}
                Err(QueueError::Full) => return Ok(()),
                Err(error) => return Err(error),
            }
            self.free_rings.pop();
            self.waiting.pop_front();
            if let Some(flag) = self.notify.get_mut(DOORBELL_QUEUE) {
                *flag = true;
            }
        }
        Ok(())
    }

    /// The next notice. Rings that came back are taken on the way.
    ///
    /// # Errors
    ///
    /// [`QueueError::Broken`].
    pub fn notice(&mut self) -> Result<Option<Notice>, QueueError> {
        while let Some(used) = self.doorbell.take()? {
            if used.token >= RING_TOKEN {
                self.free_rings.push((used.token - RING_TOKEN) as usize);
                self.send_rings()?;
                continue;
            }
            let index = used.token as usize;
            let mut bytes = [0; NOTICE_BYTES];
            self.page
                .read(NOTICE_OFFSET + index * NOTICE_BYTES, &mut bytes)?;
            self.post(index)?;
            if used.written as usize == NOTICE_BYTES {
                let notice = Notice::read_from_bytes(&bytes).map_err(|_| QueueError::Broken)?;
                return Ok(Some(notice));
            }
            tracing::warn!("the host sent a notice of {} bytes", used.written);
        }
        Ok(None)
    }

    /// The queues that the device must be told of, once each.
    pub fn take_notifications(&mut self) -> impl Iterator<Item = usize> + use<> {
        let wanted = [
            self.control.wants_notification(),
            self.doorbell.wants_notification(),
        ];
        let told: Vec<usize> = self
            .notify
            .iter_mut()
            .zip(wanted)
            .enumerate()
            .filter_map(|(queue, (flag, wanted))| (std::mem::take(flag) && wanted).then_some(queue))
            .collect();
        told.into_iter()
    }
}
