//! Processes on a device: those that the asking one may know of.

use crate::ask::{self, NoAnswer};
use crate::device::Device;
use crate::error::{Error, Outcome};
use crate::give;
use core::ffi::c_uint;
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t};
use vgpu_protocol::facts::{ProcessFacts, ProcessMemory, QUERY_PROCESSES};

const _: () = assert!(size_of::<nvmlProcessInfo_v1_t>() == 16);
const _: () = assert!(size_of::<nvmlProcessInfo_v2_t>() == 24);

/// An instance id of a device that is not divided.
pub const NO_INSTANCE: c_uint = c_uint::MAX;
/// Parts of the list that are asked for, at most.
const MAX_PAGES: u32 = 64;

/// The processes on a device now.
///
/// # Errors
/// [`Error::GPU_IS_LOST`] when the backend does not answer.
pub fn now(device: &Device) -> Result<Vec<ProcessMemory>, Error> {
    let mut list = Vec::new();
    for page in 0..MAX_PAGES {
        let part: ProcessFacts = ask::facts(QUERY_PROCESSES, device.index as u32, page)
            .map_err(|NoAnswer| Error::GPU_IS_LOST)?;
        list.extend(part.list.iter().take(part.count as usize));
        if part.count == 0 || list.len() >= part.total as usize {
            break;
        }
    }
    Ok(list)
}

/// NVML's way with lists: how many there are, and if there is room for them, which.
fn give_list<T>(
    list: &[ProcessMemory],
    count: *mut c_uint,
    infos: *mut T,
    info: impl Fn(&ProcessMemory) -> T,
) -> Outcome {
    let room = give::read(count)? as usize;
    give::value(count, list.len() as c_uint)?;
    if room < list.len() {
        return Err(Error::INSUFFICIENT_SIZE);
    }
    if list.is_empty() {
        return Ok(());
    }
    if infos.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    for (at, process) in list.iter().enumerate() {
        // SAFETY: the program's array has `room` entries, which is at least as many.
        unsafe { infos.add(at).write(info(process)) };
    }
    Ok(())
}

/// `nvmlDeviceGetComputeRunningProcesses`.
pub fn compute_v1(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_v1_t,
) -> Outcome {
    let list = now(&Device::of(device)?)?;
    give_list(&list, count, infos, |process| nvmlProcessInfo_v1_t {
        pid: process.process,
        usedGpuMemory: process.bytes,
    })
}

/// `nvmlDeviceGetComputeRunningProcesses_v2`, `…_v3`.
pub fn compute(
    device: nvmlDevice_t,
    count: *mut c_uint,
    infos: *mut nvmlProcessInfo_v2_t,
) -> Outcome {
    let list = now(&Device::of(device)?)?;
    give_list(&list, count, infos, |process| nvmlProcessInfo_v2_t {
        pid: process.process,
        usedGpuMemory: process.bytes,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    })
}

/// Graphics and MPS: no process behind a channel does either.
pub fn none(device: nvmlDevice_t, count: *mut c_uint, _: *mut nvmlProcessInfo_v2_t) -> Outcome {
    Device::of(device)?;
    give::value(count, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_given_if_there_is_room_and_counted_in_any_case() {
        let list = [3, 4].map(|process| ProcessMemory {
            process,
            ..ProcessMemory::default()
        });
        let mut infos = [0; 4];
        for (room, outcome) in [
            (0, Err(Error::INSUFFICIENT_SIZE)),
            (1, Err(Error::INSUFFICIENT_SIZE)),
            (2, Ok(())),
            (4, Ok(())),
        ] {
            let mut count = room;
            let given = give_list(&list, &raw mut count, infos.as_mut_ptr(), |p| p.process);
            assert_eq!((given, count), (outcome, 2), "room for {room}");
        }
        assert_eq!(infos, [3, 4, 0, 0]);
        let mut count = 2;
        let given = give_list(&list, &raw mut count, std::ptr::null_mut(), |p| p.process);
        assert_eq!(given, Err(Error::INVALID_ARGUMENT));
        let mut count = 0;
        let given = give_list(&[], &raw mut count, infos.as_mut_ptr(), |p| p.process);
        assert_eq!((given, count), (Ok(()), 0));
    }
}
