//! The driver's side of one split virtqueue (virtio 1.2, 2.7), for chains of at most one readable and one writable
//! buffer.
//!
//! # Accesses to shared memory
//!
//! The memory is reached through [`View`] only: atomics for the two index words, the copy routine for all else. Both
//! index words are the upper halves of aligned 32-bit words whose lower halves are flags of the same writer, so one
//! 32-bit access reads or writes the pair.
//!
//! * **(A)** `add` writes descriptors and the ring entry, then stores the available word with *release*. It pairs with
//!   the device's acquire of that index: whoever sees the index sees the chain.
//! * **(B)** After (A) a *sequentially consistent* fence comes before the device's flags are read. It pairs with the
//!   fence between the device's "notify me" and its last look at the available index: one of the two sees the other.
//! * **(C)** `take` loads the used word with *acquire* before it reads the entry. It pairs with the device's release.
//!
//! The device is trusted less than it need be: an index or a chain that cannot be is an error, after which the queue is
//! of no use until the device is reset.

use std::sync::atomic::{Ordering, fence};
use vgpu_channel::shm::{OutOfRange, View};

/// Descriptor flag: there is a next one.
const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
const WRITE: u16 = 2;
/// Available flag: no interrupt wanted.
const NO_INTERRUPT: u32 = 1;
/// Used flag: no notification wanted.
const NO_NOTIFY: u32 = 1;

/// Where the three parts of a queue lie in the guest's physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Entries.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring ("driver area").
    pub available: u64,
    /// Used ring ("device area").
    pub used: u64,
}

/// Bytes by guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// What is wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// No descriptor is free; some will be once the device gave chains back.
    #[error("The queue is full")]
    Full,
    /// The device gave back what it does not have.
    #[error("The device broke the rules of its queue")]
    Broken,
    /// The queue does not fit its memory.
    #[error("A queue does not fit its memory")]
    Memory(#[from] OutOfRange),
}

/// A chain that the device gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The number given to [`Queue::add`].
    pub token: u64,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    second: Option<u16>,
    token: u64,
    writable: u32,
}

/// A queue. See the module.
#[derive(Debug)]
pub struct Queue {
    memory: View,
    size: u16,
    available: usize,
    used: usize,
    free: Vec<u16>,
    chains: Vec<Option<Chain>>,
    next: u16,
    taken: u16,
    flags: u32,
}

/// Bytes of a queue of `size` entries.
#[must_use]
pub fn bytes(size: u16) -> usize {
    used_offset(size) + 6 + 8 * usize::from(size)
}

fn available_offset(size: u16) -> usize {
    16 * usize::from(size)
}

fn used_offset(size: u16) -> usize {
    (available_offset(size) + 6 + 2 * usize::from(size)).next_multiple_of(64)
}

impl Queue {
    /// An empty queue of `size` entries, a power of two, at the start of `memory`.
    ///
    /// # Errors
    ///
    /// [`QueueError::Memory`] when it does not fit.
    pub fn new(memory: View, size: u16, interrupts: bool) -> Result<Queue, QueueError> {
        memory.write(0, &vec![0; bytes(size)])?;
        let flags = if interrupts { 0 } else { NO_INTERRUPT };
        let queue = Queue {
            memory,
            size,
            available: available_offset(size),
            used: used_offset(size),
            free: (0..size).rev().collect(),
            chains: vec![None; usize::from(size)],
            next: 0,
            taken: 0,
            flags,
        };
        queue.publish()?;
        Ok(queue)
    }

    /// Where its parts lie, if its memory begins at guest-physical `base`.
    #[must_use]
    pub fn addresses(&self, base: u64) -> Addresses {
        Addresses {
            size: self.size,
            descriptors: base,
            available: base + self.available as u64,
            used: base + self.used as u64,
        }
    }

    fn word(&self, offset: usize) -> Result<&vgpu_channel::sync::AtomicU32, QueueError> {
        self.memory
            .u32(offset)
            .ok_or(QueueError::Memory(OutOfRange {
                at: offset as u64,
                len: 4,
            }))
    }

