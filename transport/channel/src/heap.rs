//! The client's allocator for the shared heap.
//!
//! All bookkeeping lies in the client's private memory: the server can neither see nor break it, and free blocks need
//! not be touched. Blocks are kept in size classes with a bitmap over them (two-level segregated fit), so allocation and
//! release take constant time; neighbours coalesce at once. Blocks never coalesce across regions.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::sync::{Mutex, lock};

/// Smallest alignment and granularity, in bytes.
pub const MIN_ALIGN: u64 = 64;
/// Largest alignment that can be asked for, in bytes.
pub const MAX_ALIGN: u64 = 2 << 20;

/// A range of shared memory given to the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address, a multiple of 64.
    pub address: u64,
    /// Bytes, a multiple of 64.
    pub len: u64,
}

/// Why memory could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeapError {
    /// The alignment is no power of two or beyond 2 MiB, or the size is beyond all bounds.
    #[error("No block of {len} bytes aligned to {align} can be asked for")]
    Request {
        /// Bytes asked for.
        len: u64,
        /// Alignment asked for.
        align: u64,
    },
    /// The heap is full and cannot grow.
    #[error("The shared heap has no room for {0} bytes")]
    Full(u64),
    /// The address is not the start of an allocated block.
    #[error("No block of the shared heap starts at {0:#x}")]
    NotAllocated(u64),
}

/// Where the heap gets more memory from.
pub trait Grow {
    /// Provides a fresh region of at least `min_bytes`; `None` when there is no more.
    fn grow(&self, min_bytes: u64) -> Option<Region>;
}

/// A heap that never grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed;

impl Grow for Fixed {
    fn grow(&self, _min_bytes: u64) -> Option<Region> {
        None
    }
}

/// Figures about a heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Bytes of all regions.
    pub total: u64,
    /// Bytes in allocated blocks, rounding included.
    pub used: u64,
    /// Allocated blocks.
    pub blocks: usize,
    /// Free blocks.
    pub free_blocks: usize,
}

/// The allocator; threads share it.
#[derive(Debug)]
pub struct Heap<G> {
    core: Mutex<Core>,
    /// Held while growing, so that threads that run out together grow once.
    growing: Mutex<()>,
    grow: G,
}

impl<G: Grow> Heap<G> {
    /// An empty heap.
    pub fn new(grow: G) -> Heap<G> {
        Heap {
            core: Mutex::new(Core::new()),
            growing: Mutex::new(()),
            grow,
        }
    }

    /// Adds memory. Unaligned ends are cut to multiples of 64 bytes.
    pub fn add(&self, region: Region) {
        lock(&self.core).add(region);
    }

    /// Allocates `len` bytes aligned to `align` (at least to 64), growing if need be. A length of 0 counts as 1.
    ///
    /// # Errors
    ///
    /// [`HeapError::Request`], [`HeapError::Full`].
    pub fn alloc(&self, len: u64, align: u64) -> Result<u64, HeapError> {
        let refused = HeapError::Request { len, align };
        if !align.is_power_of_two() || align > MAX_ALIGN || len > 1 << 46 {
            return Err(refused);
        }
        let units = len.div_ceil(MIN_ALIGN).max(1);
        let align_units = (align / MIN_ALIGN).max(1);
        if let Some(address) = lock(&self.core).alloc(units, align_units) {
            return Ok(address);
        }
        let _one_at_a_time = lock(&self.growing);
        if let Some(address) = lock(&self.core).alloc(units, align_units) {
            return Ok(address);
        }
        // Room for the block wherever the region starts, and for the rounding of the size-class search.
        let wanted = (units + align_units + units / 8) * MIN_ALIGN;
        let region = self.grow.grow(wanted).ok_or(HeapError::Full(len))?;
        let mut core = lock(&self.core);
        core.add(region);
        core.alloc(units, align_units).ok_or(HeapError::Full(len))
    }

    /// Gives a block back.
    ///
    /// # Errors
    ///
    /// [`HeapError::NotAllocated`] when no block starts there.
    pub fn free(&self, address: u64) -> Result<(), HeapError> {
        if lock(&self.core).free(address) {
            Ok(())
        } else {
            Err(HeapError::NotAllocated(address))
        }
    }

