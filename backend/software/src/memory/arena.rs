//! Address space: mappings taken from the system, and blocks cut from them.
//!
//! Where a mapping lies is the kernel's choice, because the worker that embeds this device has
//! arranged which addresses are free. Mappings reserve no memory: pages come with the first write
//! and go back when the block is freed, which also makes every block start out zeroed. Behind each
//! is a memory file, so that another process can map the same pages.

use super::file::{self, File};
use std::collections::BTreeMap;
use std::ptr;

/// Smaller blocks share mappings of this size.
const CHUNK: u64 = 64 << 20;
/// From this size on a block has a mapping of its own.
const OWN_MAPPING: u64 = 16 << 20;
/// Unused bytes after each block: what runs over the end of one does not begin in another.
const GUARD: u64 = 512;
/// Granularity of blocks.
const UNIT: u64 = 512;
const PAGE: u64 = 4096;
/// More than any variable asks for; keeps the padding of aligned blocks small.
const MAX_ALIGN: u64 = 64 << 10;

/// A piece of address space that is in use.
#[derive(Debug)]
pub(crate) struct Block {
    start: u64,
    /// First byte of what is taken from the mapping, which alignment may move before `start`.
    taken: u64,
    /// Bytes taken, with guard.
    length: u64,
    /// Whether the mapping is the block's own.
    own: bool,
}

impl Block {
    /// First address.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }
}

/// The free pieces of shared mappings, by address.
#[derive(Default)]
pub(crate) struct Arena {
    free: BTreeMap<u64, u64>,
    /// Bounds of shared mappings, so that free pieces of neighbours are not merged across them.
    chunks: BTreeMap<u64, u64>,
    /// The files behind mappings, by the mappings' first addresses.
    files: BTreeMap<u64, File>,
}

impl Arena {
    /// Takes a zeroed block; `None` if the system has no more address space, or for an alignment
    /// that is no power of two or absurdly large.
    pub(crate) fn take(&mut self, size: u64, align: u64) -> Option<Block> {
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return None;
        }
        let length = size.checked_add(GUARD)?.checked_next_multiple_of(UNIT)?;
        if length >= OWN_MAPPING {
            let length = length.checked_add(align)?.checked_next_multiple_of(PAGE)?;
            let taken = self.map(length)?;
            return Some(Block {
                start: taken.checked_next_multiple_of(align)?,
                taken,
                length,
                own: true,
            });
        }
        if let Some(block) = self.cut(length, align) {
            return Some(block);
        }
        let chunk = self.map(CHUNK)?;
        self.chunks.insert(chunk, CHUNK);
        self.free.insert(chunk, CHUNK);
        self.cut(length, align)
    }

    /// A fresh mapping at an address of the kernel's choice.
    fn map(&mut self, length: u64) -> Option<u64> {
        let file = File::create(length)?;
        let address = file.map(0, length)?;
        self.files.insert(address, file);
        Some(address)
    }

    /// The file behind a block, and where the block begins in it.
    pub(crate) fn file_of(&self, block: &Block) -> Option<(&File, u64)> {
        let (mapping, file) = self.files.range(..=block.start).next_back()?;
        Some((file, block.start - mapping))
    }

    /// Maps `size` bytes at `offset` of another process's file, as a block that is given back like any other.
    pub(crate) fn take_foreign(file: &File, offset: u64, size: u64) -> Option<Block> {
        let first = offset / PAGE * PAGE;
        let length = offset
            .checked_add(size)?
            .checked_next_multiple_of(PAGE)?
            .checked_sub(first)?;
        let taken = file.map(first, length)?;
        Some(Block {
            start: taken + (offset - first),
            taken,
            length,
            own: true,
        })
    }

    /// First fit.
    fn cut(&mut self, length: u64, align: u64) -> Option<Block> {
        let (hole, hole_length, start) = self.free.iter().find_map(|(&hole, &hole_length)| {
            let start = hole.checked_next_multiple_of(align)?;
            let needed = (start - hole).checked_add(length)?;
            (needed <= hole_length).then_some((hole, hole_length, start))
        })?;
        self.free.remove(&hole);
        if start > hole {
            self.free.insert(hole, start - hole);
        }
        let end = start + length;
        let rest = hole + hole_length - end;
        if rest > 0 {
            self.free.insert(end, rest);
        }
        Some(Block {
            start,
            taken: start,
            length,
            own: false,
        })
    }

    /// Scrubs a block and takes it back. Nobody may touch its bytes any more.
    pub(crate) fn give_back(&mut self, block: Block) {
        if block.own {
            file::unmap(block.taken, block.length);
            self.files.remove(&block.taken);
            return;
        }
        scrub(block.taken, block.length);
        let (mut start, mut length) = (block.taken, block.length);
        if let Some((&before, &before_length)) = self.free.range(..start).next_back()
            && before + before_length == start
            && !self.chunks.contains_key(&start)
        {
            self.free.remove(&before);
            start = before;
            length += before_length;
        }
        let end = start + length;
        if !self.chunks.contains_key(&end)
            && let Some(after) = self.free.remove(&end)
        {
            length += after;
        }
        self.free.insert(start, length);
    }
}

