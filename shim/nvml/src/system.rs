//! Initialisation, and the host.

use crate::error::{Error, Outcome};
use crate::{give, state};
use core::ffi::{c_char, c_int, c_uint};
use vgpu_protocol::facts::text;

/// `nvmlInit`, `nvmlInit_v2`.
pub fn init() -> Outcome {
    state::initialise()
}

/// `nvmlInitWithFlags`: the flags there are ask for less than is done.
pub fn init_with_flags(_flags: c_uint) -> Outcome {
    state::initialise()
}

/// `nvmlShutdown`.
pub fn shutdown() -> Outcome {
    state::shut_down()
}

/// `nvmlSystemGetDriverVersion`.
pub fn driver_version(version: *mut c_char, length: c_uint) -> Outcome {
    let session = state::session()?;
    give::text(version, length, text(&session.system.driver_version))
}

/// `nvmlSystemGetNVMLVersion`: natively it works without `nvmlInit`.
pub fn nvml_version(version: *mut c_char, length: c_uint) -> Outcome {
    give::text(version, length, text(&state::system()?.nvml_version))
}

/// `nvmlSystemGetCudaDriverVersion`, `…_v2`: likewise.
pub fn cuda_version(version: *mut c_int) -> Outcome {
    let number = state::system()?.cuda_version;
    give::value(
        version,
        c_int::try_from(number).map_err(|_| Error::UNKNOWN)?,
    )
}

/// `nvmlSystemGetProcessName`: of this machine's processes, so it is looked up here.
pub fn process_name(process: c_uint, name: *mut c_char, length: c_uint) -> Outcome {
    state::session()?;
    give_name(name, length, || name_of(process))
}

/// Stores as much of a name as there is room for; NVML's documentation wants room, and refuses none as a bad argument.
fn give_name(name: *mut c_char, length: c_uint, find: impl FnOnce() -> Option<Vec<u8>>) -> Outcome {
    let Some(room) = (length as usize).checked_sub(1) else {
        return Err(Error::INVALID_ARGUMENT);
    };
    if name.is_null() {
        return Err(Error::INVALID_ARGUMENT);
    }
    let found = find().ok_or(Error::NOT_FOUND)?;
    // SAFETY: the program's buffer has `length` bytes.
    let buffer = unsafe { core::slice::from_raw_parts_mut(name.cast::<u8>(), room + 1) };
    vgpu_protocol::facts::put_text(buffer, &found);
    Ok(())
}

/// What a process was started as.
pub fn name_of(process: u32) -> Option<Vec<u8>> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let name = text(&line);
    (!name.is_empty()).then(|| name.to_vec())
}

/// `nvmlUnitGetCount`, `nvmlGetExcludedDeviceCount`: there is none.
pub fn none(count: *mut c_uint) -> Outcome {
    state::session()?;
    give::value(count, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_to_the_room_there_is_and_no_room_is_a_bad_argument() {
        let mut buffer = [7 as c_char; 4];
        let to = buffer.as_mut_ptr();
        let name = || Some(b"python3".to_vec());
        assert_eq!(give_name(to, 0, name), Err(Error::INVALID_ARGUMENT));
        assert_eq!(
            give_name(core::ptr::null_mut(), 4, name),
            Err(Error::INVALID_ARGUMENT)
        );
        assert_eq!(buffer, [7; 4]);
        assert_eq!(give_name(to, 1, name), Ok(()));
        assert_eq!(buffer[..2], [0, 7]);
        assert_eq!(give_name(to, 4, name), Ok(()));
        assert_eq!(buffer, b"pyt\0".map(u8::cast_signed));
        assert_eq!(give_name(to, 4, || None), Err(Error::NOT_FOUND));
    }
}
