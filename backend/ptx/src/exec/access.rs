//! Memory accesses: from device addresses of 32 lanes to checked places, and the raw accesses there.
//!
//! Two rules: no reference is ever made to device memory, and every access to it is a relaxed
//! atomic. So kernels that race, with each other or with the program's copies, get some value but
//! do not break the rules of Rust.

use std::ops::Range;
use std::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
};

use super::frame::{FULL, LANES, lanes_of};
use super::{Cx, Fault, FaultKind};

/// Added to a shared-memory offset to make a generic address.
pub(crate) const SHARED_BASE: u64 = 1 << 56;
/// Added to a local-memory offset to make a generic address.
pub(crate) const LOCAL_BASE: u64 = 2 << 56;
/// Added to a kernel-parameter offset to make a generic address.
pub(crate) const PARAM_BASE: u64 = 3 << 56;
/// Added to 16 times a function's index to make its address.
pub(crate) const FUNCTION_BASE: u64 = 4 << 56;

/// How an instruction names memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemSpace {
    /// Generic, global and constant: full addresses, tagged where not global.
    Generic,
    /// Offsets in the block's shared memory.
    Shared,
    /// Offsets in the thread's local memory.
    Local,
}

/// Zeroed memory with 16-byte alignment, accessed through its address only.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    words: Vec<u128>,
    len: usize,
}

impl Bytes {
    pub(crate) fn zeroed(len: usize) -> Self {
        Bytes {
            words: vec![0; len.div_ceil(16)],
            len,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn address(&mut self) -> *mut u8 {
        self.words.as_mut_ptr().cast()
    }

    /// Fills from the start with `data`, as far as it fits.
    pub(crate) fn fill_from(&mut self, data: &[u8]) {
        for (word, chunk) in self.words.iter_mut().zip(data.chunks(16)) {
            let mut raw = [0u8; 16];
            for (to, from) in raw.iter_mut().zip(chunk) {
                *to = *from;
            }
            *word = u128::from_ne_bytes(raw);
        }
    }
}

/// Local memory of a warp: the same number of bytes for each lane, lane after lane.
#[derive(Debug, Default)]
pub(crate) struct Local {
    bytes: Bytes,
    stride: usize,
}

impl Local {
    /// Bytes that `reserve(need)` will add.
    pub(crate) fn growth(&self, need: usize) -> usize {
        if need <= self.stride {
            0
        } else {
            (Self::stride_for(need) - self.stride) * LANES
        }
    }

    fn stride_for(need: usize) -> usize {
        need.next_power_of_two().max(64)
    }

    /// Makes at least `need` bytes available to each lane; contents stay.
    pub(crate) fn reserve(&mut self, need: usize) {
        if need <= self.stride {
            return;
        }
        let stride = Self::stride_for(need);
        let mut bigger = Bytes::zeroed(stride * LANES);
        if self.stride > 0 {
            let (old, new) = (self.stride / 16, stride / 16);
            for (from, to) in self
                .bytes
                .words
                .chunks(old)
                .zip(bigger.words.chunks_mut(new))
            {
                for (t, f) in to.iter_mut().zip(from) {
                    *t = *f;
                }
            }
        }
        *self = Local {
            bytes: bigger,
            stride,
        };
    }

    /// Zeroes a range of the lanes in `mask`, for variables of a new activation. Other lanes may be
    /// using the same range for another activation.
    pub(crate) fn zero(&mut self, from: usize, len: usize, mask: u32) {
        let (from, words) = (from / 16, len.div_ceil(16));
        let rows = self.bytes.words.chunks_mut((self.stride / 16).max(1));
        for (lane, row) in rows.enumerate().take(LANES) {
            if mask >> lane & 1 != 0
                && let Some(part) = row.get_mut(from..from + words)
            {
                part.fill(0);
            }
        }
    }

    /// Copies `len` bytes of one lane from one offset to another.
    pub(crate) fn copy(&mut self, lane: usize, from: usize, to: usize, len: usize) {
        if from + len > self.stride || to + len > self.stride || lane >= LANES {
            return;
        }
        let base = self.bytes.address();
        let row = lane * self.stride;
        // SAFETY: both ranges lie in this lane's row (checked above) and the row lies in `bytes`,
        // which holds LANES rows; `copy` allows overlap; `&mut self` makes the access exclusive.
        unsafe { std::ptr::copy(base.add(row + from), base.add(row + to), len) };
    }
}

/// Live allocations looked up lately.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    recent: [Range<u64>; 4],
    next: usize,
}

impl Ranges {
    #[inline]
    fn cached(&self, addr: u64) -> Option<Range<u64>> {
        self.recent.iter().find(|r| r.contains(&addr)).cloned()
    }

