//! Streams, their attributes, and captures.

use crate::call::{Call, Outcome};
use crate::capture::Capture;
use crate::graphs::{take_adding, take_nodes};
use crate::live::Kind;
use crate::modules::{deliver_list, list_room};
use crate::{copies, launch};
use vgpu_protocol::cuda::{
    CU_STREAM_CAPTURE_MODE_RELAXED, CUgraph, CUgraphEdgeData, CUgraphNode, CUlaunchAttributeValue,
    CUresult, CUstream,
};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{
    self, AddNode, AttributeReply, AttributeRequest, ListRequest, Result as _,
};

/// `cuStreamCreate`.
///
/// # Errors
/// What the client gets.
pub fn create(call: &mut Call<'_>) -> Outcome {
    let flags = call.decode::<wire::cuStreamCreate::Args>()?.flags.get();
    let function = call
        .driver()
        .cuStreamCreate
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut stream = CUstream::default();
    // SAFETY: the result has room.
    call.result(unsafe { function(&raw mut stream, flags) })?;
    copies::stream_created(call, stream, flags);
    call.reply(&wire::cuStreamCreate::Reply {
        stream: stream.to_wire(),
        flags: [],
    })
}

/// `cuStreamCreateWithPriority`.
///
/// # Errors
/// What the client gets.
pub fn create_with_priority(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuStreamCreateWithPriority::Args>()?;
    let flags = args.flags.get();
    let function = call
        .driver()
        .cuStreamCreateWithPriority
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let mut stream = CUstream::default();
    // SAFETY: the result has room.
    call.result(unsafe { function(&raw mut stream, flags, args.priority.get()) })?;
    copies::stream_created(call, stream, flags);
    call.reply(&wire::cuStreamCreateWithPriority::Reply {
        stream: stream.to_wire(),
        flags: [],
        priority: [],
    })
}

/// `cuStreamGetAttribute`, `cuStreamSetAttribute`.
///
/// # Errors
/// What the client gets.
pub fn attribute(call: &mut Call<'_>, set: bool) -> Outcome {
    let args = call.decode::<AttributeRequest>()?;
    let stream = call.in_stream(CUstream(args.object))?;
    let mut value = CUlaunchAttributeValue { words: args.value };
    let driver = call.driver();
    let result = if set {
        launch::check_attribute(call, args.attribute, &args.value)?;
        // SAFETY: the stream is live, the value has the size of the C union.
        unsafe {
            vgpu_driver::call!(
                driver,
                cuStreamSetAttribute(stream, args.attribute, &raw const value)
            )
        }
    } else {
        // SAFETY: as above.
        unsafe {
            vgpu_driver::call!(
                driver,
                cuStreamGetAttribute(stream, args.attribute, &raw mut value)
            )
        }
    };
    call.result(result)?;
    call.reply(&AttributeReply { value: value.words })
}

/// `cuStreamBeginCapture_v2`.
///
/// # Errors
/// What the client gets.
pub fn begin_capture(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuStreamBeginCapture_v2::Args>()?;
    let stream = call.in_stream(args.stream.get())?;
    let mode = args.mode.get();
    let function = call
        .driver()
        .cuStreamBeginCapture_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    // SAFETY: the stream is live; the driver checks the mode.
    call.result(unsafe { function(stream, mode) })?;
    call.worker.captures.begin(Capture {
        stream: stream.0,
        thread: call.request.header.thread,
        mode,
        issuer: call.thread.own(),
    });
    Ok(())
}

/// `cuStreamBeginCaptureToGraph`.
///
/// # Errors
/// What the client gets.
pub fn begin_capture_to_graph(call: &mut Call<'_>) -> Outcome {
    let adding = take_adding(call)?;
    let [stream, mode] = call.take::<[u64; 2]>()?;
    call.done()?;
    let stream = call.in_stream(CUstream(stream))?;
    let mode = u32::try_from(mode).map_err(|_| call.malformed())?;
    let begin = call
        .driver()
        .cuStreamBeginCaptureToGraph
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let (list, count) = adding.list();
    // SAFETY: stream, graph and dependencies are live; without edge data all edges are plain; the
    // driver checks the mode.
    call.result(unsafe { begin(stream, adding.graph, list, std::ptr::null(), count, mode) })?;
    call.worker.captures.begin(Capture {
        stream: stream.0,
        thread: call.request.header.thread,
        mode,
        issuer: call.thread.own(),
    });
    Ok(())
}

