//! Copies and fills: shapes, checks, execution.

use crate::device;
use crate::foreign::Outcome;
use crate::memory::Range;
use crate::raw;
use std::sync::Arc;
use vgpu_protocol::cuda::{
    CU_MEMORYTYPE_DEVICE, CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_UNIFIED, CUDA_MEMCPY2D, CUDA_MEMCPY3D,
    CUresult,
};

/// Pageable sources up to this size are taken before an asynchronous copy returns.
pub(crate) const STAGED: u64 = 64 << 10;

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    /// Address of the first byte copied.
    base: u64,
    /// Bytes from row to row.
    pitch: u64,
    /// Bytes from slice to slice.
    slice: u64,
    /// Whether the address must be in memory the device knows; host memory of the program's own
    /// (pageable) need not be.
    known: bool,
}

impl Side {
    /// Bytes from the first to the last one copied, plus one.
    fn extent(&self, shape: &Shape) -> Option<u64> {
        let rows = self.pitch.checked_mul(shape.height.checked_sub(1)?)?;
        let slices = self.slice.checked_mul(shape.depth.checked_sub(1)?)?;
        rows.checked_add(slices)?.checked_add(shape.width)
    }
}

/// Extents of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes per row.
    pub(crate) width: u64,
    /// Rows per slice.
    pub(crate) height: u64,
    /// Slices.
    pub(crate) depth: u64,
}

impl Shape {
    /// Whether there is nothing to copy.
    pub(crate) fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }

    fn bytes(&self) -> Option<u64> {
        self.width.checked_mul(self.height)?.checked_mul(self.depth)
    }
}

/// A copy that was checked.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) dst: Side,
    pub(crate) src: Side,
    pub(crate) shape: Shape,
    /// Private bytes to copy from, densely packed, instead of the source.
    staged: Option<Arc<[u8]>>,
}

/// What kind of address a copy's end is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Memory the device knows.
    Device,
    /// Host memory, known or pageable, or whatever unified addressing finds there.
    Any,
}

impl Copy {
    /// A copy of `len` bytes.
    ///
    /// # Errors
    /// `INVALID_VALUE` if a side is not inside one live range where it must be.
    pub(crate) fn linear(dst: (u64, Place), src: (u64, Place), len: u64) -> Outcome<Self> {
        let shape = Shape {
            width: len,
            height: 1,
            depth: 1,
        };
        let side = |(base, place)| (base, len, len, place);
        Self::shaped(side(dst), side(src), shape)
    }

    /// A copy with `(base, pitch, slice, place)` on each side.
    fn shaped(
        dst: (u64, u64, u64, Place),
        src: (u64, u64, u64, Place),
        shape: Shape,
    ) -> Outcome<Self> {
        let side = |(base, pitch, slice, place): (u64, u64, u64, Place)| -> Outcome<Side> {
            let mut side = Side {
                base,
                pitch,
                slice,
                known: true,
            };
            if shape.is_empty() {
                return Ok(side);
            }
            let extent = side.extent(&shape).ok_or(CUresult::INVALID_VALUE)?;
            let range = device::memory().find(base);
            match range {
                Some(range) if range.holds(base, extent) => {}
                // Adjacent registrations, or pageable bytes after a registered part.
                Some(range) if range.origin.is_host() && place == Place::Any => side.known = false,
                Some(_) => return Err(CUresult::INVALID_VALUE),
                None if place == Place::Any => {
                    if base == 0 || base.checked_add(extent).is_none() {
                        return Err(CUresult::INVALID_VALUE);
                    }
                    side.known = false;
                }
                None => return Err(CUresult::INVALID_VALUE),
            }
            Ok(side)
        };
        let (dst, src) = (side(dst)?, side(src)?);
        Ok(Self {
            dst,
            src,
            shape,
            staged: None,
        })
    }

    /// The copy a `CUDA_MEMCPY2D` describes.
    ///
    /// # Errors
    /// As [`Copy::planes`].
    pub(crate) fn plane(of: &CUDA_MEMCPY2D) -> Outcome<Self> {
        let whole = |value: u64| {
            i64::try_from(value)
                .map(|_| value)
                .map_err(|_| CUresult::INVALID_VALUE)
        };
        Self::planes(&CUDA_MEMCPY3D {
            src_x: of.src_x,
            src_y: of.src_y,
            src_memory_type: of.src_memory_type,
            src_host: of.src_host,
            src_device: of.src_device,
            src_array: of.src_array,
            src_pitch: whole(of.src_pitch)?,
            dst_x: of.dst_x,
            dst_y: of.dst_y,
            dst_memory_type: of.dst_memory_type,
            dst_host: of.dst_host,
            dst_device: of.dst_device,
            dst_array: of.dst_array,
            dst_pitch: whole(of.dst_pitch)?,
            width: of.width,
            height: of.height,
            depth: 1,
            ..CUDA_MEMCPY3D::default()
        })
    }

