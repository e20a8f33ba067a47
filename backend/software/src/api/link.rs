//! The linker.

use crate::entry::entries;
use crate::foreign::{In, Outcome};
use crate::jit::Logs;
use crate::{current, link, module};
use std::ffi::{c_char, c_void};
use std::ptr;
use vgpu_protocol::cuda::{CUlinkState, CUresult};

/// `CU_JIT_INPUT_*`
const CUBIN: u32 = 0;
const PTX: u32 = 1;
const FATBINARY: u32 = 2;
const LAST_INPUT: u32 = 5;
/// Longer than any input.
const MAX_INPUT: usize = 1 << 30;

fn logs(count: u32, options: &In<u32>, values: *mut *mut c_void) -> Outcome<Logs> {
    // SAFETY: the C contract of the functions with options: the arrays and the buffers they name
    // are valid until the call returns, and the logs are used no longer.
    unsafe { Logs::new(count, options, values) }
}

entries! {
    ready fn cuLinkCreate_v2(
        val count: u32, list options: u32, val values: *mut *mut c_void, out state: CUlinkState,
    ) {
        state.require()?;
        current::context()?;
        logs(count, &options, values)?.tell(None);
        state.put(link::create())
    }

    ready fn cuLinkAddData_v2(
        val state: CUlinkState, val kind: u32, val data: *mut c_void, val size: usize,
        text name: c_char, val count: u32, list options: u32, val values: *mut *mut c_void,
    ) {
        let _ = name;
        let link = link::get(state)?;
        let logs = logs(count, &options, values)?;
        match kind {
            PTX | FATBINARY => {}
            // Machine code and intermediate forms hold nothing for this device.
            CUBIN | 3..=LAST_INPUT => return Err(CUresult::NO_BINARY_FOR_GPU),
            _ => return Err(CUresult::INVALID_VALUE),
        }
        if data.is_null() || size == 0 || size > MAX_INPUT {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the C contract of the function: the data has this size.
        let bytes = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) }.to_vec();
        let added = module::ptx_of(&bytes).and_then(|text| link.add(text));
        logs.tell(added.as_ref().err().map(|refusal| refusal.text.as_str()));
        Ok(added?)
    }

    ready fn cuLinkComplete(val state: CUlinkState, out cubin: *mut c_void, out size: usize) {
        cubin.put(ptr::null_mut())?;
        let (start, bytes) = link::get(state)?.complete()?;
        size.put_optional(bytes);
        cubin.put(start as *mut c_void)
    }

    ready fn cuLinkDestroy(val state: CUlinkState) {
        link::destroy(state)
    }
}
