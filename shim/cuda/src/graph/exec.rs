//! Executable graphs: instantiation, launch, update.

use crate::call::{self, Completion};
use crate::client;
use crate::stream::{self, NullStream};
use crate::write;
use core::ffi::c_char;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AttributeReply, Word, read_prefix};
use zerocopy::{FromZeros, IntoBytes};

/// `cuGraphInstantiateWithFlags`.
///
/// # Safety
/// `exec` is null or valid.
pub unsafe fn cuGraphInstantiateWithFlags(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    flags: u64,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if exec.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let args = wire::cuGraphInstantiateWithFlags::Args {
        exec: [],
        graph: Word::of(graph),
        flags: Word::of(flags),
    };
    let mut reply = wire::cuGraphInstantiateWithFlags::Reply::new_zeroed();
    call::call(
        client,
        number::cuGraphInstantiateWithFlags,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    write(exec, reply.exec.get())
}

/// `cuGraphInstantiate_v2`, the form with a log, which stays empty.
///
/// # Safety
/// `exec`, `error_node` are null or valid, `log` is null or has `log_size` bytes.
pub unsafe fn cuGraphInstantiate_v2(
    exec: *mut CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    log: *mut c_char,
    log_size: usize,
) -> Result<(), CUresult> {
    if !error_node.is_null() {
        write(error_node, CUgraphNode::NULL)?;
    }
    if !log.is_null() && log_size > 0 {
        write(log, 0)?;
    }
    // SAFETY: the caller's contract.
    unsafe { cuGraphInstantiateWithFlags(exec, graph, 0) }
}

/// `cuGraphInstantiateWithParams`.
///
/// # Safety
/// `exec` and `params` are null or valid.
pub unsafe fn cuGraphInstantiateWithParams(
    default: NullStream,
    exec: *mut CUgraphExec,
    graph: CUgraph,
    params: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    // SAFETY: the caller's contract.
    let given = unsafe { params.as_mut() }.ok_or(CUresult::INVALID_VALUE)?;
    if exec.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let mut sent = *given;
    if !sent.upload_stream.is_null() {
        sent.upload_stream = stream::handle(client, sent.upload_stream, default)?;
    }
    let args = wire::cuGraphInstantiateWithParams::Args {
        exec: [],
        graph: Word::of(graph),
        params: [],
    };
    let mut reply = (
        wire::cuGraphInstantiateWithParams::Reply::new_zeroed(),
        CUDA_GRAPH_INSTANTIATE_PARAMS::default(),
    );
    let mut bytes = [0; size_of::<wire::cuGraphInstantiateWithParams::Reply>()
        + size_of::<CUDA_GRAPH_INSTANTIATE_PARAMS>()];
    call::call(
        client,
        number::cuGraphInstantiateWithParams,
        &[args.as_bytes(), sent.as_bytes()],
        &mut bytes,
    )?;
    let (head, rest) = read_prefix(&bytes).ok_or(CUresult::UNKNOWN)?;
    (reply.0, reply.1) = (head, read_prefix(rest).ok_or(CUresult::UNKNOWN)?.0);
    given.error_node = reply.1.error_node;
    given.result = reply.1.result;
    write(exec, reply.0.exec.get())
}

/// `cuGraphLaunch`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphLaunch(
    default: NullStream,
    exec: CUgraphExec,
    stream: CUstream,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    let args = wire::cuGraphLaunch::Args {
        exec: Word::of(exec),
        stream: Word::of(state.handle),
    };
    // The first launch of a graph uploads it and may fail at once; later ones are posted.
    let known = LAUNCHED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains_key(&exec);
    if known {
        call::post(
            client,
            number::cuGraphLaunch,
            &state,
            &[args.as_bytes()],
            Completion::Lazy,
        )?;
    } else {
        call::call_in_stream(
            client,
            number::cuGraphLaunch,
            &state,
            &[args.as_bytes()],
            &mut [],
        )?;
        LAUNCHED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(exec, ());
    }
    Ok(())
}

/// Executable graphs that were launched with success.
static LAUNCHED: LazyLock<Mutex<HashMap<CUgraphExec, ()>>> = LazyLock::new(Mutex::default);

fn forget_launch(exec: CUgraphExec) {
    LAUNCHED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&exec);
}

/// `cuGraphExecDestroy`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphExecDestroy(exec: CUgraphExec) -> Result<(), CUresult> {
    let client = client::entered()?;
    forget_launch(exec);
    let args = wire::cuGraphExecDestroy::Args {
        exec: Word::of(exec),
    };
    call::call(
        client,
        number::cuGraphExecDestroy,
        &[args.as_bytes()],
        &mut [],
    )
}

/// `cuGraphExecUpdate_v2`.
///
/// # Safety
/// `result` is null or valid.
pub unsafe fn cuGraphExecUpdate_v2(
    exec: CUgraphExec,
    graph: CUgraph,
    result: *mut CUgraphExecUpdateResultInfo,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuGraphExecUpdate_v2::Args {
        exec: Word::of(exec),
        graph: Word::of(graph),
        result: [],
    };
    let mut reply = AttributeReply::default();
    call::call(
        client,
        number::cuGraphExecUpdate_v2,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    forget_launch(exec);
    let [status, info, error_node, error_from_node, ..] = reply.value;
    if !result.is_null() {
        write(
            result,
            CUgraphExecUpdateResultInfo {
                result: info as u32,
                pad: 0,
                error_node: CUgraphNode(error_node),
                error_from_node: CUgraphNode(error_from_node),
            },
        )?;
    }
    CUresult(status as u32).ok()
}

/// `cuGraphExecUpdate`.
///
/// # Safety
/// Both pointers are null or valid.
pub unsafe fn cuGraphExecUpdate(
    exec: CUgraphExec,
    graph: CUgraph,
    error_node: *mut CUgraphNode,
    result: *mut u32,
) -> Result<(), CUresult> {
    let mut info = CUgraphExecUpdateResultInfo::default();
    // SAFETY: a pointer to a local.
    let updated = unsafe { cuGraphExecUpdate_v2(exec, graph, &raw mut info) };
    if !error_node.is_null() {
        write(error_node, info.error_node)?;
    }
    if !result.is_null() {
        write(result, info.result)?;
    }
    updated
}