    /// The copy a `CUDA_MEMCPY3D` describes. A pitch or slice height that is never used may be 0.
    ///
    /// # Errors
    /// `INVALID_VALUE` for pitches below the row, or sides outside live memory; `NOT_SUPPORTED` for
    /// arrays.
    pub(crate) fn planes(of: &CUDA_MEMCPY3D) -> Outcome<Self> {
        let shape = Shape {
            width: of.width,
            height: of.height,
            depth: of.depth,
        };
        let side = |kind, host, device, x: u64, [y, z]: [u64; 2], pitch: u64, rows: u64| {
            let (base, place): (u64, Place) = match kind {
                CU_MEMORYTYPE_HOST => (host, Place::Any),
                CU_MEMORYTYPE_DEVICE => (device, Place::Device),
                CU_MEMORYTYPE_UNIFIED => (device, Place::Any),
                vgpu_protocol::cuda::CU_MEMORYTYPE_ARRAY => return Err(CUresult::NOT_SUPPORTED),
                _ => return Err(CUresult::INVALID_VALUE),
            };
            let row = x.checked_add(shape.width).ok_or(CUresult::INVALID_VALUE)?;
            let single = shape.height <= 1 && shape.depth <= 1 && y == 0 && z == 0;
            if pitch < row && !(pitch == 0 && single) {
                return Err(CUresult::INVALID_VALUE);
            }
            let needed = y.checked_add(shape.height).ok_or(CUresult::INVALID_VALUE)?;
            if rows < needed && (shape.depth > 1 || z > 0) {
                return Err(CUresult::INVALID_VALUE);
            }
            let start = || {
                let slice = pitch.checked_mul(rows)?;
                let base = base
                    .checked_add(slice.checked_mul(z)?)?
                    .checked_add(pitch.checked_mul(y)?)?
                    .checked_add(x)?;
                Some((base, pitch, slice, place))
            };
            start().ok_or(CUresult::INVALID_VALUE)
        };
        let dst = side(
            of.dst_memory_type,
            of.dst_host,
            of.dst_device.0,
            of.dst_x,
            [of.dst_y, of.dst_z],
            of.dst_pitch,
            of.dst_height,
        )?;
        let src = side(
            of.src_memory_type,
            of.src_host,
            of.src_device.0,
            of.src_x,
            [of.src_y, of.src_z],
            of.src_pitch,
            of.src_height,
        )?;
        Self::shaped(dst, src, shape)
    }

    /// Whether neither side is host memory.
    pub(crate) fn is_within_device(&self) -> bool {
        let device = |side: &Side| {
            let range = device::memory().find(side.base);
            range.is_some_and(|range| !range.origin.is_host())
        };
        device(&self.dst) && device(&self.src)
    }

    /// Whether the destination is pageable: the call then waits for the copy.
    pub(crate) fn fills_pageable(&self) -> bool {
        !self.dst.known
    }

    /// Whether the source is pageable: the call then returns only when the bytes are taken.
    pub(crate) fn reads_pageable(&self) -> bool {
        !self.src.known && self.staged.is_none()
    }

    /// Takes a small pageable source now, so that the program may change it at once. Returns whether
    /// it was small enough.
    pub(crate) fn stage(&mut self) -> bool {
        let Some(bytes) = self.shape.bytes().filter(|bytes| *bytes <= STAGED) else {
            return false;
        };
        let mut taken = vec![0u8; bytes as usize];
        let packed = Side {
            base: taken.as_mut_ptr() as u64,
            pitch: self.shape.width,
            slice: self.shape.width * self.shape.height,
            known: false,
        };
        // SAFETY: the destination is the vector just made, of exactly this size; the source is host
        // memory that the caller of the copy promises to be readable until it returns.
        unsafe { transfer(&packed, &self.src, &self.shape) };
        self.staged = Some(taken.into());
        true
    }

