//! Pages that the host may write to: 2 MiB pages of the pool, taken, zeroed, pinned, and only then looked up.
//!
//! The order is what makes them safe to hand to a device:
//!
//! 1. a memory file of the huge-page pool, preallocated (which zeroes it) and sealed;
//! 2. the keeper takes a duplicate and pins the pages for long ([`crate::pin`]), so that neither a crash of this process
//!    nor a hole that a program punches into the file frees a page;
//! 3. their guest-physical addresses are read from `/proc/self/pagemap`.
//!
//! They go back when the mapper says that the host has let go: the keeper drops its duplicate and its pin, the kernel
//! takes the pages back into the pool, and zeroes each before anybody sees it again.

use crate::messages::{DROP, INHERIT, KEEP, KEPT, NOT_PINNED, REFUSED, SETTLED, Word};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vgpu_channel::link::virtio::Piece;
use vgpu_channel::link::{LinkError, Socket};
use vgpu_channel::segment::{HugePages, SEGMENT_ALIGN, SegmentError, SegmentFd};
use vgpu_channel::shm::View;
use zerocopy::{FromBytes, IntoBytes};

/// How long the keeper may take to pin a segment.
const KEEPER: Duration = Duration::from_secs(30);
/// How long the kernel may take to put pages into the pool that were unpinned.
const RETURN: Duration = Duration::from_secs(1);
/// Bytes of the pages that pagemap counts in.
const SMALL_PAGE: u64 = 4096;
/// Pagemap: the page is present.
const PRESENT: u64 = 1 << 63;
/// Pagemap: the page's number.
const FRAME: u64 = (1 << 55) - 1;

