//! Device memory: which addresses are alive, and who owns them.
//!
//! Device addresses are addresses of this process ([`arena`]). Registered and driver-allocated host
//! memory is in the same map, so that it is known to kernels and copies under its own address.
//!
//! Whoever touches memory takes a [`Ticket`] first and looks the range up after that. Whoever ends
//! an allocation takes it off the map first; its bytes are scrubbed and reused only when every
//! ticket from before is returned. So an access that was allowed when it began never meets memory
//! that was given to somebody else, and ending an allocation never waits for a kernel.

mod arena;
mod file;
mod tickets;

pub(crate) use file::{File, unmap};
pub(crate) use tickets::Ticket;

use crate::device::ALIGNMENT;
use crate::foreign::Outcome;
use arena::{Arena, Block};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use tickets::Tickets;
use vgpu_protocol::cuda::CUresult;

/// Where a range comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `cuMemAlloc` and its kin.
    Device,
    /// `cuMemAllocAsync`: from this pool.
    Pool(u64),
    /// A variable of a module.
    Variable,
    /// Memory of another process (`cuIpcOpenMemHandle`).
    Imported,
    /// Host memory of ours (`cuMemHostAlloc`) with these flags.
    HostAllocated(u32),
    /// Host memory of the program (`cuMemHostRegister`) with these flags.
    HostRegistered(u32),
}

impl Origin {
    /// Whether the range is host memory.
    pub(crate) fn is_host(self) -> bool {
        matches!(self, Self::HostAllocated(_) | Self::HostRegistered(_))
    }

    /// Whether the range counts as this process's device memory.
    fn is_charged(self) -> bool {
        !self.is_host() && self != Self::Imported
    }
}

/// A live range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// First address.
    pub(crate) start: u64,
    /// Bytes, as asked for.
    pub(crate) size: u64,
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// [`Core::id`](crate::context::Core) of the context it belongs to.
    pub(crate) owner: u64,
    /// A number no other allocation of the process had.
    pub(crate) id: u64,
}

impl Range {
    /// One past the last address.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.size)
    }

    /// Whether `len` bytes at `addr` lie inside.
    pub(crate) fn holds(&self, addr: u64, len: u64) -> bool {
        addr >= self.start && addr.checked_add(len).is_some_and(|end| end <= self.end())
    }
}

struct Live {
    range: Range,
    /// The memory behind it, unless it is the program's own.
    block: Option<Block>,
    /// Whether somebody is about to end it: nobody else may.
    claimed: bool,
}

/// An ended allocation whose bytes somebody may still be touching.
struct Retired {
    block: Block,
    /// Reusable once all tickets before this one are back.
    after: u64,
}

#[derive(Default)]
struct Backing {
    arena: Arena,
    retired: Vec<Retired>,
    /// Bytes of device memory in use.
    used: u64,
}

/// The device's memory.
pub(crate) struct Memory {
    total: u64,
    map: RwLock<BTreeMap<u64, Live>>,
    backing: Mutex<Backing>,
    tickets: Tickets,
}

impl Memory {
    /// Memory of `total` bytes.
    pub(crate) fn new(total: u64) -> Self {
        Self {
            total,
            map: RwLock::new(BTreeMap::new()),
            backing: Mutex::new(Backing::default()),
            tickets: Tickets::default(),
        }
    }

