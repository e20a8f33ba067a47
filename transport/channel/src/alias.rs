//! Pages of a segment mapped a second time, outside of the window: how a server sees memory of the client's own that the
//! client has exchanged for pages of the segment ([`adopt`](crate::adopt)), at the client's address.

use std::io;
use std::sync::Arc;

use rustix::mm::MremapFlags;

use crate::hold::PAGE;
use crate::segment::Segments;
use crate::shm::Reserved;
use crate::window::USER_END;

/// Below this nothing is mapped by default (`vm.mmap_min_addr`).
const USER_START: u64 = 0x1_0000;

/// Why pages could not be mapped a second time.
#[derive(Debug, thiserror::Error)]
pub enum AliasError {
    /// No whole pages, or no addresses of a process outside of the window.
    #[error("{len:#x} bytes at {at:#x} cannot hold pages of a segment")]
    Place {
        /// First address.
        at: u64,
        /// Bytes.
        len: u64,
    },
    /// The pages lie in no segment, or in one of huge pages or of parts of a machine's RAM.
    #[error("The memory at {0:#x} cannot be mapped a second time")]
    Memory(u64),
    /// Something else is mapped there in this process.
    #[error("The addresses from {0:#x} on are taken")]
    Taken(u64),
    /// The system refused.
    #[error("The system refused a mapping")]
    System(#[source] io::Error),
}

/// A second mapping of pages of a segment; unmapped on drop.
#[derive(Debug)]
pub struct Alias {
    segments: Arc<Segments>,
    at: u64,
    len: u64,
    /// The addresses came out of space that was filled to steer the driver, and go back there; else they are given back
    /// with this.
    reserved: Option<Reserved>,
}

impl Alias {
    /// Maps the `len` bytes of segment memory at `block` also at `at`, where nothing is mapped but what
    /// [`steer_driver`](crate::window::Reservation::steer_driver) filled.
    ///
    /// # Errors
    ///
    /// [`AliasError`]; nothing is mapped then.
    pub fn map(
        segments: &Arc<Segments>,
        at: u64,
        len: u64,
        block: u64,
    ) -> Result<Alias, AliasError> {
        let place = AliasError::Place { at, len };
        let end = at.checked_add(len).filter(|&end| end <= USER_END);
        let whole = [at, len, block]
            .iter()
            .all(|word| word.is_multiple_of(PAGE));
        let (Some(end), true) = (end, whole && len > 0 && at >= USER_START) else {
            return Err(place);
        };
        if segments.window().overlaps(at, end) {
            return Err(place);
        }
        if !segments.is_plain(block, len) {
            return Err(AliasError::Memory(block));
        }
        let reserved = if segments.reservation().take_filled(at, end) {
            None
        } else {
            Some(Reserved::exactly(at, len).map_err(|_| AliasError::Taken(at))?)
        };
        let alias = Alias {
            segments: Arc::clone(segments),
            at,
            len,
            reserved,
        };
        // SAFETY: `is_plain` says that the pages belong to one mapped file; what is replaced is address space without memory
        // that this alias alone holds.
        unsafe { double(block, len, at) }.map_err(AliasError::System)?;
        Ok(alias)
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        if self.reserved.is_none() {
            // Filled again even if the map failed; if that fails, the space is not offered a second time.
            if Reserved::again(self.at, self.len).is_ok() {
                self.segments
                    .reservation()
                    .give_filled(self.at, self.at + self.len);
            }
        }
    }
}

/// Maps the pages of a shared mapping a second time: `len` bytes from `from` on also at `to`. What was mapped there goes.
/// To other threads this is one step. (An old size of 0 is how `mremap` is asked for it.)
///
/// # Safety
///
/// The pages lie in one shared mapping of a file that reaches as far, and nothing refers to what was mapped at `to`.
pub(crate) unsafe fn double(from: u64, len: u64, to: u64) -> io::Result<()> {
    // SAFETY: the caller's contract.
    unsafe {
        rustix::mm::mremap_fixed(
            from as *mut core::ffi::c_void,
            0,
            len as usize,
            MremapFlags::MAYMOVE,
            to as *mut core::ffi::c_void,
        )?
    };
    Ok(())
}