    /// Bytes of the block that starts at `address`, rounding included.
    pub fn size_of(&self, address: u64) -> Option<u64> {
        lock(&self.core).size_of(address)
    }

    /// Start and bytes of the allocated block that holds `address`. Slow: it looks at all blocks.
    pub fn block_of(&self, address: u64) -> Option<Region> {
        lock(&self.core).block_of(address)
    }

    /// Figures.
    pub fn stats(&self) -> HeapStats {
        lock(&self.core).stats()
    }
}

/// No block.
const NONE: u32 = u32::MAX;
/// Size classes per power of two, as a power of two itself.
const SUB_BITS: u32 = 4;
const SUBS: usize = 1 << SUB_BITS;
/// Powers of two of block sizes in units: up to 2^44 units of 64 bytes are far more than any window holds.
const LEVELS: usize = 44;

#[derive(Clone, Copy, Debug)]
struct Block {
    /// First unit (address / 64).
    start: u64,
    /// Units.
    len: u64,
    below: u32,
    above: u32,
    next_free: u32,
    prev_free: u32,
    free: bool,
}

/// Spreads addresses over the table; they are not chosen by an adversary of this process.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[derive(Debug)]
struct Core {
    blocks: Vec<Block>,
    unused: Vec<u32>,
    allocated: HashMap<u64, u32, BuildHasherDefault<AddressHasher>>,
    heads: Vec<[u32; SUBS]>,
    levels: u64,
    subs: [u16; LEVELS],
    total: u64,
    used: u64,
}

/// The class that holds free blocks of `len` units.
fn class_of(len: u64) -> (usize, usize) {
    let top = len.max(1).ilog2();
    if top < SUB_BITS {
        return (0, len as usize);
    }
    let sub = (len >> (top - SUB_BITS)) as usize & (SUBS - 1);
    (((top - SUB_BITS + 1) as usize).min(LEVELS - 1), sub)
}

/// The first class all of whose blocks have at least `len` units.
fn class_from(len: u64) -> (usize, usize) {
    let top = len.max(1).ilog2();
    if top < SUB_BITS {
        class_of(len)
    } else {
        class_of(len + (1 << (top - SUB_BITS)) - 1)
    }
}

// Indices are made by this module alone and lie in their tables by construction: an allocator that checked each of them
// for the impossible case would have no sensible answer to give.
#[allow(clippy::indexing_slicing)]
impl Core {
    fn new() -> Core {
        Core {
            blocks: Vec::new(),
            unused: Vec::new(),
            allocated: HashMap::default(),
            heads: vec![[NONE; SUBS]; LEVELS],
            levels: 0,
            subs: [0; LEVELS],
            total: 0,
            used: 0,
        }
    }

    fn add(&mut self, region: Region) {
        let start = region.address.div_ceil(MIN_ALIGN);
        let end = region.address.saturating_add(region.len) / MIN_ALIGN;
        if end <= start {
            return;
        }
        let len = end - start;
        let id = self.new_block(start, len, NONE, NONE);
        self.total += len * MIN_ALIGN;
        self.insert_free(id);
    }

    fn new_block(&mut self, start: u64, len: u64, below: u32, above: u32) -> u32 {
        let block = Block {
            start,
            len,
            below,
            above,
            next_free: NONE,
            prev_free: NONE,
            free: false,
        };
        if let Some(id) = self.unused.pop() {
            self.blocks[id as usize] = block;
            return id;
        }
        self.blocks.push(block);
        (self.blocks.len() - 1) as u32
    }

    fn insert_free(&mut self, id: u32) {
        let (level, sub) = class_of(self.blocks[id as usize].len);
        let next = self.heads[level][sub];
        let block = &mut self.blocks[id as usize];
        block.free = true;
        block.prev_free = NONE;
        block.next_free = next;
        if next != NONE {
            self.blocks[next as usize].prev_free = id;
        }
        self.heads[level][sub] = id;
        self.levels |= 1 << level;
        self.subs[level] |= 1 << sub;
    }