    /// Bytes in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that could still be allocated.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.total.saturating_sub(self.backing.lock().used)
    }

    /// Announces an access. Ranges looked up after this stay mapped until the ticket is dropped.
    pub(crate) fn enter(&self) -> Ticket<'_> {
        self.tickets.enter()
    }

    /// Allocates `size` zeroed bytes, aligned to 512 or to `align` if that is more.
    ///
    /// # Errors
    /// `INVALID_VALUE` for no bytes, `OUT_OF_MEMORY`.
    pub(crate) fn allocate(
        &self,
        size: u64,
        align: u64,
        origin: Origin,
        owner: u64,
    ) -> Outcome<Range> {
        if size == 0 {
            return Err(CUresult::INVALID_VALUE);
        }
        let charged = if origin.is_charged() {
            footprint(size)
        } else {
            0
        };
        let mut backing = self.backing.lock();
        self.reclaim(&mut backing);
        if charged > self.total.saturating_sub(backing.used) {
            return Err(CUresult::OUT_OF_MEMORY);
        }
        let block = backing
            .arena
            .take(size, align.max(u64::from(ALIGNMENT)))
            .ok_or(CUresult::OUT_OF_MEMORY)?;
        backing.used = backing.used.saturating_add(charged);
        drop(backing);
        Ok(self.insert(block, size, origin, owner))
    }

    fn insert(&self, block: Block, size: u64, origin: Origin, owner: u64) -> Range {
        let range = Range {
            start: block.start(),
            size,
            origin,
            owner,
            id: crate::table::unique(),
        };
        let live = Live {
            range,
            block: Some(block),
            claimed: false,
        };
        self.map.write().insert(range.start, live);
        range
    }

    /// Shows a range that [`Memory::allocate`] gave to other processes: a descriptor of the file behind it, and where it
    /// begins there.
    ///
    /// # Errors
    /// `INVALID_VALUE` if the range has ended, `OPERATING_SYSTEM` without a descriptor.
    pub(crate) fn export(&self, range: &Range) -> Outcome<(OwnedFd, u64)> {
        let map = self.map.read();
        let live = map.get(&range.start).filter(|live| live.range == *range);
        let block = live.and_then(|live| live.block.as_ref());
        let block = block.ok_or(CUresult::INVALID_VALUE)?;
        let backing = self.backing.lock();
        let (file, offset) = backing
            .arena
            .file_of(block)
            .ok_or(CUresult::INVALID_VALUE)?;
        let descriptor = file.share().ok_or(CUresult::OPERATING_SYSTEM)?;
        Ok((descriptor, offset))
    }

    /// Maps `size` bytes at `offset` of another process's memory. They are charged there.
    ///
    /// # Errors
    /// `OUT_OF_MEMORY` if there is no address space.
    pub(crate) fn import(&self, file: &File, offset: u64, size: u64, owner: u64) -> Outcome<Range> {
        let block = Arena::take_foreign(file, offset, size).ok_or(CUresult::OUT_OF_MEMORY)?;
        Ok(self.insert(block, size, Origin::Imported, owner))
    }

    /// Enters host memory of the program's own.
    ///
    /// # Errors
    /// `INVALID_VALUE` for an empty or wrapping range or one that is not mapped,
    /// `HOST_MEMORY_ALREADY_REGISTERED` if part of it is known already.
    pub(crate) fn register(&self, start: u64, size: u64, flags: u32, owner: u64) -> Outcome<Range> {
        let end = start.checked_add(size).ok_or(CUresult::INVALID_VALUE)?;
        if start == 0 || size == 0 || !arena::is_mapped(start, end) {
            return Err(CUresult::INVALID_VALUE);
        }
        let mut map = self.map.write();
        let before = map.range(..end).next_back();
        if before.is_some_and(|(_, live)| live.range.end() > start) {
            return Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED);
        }
        let range = Range {
            start,
            size,
            origin: Origin::HostRegistered(flags),
            owner,
            id: crate::table::unique(),
        };
        let live = Live {
            range,
            block: None,
            claimed: false,
        };
        map.insert(start, live);
        Ok(range)
    }

    /// Claims the range that starts at `start` for ending it later with [`Memory::end`], if
    /// `matches` holds and nobody has claimed it before.
    pub(crate) fn claim(&self, start: u64, matches: impl FnOnce(&Range) -> bool) -> Option<Range> {
        let mut map = self.map.write();
        let live = map.get_mut(&start)?;
        if live.claimed || !matches(&live.range) {
            return None;
        }
        live.claimed = true;
        Some(live.range)
    }

    /// Gives a claim up.
    pub(crate) fn unclaim(&self, range: &Range) {
        if let Some(live) = self.map.write().get_mut(&range.start) {
            live.claimed = false;
        }
    }

    /// Ends the range that starts at `start` if `matches` holds for it, and returns it.
    ///
    /// Waits for nothing, except with memory of the program's own: the device does not touch that
    /// any more when this returns.
    pub(crate) fn end(&self, start: u64, matches: impl FnOnce(&Range) -> bool) -> Option<Range> {
        let live = {
            let mut map = self.map.write();
            if !map.get(&start).is_some_and(|live| matches(&live.range)) {
                return None;
            }
            map.remove(&start)?
        };
        let range = live.range;
        self.retire(live);
        Some(range)
    }

    /// Ends every range for which `matches` holds.
    pub(crate) fn end_all(&self, mut matches: impl FnMut(&Range) -> bool) {
        let mut ended = Vec::new();
        {
            let mut map = self.map.write();
            let starts: Vec<u64> = map
                .values()
                .filter(|live| matches(&live.range))
                .map(|live| live.range.start)
                .collect();
            ended.extend(starts.iter().filter_map(|start| map.remove(start)));
        }
        for live in ended {
            self.retire(live);
        }
    }

    /// Disposes of what was taken off the map.
    fn retire(&self, live: Live) {
        let after = self.tickets.now();
        let Some(block) = live.block else {
            self.tickets.wait(after);
            return;
        };
        let mut backing = self.backing.lock();
        if live.range.origin.is_charged() {
            backing.used = backing.used.saturating_sub(footprint(live.range.size));
        }
        backing.retired.push(Retired { block, after });
        self.reclaim(&mut backing);
    }

    /// Gives retired blocks that nobody can be touching any more back to the arena.
    fn reclaim(&self, backing: &mut Backing) {
        let (over, open): (Vec<_>, Vec<_>) = std::mem::take(&mut backing.retired)
            .into_iter()
            .partition(|retired| self.tickets.are_over(retired.after));
        backing.retired = open;
        for retired in over {
            backing.arena.give_back(retired.block);
        }
    }

    /// The live range that holds `addr`.
    pub(crate) fn find(&self, addr: u64) -> Option<Range> {
        let map = self.map.read();
        let (_, live) = map.range(..=addr).next_back()?;
        live.range.holds(addr, 1).then_some(live.range)
    }

    /// The live range that holds all of `len` bytes at `addr`. No bytes need only the address.
    ///
    /// # Errors
    /// `INVALID_VALUE` if there is none.
    pub(crate) fn check(&self, addr: u64, len: u64) -> Outcome<Range> {
        self.find(addr)
            .filter(|range| range.holds(addr, len))
            .ok_or(CUresult::INVALID_VALUE)
    }

    /// Bytes in use by ranges for which `matches` holds.
    pub(crate) fn usage(&self, mut matches: impl FnMut(&Range) -> bool) -> u64 {
        let map = self.map.read();
        map.values()
            .filter(|live| matches(&live.range))
            .map(|live| footprint(live.range.size))
            .sum()
    }
}