/// `cuStreamUpdateCaptureDependencies`, `cuStreamUpdateCaptureDependencies_v2`.
///
/// # Errors
/// What the client gets.
pub fn update_capture(call: &mut Call<'_>) -> Outcome {
    let head = call.take::<AddNode>()?;
    let mut nodes = take_nodes(call, head.count)?;
    let with_data = call.number() == number::cuStreamUpdateCaptureDependencies_v2;
    let edges = match with_data {
        true => call.take_list::<CUgraphEdgeData>(nodes.len())?,
        false => Vec::new(),
    };
    call.done()?;
    let stream = call.in_stream(CUstream(head.graph))?;
    let flags = u32::try_from(head.ctx).map_err(|_| call.malformed())?;
    let driver = call.driver();
    let (list, count) = match nodes.as_mut_slice() {
        [] => (std::ptr::null_mut(), 0),
        nodes => (nodes.as_mut_ptr(), nodes.len()),
    };
    // SAFETY: stream and nodes are live, both lists have the same length; the driver checks that the
    // nodes are the capture's.
    let result = unsafe {
        if with_data {
            let data = edges.as_ptr();
            vgpu_driver::call!(
                driver,
                cuStreamUpdateCaptureDependencies_v2(stream, list, data, count, flags)
            )
        } else {
            vgpu_driver::call!(
                driver,
                cuStreamUpdateCaptureDependencies(stream, list, count, flags)
            )
        }
    };
    call.result(result)
}

/// `cuStreamEndCapture`. Captures begin and end on one issuer, so the driver cannot see that another
/// guest thread asks; that is judged here.
///
/// # Errors
/// What the client gets.
pub fn end_capture(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<wire::cuStreamEndCapture::Args>()?;
    let stream = call.in_stream(args.stream.get())?;
    let driver = call.driver();
    if let Some(capture) = call.worker.captures.of(stream.0)
        && capture.thread != call.request.header.thread
        && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED
    {
        // As measured: the attempt ends the capture, and its own thread finds none any more.
        let mut graph = CUgraph::NULL;
        // SAFETY: the stream is live, the result has room.
        let ended =
            unsafe { vgpu_driver::call!(driver, cuStreamEndCapture(stream, &raw mut graph)) };
        call.worker.captures.end(stream.0);
        // The graph of a capture into a graph is the client's own.
        if ended == CUresult::SUCCESS && !call.worker.live.contains(Kind::Graph, graph.0) {
            // SAFETY: the graph was made just now and is nobody's.
            let _ = unsafe { vgpu_driver::call!(driver, cuGraphDestroy(graph)) };
        }
        return Err(CUresult::STREAM_CAPTURE_WRONG_THREAD);
    }
    let function = driver.cuStreamEndCapture.ok_or(CUresult::NOT_SUPPORTED)?;
    let mut graph = CUgraph::NULL;
    // SAFETY: the stream is live, the result has room.
    let result = unsafe { function(stream, &raw mut graph) };
    // Also an invalidated capture is over now. A stream that did not begin it is not in the list.
    if result != CUresult::STREAM_CAPTURE_UNMATCHED && result != CUresult::ILLEGAL_STATE {
        call.worker.captures.end(stream.0);
    }
    call.result(result)?;
    call.enter_graph(graph);
    call.reply(&wire::cuStreamEndCapture::Reply {
        stream: [],
        graph: graph.to_wire(),
    })
}

/// `cuStreamGetCaptureInfo_v2`.
///
/// # Errors
/// What the client gets.
pub fn capture_info(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let stream = call.in_stream(CUstream(args.object))?;
    let room = list_room(call, args.out)?;
    let function = call
        .driver()
        .cuStreamGetCaptureInfo_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let (mut status, mut id, mut graph) = (0_u32, 0_u64, CUgraph::NULL);
    let (mut list, mut count) = (std::ptr::null::<CUgraphNode>(), 0_usize);
    // SAFETY: the stream is live, results have room.
    let result = unsafe {
        function(
            stream,
            &raw mut status,
            &raw mut id,
            &raw mut graph,
            &raw mut list,
            &raw mut count,
        )
    };
    call.result(result)?;
    if status != 1 {
        // Only an active capture has a graph and dependencies.
        (graph, count) = (CUgraph::NULL, 0);
    }
    call.enter_graph(graph);
    if count > 0 && !list.is_null() {
        // SAFETY: the driver says that so many nodes lie there, until the capture goes on; captures
        // go on only on this thread.
        let nodes = unsafe { std::slice::from_raw_parts(list, count) };
        let handles: Vec<u64> = nodes.iter().take(room).map(|node| node.0).collect();
        for node in nodes {
            call.enter(*node, graph.0);
        }
        deliver_list(call, args.out.addr, &handles)?;
    }
    call.reply(&AttributeReply {
        value: [u64::from(status), id, graph.0, count as u64, 0, 0, 0, 0],
    })
}

impl Call<'_> {
    /// Enters a graph that the driver may have given before.
    pub fn enter_graph(&self, graph: CUgraph) {
        self.worker
            .live
            .enter_if_new(Kind::Graph, graph.0, Default::default());
    }
}
