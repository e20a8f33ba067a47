//! Pages of the pool, filled with what nobody else would write.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use rustix::mm::{MapFlags, ProtFlags};

use crate::PAGE;

/// Pages that are this process's until it ends.
pub struct Pages {
    words: &'static [AtomicU64],
}

/// The word of a place.
fn word(place: usize) -> u64 {
    (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Pages {
    /// Takes them.
    pub fn take(count: usize) -> anyhow::Result<Self> {
        let len = count.checked_mul(PAGE).context("too many pages")?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::HUGETLB | MapFlags::POPULATE,
            )
        };
        let start = start.with_context(|| format!("the pool has not {count} free pages"))?;
        // SAFETY: the mapping is that long, aligned to a page and never unmapped; whoever writes to it from outside does
        // so to words that are atomic here.
        let words = unsafe { std::slice::from_raw_parts(start.cast(), len / size_of::<u64>()) };
        Ok(Self { words })
    }

    /// Where each of them lies in this process.
    pub fn addresses(&self) -> Vec<usize> {
        let words = self.words.chunks(PAGE / size_of::<u64>());
        words.map(|page| page.as_ptr().addr()).collect()
    }

    /// Fills all of them, and makes sure that a change would be seen.
    pub fn fill(&self) -> anyhow::Result<()> {
        for (place, slot) in self.words.iter().enumerate() {
            slot.store(word(place), Ordering::Relaxed);
        }
        let last = self.words.last().context("no page")?;
        let right = last.fetch_xor(1, Ordering::Relaxed);
        let seen = self.changed().map(|(_, byte, _)| byte);
        last.store(right, Ordering::Relaxed);
        ensure!(
            seen == Some(PAGE - size_of::<u64>()),
            "changed while it was filled, or a change is not seen: byte {seen:x?}"
        );
        Ok(())
    }

    /// The first word that is another one now: its page, its byte in the page, and what it is.
    pub fn changed(&self) -> Option<(usize, usize, u64)> {
        let found = |(place, slot): (usize, &AtomicU64)| {
            let value = slot.load(Ordering::Relaxed);
            let byte = place * size_of::<u64>();
            (value != word(place)).then_some((byte / PAGE, byte % PAGE, value))
        };
        self.words.iter().enumerate().find_map(found)
    }
}
