//! The one private table that `nvidia-smi` asks for: a size in bytes, then functions.
//!
//! NVIDIA documents nothing of it. What is known of its slots, from public observations of the 580 branch: number 81 finds
//! a device's handle by index, 213 lists processes that compute, 214 and 215 those of other kinds. By watching
//! `nvidia-smi` of the branches 535, 550 and 555 call this library: 26 takes a format and what goes into it, as `printf`
//! does, for NVML's own log: every line that is printed, and why it gives up. Every other slot is refused with
//! `NVML_ERROR_NOT_SUPPORTED`, touches nothing, and is named in the log.

use crate::device::{self, Device};
use crate::error::{Error, Outcome};
use crate::{give, guard, process, state, system};
use core::ffi::{c_uint, c_void};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlReturn_t};
use std::sync::atomic::AtomicBool;
use vgpu_protocol::facts::text;

/// The table's id.
const ID: [u8; 16] = [
    0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e, 0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4,
];

/// Functions in the table.
const SLOTS: usize = 511;
/// A line for NVML's own log. There is none here, so it goes nowhere.
const LOG: usize = 26;
/// A device's handle by index.
const HANDLE_BY_INDEX: usize = 81;
/// What `nvidia-smi` gives that slot as its third argument.
const HANDLE_BY_INDEX_ARGUMENT: usize = 0x22;
/// Processes that compute.
const COMPUTE_PROCESSES: usize = 213;
/// Processes of other kinds.
const OTHER_PROCESSES: [usize; 2] = [214, 215];
/// The branch of the driver whose slots are known.
const KNOWN_BRANCH: &[u8] = b"580.";
/// Most processes that a caller makes room for.
const MAX_ROOM: c_uint = 1 << 16;

/// An entry of the table's lists of processes.
#[repr(C)]
struct Entry {
    process: c_uint,
    bytes: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
    protected_bytes: u64,
    name: [u8; 4096],
}

const _: () = assert!(size_of::<Entry>() == 4128);

type Slot = unsafe extern "C" fn(usize, usize, usize) -> nvmlReturn_t;

#[repr(C)]
struct Table {
    bytes: usize,
    slots: [Slot; SLOTS],
}

/// `$row` times sixteen functions, as an array of [`SLOTS`]; the first word of the table is its size.
macro_rules! slots {
    ($($row:literal)*) => { [
        slots!(@ 0 1), slots!(@ 0 2), slots!(@ 0 3), slots!(@ 0 4), slots!(@ 0 5), slots!(@ 0 6), slots!(@ 0 7),
        slots!(@ 0 8), slots!(@ 0 9), slots!(@ 0 10), slots!(@ 0 11), slots!(@ 0 12), slots!(@ 0 13),
        slots!(@ 0 14), slots!(@ 0 15),
        $(
            slots!(@ $row 0), slots!(@ $row 1), slots!(@ $row 2), slots!(@ $row 3), slots!(@ $row 4),
            slots!(@ $row 5), slots!(@ $row 6), slots!(@ $row 7), slots!(@ $row 8), slots!(@ $row 9),
            slots!(@ $row 10), slots!(@ $row 11), slots!(@ $row 12), slots!(@ $row 13), slots!(@ $row 14),
            slots!(@ $row 15),
        )*
    ] };
    (@ $row:literal $column:literal) => { slot::<{ $row * 16 + $column }> };
}

static TABLE: Table = Table {
    bytes: size_of::<Table>(),
    slots: slots!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31),
};

static SAID: [AtomicBool; SLOTS + 1] = [const { AtomicBool::new(false) }; SLOTS + 1];

/// `nvmlInternalGetExportTable`.
pub fn table(table: *mut *const c_void, id: *const [u8; 16]) -> Outcome {
    if table.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    let id = give::read(id)?;
    if id != ID {
        vgpu_process::log::line(format_args!("NVML has no private table {id:02x?}"));
        give::value(table, core::ptr::null())?;
        return Err(Error::INVALID_ARGUMENT);
    }
    give::value(table, (&raw const TABLE).cast())
}

/// The function in slot `N`. All are called with at least three words, those that take fewer with what happens to be in
/// the registers: so an argument is looked at only where the slot is known to have it.
unsafe extern "C" fn slot<const N: usize>(a: usize, b: usize, c: usize) -> nvmlReturn_t {
    let said = &SAID[N];
    let name = || format!("slot {N} of nvidia-smi's private table");
    let outcome = std::panic::catch_unwind(|| serve(N, a, b, c)).unwrap_or(Err(Error::UNKNOWN));
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            if error == Error::NOT_SUPPORTED && vgpu_process::log::enabled() {
                guard::name_once(&name(), said);
            }
            error.0
        }
    }
}

fn serve(slot: usize, a: usize, b: usize, c: usize) -> Outcome {
    let session = state::session()?;
    let known = text(&session.system.driver_version).starts_with(KNOWN_BRANCH);
    match slot {
        HANDLE_BY_INDEX if c == HANDLE_BY_INDEX_ARGUMENT => {
            let index = c_uint::try_from(a).map_err(|_| Error::INVALID_ARGUMENT)?;
            device::by_index(index, b as *mut nvmlDevice_t)
        }
        LOG if known => Ok(()),
        COMPUTE_PROCESSES if known => {
            let device = Device::of(a as nvmlDevice_t)?;
            list(&device, b as *mut c_uint, c as *mut Entry)
        }
        slot if known && OTHER_PROCESSES.contains(&slot) => {
            Device::of(a as nvmlDevice_t)?;
            give::value(b as *mut c_uint, 0)
        }
        _ => Err(Error::NOT_SUPPORTED),
    }
}

fn list(device: &Device, count: *mut c_uint, entries: *mut Entry) -> Outcome {
    let room = give::read(count)?;
    if room > MAX_ROOM || entries.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    let processes = process::now(device)?;
    let mut given = 0;
    for (at, process) in processes.iter().take(room as usize).enumerate() {
        let mut name = [0; 4096];
        let command = system::name_of(process.process).unwrap_or_default();
        vgpu_protocol::facts::put_text(&mut name, &command);
        let entry = Entry {
            process: process.process,
            bytes: process.bytes,
            gpu_instance: process::NO_INSTANCE,
            compute_instance: process::NO_INSTANCE,
            protected_bytes: 0,
            name,
        };
        // SAFETY: the caller's array has `room` entries of this layout.
        unsafe { entries.add(at).write(entry) };
        given += 1;
    }
    give::value(count, given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_its_own_function() {
        let mut addresses: Vec<usize> = TABLE.slots.iter().map(|slot| *slot as usize).collect();
        assert_eq!(addresses.len(), SLOTS);
        addresses.sort_unstable();
        addresses.dedup();
        assert!(addresses.len() > 1);
        assert_eq!(TABLE.bytes, 4096);
    }

    #[test]
    fn only_the_known_table_is_given() {
        let mut found = core::ptr::null();
        assert_eq!(table(&raw mut found, &ID), Ok(()));
        // SAFETY: the table begins with its size.
        assert_eq!(unsafe { found.cast::<usize>().read() }, 4096);
        let outcome = table(&raw mut found, &[1; 16]);
        assert_eq!(outcome, Err(Error::INVALID_ARGUMENT));
        assert!(found.is_null());
        assert_eq!(
            table(&raw mut found, core::ptr::null()),
            Err(Error::INVALID_ARGUMENT)
        );
    }
}