    fn remember(&mut self, range: Range<u64>) {
        self.next = (self.next + 1) % self.recent.len();
        if let Some(place) = self.recent.get_mut(self.next) {
            *place = range;
        }
    }
}

/// Checked places of up to 32 lanes, each `bytes` long. Made by [`Cx::places`] and used up by the
/// same instruction.
pub(crate) struct Places {
    at: [*mut u8; LANES],
    bytes: u32,
    /// Every lane has a place.
    complete: bool,
}

macro_rules! memory_words {
    ($($t:ty, $a:ty;)*) => {$(
        impl Word for $t {
            #[inline(always)]
            fn widen(self) -> u64 { self as u64 }
            #[inline(always)]
            fn narrow(bits: u64) -> Self { bits as $t }
            #[inline(always)]
            unsafe fn load(at: *mut u8) -> Self {
                // SAFETY: the caller promises a valid, aligned place that is only accessed atomically.
                unsafe { <$a>::from_ptr(at.cast()) }.load(Relaxed)
            }
            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: the caller promises a valid, aligned place that is only accessed atomically.
                unsafe { <$a>::from_ptr(at.cast()) }.store(value, Relaxed);
            }
            #[inline]
            unsafe fn update(at: *mut u8, mut f: impl FnMut(Self) -> Self) -> Self {
                // SAFETY: the caller promises a valid, aligned place that is only accessed atomically.
                let cell = unsafe { <$a>::from_ptr(at.cast()) };
                let mut old = cell.load(Relaxed);
                loop {
                    match cell.compare_exchange_weak(old, f(old), SeqCst, Relaxed) {
                        Ok(v) => return v,
                        Err(v) => old = v,
                    }
                }
            }
        }
    )*};
}

/// An unsigned number as it lies in memory.
pub(crate) trait Word: Copy + Default + Send + Sync + 'static {
    fn widen(self) -> u64;
    fn narrow(bits: u64) -> Self;
    /// # Safety
    /// `at` is valid for this size, aligned to it, and accessed only atomically meanwhile.
    unsafe fn load(at: *mut u8) -> Self;
    /// # Safety
    /// As for `load`, and the place is writable.
    unsafe fn store(at: *mut u8, value: Self);
    /// Atomically replaces the value by `f` of it; returns the old one.
    /// # Safety
    /// As for `store`.
    unsafe fn update(at: *mut u8, f: impl FnMut(Self) -> Self) -> Self;
}

memory_words! {
    u8, AtomicU8;
    u16, AtomicU16;
    u32, AtomicU32;
    u64, AtomicU64;
}

impl Places {
    #[inline(always)]
    fn pointer<T>(&self, lane: usize, offset: u32) -> Option<*mut u8> {
        let at = *self.at.get(lane)?;
        let fits = offset as usize + size_of::<T>() <= self.bytes as usize
            && (offset as usize).is_multiple_of(size_of::<T>());
        (fits && !at.is_null()).then(|| at.wrapping_add(offset as usize))
    }

    /// True when every lane may access a `T` at `offset` without further checks.
    #[inline(always)]
    fn all_hold<T>(&self, offset: u32) -> bool {
        self.complete
            && offset as usize + size_of::<T>() <= self.bytes as usize
            && (offset as usize).is_multiple_of(size_of::<T>())
    }

    /// Loads from the place of every lane in `mask`; the others give 0.
    #[inline(always)]
    pub(crate) fn load_lanes<T: Word>(&self, mask: u32, offset: u32) -> [T; LANES] {
        if self.all_hold::<T>(offset) {
            return std::array::from_fn(|lane| {
                // SAFETY: `complete` says that `places` checked all 32 lanes for `bytes` bytes, and
                // `all_hold` that this access stays within them and aligned.
                unsafe { T::load(self.at[lane].wrapping_add(offset as usize)) }
            });
        }
        let mut out = [T::default(); LANES];
        for lane in lanes_of(mask) {
            out[lane] = self.load(lane, offset);
        }
        out
    }

    /// Stores to the place of every lane in `mask`.
    #[inline(always)]
    pub(crate) fn store_lanes<T: Word>(&self, mask: u32, offset: u32, values: &[u64; LANES]) {
        if self.all_hold::<T>(offset) {
            for (at, value) in self.at.iter().zip(values) {
                // SAFETY: as in `load_lanes`; the caller asked for writable places.
                unsafe { T::store(at.wrapping_add(offset as usize), T::narrow(*value)) };
            }
            return;
        }
        for lane in lanes_of(mask) {
            self.store(lane, offset, T::narrow(values[lane]));
        }
    }

