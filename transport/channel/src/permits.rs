//! A budget of spinning that the processes of a host share (`semantics.md` 22): one word per thread that may spin.
//!
//! The privileged side makes a page of words, as many as threads may spin at once, and hands it to every worker. A thread
//! that wants to spin stores its process's number, the *holder*, in a word that is zero, and zeroes it afterwards; without
//! a free word it sleeps at once. When a worker is gone, the privileged side frees every word that no living worker holds.
//! So no permit is lost by a death, and none is counted: words cannot drift.
//!
//! Whoever has the page can write anything to it. That costs others their spinning, or lets too many spin, until the
//! writer is gone; nothing else is read from it.

use core::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::shm::{self, View};
use crate::sync::{AtomicU32, Mutex, Ordering, lock};
use crate::wait::SpinBudget;

/// Words lie this far apart, each in a cache line of its own.
const STRIDE: usize = 64;

/// Most permits: for 8,192 CPUs.
pub const MAX_PERMITS: u32 = 4096;

/// Looks before a thread asks for a permit: what comes that soon is not worth one.
const FREE_LOOKS: u32 = 16;

/// The permits, as seen by a process that may use them.
#[derive(Debug)]
pub struct Permits {
    page: View,
    count: usize,
    holder: u32,
}

impl Permits {
    /// Maps the page behind `file`, which must have room for `count` words and be sealed against shrinking.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a page that is not what it should be; the system's error.
    pub fn open(file: BorrowedFd<'_>, count: u32, holder: u32) -> io::Result<Permits> {
        if count == 0 || count > MAX_PERMITS || holder == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let count = count as usize;
        Ok(Permits {
            page: shm::map_sealed(file, count * STRIDE)?,
            count,
            holder,
        })
    }

    fn word(&self, index: usize) -> Option<&AtomicU32> {
        self.page.u32(index * STRIDE)
    }

    /// Takes a permit, or `None` when as many threads as may are spinning. It is given back when it is dropped.
    #[must_use]
    pub fn take(&self) -> Option<Permit<'_>> {
        thread_local! {
            /// The word that this thread held last: nobody else is likely to want just that one.
            static LAST: Cell<usize> = const { Cell::new(0) };
        }
        let last = LAST.get();
        for step in 0..self.count {
            let index = (last + step) % self.count;
            let word = self.word(index)?;
            // No data is handed over by these words, so nothing needs to be ordered.
            let free = word.load(Ordering::Relaxed) == 0
                && word
                    .compare_exchange(0, self.holder, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok();
            if free {
                LAST.set(index);
                return Some(Permit {
                    word,
                    holder: self.holder,
                });
            }
        }
        None
    }

    /// Checks `ready` for as long as `budget` lasts, if there is a permit for it, and else only a few times; whether it
    /// became true.
    #[inline]
    pub fn spin(&self, budget: &SpinBudget, mut ready: impl FnMut() -> bool) -> bool {
        for _ in 0..FREE_LOOKS {
            if ready() {
                return true;
            }
            crate::sync::spin_loop();
        }
        self.take().is_some_and(|_permit| budget.spin(ready))
    }
}