/// Zeroes a range: whole pages go back to the system, which brings them zeroed when they are next
/// written; the rest is overwritten.
fn scrub(start: u64, length: u64) {
    let end = start + length;
    let first_page = start.next_multiple_of(PAGE).min(end);
    let last_page = (end / PAGE * PAGE).max(first_page);
    // SAFETY: the range lies in a mapping of this arena and belongs to a block that nobody touches any
    // more; the pages given back lie wholly inside.
    unsafe {
        ptr::write_bytes(start as *mut u8, 0, (first_page - start) as usize);
        ptr::write_bytes(last_page as *mut u8, 0, (end - last_page) as usize);
        if last_page > first_page {
            let pages = first_page as *mut libc::c_void;
            let bytes = (last_page - first_page) as usize;
            if libc::madvise(pages, bytes, libc::MADV_REMOVE) != 0 {
                ptr::write_bytes(first_page as *mut u8, 0, bytes);
            }
        }
    }
}

/// Whether every page of `start..end` is mapped in this process.
pub(crate) fn is_mapped(start: u64, end: u64) -> bool {
    let mut page = start / PAGE * PAGE;
    let mut resident = vec![0u8; 4096];
    while page < end {
        let length = (end - page)
            .next_multiple_of(PAGE)
            .min(PAGE * resident.len() as u64);
        // SAFETY: mincore reads no memory of the range; the vector has a byte for each page asked.
        let status = unsafe {
            libc::mincore(
                page as *mut libc::c_void,
                length as usize,
                resident.as_mut_ptr(),
            )
        };
        if status != 0 {
            return false;
        }
        page += length;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_blocks_come_back_zeroed_and_merged() {
        let mut arena = Arena::default();
        let blocks: Vec<Block> = (0..8)
            .map(|_| arena.take(10_000, UNIT).expect("address space"))
            .collect();
        let first = blocks[0].start();
        for block in blocks {
            assert_eq!(block.start() % UNIT, 0);
            // SAFETY: the block is live and 10,000 bytes long.
            unsafe { ptr::write_bytes(block.start() as *mut u8, 0xab, 10_000) };
            arena.give_back(block);
        }
        assert_eq!(arena.free.len(), 1, "free neighbours are one piece");
        let again = arena.take(80_000, UNIT).expect("address space");
        assert_eq!(again.start(), first);
        // SAFETY: the block is live and 80,000 bytes long.
        let bytes = unsafe { std::slice::from_raw_parts(again.start() as *const u8, 80_000) };
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn large_and_aligned_blocks_are_aligned() {
        let mut arena = Arena::default();
        for size in [1, OWN_MAPPING] {
            let block = arena.take(size, 64 << 10).expect("address space");
            assert_eq!(block.start() % (64 << 10), 0);
            arena.give_back(block);
        }
        assert!(arena.take(1, 3).is_none());
        assert!(arena.take(u64::MAX - 600, UNIT).is_none());
    }

    #[test]
    fn holes_are_not_mapped() {
        let file = File::create(2 * PAGE).expect("a memory file");
        let start = file.map(0, 2 * PAGE).expect("address space");
        assert!(is_mapped(start + 1, start + 2 * PAGE));
        file::unmap(start + PAGE, PAGE);
        assert!(is_mapped(start, start + PAGE));
        assert!(!is_mapped(start, start + 2 * PAGE));
        file::unmap(start, PAGE);
    }

    #[test]
    fn a_block_is_found_in_its_file() {
        let mut arena = Arena::default();
        for size in [700, OWN_MAPPING] {
            let first = arena.take(100, UNIT).expect("address space");
            let block = arena.take(size, UNIT).expect("address space");
            // SAFETY: the block is live and longer than that.
            unsafe { ptr::write_bytes((block.start() + 600) as *mut u8, 0x5a, 3) };
            let (file, offset) = arena.file_of(&block).expect("every block has one");
            let copy = Arena::take_foreign(file, offset, size).expect("address space");
            // SAFETY: the other map of the same bytes is as long.
            let seen = unsafe { std::slice::from_raw_parts((copy.start() + 599) as *const u8, 5) };
            assert_eq!(seen, [0, 0x5a, 0x5a, 0x5a, 0]);
            for block in [copy, block, first] {
                arena.give_back(block);
            }
        }
    }
}
