//! What lies at the ends of a strided copy, and where its rows are.

use crate::client::Client;
use crate::memory::{self, Side};
use vgpu_protocol::cuda::*;

/// One end of a strided copy.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// First byte touched.
    pub first: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    /// Bytes from slice to slice.
    pub slice: u64,
}

impl End {
    /// Bytes from the first touched to behind the last.
    fn extent(&self, copy: &CUDA_MEMCPY3D) -> Option<u64> {
        let slices = self.slice.checked_mul(copy.depth - 1)?;
        let rows = self.pitch.checked_mul(copy.height - 1)?;
        slices.checked_add(rows)?.checked_add(copy.width)
    }

    /// Address of a row.
    pub fn row(&self, row: u64, slice: u64) -> u64 {
        self.first + slice * self.slice + row * self.pitch
    }
}

/// A corner of the box in an array.
#[derive(Clone, Copy, Debug)]
pub struct Corner {
    /// The array.
    pub array: CUarray,
    /// Bytes.
    pub x: u64,
    /// Rows.
    pub y: u64,
    /// Slices.
    pub z: u64,
}

/// What lies at one end of a strided copy.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Rows in memory.
    Memory(End),
    /// A box in an array.
    Array(Corner),
}

impl Place {
    /// How to treat it. Arrays are the driver's to judge: what touches one is a call.
    pub fn side(&self, client: &Client, copy: &CUDA_MEMCPY3D) -> Result<Side, CUresult> {
        match self {
            Self::Memory(end) => {
                let extent = end.extent(copy).ok_or(CUresult::INVALID_VALUE)?;
                memory::side(client, end.first, extent)
            }
            Self::Array(_) => Ok(Side::Unknown),
        }
    }

    /// The place from a row on, counted through all slices of the box.
    pub fn at_row(&self, copy: &CUDA_MEMCPY3D, row: u64) -> Self {
        match *self {
            Self::Memory(end) => Self::Memory(End {
                first: row_at(&end, copy, row),
                ..end
            }),
            Self::Array(corner) => Self::Array(Corner {
                y: corner.y + row % copy.height,
                z: corner.z + row / copy.height,
                ..corner
            }),
        }
    }
}

/// One end of a copy, as its description names it.
#[allow(
    clippy::too_many_arguments,
    reason = "the fields of one side of a description"
)]
pub fn place(
    kind: u32,
    host: u64,
    device: u64,
    array: CUarray,
    [x, y, z]: [u64; 3],
    pitch: u64,
    rows: u64,
    copy: &CUDA_MEMCPY3D,
) -> Result<Place, CUresult> {
    if kind != CU_MEMORYTYPE_ARRAY {
        return end(kind, host, device, [x, y, z], pitch, rows, copy).map(Place::Memory);
    }
    // The driver knows the array's extents; here only sums must not overflow.
    for (at, len) in [(x, copy.width), (y, copy.height), (z, copy.depth)] {
        at.checked_add(len).ok_or(CUresult::INVALID_VALUE)?;
    }
    if array.is_null() {
        return Err(CUresult::INVALID_HANDLE);
    }
    Ok(Place::Array(Corner { array, x, y, z }))
}

/// First byte and strides of one end.
fn end(
    kind: u32,
    host: u64,
    device: u64,
    [x, y, z]: [u64; 3],
    pitch: u64,
    rows: u64,
    copy: &CUDA_MEMCPY3D,
) -> Result<End, CUresult> {
    let base = match kind {
        CU_MEMORYTYPE_HOST => host,
        CU_MEMORYTYPE_DEVICE | CU_MEMORYTYPE_UNIFIED => device,
        _ => return Err(CUresult::INVALID_VALUE),
    };
    let invalid = CUresult::INVALID_VALUE;
    // A pitch of 0 means rows without gaps, a height of 0 slices without gaps.
    let pitch = if pitch == 0 {
        x.checked_add(copy.width).ok_or(invalid)?
    } else {
        pitch
    };
    let rows = if rows == 0 {
        y.checked_add(copy.height).ok_or(invalid)?
    } else {
        rows
    };
    if base == 0 || (copy.height > 1 && pitch < copy.width) {
        return Err(invalid);
    }
    let slice = pitch.checked_mul(rows).ok_or(invalid)?;
    let first = (|| {
        base.checked_add(x)?
            .checked_add(y.checked_mul(pitch)?)?
            .checked_add(z.checked_mul(slice)?)
    })();
    Ok(End {
        first: first.ok_or(invalid)?,
        pitch,
        slice,
    })
}

/// A row by its number through all slices.
pub fn row_at(end: &End, copy: &CUDA_MEMCPY3D, row: u64) -> u64 {
    end.row(row % copy.height, row / copy.height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(width: u64, height: u64, depth: u64) -> CUDA_MEMCPY3D {
        CUDA_MEMCPY3D {
            width,
            height,
            depth,
            ..CUDA_MEMCPY3D::default()
        }
    }

    #[test]
    fn rows_of_an_array_are_counted_through_its_slices() {
        let shape = copy(8, 5, 4);
        let at = |place: Place| match place {
            Place::Array(corner) => (corner.x, corner.y, corner.z),
            Place::Memory(_) => panic!("an array stays one"),
        };
        let named = |z| {
            let array = CUarray(9);
            place(CU_MEMORYTYPE_ARRAY, 0, 0, array, [4, 1, z], 0, 0, &shape)
        };
        let found = named(2).expect("valid");
        assert_eq!(at(found), (4, 1, 2));
        assert_eq!(at(found.at_row(&shape, 13)), (4, 4, 4));
        assert!(named(u64::MAX).is_err());
    }

    #[test]
    fn ends_know_their_extent() {
        let shape = copy(10, 3, 2);
        let found = end(CU_MEMORYTYPE_HOST, 1000, 0, [4, 1, 0], 32, 5, &shape).expect("valid");
        assert_eq!(found.first, 1000 + 4 + 32);
        assert_eq!(found.extent(&shape), Some(160 + 64 + 10));
        assert!(end(CU_MEMORYTYPE_ARRAY, 0, 0, [0; 3], 0, 0, &shape).is_err());
        assert!(end(CU_MEMORYTYPE_HOST, 1, 0, [u64::MAX, 0, 0], 0, 0, &shape).is_err());
    }
}