/// What an allocation is charged: whole units.
fn footprint(size: u64) -> u64 {
    size.checked_next_multiple_of(u64::from(ALIGNMENT))
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kept() {
        let memory = Memory::new(1 << 20);
        let range = memory.allocate(1000, 1, Origin::Device, 1).expect("fits");
        assert_eq!(range.start % 512, 0);
        assert_eq!(memory.check(range.start, 1000), Ok(range));
        assert_eq!(memory.check(range.start + 999, 1), Ok(range));
        assert!(memory.check(range.start, 1001).is_err());
        assert!(memory.check(range.start + 1000, 1).is_err());
        assert!(memory.check(range.start + 8, u64::MAX).is_err());
        assert!(memory.find(range.start - 1).is_none());
    }

    #[test]
    fn the_total_is_the_limit() {
        let memory = Memory::new(4096);
        let first = memory.allocate(4096, 1, Origin::Device, 1).expect("fits");
        assert_eq!(
            memory.allocate(1, 1, Origin::Device, 1),
            Err(CUresult::OUT_OF_MEMORY)
        );
        assert_eq!(memory.free_bytes(), 0);
        assert!(memory.end(first.start, |_| true).is_some());
        assert!(memory.end(first.start, |_| true).is_none(), "only once");
        assert_eq!(memory.free_bytes(), 4096);
    }

    #[test]
    fn memory_is_not_reused_while_somebody_may_touch_it() {
        let memory = Memory::new(1 << 20);
        let ticket = memory.enter();
        let first = memory.allocate(512, 1, Origin::Device, 1).expect("fits");
        assert!(memory.end(first.start, |_| true).is_some());
        let second = memory.allocate(512, 1, Origin::Device, 1).expect("fits");
        assert_ne!(first.start, second.start);
        drop(ticket);
        let third = memory.allocate(512, 1, Origin::Device, 1).expect("fits");
        assert_eq!(first.start, third.start);
    }

    #[test]
    fn host_memory_is_registered_once() {
        let memory = Memory::new(1 << 20);
        let bytes = vec![0u8; 8192];
        let start = bytes.as_ptr() as u64;
        assert!(memory.register(start, 8192, 0, 1).is_ok());
        assert_eq!(
            memory.register(start + 100, 10, 0, 1),
            Err(CUresult::HOST_MEMORY_ALREADY_REGISTERED)
        );
        assert_eq!(memory.register(8, 8, 0, 1), Err(CUresult::INVALID_VALUE));
        assert!(memory.end(start, |range| range.origin.is_host()).is_some());
        assert!(memory.find(start).is_none());
    }
}
