//! Stream capture. The graph is built by the driver; the shim keeps the thread's mode, which travels
//! with every record, and counts captures: while one is active, commands travel as calls, so that
//! errors are immediate and no internal operation touches a capturing stream (`semantics.md` 2, 3).

use crate::call::{self, Block};
use crate::client::{self, Client};
use crate::graph::node_list;
use crate::graph_edges::{edge_data, plain_edges};
use crate::stream::{self, NullStream};
use crate::{thread, write};
use core::cell::RefCell;
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, AddNode, Word};
use zerocopy::{FromZeros, IntoBytes};

/// `cuThreadExchangeStreamCaptureMode`.
///
/// # Safety
/// `mode` is null or valid.
pub unsafe fn cuThreadExchangeStreamCaptureMode(mode: *mut u32) -> Result<(), CUresult> {
    client::entered()?;
    if mode.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: not null; the caller gives a valid pointer.
    let new = unsafe { *mode };
    if new > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUresult::INVALID_VALUE);
    }
    let old = thread::with(|thread| Ok(thread.capture_mode.replace(new)))?;
    write(mode, old)
}

/// `cuStreamBeginCapture_v2`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuStreamBeginCapture_v2(
    default: NullStream,
    stream: CUstream,
    mode: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    if mode > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUresult::INVALID_VALUE);
    }
    // Before the call: no other thread may flush a stream between its begin and our count.
    client.capture_began();
    let args = wire::cuStreamBeginCapture_v2::Args {
        stream: Word::of(state.handle),
        mode: Word::of(mode),
    };
    let begun = call::call(
        client,
        number::cuStreamBeginCapture_v2,
        &[args.as_bytes()],
        &mut [],
    );
    if begun.is_err() {
        client.capture_ended();
    }
    begun
}

/// `cuStreamBeginCaptureToGraph`.
///
/// # Safety
/// Both lists have `count` entries; `edges` may be null.
pub unsafe fn cuStreamBeginCaptureToGraph(
    default: NullStream,
    stream: CUstream,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
    mode: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    if mode > CU_STREAM_CAPTURE_MODE_RELAXED {
        return Err(CUresult::INVALID_VALUE);
    }
    // SAFETY: the caller's contract.
    let dependencies = unsafe {
        plain_edges(edges, count)?;
        node_list(dependencies, count)?
    };
    let head = AddNode {
        graph: graph.0,
        ctx: 0,
        count: dependencies.len() as u32,
        pad: 0,
    };
    let tail = [state.handle.0, u64::from(mode)];
    // Before the call, as for every capture.
    client.capture_began();
    let begun = call::call(
        client,
        number::cuStreamBeginCaptureToGraph,
        &[head.as_bytes(), dependencies.as_bytes(), tail.as_bytes()],
        &mut [],
    );
    if begun.is_err() {
        client.capture_ended();
    }
    begun
}

/// `cuStreamBeginCapture`, the form without a mode.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuStreamBeginCapture(default: NullStream, stream: CUstream) -> Result<(), CUresult> {
    // SAFETY: takes no pointers.
    unsafe { cuStreamBeginCapture_v2(default, stream, CU_STREAM_CAPTURE_MODE_GLOBAL) }
}

/// `cuStreamUpdateCaptureDependencies_v2`.
///
/// # Safety
/// The lists have `count` entries; `edges` may be null.
pub unsafe fn cuStreamUpdateCaptureDependencies_v2(
    default: NullStream,
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    edges: *const CUgraphEdgeData,
    count: usize,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    // SAFETY: the caller's contract.
    let (nodes, data) = unsafe { (node_list(dependencies, count)?, edge_data(edges, count)) };
    let head = AddNode {
        graph: state.handle.0,
        ctx: flags.into(),
        count: nodes.len() as u32,
        pad: 0,
    };
    let number = match data {
        Some(_) => number::cuStreamUpdateCaptureDependencies_v2,
        None => number::cuStreamUpdateCaptureDependencies,
    };
    let data = data.unwrap_or(&[]).as_bytes();
    let parts = [head.as_bytes(), nodes.as_bytes(), data];
    call::call(client, number, &parts, &mut [])
}

/// `cuStreamUpdateCaptureDependencies`.
///
/// # Safety
/// The list has `count` entries.
pub unsafe fn cuStreamUpdateCaptureDependencies(
    default: NullStream,
    stream: CUstream,
    dependencies: *mut CUgraphNode,
    count: usize,
    flags: u32,
) -> Result<(), CUresult> {
    let edges = core::ptr::null();
    // SAFETY: the caller's contract.
    unsafe {
        cuStreamUpdateCaptureDependencies_v2(default, stream, dependencies, edges, count, flags)
    }
}

