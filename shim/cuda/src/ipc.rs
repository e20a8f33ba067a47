//! Memory and events shared with other processes. What the program calls a handle is a token that the daemon knows, good for
//! processes of the same user or virtual machine (`isolation.md` 15); the driver's own handles never come here.

use crate::client::{self, Client};
use crate::{call, context, event, memory, stream, write};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{Lookup, OpenShared, OpenedMemory, SharedToken, Word};
use zerocopy::{FromZeros, IntoBytes};

const HANDLE_BYTES: usize = size_of::<CUipcMemHandle>();
const TOKEN_BYTES: usize = size_of::<SharedToken>();

/// A handle for the program: the token, and zeros.
fn handle_of(token: &SharedToken) -> [u8; HANDLE_BYTES] {
    let mut handle = [0; HANDLE_BYTES];
    for (to, from) in handle.iter_mut().zip(token.bytes) {
        *to = from;
    }
    handle
}

/// The token of a handle; `None` for what [`handle_of`] did not make.
fn token_of(handle: &[u8; HANDLE_BYTES]) -> Option<[u8; TOKEN_BYTES]> {
    let (token, rest) = handle.split_first_chunk()?;
    rest.iter().all(|byte| *byte == 0).then_some(*token)
}

/// Asks the worker for the token of an object.
fn share(client: &Client, number: u16, object: u64) -> Result<[u8; HANDLE_BYTES], CUresult> {
    let lookup = Lookup { container: object };
    let mut token = SharedToken::new_zeroed();
    call::call(client, number, &[lookup.as_bytes()], token.as_mut_bytes())?;
    Ok(handle_of(&token))
}

/// `cuIpcGetMemHandle`.
///
/// # Safety
/// `handle` is null or valid.
pub unsafe fn cuIpcGetMemHandle(
    handle: *mut CUipcMemHandle,
    dptr: CUdeviceptr,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    if handle.is_null() || dptr.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let bytes = share(client, number::cuIpcGetMemHandle, dptr.0)?;
    memory::share(dptr.0);
    write(handle, CUipcMemHandle { bytes })
}

/// `cuIpcOpenMemHandle_v2`.
///
/// # Safety
/// `dptr` is null or valid.
pub unsafe fn cuIpcOpenMemHandle_v2(
    dptr: *mut CUdeviceptr,
    handle: CUipcMemHandle,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    if dptr.is_null() || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS {
        return Err(CUresult::INVALID_VALUE);
    }
    let request = OpenShared {
        token: token_of(&handle.bytes).ok_or(CUresult::INVALID_VALUE)?,
        flags: u64::from(flags),
    };
    let mut opened = OpenedMemory::new_zeroed();
    call::call(
        client,
        number::cuIpcOpenMemHandle_v2,
        &[request.as_bytes()],
        opened.as_mut_bytes(),
    )?;
    memory::enter_imported(opened.base, opened.size);
    write(dptr, CUdeviceptr(opened.base))
}

/// `cuIpcOpenMemHandle`: as the newer one, which asks for the flag that this one assumes.
///
/// # Safety
/// `dptr` is null or valid.
pub unsafe fn cuIpcOpenMemHandle(
    dptr: *mut CUdeviceptr,
    handle: CUipcMemHandle,
    flags: u32,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe { cuIpcOpenMemHandle_v2(dptr, handle, flags) }
}

/// `cuIpcCloseMemHandle`.
///
/// # Safety
/// Takes no pointers that are followed here.
pub unsafe fn cuIpcCloseMemHandle(dptr: CUdeviceptr) -> Result<(), CUresult> {
    let client = client::entered()?;
    context::required()?;
    // Posted work may still use it.
    stream::settle_all(client);
    let lookup = Lookup { container: dptr.0 };
    let mut left = Word::default();
    call::call(
        client,
        number::cuIpcCloseMemHandle,
        &[lookup.as_bytes()],
        left.as_mut_bytes(),
    )?;
    if left.0 == 0 {
        memory::leave(dptr.0);
    }
    Ok(())
}

/// `cuIpcGetEventHandle`.
///
/// # Safety
/// `handle` is null or valid.
pub unsafe fn cuIpcGetEventHandle(
    handle: *mut CUipcEventHandle,
    event: CUevent,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if handle.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let bytes = share(client, number::cuIpcGetEventHandle, event.0)?;
    write(handle, CUipcEventHandle { bytes })
}

/// `cuIpcOpenEventHandle`.
///
/// # Safety
/// `event` is null or valid.
pub unsafe fn cuIpcOpenEventHandle(
    event: *mut CUevent,
    handle: CUipcEventHandle,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ctx = context::required()?;
    if event.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let request = OpenShared {
        token: token_of(&handle.bytes).ok_or(CUresult::INVALID_HANDLE)?,
        flags: 0,
    };
    let mut opened = Word::default();
    call::call(
        client,
        number::cuIpcOpenEventHandle,
        &[request.as_bytes()],
        opened.as_mut_bytes(),
    )?;
    let opened = CUevent(opened.0);
    event::enter(opened, ctx, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING);
    write(event, opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_a_token_and_zeros_and_nothing_else() {
        let token = SharedToken {
            bytes: core::array::from_fn(|at| at as u8 + 1),
        };
        let handle = handle_of(&token);
        assert_eq!(token_of(&handle), Some(token.bytes));
        for at in TOKEN_BYTES..HANDLE_BYTES {
            let mut other = handle;
            other[at] = 1;
            assert_eq!(token_of(&other), None, "byte {at}");
        }
    }
}