/// Why there are no pages.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The pool is empty.
    #[error(
        "The pool of 2 MiB pages has not enough free for {0} bytes: raise it with `sysctl vm.nr_hugepages=N` (see /proc/meminfo, HugePages_Free)"
    )]
    Pool(u64),
    /// The kernel has no such pages.
    #[error(
        "The kernel has no 2 MiB pages for memory files (CONFIG_HUGETLBFS): use a kernel of a distribution"
    )]
    Unsupported(#[source] SegmentError),
    /// Neither way of pinning works.
    #[error(
        "Pages cannot be pinned, neither by io_uring ({0}) nor by VFIO: allow it with `sysctl kernel.io_uring_disabled=0`"
    )]
    NotPinned(io::Error),
    /// Physical addresses are hidden.
    #[error(
        "/proc/self/pagemap hides physical addresses: run `vgpu agent` as root, with CAP_SYS_ADMIN"
    )]
    Hidden,
    /// Something else in the way of the keeper.
    #[error("The keeper does not answer")]
    Keeper(#[source] LinkError),
    /// What an earlier mapper left is of no use.
    #[error("The queues' page of the mapper before cannot be taken over")]
    Inherited(#[source] SegmentError),
    /// The system refused.
    #[error("The system refused memory")]
    System(#[from] io::Error),
}

/// A segment whose pages are known and stay where they are.
#[derive(Debug)]
pub struct Taken {
    /// Its number with the keeper.
    pub id: u64,
    /// Its file.
    pub segment: SegmentFd,
    /// Where its pages lie, in order, neighbours merged.
    pub pieces: Vec<Piece>,
}

/// Where segments come from. Works on a thread of its own.
pub trait PageSource: Send + 'static {
    /// Takes zeroed pages.
    ///
    /// # Errors
    ///
    /// [`PageError`].
    fn take(&mut self, len: u64) -> Result<Taken, PageError>;

    /// Gives pages back that the host has let go of.
    fn give_back(&mut self, taken: Taken);

    /// Takes over the pages, `len` bytes, that an earlier mapper had for the device's queues, where there are some. To be
    /// called once the device is reset: they are nobody's then, though not zero.
    ///
    /// # Errors
    ///
    /// [`PageError`].
    fn inherit(&mut self, len: u64) -> Result<Option<Taken>, PageError>;

    /// The host has let go of whatever earlier mappers took.
    fn settled(&mut self);
}

/// Pins by VFIO, for systems without io_uring: keeps the pages of `view` where they are until `pieces` are unmapped.
pub trait DmaMap: Send + Sync + std::fmt::Debug {
    /// Pins.
    ///
    /// # Errors
    ///
    /// The system's error.
    fn map(&self, view: &View, pieces: &[Piece]) -> io::Result<()>;

    /// Unpins.
    fn unmap(&self, pieces: &[Piece]);
}

/// The real source.
#[derive(Debug)]
pub struct HugePagePool {
    keeper: Socket,
    pagemap: File,
    vfio: Option<Arc<dyn DmaMap>>,
    next: u64,
    /// Numbers of segments pinned by VFIO.
    mapped: Vec<u64>,
    /// When pages were given back last.
    given_back: Option<Instant>,
}

impl HugePagePool {
    /// A source whose segments `keeper` keeps.
    ///
    /// # Errors
    ///
    /// [`PageError::Hidden`].
    pub fn new(keeper: Socket, vfio: Option<Arc<dyn DmaMap>>) -> Result<HugePagePool, PageError> {
        let pagemap = File::open("/proc/self/pagemap").map_err(|_| PageError::Hidden)?;
        Ok(HugePagePool {
            keeper,
            pagemap,
            vfio,
            // Numbers of one mapper never meet those of another.
            next: u64::from(std::process::id()) << 32,
            mapped: Vec::new(),
            given_back: None,
        })
    }

    /// Makes a segment. Pages given back just now are waited for.
    fn create(&self, len: u64) -> Result<SegmentFd, PageError> {
        loop {
            let error = match SegmentFd::create(len, HugePages::Require) {
                Ok(segment) => return Ok(segment),
                Err(error) => error,
            };
            let on_their_way = self.given_back.is_some_and(|at| at.elapsed() < RETURN);
            match error {
                SegmentError::NoMemory(_) if on_their_way => std::thread::sleep(RETURN / 50),
                SegmentError::NoMemory(len) => return Err(PageError::Pool(len)),
                SegmentError::System(error) => return Err(PageError::System(error)),
                other => return Err(PageError::Unsupported(other)),
            }
        }
    }

    fn tell(&self, word: Word) {
        // A keeper that is gone ends the mapper by its other socket.
        if let Err(error) = self.keeper.send(word.as_bytes(), &[]) {
            tracing::debug!("the keeper cannot be told: {error}");
        }
    }

    /// Asks the keeper about segment `id`, with a memory file or for one.
    fn ask(
        &self,
        word: Word,
        file: Option<&SegmentFd>,
    ) -> Result<(Word, Option<OwnedFd>), PageError> {
        let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        self.keeper
            .send(word.as_bytes(), &fds)
            .map_err(PageError::Keeper)?;
        let (bytes, mut fds) = self
            .keeper
            .receive_with_fds::<{ size_of::<Word>() }>(KEEPER)
            .map_err(PageError::Keeper)?;
        match Word::read_from_bytes(&bytes) {
            Ok(answer) if answer.id == word.id => Ok((answer, fds.pop())),
            _ => Err(PageError::Keeper(LinkError::Malformed)),
        }
    }

    /// Looks up where a segment lies that the keeper keeps, pinned by now or to be pinned here, as its answer says.
    fn settle(&mut self, segment: SegmentFd, answer: Word) -> Result<Taken, PageError> {
        let id = answer.id;
        let located = segment.map().map_err(PageError::from).and_then(|view| {
            match answer.kind {
                KEPT => return self.locate(&view),
                NOT_PINNED => {}
                _ => return Err(PageError::Keeper(LinkError::Malformed)),
            }
            // VFIO pins by address, which must be known first; it is looked up again once it cannot change any more.
            let error = io::Error::from_raw_os_error(answer.len as i32);
            let Some(vfio) = self.vfio.clone() else {
                return Err(PageError::NotPinned(error));
            };
            let pieces = self.locate(&view)?;
            vfio.map(&view, &pieces)?;
            self.mapped.push(id);
            if self.locate(&view)? != pieces {
                vfio.unmap(&pieces);
                return Err(io::Error::other("pages moved while they were pinned").into());
            }
            Ok(pieces)
        });
        match located {
            Ok(pieces) => Ok(Taken {
                id,
                segment,
                pieces,
            }),
            Err(error) => {
                self.tell(Word::about(DROP, id, 0));
                Err(error)
            }
        }
    }

    /// A number for a segment.
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Where the pages of a mapped segment lie.
    fn locate(&self, view: &View) -> Result<Vec<Piece>, PageError> {
        let mut frames = Vec::new();
        for page in 0..view.len() as u64 / SEGMENT_ALIGN {
            let address = view.address() + page * SEGMENT_ALIGN;
            let mut entry = [0; 8];
            self.pagemap
                .read_exact_at(&mut entry, address / SMALL_PAGE * 8)?;
            let entry = u64::from_ne_bytes(entry);
            let physical = (entry & FRAME) * SMALL_PAGE;
            if entry & PRESENT == 0 || physical == 0 {
                return Err(PageError::Hidden);
            }
            if !physical.is_multiple_of(SEGMENT_ALIGN) {
                return Err(io::Error::other("a page of the pool is not 2 MiB").into());
            }
            frames.push(physical);
        }
        Ok(merge(&frames))
    }
}

/// Merges neighbouring pages, whose order stays.
#[must_use]
pub fn merge(pages: &[u64]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for &address in pages {
        match pieces.last_mut() {
            Some(last) if last.address + last.len == address => last.len += SEGMENT_ALIGN,
            _ => pieces.push(Piece {
                address,
                len: SEGMENT_ALIGN,
            }),
        }
    }
    pieces
}

impl PageSource for HugePagePool {
    fn take(&mut self, len: u64) -> Result<Taken, PageError> {
        let segment = self.create(len)?;
        let word = Word::about(KEEP, self.number(), len);
        let (answer, _) = self.ask(word, Some(&segment))?;
        self.settle(segment, answer)
    }

    fn inherit(&mut self, len: u64) -> Result<Option<Taken>, PageError> {
        let word = Word::about(INHERIT, self.number(), len);
        let (answer, file) = self.ask(word, None)?;
        if answer.kind == REFUSED {
            return Ok(None);
        }
        let file = file.ok_or(PageError::Keeper(LinkError::Malformed))?;
        let segment = SegmentFd::receive(file, len).map_err(PageError::Inherited)?;
        self.settle(segment, answer).map(Some)
    }

    fn give_back(&mut self, taken: Taken) {
        if let Some(vfio) = &self.vfio
            && self.mapped.contains(&taken.id)
        {
            vfio.unmap(&taken.pieces);
            self.mapped.retain(|&id| id != taken.id);
        }
        let id = taken.id;
        drop(taken);
        self.given_back = Some(Instant::now());
        self.tell(Word::about(DROP, id, 0));
    }

    fn settled(&mut self) {
        self.tell(Word::new(SETTLED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_merged_in_order() {
        let page = SEGMENT_ALIGN;
        let pieces = merge(&[4 * page, 5 * page, 7 * page, 6 * page, 7 * page]);
        let expected = [(4, 2), (7, 1), (6, 2)];
        let expected: Vec<Piece> = expected
            .into_iter()
            .map(|(at, count)| Piece {
                address: at * page,
                len: count * page,
            })
            .collect();
        assert_eq!(pieces, expected);
        assert!(merge(&[]).is_empty());
    }
}