    /// Loads from the lane's place, `offset` bytes in. Lanes that were not resolved give 0.
    #[inline(always)]
    pub(crate) fn load<T: Word>(&self, lane: usize, offset: u32) -> T {
        match self.pointer::<T>(lane, offset) {
            // SAFETY: `places` checked that `bytes` bytes from `at` lie in a live allocation (or in
            // this block's own memory) and that `at` is aligned to `bytes`; `pointer` checked that
            // this access stays within them and aligned. All accesses there are atomic.
            Some(at) => unsafe { T::load(at) },
            None => T::default(),
        }
    }

    /// Stores to the lane's place, `offset` bytes in.
    #[inline(always)]
    pub(crate) fn store<T: Word>(&self, lane: usize, offset: u32, value: T) {
        if let Some(at) = self.pointer::<T>(lane, offset) {
            // SAFETY: as in `load`; `places` was asked for a writable place by every storing caller.
            unsafe { T::store(at, value) };
        }
    }

    /// Atomic read-modify-write; returns the old value.
    #[inline(always)]
    pub(crate) fn update<T: Word>(&self, lane: usize, f: impl FnMut(T) -> T) -> T {
        match self.pointer::<T>(lane, 0) {
            // SAFETY: as in `store`.
            Some(at) => unsafe { T::update(at, f) },
            None => T::default(),
        }
    }
}

/// What an access does, for messages and for read-only places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    Read,
    Write,
}

impl Cx<'_> {
    /// Checks `bytes` bytes (a power of two) at each active lane's address.
    #[inline]
    pub(crate) fn places(
        &mut self,
        space: MemSpace,
        addrs: &[u64; LANES],
        mask: u32,
        bytes: u32,
        intent: Intent,
    ) -> Result<Places, Fault> {
        if mask == FULL
            && let Some(at) = self.whole_warp(space, addrs, bytes)
        {
            return Ok(Places {
                at,
                bytes,
                complete: true,
            });
        }
        let mut out = Places {
            at: [std::ptr::null_mut(); LANES],
            bytes,
            complete: mask == FULL,
        };
        match space {
            MemSpace::Generic => {
                let (low, high, bits) = extremes(addrs, mask);
                if high < SHARED_BASE
                    && bits & u64::from(bytes - 1) == 0
                    && let Some(range) = self.range(low)
                    && range.end - high.min(range.end) >= u64::from(bytes)
                {
                    for (lane, (p, a)) in out.at.iter_mut().zip(addrs).enumerate() {
                        if mask >> lane & 1 != 0 {
                            *p = std::ptr::with_exposed_provenance_mut(*a as usize);
                        }
                    }
                    return Ok(out);
                }
                for (lane, (p, a)) in out.at.iter_mut().zip(addrs).enumerate() {
                    if mask >> lane & 1 != 0 {
                        *p = self.generic(lane, *a, bytes, intent)?;
                    }
                }
            }
            MemSpace::Shared => {
                let len = self.shared.len() as u64;
                let base = self.shared.address();
                let (_, high, bits) = extremes(addrs, mask);
                let good = high < len
                    && len - high >= u64::from(bytes)
                    && bits & u64::from(bytes - 1) == 0;
                for (lane, (p, a)) in out.at.iter_mut().zip(addrs).enumerate() {
                    if mask >> lane & 1 != 0 {
                        *p = if good {
                            base.wrapping_add(*a as usize)
                        } else {
                            window(base, len, *a, bytes, "shared memory", lane)?
                        };
                    }
                }
            }
            MemSpace::Local => {
                let stride = self.local.stride;
                let base = self.local.bytes.address();
                for (lane, (p, a)) in out.at.iter_mut().zip(addrs).enumerate() {
                    if mask >> lane & 1 != 0 {
                        let row = base.wrapping_add(lane * stride);
                        *p = window(row, stride as u64, *a, bytes, "local memory", lane)?;
                    }
                }
            }
        }
        Ok(out)
    }

    /// The common case: all lanes active, in one window or allocation. The bits of all offsets
    /// together are at least as large as the largest offset, so one comparison bounds them all;
    /// `None` where that is too coarse, or something is wrong.
    #[inline(always)]
    fn whole_warp(
        &mut self,
        space: MemSpace,
        addrs: &[u64; LANES],
        bytes: u32,
    ) -> Option<[*mut u8; LANES]> {
        let (start, len) = match space {
            MemSpace::Generic => {
                let range = self.range(addrs[0])?;
                (range.start, range.end - range.start)
            }
            MemSpace::Shared => (0, self.shared.len() as u64),
            MemSpace::Local => return None,
        };
        let offsets = addrs.iter().fold(0, |all, a| all | a.wrapping_sub(start));
        let bits = addrs.iter().fold(0, |all, a| all | a);
        let fits = offsets < len && len - offsets >= u64::from(bytes);
        if !fits || bits & u64::from(bytes - 1) != 0 {
            return None;
        }
        Some(match space {
            MemSpace::Shared => {
                let base = self.shared.address();
                addrs.map(|a| base.wrapping_add(a as usize))
            }
            _ => addrs.map(|a| std::ptr::with_exposed_provenance_mut(a as usize)),
        })
    }

    /// One place, whatever its space.
    pub(crate) fn place(
        &mut self,
        lane: usize,
        addr: u64,
        bytes: u32,
        intent: Intent,
    ) -> Result<Places, Fault> {
        let mut out = Places {
            at: [std::ptr::null_mut(); LANES],
            bytes,
            complete: false,
        };
        let at = self.generic(lane, addr, bytes, intent)?;
        if let Some(p) = out.at.get_mut(lane) {
            *p = at;
        }
        Ok(out)
    }

    fn generic(
        &mut self,
        lane: usize,
        addr: u64,
        bytes: u32,
        intent: Intent,
    ) -> Result<*mut u8, Fault> {
        let offset = addr & (SHARED_BASE - 1);
        match addr & !(SHARED_BASE - 1) {
            0 => match self.range(addr) {
                Some(range) if range.end - addr >= u64::from(bytes) => {
                    if addr & u64::from(bytes - 1) != 0 {
                        return Err(misaligned(addr, bytes, lane));
                    }
                    Ok(std::ptr::with_exposed_provenance_mut(addr as usize))
                }
                _ => Err(outside(addr, bytes, "device memory", lane)),
            },
            SHARED_BASE => {
                let len = self.shared.len() as u64;
                window(
                    self.shared.address(),
                    len,
                    offset,
                    bytes,
                    "shared memory",
                    lane,
                )
            }
            LOCAL_BASE => {
                let stride = self.local.stride;
                let row = self.local.bytes.address().wrapping_add(lane * stride);
                window(row, stride as u64, offset, bytes, "local memory", lane)
            }
            PARAM_BASE if intent == Intent::Read => {
                let len = self.params.len() as u64;
                window(
                    self.params.address(),
                    len,
                    offset,
                    bytes,
                    "kernel parameters",
                    lane,
                )
            }
            _ => Err(outside(addr, bytes, "device memory", lane)),
        }
    }

    #[inline]
    fn range(&mut self, addr: u64) -> Option<Range<u64>> {
        if let Some(range) = self.ranges.cached(addr) {
            return Some(range);
        }
        let range = self.launch.memory.range_of(addr)?;
        if !range.contains(&addr) {
            return None;
        }
        self.ranges.remember(range.clone());
        Some(range)
    }

    /// Reads a NUL-terminated string, at most `limit` bytes of it.
    pub(crate) fn string(
        &mut self,
        lane: usize,
        addr: u64,
        limit: usize,
    ) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        while out.len() < limit {
            let at = addr.wrapping_add(out.len() as u64);
            let byte: u8 = self.place(lane, at, 1, Intent::Read)?.load(lane, 0);
            if byte == 0 {
                break;
            }
            out.push(byte);
        }
        Ok(out)
    }
}