    fn remove_free(&mut self, id: u32) {
        let Block {
            len,
            prev_free,
            next_free,
            ..
        } = self.blocks[id as usize];
        let (level, sub) = class_of(len);
        if prev_free == NONE {
            self.heads[level][sub] = next_free;
        } else {
            self.blocks[prev_free as usize].next_free = next_free;
        }
        if next_free != NONE {
            self.blocks[next_free as usize].prev_free = prev_free;
        }
        if self.heads[level][sub] == NONE {
            self.subs[level] &= !(1 << sub);
            if self.subs[level] == 0 {
                self.levels &= !(1 << level);
            }
        }
        self.blocks[id as usize].free = false;
    }

    /// A free block of at least `len` units, by class.
    fn find(&self, len: u64) -> Option<u32> {
        let (level, sub) = class_from(len);
        let here = self.subs[level] & (u16::MAX << sub);
        if here != 0 {
            return Some(self.heads[level][here.trailing_zeros() as usize]);
        }
        let above = self.levels & (u64::MAX << (level + 1));
        if above == 0 {
            return None;
        }
        let level = above.trailing_zeros() as usize;
        Some(self.heads[level][self.subs[level].trailing_zeros() as usize])
    }

    fn alloc(&mut self, units: u64, align: u64) -> Option<u64> {
        let mut id = self.find(units + align - 1)?;
        self.remove_free(id);
        let start = self.blocks[id as usize].start;
        let skip = start.next_multiple_of(align) - start;
        if skip > 0 {
            let rest = self.split(id, skip);
            self.insert_free(id);
            id = rest;
        }
        if self.blocks[id as usize].len > units {
            let rest = self.split(id, units);
            self.insert_free(rest);
        }
        let address = self.blocks[id as usize].start * MIN_ALIGN;
        self.allocated.insert(address, id);
        self.used += units * MIN_ALIGN;
        Some(address)
    }

    /// Cuts block `id` after `len` units; gives the upper part, which is in no list.
    fn split(&mut self, id: u32, len: u64) -> u32 {
        let Block {
            start,
            len: whole,
            above,
            ..
        } = self.blocks[id as usize];
        let rest = self.new_block(start + len, whole - len, id, above);
        if above != NONE {
            self.blocks[above as usize].below = rest;
        }
        let block = &mut self.blocks[id as usize];
        block.len = len;
        block.above = rest;
        rest
    }

    /// Joins block `upper` onto `lower`, its neighbour below; neither is in a free list.
    fn join(&mut self, lower: u32, upper: u32) {
        let Block { len, above, .. } = self.blocks[upper as usize];
        let block = &mut self.blocks[lower as usize];
        block.len += len;
        block.above = above;
        if above != NONE {
            self.blocks[above as usize].below = lower;
        }
        self.unused.push(upper);
    }

    fn free(&mut self, address: u64) -> bool {
        let Some(mut id) = self.allocated.remove(&address) else {
            return false;
        };
        let Block {
            len, below, above, ..
        } = self.blocks[id as usize];
        self.used -= len * MIN_ALIGN;
        if above != NONE && self.blocks[above as usize].free {
            self.remove_free(above);
            self.join(id, above);
        }
        if below != NONE && self.blocks[below as usize].free {
            self.remove_free(below);
            self.join(below, id);
            id = below;
        }
        self.insert_free(id);
        true
    }

    fn size_of(&self, address: u64) -> Option<u64> {
        self.allocated
            .get(&address)
            .map(|&id| self.blocks[id as usize].len * MIN_ALIGN)
    }

    fn block_of(&self, address: u64) -> Option<Region> {
        self.allocated
            .values()
            .map(|&id| self.blocks[id as usize])
            .find_map(|block| {
                let region = Region {
                    address: block.start * MIN_ALIGN,
                    len: block.len * MIN_ALIGN,
                };
                (address.wrapping_sub(region.address) < region.len).then_some(region)
            })
    }

    fn stats(&self) -> HeapStats {
        let blocks = self.allocated.len();
        let free_blocks = self.blocks.len() - self.unused.len() - blocks;
        HeapStats {
            total: self.total,
            used: self.used,
            blocks,
            free_blocks,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