    /// Copies.
    ///
    /// # Errors
    /// `ILLEGAL_ADDRESS` if memory was freed since the copy was submitted.
    pub(crate) fn run(&self) -> Result<(), CUresult> {
        if self.shape.is_empty() {
            return Ok(());
        }
        let memory = device::memory();
        let _ticket = memory.enter();
        let check = |side: &Side| -> Result<Option<Range>, CUresult> {
            if !side.known {
                return Ok(None);
            }
            let extent = side.extent(&self.shape).ok_or(CUresult::ILLEGAL_ADDRESS)?;
            let range = memory.check(side.base, extent);
            range.map(Some).map_err(|_| CUresult::ILLEGAL_ADDRESS)
        };
        check(&self.dst)?;
        let src = match &self.staged {
            Some(bytes) => Side {
                base: bytes.as_ptr() as u64,
                pitch: self.shape.width,
                slice: self.shape.width * self.shape.height,
                known: false,
            },
            None => {
                check(&self.src)?;
                self.src
            }
        };
        // SAFETY: known sides are inside live ranges, which stay mapped while the ticket is held;
        // the staged bytes are this copy's own; pageable sides are host memory that the program
        // promised to keep until the copy is done.
        unsafe { transfer(&self.dst, &src, &self.shape) };
        Ok(())
    }
}

/// Copies row by row, or at once where rows are adjacent on both sides.
///
/// # Safety
/// All bytes the shape selects on both sides satisfy [`raw::copy`].
unsafe fn transfer(dst: &Side, src: &Side, shape: &Shape) {
    let mut shape = *shape;
    let dense = |side: &Side| {
        (shape.height <= 1 || side.pitch == shape.width)
            && (shape.depth <= 1 || Some(side.slice) == shape.width.checked_mul(shape.height))
    };
    if dense(dst)
        && dense(src)
        && let Some(width) = shape.bytes()
    {
        shape = Shape {
            width,
            height: 1,
            depth: 1,
        };
    }
    for z in 0..shape.depth {
        for y in 0..shape.height {
            let at = |side: &Side| {
                side.base
                    .wrapping_add(side.slice.wrapping_mul(z))
                    .wrapping_add(side.pitch.wrapping_mul(y))
            };
            // SAFETY: this row is among the bytes the caller vouches for.
            unsafe { raw::copy(at(dst), at(src), shape.width) };
        }
    }
}

/// A fill that was checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) dst: u64,
    /// Bytes from row to row.
    pub(crate) pitch: u64,
    pub(crate) value: u32,
    /// Bytes of an element: 1, 2 or 4.
    pub(crate) element: u32,
    /// Elements per row.
    pub(crate) width: u64,
    pub(crate) height: u64,
}

impl Fill {
    /// Checks a fill.
    ///
    /// # Errors
    /// `INVALID_VALUE` for addresses or pitches not aligned to the element, pitches below the row,
    /// or bytes outside one live range.
    pub(crate) fn checked(self) -> Outcome<Self> {
        if !matches!(self.element, 1 | 2 | 4) {
            return Err(CUresult::INVALID_VALUE);
        }
        if self.is_empty() {
            return Ok(self);
        }
        let element = u64::from(self.element);
        let row = self.width.checked_mul(element);
        let row = row.ok_or(CUresult::INVALID_VALUE)?;
        let misaligned = !self.dst.is_multiple_of(element)
            || (self.height > 1 && !self.pitch.is_multiple_of(element));
        if misaligned || (self.height > 1 && self.pitch < row) {
            return Err(CUresult::INVALID_VALUE);
        }
        let extent = self.extent().ok_or(CUresult::INVALID_VALUE)?;
        device::memory().check(self.dst, extent)?;
        Ok(self)
    }

    fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    fn extent(&self) -> Option<u64> {
        let row = self.width.checked_mul(u64::from(self.element))?;
        let rows = self.pitch.checked_mul(self.height.checked_sub(1)?)?;
        rows.checked_add(row)
    }

    /// Fills.
    ///
    /// # Errors
    /// `ILLEGAL_ADDRESS` if the memory was freed since the fill was submitted.
    pub(crate) fn run(&self) -> Result<(), CUresult> {
        if self.is_empty() {
            return Ok(());
        }
        let memory = device::memory();
        let _ticket = memory.enter();
        let extent = self.extent().ok_or(CUresult::ILLEGAL_ADDRESS)?;
        memory
            .check(self.dst, extent)
            .map_err(|_| CUresult::ILLEGAL_ADDRESS)?;
        for row in 0..self.height {
            let start = self.dst + self.pitch * row;
            // SAFETY: the row is inside a live range, which stays mapped while the ticket is held;
            // alignment was checked when the fill was made.
            unsafe { raw::fill(start, self.value, self.element, self.width) };
        }
        Ok(())
    }
}