/// `cuStreamEndCapture`.
///
/// # Safety
/// `graph` is null or valid.
pub unsafe fn cuStreamEndCapture(
    default: NullStream,
    stream: CUstream,
    graph: *mut CUgraph,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    let args = wire::cuStreamEndCapture::Args {
        stream: Word::of(state.handle),
        graph: [],
    };
    let mut reply = wire::cuStreamEndCapture::Reply::new_zeroed();
    let ended = call::call(
        client,
        number::cuStreamEndCapture,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    );
    // These say that this stream had begun none.
    let goes_on = matches!(
        ended,
        Err(CUresult::ILLEGAL_STATE | CUresult::STREAM_CAPTURE_UNMATCHED)
    );
    if !goes_on {
        client.capture_ended();
    }
    if !graph.is_null() {
        write(
            graph,
            if ended.is_ok() {
                reply.graph.get()
            } else {
                CUgraph::NULL
            },
        )?;
    }
    ended
}

/// Whether a stream takes part in a capture.
///
/// # Errors
/// The driver's.
pub fn status(client: &Client, stream: CUstream) -> Result<u32, CUresult> {
    if !client.capturing() {
        return Ok(0);
    }
    let args = wire::cuStreamIsCapturing::Args {
        stream: Word::of(stream),
        status: [],
    };
    let mut reply = wire::cuStreamIsCapturing::Reply::new_zeroed();
    call::call(
        client,
        number::cuStreamIsCapturing,
        &[args.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    Ok(reply.status.get())
}

/// `cuStreamIsCapturing`: answered here while no capture is active.
///
/// # Safety
/// `out` is null or valid.
pub unsafe fn cuStreamIsCapturing(
    default: NullStream,
    stream: CUstream,
    out: *mut u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    if out.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    write(out, status(client, state.handle)?)
}

thread_local! {
    /// Dependencies handed out last: valid until the thread's next such query.
    static DEPENDENCIES: RefCell<(Vec<CUgraphNode>, Vec<CUgraphEdgeData>)> =
        const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Most dependencies a capturing stream is asked for.
const MAX_DEPENDENCIES: usize = 4096;

/// `cuStreamGetCaptureInfo`, the form without the graph.
///
/// # Safety
/// The pointers are null or valid.
pub unsafe fn cuStreamGetCaptureInfo(
    default: NullStream,
    stream: CUstream,
    out: *mut u32,
    id: *mut u64,
) -> Result<(), CUresult> {
    let (graph, nodes, count) = (
        core::ptr::null_mut(),
        core::ptr::null_mut(),
        core::ptr::null_mut(),
    );
    // SAFETY: the caller's contract.
    unsafe { cuStreamGetCaptureInfo_v2(default, stream, out, id, graph, nodes, count) }
}

/// `cuStreamGetCaptureInfo_v2`.
///
/// # Safety
/// The pointers are null or valid.
pub unsafe fn cuStreamGetCaptureInfo_v2(
    default: NullStream,
    stream: CUstream,
    out: *mut u32,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    count: *mut usize,
) -> Result<(), CUresult> {
    let edges = core::ptr::null_mut();
    // SAFETY: the caller's contract.
    unsafe {
        cuStreamGetCaptureInfo_v3(default, stream, out, id, graph, dependencies, edges, count)
    }
}

/// `cuStreamGetCaptureInfo_v3`: with edge data, which is all zero for the dependencies we know.
///
/// # Safety
/// The pointers are null or valid.
#[expect(clippy::too_many_arguments, reason = "CUDA's own signature")]
pub unsafe fn cuStreamGetCaptureInfo_v3(
    default: NullStream,
    stream: CUstream,
    out: *mut u32,
    id: *mut u64,
    graph: *mut CUgraph,
    dependencies: *mut *const CUgraphNode,
    edges: *mut *const CUgraphEdgeData,
    count: *mut usize,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let state = stream::find(client, stream, default)?;
    if out.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    if !client.capturing() {
        return write(out, 0);
    }
    let block = Block::new(client, MAX_DEPENDENCIES * 8)?;
    let head = wire::ListRequest {
        object: state.handle.0,
        out: block.blob(),
        extra: 0,
    };
    let mut reply = wire::AttributeReply::default();
    call::call(
        client,
        number::cuStreamGetCaptureInfo_v2,
        &[head.as_bytes()],
        reply.as_mut_bytes(),
    )?;
    let [status, capture_id, captured, there_are, ..] = reply.value;
    write(out, status as u32)?;
    if status == 0 {
        return Ok(());
    }
    let there_are = usize::try_from(there_are).unwrap_or(usize::MAX);
    if there_are > MAX_DEPENDENCIES {
        return Err(CUresult::NOT_SUPPORTED);
    }
    if !id.is_null() {
        write(id, capture_id)?;
    }
    if !graph.is_null() {
        write(graph, CUgraph(captured))?;
    }
    if !count.is_null() {
        write(count, there_are)?;
    }
    DEPENDENCIES.with_borrow_mut(|(nodes, data)| {
        nodes.clear();
        nodes.resize(there_are, CUgraphNode::NULL);
        block.read(nodes.as_mut_bytes())?;
        data.clear();
        data.resize(there_are, CUgraphEdgeData::default());
        if !dependencies.is_null() {
            write(dependencies, nodes.as_ptr())?;
        }
        if !edges.is_null() {
            write(edges, data.as_ptr())?;
        }
        Ok(())
    })
}
