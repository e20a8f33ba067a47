//! Stream capture.

use crate::entry::entries;
use crate::foreign::{Out, Outcome};
use crate::{capture, current, stream};
use std::cell::RefCell;
use vgpu_protocol::cuda::{
    CU_STREAM_CAPTURE_MODE_RELAXED, CUgraph, CUgraphEdgeData, CUgraphNode, CUresult, CUstream,
};

/// `CU_STREAM_CAPTURE_STATUS_*`
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

thread_local! {
    /// The dependencies last told to this thread: the caller reads them through a pointer, which
    /// stays good until it asks again.
    static TOLD: RefCell<(Vec<CUgraphNode>, Vec<CUgraphEdgeData>)> = RefCell::default();
}

/// Where the answers of `cuStreamGetCaptureInfo` go.
struct Answers {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<CUgraph>,
    nodes: Out<*const CUgraphNode>,
    edges: Option<Out<*const CUgraphEdgeData>>,
    count: Out<usize>,
}

fn tell(stream: CUstream, to: &Answers) -> Outcome {
    to.status.require()?;
    let (_, stream) = stream::get(stream)?;
    let Some(info) = capture::info(&stream)? else {
        return to.status.put(NONE);
    };
    if !info.valid {
        return to.status.put(INVALIDATED);
    }
    to.id.put_optional(info.id);
    to.graph.put_optional(info.graph);
    to.count.put_optional(info.nodes.len());
    TOLD.with_borrow_mut(|told| {
        told.0 = info.nodes.into_iter().map(CUgraphNode).collect();
        told.1 = vec![CUgraphEdgeData::default(); told.0.len()];
        to.nodes.put_optional(told.0.as_ptr());
        if let Some(edges) = &to.edges {
            edges.put_optional(told.1.as_ptr());
        }
    });
    to.status.put(ACTIVE)
}

entries! {
    ready fn cuStreamBeginCapture_v2(val stream: CUstream, val mode: u32) {
        let (_, stream) = stream::get(stream)?;
        capture::begin(&stream, mode)
    }

    ready fn cuStreamEndCapture(val stream: CUstream, out graph: CUgraph) {
        graph.put(CUgraph::NULL)?;
        let (_, stream) = stream::get(stream)?;
        graph.put(capture::end(&stream)?)
    }

    ready fn cuStreamIsCapturing(val stream: CUstream, out status: u32) {
        status.require()?;
        let (_, stream) = stream::get(stream)?;
        status.put(match capture::info(&stream)? {
            None => NONE,
            Some(info) if info.valid => ACTIVE,
            Some(_) => INVALIDATED,
        })
    }

    ready fn cuStreamGetCaptureInfo_v2(
        val stream: CUstream, out status: u32, out id: u64, out graph: CUgraph,
        out nodes: *const CUgraphNode, out count: usize,
    ) {
        let edges = None;
        tell(stream, &Answers { status, id, graph, nodes, edges, count })
    }

    ready fn cuStreamGetCaptureInfo_v3(
        val stream: CUstream, out status: u32, out id: u64, out graph: CUgraph,
        out nodes: *const CUgraphNode, out edges: *const CUgraphEdgeData, out count: usize,
    ) {
        let edges = Some(edges);
        tell(stream, &Answers { status, id, graph, nodes, edges, count })
    }

    ready fn cuStreamUpdateCaptureDependencies(
        val stream: CUstream, list nodes: CUgraphNode, val count: usize, val flags: u32,
    ) {
        // CU_STREAM_ADD_CAPTURE_DEPENDENCIES, CU_STREAM_SET_CAPTURE_DEPENDENCIES
        if flags > 1 {
            return Err(CUresult::INVALID_VALUE);
        }
        let (_, stream) = stream::get(stream)?;
        let nodes: Vec<u64> = nodes.list(count)?.iter().map(|node| node.0).collect();
        capture::update(&stream, &nodes, flags == 1)
    }

    anytime fn cuThreadExchangeStreamCaptureMode(out mode: u32) {
        let new = mode.get()?;
        if new > CU_STREAM_CAPTURE_MODE_RELAXED {
            return Err(CUresult::INVALID_VALUE);
        }
        mode.put(current::exchange_capture_mode(new))
    }
}
