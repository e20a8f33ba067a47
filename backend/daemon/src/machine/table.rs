//! The guest's RAM as the front-end told of it: which file holds which guest-physical addresses.

use anyhow::{Context, Result, bail};
use rustix::fs::{fstat, fstatfs};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use vgpu_channel::link::virtio::Piece;
use vgpu_channel::segment::{FilePiece, SEGMENT_ALIGN};
use vgpu_worker::setup::MAX_PIECE_FILES;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// `f_type` of files made of huge pages.
const HUGETLBFS: i64 = 0x9584_58f6;

/// A stretch of guest-physical addresses.
#[derive(Clone, Debug)]
pub struct Region {
    /// First guest-physical address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// Where the front-end has it mapped; how it names the places of queues.
    pub user: u64,
    /// First byte in the file.
    pub offset: u64,
    /// The file.
    pub file: Arc<File>,
    identity: (u64, u64),
    page: u64,
}

impl Region {
    /// Looks at the file.
    ///
    /// # Errors
    /// The system's error.
    pub fn new(address: u64, len: u64, user: u64, offset: u64, file: File) -> Result<Region> {
        // Whatever the front-end's library did: no program started from here inherits it.
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC)?;
        let stat = fstat(&file).context("the file behind the guest's RAM cannot be looked at")?;
        let system = fstatfs(&file).context("the file behind the guest's RAM is of no system")?;
        let page = if system.f_type == HUGETLBFS {
            u64::try_from(system.f_bsize).unwrap_or(u64::MAX)
        } else {
            4096
        };
        Ok(Region {
            address,
            len,
            user,
            offset,
            file: Arc::new(file),
            identity: (stat.st_dev, stat.st_ino),
            page,
        })
    }

    fn end(&self) -> u64 {
        self.address.saturating_add(self.len)
    }

    /// Whether it is the same memory at the same place.
    fn is_same(&self, other: &Region) -> bool {
        (self.address, self.len, self.offset, self.identity)
            == (other.address, other.len, other.offset, other.identity)
    }
}

/// Why pieces cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("{0:#x} bytes at {1:#x} are not RAM of this guest")]
    NotRam(u64, u64),
    #[error(
        "the guest's RAM consists of pages of {0} bytes, of which no part of 2 MiB can be mapped: give QEMU a memory backend with 2 MiB or smaller pages"
    )]
    Pages(u64),
    #[error("the guest's RAM does not begin at a multiple of 2 MiB in its file")]
    Misaligned,
    #[error("the pieces lie in more than {MAX_PIECE_FILES} files")]
    Files,
}

/// The whole of the guest's RAM.
#[derive(Debug, Default)]
pub struct Table {
    regions: Vec<Region>,
    memory: GuestMemoryMmap,
}

impl Table {
    /// Maps all regions into this process, for the queues.
    ///
    /// # Errors
    /// When regions overlap or cannot be mapped.
    pub fn new(regions: Vec<Region>) -> Result<Table> {
        let mut regions = regions;
        regions.sort_by_key(|region| region.address);
        let mut mapped = Vec::new();
        for region in &regions {
            let file = FileOffset::from_arc(Arc::clone(&region.file), region.offset);
            let map = MmapRegion::from_file(file, usize::try_from(region.len)?)
                .context("a region of the guest's RAM cannot be mapped")?;
            match GuestRegionMmap::new(map, GuestAddress(region.address)) {
                Some(region) => mapped.push(region),
                None => bail!("a region of the guest's RAM ends beyond all addresses"),
            }
            if region.page > SEGMENT_ALIGN {
                tracing::warn!("{}", Unusable::Pages(region.page));
            }
        }
        let memory = if mapped.is_empty() {
            GuestMemoryMmap::new()
        } else {
            GuestMemoryMmap::from_regions(mapped)?
        };
        Ok(Table { regions, memory })
    }

    /// The RAM, for the queues.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Its regions.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Whether all of a range is in `other` what it is here.
    pub fn keeps(&self, other: &Table, start: u64, end: u64) -> bool {
        self.regions
            .iter()
            .filter(|region| region.address < end && region.end() > start)
            .all(|region| other.regions.iter().any(|same| same.is_same(region)))
    }

    /// Which parts of which files the pieces are, neighbours put together.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn resolve<'t>(
        &'t self,
        pieces: &[Piece],
        files: &mut Files<'t>,
    ) -> Result<Vec<FilePiece>, Unusable> {
        let mut list: Vec<FilePiece> = Vec::new();
        for piece in pieces {
            let (mut at, end) = (piece.address, piece.address.saturating_add(piece.len));
            // A piece may reach from one region into the next.
            while at < end {
                let region = self
                    .regions
                    .iter()
                    .find(|region| region.address <= at && at < region.end())
                    .ok_or(Unusable::NotRam(piece.len, piece.address))?;
                let part = end.min(region.end()) - at;
                let offset = region.offset.saturating_add(at - region.address);
                if region.page > SEGMENT_ALIGN {
                    return Err(Unusable::Pages(region.page));
                }
                if !offset.is_multiple_of(SEGMENT_ALIGN) || !part.is_multiple_of(SEGMENT_ALIGN) {
                    return Err(Unusable::Misaligned);
                }
                let file = files.index(region).ok_or(Unusable::Files)?;
                match list.last_mut() {
                    Some(last) if last.file == file && last.offset + last.len == offset => {
                        last.len += part;
                    }
                    _ => list.push(FilePiece {
                        file,
                        reserved: 0,
                        offset,
                        len: part,
                    }),
                }
                at += part;
            }
        }
        Ok(list)
    }
}