/// Leave for one thread to spin.
#[derive(Debug)]
pub struct Permit<'a> {
    word: &'a AtomicU32,
    holder: u32,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // Somebody else's by now, if the page was tampered with.
        let _ = self
            .word
            .compare_exchange(self.holder, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The privileged side's end: the page, and who may use it.
#[derive(Debug)]
pub struct PermitPage {
    file: OwnedFd,
    all: Permits,
    /// The last number given out, and the numbers of processes that live.
    seated: Mutex<(u32, BTreeSet<u32>)>,
}

/// The privileged side's own number; it never spins.
const NOBODY: u32 = u32::MAX;

impl PermitPage {
    /// A page of `count` permits, at least one and at most [`MAX_PERMITS`].
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn create(count: u32) -> io::Result<Arc<PermitPage>> {
        let count = count.clamp(1, MAX_PERMITS);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("vgpu-spin", flags)?;
        rustix::fs::ftruncate(&file, u64::from(count) * STRIDE as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        let all = Permits::open(file.as_fd(), count, NOBODY)?;
        Ok(Arc::new(PermitPage {
            file,
            all,
            seated: Mutex::default(),
        }))
    }

    /// Permits of this host: half of the CPUs that this process may use, and at least one.
    #[must_use]
    pub fn for_cpus(cpus: usize) -> u32 {
        u32::try_from(cpus / 2).unwrap_or(MAX_PERMITS).max(1)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.all.count as u32
    }

    /// A place for another process.
    #[must_use]
    pub fn seat(self: &Arc<Self>) -> Seat {
        let mut seated = lock(&self.seated);
        let (last, living) = &mut *seated;
        loop {
            *last = last.wrapping_add(1);
            if *last != 0 && *last != NOBODY && living.insert(*last) {
                return Seat {
                    page: Arc::clone(self),
                    holder: *last,
                };
            }
        }
    }
}

impl AsFd for PermitPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A process's right to the page. Dropped when the process is gone, it frees what no living process holds.
#[derive(Debug)]
pub struct Seat {
    page: Arc<PermitPage>,
    /// The number that the process holds permits by; never 0.
    pub holder: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seated = lock(&self.page.seated);
        let (_, living) = &mut *seated;
        living.remove(&self.holder);
        for word in (0..self.page.all.count).filter_map(|index| self.page.all.word(index)) {
            let holder = word.load(Ordering::Relaxed);
            if holder != 0 && !living.contains(&holder) {
                let _ = word.compare_exchange(holder, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn seated(page: &Arc<PermitPage>) -> (Seat, Permits) {
        let seat = page.seat();
        let permits = Permits::open(page.as_fd(), page.count(), seat.holder).unwrap();
        (seat, permits)
    }

    #[test]
    fn half_of_the_cpus_may_spin_and_always_one() {
        for (cpus, permits) in [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (17, 8), (256, 128)] {
            assert_eq!(PermitPage::for_cpus(cpus), permits);
        }
        assert_eq!(PermitPage::create(u32::MAX).unwrap().count(), MAX_PERMITS);
    }

    #[test]
    fn processes_share_the_permits() {
        let page = PermitPage::create(3).unwrap();
        let ((_a, first), (_b, second)) = (seated(&page), seated(&page));
        let mut held = vec![
            first.take().unwrap(),
            first.take().unwrap(),
            second.take().unwrap(),
        ];
        assert!(first.take().is_none());
        assert!(second.take().is_none());
        held.remove(0);
        let again = second.take();
        assert!(again.is_some());
        assert!(first.take().is_none());
        drop((again, held));
        assert_eq!(
            (0..4)
                .filter_map(|_| first.take().map(std::mem::forget))
                .count(),
            3
        );
    }

    #[test]
    fn who_has_no_permit_looks_a_few_times_and_who_has_one_spins() {
        let page = PermitPage::create(1).unwrap();
        let ((_a, first), (_b, second)) = (seated(&page), seated(&page));
        let budget = SpinBudget::for_cpus(8, Duration::from_micros(50));
        let looks = |permits: &Permits| {
            let mut looks = 0;
            assert!(!permits.spin(&budget, || {
                looks += 1;
                false
            }));
            looks
        };
        assert!(looks(&first) > 10 * FREE_LOOKS);
        let held = second.take().unwrap();
        assert_eq!(looks(&first), FREE_LOOKS);
        drop(held);
        assert!(looks(&first) > 10 * FREE_LOOKS);
        assert!(second.take().is_some(), "spinning gives its permit back");
        // What is there is seen without a permit.
        let _held = second.take();
        assert!(first.spin(&budget, || true));
    }

    #[test]
    fn the_permits_of_a_process_that_is_gone_are_free_again() {
        let page = PermitPage::create(2).unwrap();
        let ((dead, first), (_b, second)) = (seated(&page), seated(&page));
        std::mem::forget(first.take());
        let kept = second.take().unwrap();
        assert!(second.take().is_none());
        drop(dead);
        let freed = second.take();
        assert!(freed.is_some());
        assert!(second.take().is_none(), "the other's permit was freed too");
        drop((freed, kept));
    }

    #[test]
    fn nonsense_on_the_page_costs_permits_and_nothing_else() {
        let page = PermitPage::create(2).unwrap();
        let ((hostile, _), (_b, other)) = (seated(&page), seated(&page));
        let held = other.take().unwrap();
        for (index, nonsense) in [hostile.holder, 0xdead_beef].into_iter().enumerate() {
            let word = page.all.word(index).unwrap();
            word.store(nonsense, Ordering::Relaxed);
        }
        // The word is no longer this permit's to free.
        drop(held);
        assert!(other.take().is_none());
        drop(hostile);
        let all = [other.take(), other.take()];
        assert!(all.iter().all(Option::is_some));
    }

    #[test]
    fn a_file_that_can_shrink_or_is_too_short_is_refused() {
        let page = PermitPage::create(2).unwrap();
        assert!(Permits::open(page.as_fd(), 3, 1).is_err());
        assert!(Permits::open(page.as_fd(), 0, 1).is_err());
        assert!(Permits::open(page.as_fd(), 2, 0).is_err());
        let loose = tempfile::tempfile().unwrap();
        loose.set_len(4096).unwrap();
        assert!(Permits::open(loose.as_fd(), 2, 1).is_err());
        assert!(rustix::fs::ftruncate(&page.file, 0).is_err());
    }
}