    fn publish(&self) -> Result<(), QueueError> {
        let word = self.flags | u32::from(self.next) << 16;
        // (A)
        self.word(self.available)?
            .store(word.to_le(), Ordering::Release);
        Ok(())
    }

    fn describe(&self, at: u16, buffer: Buffer, flags: u16, next: u16) -> Result<(), QueueError> {
        let mut bytes = [0; 16];
        let fields = buffer
            .address
            .to_le_bytes()
            .into_iter()
            .chain(buffer.len.to_le_bytes())
            .chain(flags.to_le_bytes())
            .chain(next.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        Ok(self.memory.write(16 * usize::from(at), &bytes)?)
    }

    /// Gives the device a chain of a readable and a writable buffer, at least one of them. `token` comes back with it.
    ///
    /// # Errors
    ///
    /// [`QueueError::Full`].
    pub fn add(
        &mut self,
        readable: Option<Buffer>,
        writable: Option<Buffer>,
        token: u64,
    ) -> Result<(), QueueError> {
        let buffers: Vec<(Buffer, u16)> = readable
            .map(|buffer| (buffer, 0))
            .into_iter()
            .chain(writable.map(|buffer| (buffer, WRITE)))
            .collect();
        if buffers.is_empty() || self.free.len() < buffers.len() {
            return Err(QueueError::Full);
        }
        let (Some(head), Some(&(first, first_flags))) = (self.free.pop(), buffers.first()) else {
            return Err(QueueError::Full);
        };
        let second = match buffers.get(1) {
            Some(_) => self.free.pop(),
            None => None,
        };
        match (second, buffers.get(1)) {
            (Some(at), Some(&(buffer, flags))) => {
                self.describe(head, first, first_flags | NEXT, at)?;
                self.describe(at, buffer, flags, 0)?;
            }
            _ => self.describe(head, first, first_flags, 0)?,
        }
        if let Some(chain) = self.chains.get_mut(usize::from(head)) {
            *chain = Some(Chain {
                second,
                token,
                writable: writable.map_or(0, |buffer| buffer.len),
            });
        }
        let slot = usize::from(self.next % self.size);
        self.memory
            .write(self.available + 4 + 2 * slot, &head.to_le_bytes())?;
        self.next = self.next.wrapping_add(1);
        self.publish()
    }

    /// Whether the device wants to be told of what was added.
    #[must_use]
    pub fn wants_notification(&self) -> bool {
        // (B)
        fence(Ordering::SeqCst);
        self.word(self.used)
            .is_ok_and(|word| u32::from_le(word.load(Ordering::Relaxed)) & NO_NOTIFY == 0)
    }

    /// Takes the next chain that the device gave back.
    ///
    /// # Errors
    ///
    /// [`QueueError::Broken`] when it gave back what it cannot have.
    pub fn take(&mut self) -> Result<Option<Used>, QueueError> {
        // (C)
        let index = (u32::from_le(self.word(self.used)?.load(Ordering::Acquire)) >> 16) as u16;
        let ready = index.wrapping_sub(self.taken);
        if ready == 0 {
            return Ok(None);
        }
        if ready > self.size {
            return Err(QueueError::Broken);
        }
        let slot = usize::from(self.taken % self.size);
        let mut entry = [0; 8];
        self.memory.read(self.used + 4 + 8 * slot, &mut entry)?;
        let entry = u64::from_le_bytes(entry);
        let (id, written) = (entry as u32, (entry >> 32) as u32);
        let head = u16::try_from(id).map_err(|_| QueueError::Broken)?;
        let chain = self
            .chains
            .get_mut(usize::from(head))
            .and_then(Option::take)
            .ok_or(QueueError::Broken)?;
        self.taken = self.taken.wrapping_add(1);
        self.free.extend(chain.second);
        self.free.push(head);
        if written > chain.writable {
            return Err(QueueError::Broken);
        }
        Ok(Some(Used {
            token: chain.token,
            written,
        }))
    }

    /// Chains that the device has.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.chains.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests;
