//! Memory and events that other processes open.

use crate::entry::entries;
use crate::{current, event, ipc};
use vgpu_protocol::cuda::{CUdeviceptr, CUevent, CUipcEventHandle, CUipcMemHandle};

entries! {
    ready fn cuIpcGetMemHandle(out handle: CUipcMemHandle, val dptr: CUdeviceptr) {
        handle.require()?;
        current::context()?;
        handle.put(CUipcMemHandle { bytes: ipc::export_memory(dptr)? })
    }

    uncaptured fn cuIpcOpenMemHandle_v2(
        out dptr: CUdeviceptr, val handle: CUipcMemHandle, val flags: u32,
    ) {
        dptr.require()?;
        let context = current::context()?;
        dptr.put(ipc::open_memory(&context.core, &handle.bytes, flags)?)
    }

    uncaptured fn cuIpcCloseMemHandle(val dptr: CUdeviceptr) {
        current::context()?;
        ipc::close_memory(dptr)
    }

    ready fn cuIpcGetEventHandle(out handle: CUipcEventHandle, val event: CUevent) {
        handle.require()?;
        let shared = event::get(event)?;
        handle.put(CUipcEventHandle { bytes: ipc::export_event(&shared, event)? })
    }

    ready fn cuIpcOpenEventHandle(out event: CUevent, val handle: CUipcEventHandle) {
        event.require()?;
        let context = current::context()?;
        event.put(ipc::open_event(&context.core, &handle.bytes)?)
    }
}
