//! Register frames: the registers of one function activation, for the 32 lanes of a warp.
//!
//! A frame is a block of bytes; a register is an offset in it, found at lowering. 16-, 32- and
//! 64-bit registers hold 32 values side by side, a predicate is one 32-bit mask. Constants and
//! thread indices are registers that are filled in advance, so that every operand is a register.

use std::marker::PhantomData;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

/// All lanes active.
pub(crate) const FULL: u32 = u32::MAX;

mod sealed {
    pub trait Plain {}
}

/// A type a register can hold: plain numbers only, valid for every bit pattern.
pub(crate) trait Lane: sealed::Plain + Copy + Default + Send + Sync + 'static {
    /// Bytes of one lane.
    const BYTES: u32;
    /// The low bits of `bits` as this type.
    fn from_bits(bits: u64) -> Self;
    /// The bits of the value, zero-extended.
    fn to_bits(self) -> u64;
}

macro_rules! lanes {
    ($($t:ty: $from:expr, $to:expr;)*) => {$(
        impl sealed::Plain for $t {}
        impl Lane for $t {
            const BYTES: u32 = size_of::<$t>() as u32;
            #[inline(always)]
            fn from_bits(bits: u64) -> Self { ($from)(bits) }
            #[inline(always)]
            fn to_bits(self) -> u64 { ($to)(self) }
        }
    )*};
}

lanes! {
    u16: |b| b as u16, |v| v as u64;
    i16: |b| b as i16, |v: i16| v as u16 as u64;
    u32: |b| b as u32, |v| v as u64;
    i32: |b| b as i32, |v: i32| v as u32 as u64;
    u64: |b| b, |v| v;
    i64: |b| b as i64, |v| v as u64;
    f32: |b| f32::from_bits(b as u32), |v: f32| v.to_bits() as u64;
    f64: f64::from_bits, f64::to_bits;
}

/// A register: a place in a frame.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    offset: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slot<T> {}

impl<T> Slot<T> {
    pub(crate) fn at(offset: u32) -> Self {
        Slot {
            offset,
            of: PhantomData,
        }
    }

    pub(crate) fn offset(self) -> u32 {
        self.offset
    }
}

/// Marks predicate registers.
#[derive(Debug)]
pub(crate) struct Pred;

/// A predicate operand, perhaps negated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PredSrc {
    pub(crate) slot: Slot<Pred>,
    pub(crate) negated: bool,
}

/// The registers of one activation.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    words: Box<[u64]>,
}

impl Frame {
    /// A frame that begins as a copy of `image`.
    pub(crate) fn new(image: &[u64]) -> Self {
        Frame {
            words: image.into(),
        }
    }

    /// Bytes of the frame.
    pub(crate) fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    #[inline(always)]
    fn holds(&self, offset: u32, bytes: usize) -> bool {
        offset as usize + bytes <= self.words.len() * 8
    }

    /// All lanes of a register.
    #[inline(always)]
    pub(crate) fn read<T: Lane>(&self, slot: Slot<T>) -> [T; LANES] {
        if !self.holds(slot.offset, size_of::<[T; LANES]>()) {
            return [T::default(); LANES];
        }
        // SAFETY: the range was checked to lie in `words`, `T` is a plain number (sealed trait), so
        // any bytes are a valid value, and the read does not ask for alignment.
        unsafe {
            self.words
                .as_ptr()
                .cast::<u8>()
                .add(slot.offset as usize)
                .cast::<[T; LANES]>()
                .read_unaligned()
        }
    }

    /// Replaces the lanes named in `mask`.
    #[inline(always)]
    pub(crate) fn write<T: Lane>(&mut self, slot: Slot<T>, values: &[T; LANES], mask: u32) {
        if !self.holds(slot.offset, size_of::<[T; LANES]>()) {
            return;
        }
        // SAFETY: as in `read`; `&mut self` makes the access exclusive, and the words accept any bytes.
        let place = unsafe {
            self.words
                .as_mut_ptr()
                .cast::<u8>()
                .add(slot.offset as usize)
                .cast::<[T; LANES]>()
        };
        if mask == FULL {
            // SAFETY: `place` is in bounds for a whole array, see above.
            unsafe { place.write_unaligned(*values) };
        } else {
            // SAFETY: `place` is in bounds for a whole array, see above.
            let mut old = unsafe { place.read_unaligned() };
            for (lane, (to, from)) in old.iter_mut().zip(values).enumerate() {
                if mask >> lane & 1 != 0 {
                    *to = *from;
                }
            }
            // SAFETY: `place` is in bounds for a whole array, see above.
            unsafe { place.write_unaligned(old) };
        }
    }

    /// A predicate, as a mask of lanes.
    #[inline(always)]
    pub(crate) fn pred(&self, slot: Slot<Pred>) -> u32 {
        self.words
            .get(slot.offset as usize / 8)
            .copied()
            .unwrap_or(0) as u32
    }

    /// A predicate operand, as a mask of lanes.
    #[inline(always)]
    pub(crate) fn pred_src(&self, src: PredSrc) -> u32 {
        let mask = self.pred(src.slot);
        if src.negated { !mask } else { mask }
    }

    /// Replaces the lanes of a predicate named in `mask`.
    #[inline(always)]
    pub(crate) fn set_pred(&mut self, slot: Slot<Pred>, value: u32, mask: u32) {
        if let Some(word) = self.words.get_mut(slot.offset as usize / 8) {
            *word = u64::from((*word as u32 & !mask) | (value & mask));
        }
    }
}

/// The lanes of `mask`, lowest first.
pub(crate) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_write_keeps_other_lanes() {
        let mut frame = Frame::new(&[0; 64]);
        let slot = Slot::<u32>::at(128);
        frame.write(slot, &[7; LANES], FULL);
        frame.write(slot, &[9; LANES], 0b101);
        let got = frame.read(slot);
        assert_eq!(got[..4], [9, 7, 9, 7]);
        assert_eq!(frame.read(Slot::<u32>::at(0)), [0; LANES]);
    }

    #[test]
    fn places_outside_the_frame_are_inert() {
        let mut frame = Frame::new(&[1; 8]);
        frame.write(Slot::<u64>::at(0), &[5; LANES], FULL);
        assert_eq!(frame.read(Slot::<u64>::at(u32::MAX - 63)), [0; LANES]);
        assert_eq!(frame.read(Slot::<u16>::at(0))[0], 1);
    }

    #[test]
    fn predicates_are_masks() {
        let mut frame = Frame::new(&[0; 8]);
        let slot = Slot::<Pred>::at(8);
        frame.set_pred(slot, 0xf0f0, 0x00ff);
        assert_eq!(frame.pred(slot), 0xf0);
        assert_eq!(
            frame.pred_src(PredSrc {
                slot,
                negated: true
            }),
            !0xf0
        );
        assert_eq!(lanes_of(0x8000_0005).collect::<Vec<_>>(), [0, 2, 31]);
    }
}
