//! One virtqueue that is running. Everything a driver can put into it is taken apart here, with no trust in it.

use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Where a queue lies and how it starts.
#[derive(Debug)]
pub struct Place {
    /// Entries.
    pub size: u16,
    /// Guest-physical address of the descriptors.
    pub descriptors: u64,
    /// Guest-physical address of the ring that the driver writes.
    pub available: u64,
    /// Guest-physical address of the ring that the device writes.
    pub used: u64,
    /// Position in the available ring to go on at.
    pub base: u16,
    /// Whether notifications are asked for by position.
    pub event_idx: bool,
}

/// A chain of descriptors that was taken and will be given back.
#[derive(Debug)]
pub struct Chain {
    head: u16,
    room: Vec<(GuestAddress, u32)>,
    /// Bytes that can be written.
    pub len: usize,
    life: u64,
}

/// A running queue.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    kick: File,
    call: Option<File>,
    /// Whether the front-end wants it served.
    pub enabled: bool,
    life: u64,
}

impl Ring {
    /// Starts a queue. `life` tells its chains from those of every other.
    ///
    /// # Errors
    /// When the queue does not lie in the guest's RAM or contradicts itself.
    pub fn start(
        memory: &GuestMemoryMmap,
        place: &Place,
        kick: File,
        call: Option<File>,
        life: u64,
    ) -> Result<Ring, Error> {
        let mut queue = Queue::new(crate::machine::QUEUE_SIZE)?;
        queue.try_set_size(place.size)?;
        queue.try_set_desc_table_address(GuestAddress(place.descriptors))?;
        queue.try_set_avail_ring_address(GuestAddress(place.available))?;
        queue.try_set_used_ring_address(GuestAddress(place.used))?;
        queue.set_event_idx(place.event_idx);
        queue.set_next_avail(place.base);
        queue.set_ready(true);
        if !queue.is_valid(memory) {
            return Err(Error::QueueNotReady);
        }
        let used = queue.used_idx(memory, Ordering::Acquire)?;
        queue.set_next_used(used.0);
        make_harmless(&kick);
        let mut ring = Ring {
            queue,
            kick,
            call: None,
            enabled: true,
            life,
        };
        ring.set_call(call);
        Ok(ring)
    }

    /// Readable when the driver put something in.
    pub fn kick(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    /// Takes the driver's signal.
    pub fn take_kick(&self) {
        let _ = rustix::io::read(&self.kick, &mut [0; 8]);
    }

    /// Changes how the driver is told.
    pub fn set_call(&mut self, call: Option<File>) {
        if let Some(call) = &call {
            make_harmless(call);
        }
        self.call = call;
    }

    /// Where it would go on.
    pub fn base(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Takes the next chain with the bytes of its readable part, at most `most`: `None` in their place when there are more,
    /// when they are not all in RAM, or when the chain is malformed.
    pub fn take(
        &mut self,
        memory: &GuestMemoryMmap,
        most: usize,
    ) -> Option<(Chain, Option<Vec<u8>>)> {
        let chain = loop {
            if let Some(chain) = self.queue.pop_descriptor_chain(memory) {
                break chain;
            }
            // With positions, the driver is told where the device stands, and may have put something there meanwhile.
            if !self.queue.event_idx_enabled()
                || !self.queue.enable_notification(memory).unwrap_or(false)
            {
                return None;
            }
        };
        let mut taken = Chain {
            head: chain.head_index(),
            room: Vec::new(),
            len: 0,
            life: self.life,
        };
        let mut bytes = Some(Vec::new());
        for descriptor in chain {
            let (address, len) = (descriptor.addr(), descriptor.len());
            if descriptor.is_write_only() {
                taken.len = taken.len.saturating_add(len as usize);
                taken.room.push((address, len));
                continue;
            }
            bytes = bytes.and_then(|mut bytes: Vec<u8>| {
                let at = bytes.len();
                let end = at.checked_add(len as usize).filter(|end| *end <= most)?;
                // Readable parts come first.
                if !taken.room.is_empty() {
                    return None;
                }
                bytes.resize(end, 0);
                memory.read_slice(bytes.get_mut(at..)?, address).ok()?;
                Some(bytes)
            });
        }
        Some((taken, bytes))
    }

    /// Gives a chain back with these bytes in it, all of them or none. One of another queue's life is dropped.
    pub fn give(&mut self, memory: &GuestMemoryMmap, chain: &Chain, bytes: &[u8]) {
        if chain.life != self.life {
            return;
        }
        let len = if write(memory, &chain.room, bytes) {
            u32::try_from(bytes.len()).unwrap_or(0)
        } else {
            0
        };
        if let Err(error) = self.queue.add_used(memory, chain.head, len) {
            tracing::debug!("a descriptor cannot be given back: {error}");
            return;
        }
        if !self.wanted(memory) {
            return;
        }
        if let Some(call) = &self.call {
            match rustix::io::write(call, &1_u64.to_ne_bytes()) {
                // A counter that is full is signalled already.
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(error) => tracing::debug!("the driver cannot be signalled: {error}"),
            }
        }
    }

    /// Whether the driver wants to be signalled. The queue itself does not know of the flag.
    fn wanted(&mut self, memory: &GuestMemoryMmap) -> bool {
        if self.queue.event_idx_enabled() {
            return self.queue.needs_notification(memory).unwrap_or(true);
        }
        // Orders the entry given back before the flag read.
        std::sync::atomic::fence(Ordering::SeqCst);
        let flags = memory.read_obj::<u16>(GuestAddress(self.queue.avail_ring()));
        flags.map_or(true, |flags| {
            u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0
        })
    }
}

/// The loop must not be held up by a descriptor that somebody else fills or empties, and no other program inherits it.
fn make_harmless(file: &File) {
    let _ = rustix::io::ioctl_fionbio(file, true);
    let _ = rustix::io::fcntl_setfd(file, rustix::io::FdFlags::CLOEXEC);
}

/// Spreads bytes over what a chain has room for. Whether all were written.
fn write(memory: &GuestMemoryMmap, room: &[(GuestAddress, u32)], bytes: &[u8]) -> bool {
    let mut rest = bytes;
    for (address, len) in room {
        if rest.is_empty() {
            break;
        }
        let (now, later) = rest.split_at(rest.len().min(*len as usize));
        if memory.write_slice(now, *address).is_err() {
            return false;
        }
        rest = later;
    }
    rest.is_empty()
}