/// Lowest and highest address of the active lanes, and all their bits together.
#[inline(always)]
fn extremes(addrs: &[u64; LANES], mask: u32) -> (u64, u64, u64) {
    let (mut low, mut high, mut bits) = (u64::MAX, 0, 0);
    if mask == FULL {
        for a in addrs {
            low = low.min(*a);
            high = high.max(*a);
            bits |= *a;
        }
    } else {
        for lane in lanes_of(mask) {
            let a = addrs[lane];
            low = low.min(a);
            high = high.max(a);
            bits |= a;
        }
    }
    (low, high, bits)
}

#[inline(always)]
fn window(
    base: *mut u8,
    len: u64,
    offset: u64,
    bytes: u32,
    what: &str,
    lane: usize,
) -> Result<*mut u8, Fault> {
    if offset > len || len - offset < u64::from(bytes) {
        return Err(outside(offset, bytes, what, lane));
    }
    if offset & u64::from(bytes - 1) != 0 {
        return Err(misaligned(offset, bytes, lane));
    }
    Ok(base.wrapping_add(offset as usize))
}

#[cold]
fn outside(addr: u64, bytes: u32, what: &str, lane: usize) -> Fault {
    Fault::new(
        FaultKind::IllegalAddress,
        format!("{bytes} bytes at {addr:#x} of {what}, lane {lane}"),
    )
}

#[cold]
fn misaligned(addr: u64, bytes: u32, lane: usize) -> Fault {
    Fault::new(
        FaultKind::Misaligned,
        format!("{bytes} bytes at {addr:#x}, lane {lane}"),
    )
}