/// The files that a message's pieces lie in.
#[derive(Debug, Default)]
pub struct Files<'t>(Vec<&'t Region>);

impl<'t> Files<'t> {
    fn index(&mut self, region: &'t Region) -> Option<u32> {
        let known = self
            .0
            .iter()
            .position(|known| known.identity == region.identity);
        let index = known.unwrap_or(self.0.len());
        if known.is_none() {
            if index >= MAX_PIECE_FILES {
                return None;
            }
            self.0.push(region);
        }
        u32::try_from(index).ok()
    }

    /// The descriptors, in the order of their indices.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'t>> {
        self.0.iter().map(|region| region.file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = SEGMENT_ALIGN;

    fn file(pages: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(pages * PAGE).unwrap();
        file
    }

    fn region(address: u64, pages: u64, offset: u64, file: &File) -> Region {
        let file = file.try_clone().unwrap();
        Region::new(address * PAGE, pages * PAGE, 0, offset * PAGE, file).unwrap()
    }

    fn piece(address: u64, pages: u64) -> Piece {
        Piece {
            address: address * PAGE,
            len: pages * PAGE,
        }
    }

    fn resolve(table: &Table, pieces: &[Piece]) -> Result<Vec<(u32, u64, u64)>, Unusable> {
        let list = table.resolve(pieces, &mut Files::default())?;
        let plain = |piece: &FilePiece| (piece.file, piece.offset / PAGE, piece.len / PAGE);
        Ok(list.iter().map(plain).collect())
    }

    #[test]
    fn pieces_become_parts_of_files_and_neighbours_are_put_together() {
        let (low, high) = (file(8), file(4));
        let table = Table::new(vec![
            region(0, 4, 0, &low),
            region(100, 4, 4, &low),
            region(104, 4, 0, &high),
        ])
        .unwrap();
        let whole = resolve(&table, &[piece(2, 1), piece(3, 1), piece(100, 2)]);
        assert_eq!(whole, Ok(vec![(0, 2, 4)]));
        let scrambled = resolve(&table, &[piece(3, 1), piece(2, 1), piece(103, 2)]);
        assert_eq!(
            scrambled,
            Ok(vec![(0, 3, 1), (0, 2, 1), (0, 7, 1), (1, 0, 1)])
        );
        for outside in [piece(4, 1), piece(3, 2), piece(107, 2), piece(1 << 40, 1)] {
            let error = Unusable::NotRam(outside.len, outside.address);
            assert_eq!(resolve(&table, &[piece(0, 1), outside]), Err(error));
        }
    }

    #[test]
    fn memory_that_cannot_be_mapped_in_parts_is_refused() {
        let ram = file(4);
        let mut huge = region(0, 4, 0, &ram);
        huge.page = 1 << 30;
        let table = Table::new(vec![huge]).unwrap();
        assert_eq!(
            resolve(&table, &[piece(0, 1)]),
            Err(Unusable::Pages(1 << 30))
        );
        let shifted = Region::new(0, PAGE, 0, 4096, ram).unwrap();
        let table = Table::new(vec![shifted]).unwrap();
        assert_eq!(resolve(&table, &[piece(0, 1)]), Err(Unusable::Misaligned));
        let files: Vec<File> = (0..=MAX_PIECE_FILES).map(|_| file(1)).collect();
        let regions = (0..).zip(&files).map(|(at, file)| region(at, 1, 0, file));
        let table = Table::new(regions.collect()).unwrap();
        let most = MAX_PIECE_FILES as u64;
        assert_eq!(
            resolve(&table, &[piece(0, most)]).unwrap().len(),
            MAX_PIECE_FILES
        );
        assert_eq!(resolve(&table, &[piece(0, most + 1)]), Err(Unusable::Files));
    }

    #[test]
    fn a_range_stays_only_where_the_same_memory_stays() {
        let (one, two) = (file(8), file(8));
        let before = Table::new(vec![region(0, 4, 0, &one), region(4, 4, 0, &two)]).unwrap();
        let removed = Table::new(vec![region(0, 4, 0, &one)]).unwrap();
        let replaced = Table::new(vec![region(0, 4, 0, &one), region(4, 4, 0, &one)]).unwrap();
        assert!(before.keeps(&removed, 0, 4 * PAGE));
        for after in [&removed, &replaced, &Table::default()] {
            assert!(!before.keeps(after, 3 * PAGE, 5 * PAGE));
        }
        assert!(before.keeps(&replaced, PAGE, 2 * PAGE));
    }
}
