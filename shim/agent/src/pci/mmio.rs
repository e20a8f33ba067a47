//! Device registers: a mapped BAR, reached by checked volatile accesses of exactly the width asked for.
//!
//! Unsafe: the map, its end, and the accesses. A [`Registers`] keeps its map; each access is inside it and aligned.

use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A mapped BAR.
#[derive(Debug)]
struct Map {
    base: *mut u8,
    len: usize,
}

// SAFETY: an address of device registers; volatile accesses from any thread are what they are made for.
unsafe impl Send for Map {}
// SAFETY: as above; no reference to the memory is ever made.
unsafe impl Sync for Map {}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped in `Registers::map`, unmapped once; no `Registers` is left that reaches it.
        let _ = unsafe { rustix::mm::munmap(self.base.cast(), self.len) };
    }
}

/// Part of a mapped BAR. What lies outside reads as all ones and takes no writes, as if nobody answered on the bus.
#[derive(Clone, Debug)]
pub struct Registers {
    map: Arc<Map>,
    offset: usize,
    len: usize,
}

impl Registers {
    /// Maps `len` bytes at `offset` of a file that stands for a BAR.
    ///
    /// # Errors
    ///
    /// The system's error: `EINVAL` when a driver of the kernel holds the BAR.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Registers> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh map at a place of the kernel's choice, which nothing refers to.
        let base = unsafe {
            rustix::mm::mmap(
                core::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                fd,
                offset,
            )?
        };
        let base = base.cast();
        Ok(Registers {
            map: Arc::new(Map { base, len }),
            offset: 0,
            len,
        })
    }

    /// The part at `offset`, which may be cut short by the end.
    #[must_use]
    pub fn part(&self, offset: usize, len: usize) -> Registers {
        let offset = offset.min(self.len);
        Registers {
            map: Arc::clone(&self.map),
            offset: self.offset + offset,
            len: len.min(self.len - offset),
        }
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        let at = self.map.base.wrapping_add(self.offset + offset);
        (end <= self.len && (at as usize).is_multiple_of(align_of::<T>())).then_some(at.cast())
    }

    /// Reads 8 bits.
    #[must_use]
    pub fn read8(&self, offset: usize) -> u8 {
        // SAFETY: `at` proved that the register is mapped and aligned.
        self.at::<u8>(offset)
            .map_or(u8::MAX, |at| unsafe { at.read_volatile() })
    }

    /// Reads 16 bits.
    #[must_use]
    pub fn read16(&self, offset: usize) -> u16 {
        // SAFETY: `at` proved that the register is mapped and aligned.
        self.at::<u16>(offset)
            .map_or(u16::MAX, |at| u16::from_le(unsafe { at.read_volatile() }))
    }

    /// Reads 32 bits.
    #[must_use]
    pub fn read32(&self, offset: usize) -> u32 {
        // SAFETY: `at` proved that the register is mapped and aligned.
        self.at::<u32>(offset)
            .map_or(u32::MAX, |at| u32::from_le(unsafe { at.read_volatile() }))
    }

    /// Writes 8 bits.
    pub fn write8(&self, offset: usize, value: u8) {
        if let Some(at) = self.at::<u8>(offset) {
            // SAFETY: `at` proved that the register is mapped and aligned.
            unsafe { at.write_volatile(value) };
        }
    }

    /// Writes 16 bits.
    pub fn write16(&self, offset: usize, value: u16) {
        if let Some(at) = self.at::<u16>(offset) {
            // SAFETY: `at` proved that the register is mapped and aligned.
            unsafe { at.write_volatile(value.to_le()) };
        }
    }

    /// Writes 32 bits.
    pub fn write32(&self, offset: usize, value: u32) {
        if let Some(at) = self.at::<u32>(offset) {
            // SAFETY: `at` proved that the register is mapped and aligned.
            unsafe { at.write_volatile(value.to_le()) };
        }
    }

    /// Writes 64 bits as two halves, as virtio wants it.
    pub fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset + 4, (value >> 32) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn accesses_stay_inside() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let all = Registers::map(file.as_fd(), 0, 4096).unwrap();
        let part = all.part(16, 16);
        part.write32(0, 0x0403_0201);
        part.write64(8, 0x1122_3344_5566_7788);
        assert_eq!((all.read8(16), all.read16(18)), (1, 0x0403));
        assert_eq!(all.read32(28), 0x1122_3344);
        part.write32(16, 7);
        part.write32(1, 7);
        assert_eq!((all.read32(32), all.read32(16)), (0, 0x0403_0201));
        assert_eq!(part.read32(13), u32::MAX);
        assert_eq!(part.read8(16), u8::MAX);
        assert!(all.part(5000, 8).is_empty());
        assert_eq!(all.part(4092, 100).len(), 4);
    }
}
