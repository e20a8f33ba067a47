//! Edges of graphs: made, removed, listed; a node's neighbours. With edge data, which holds no handle
//! or address: ports and a type, which the driver checks.

use crate::call::{Call, Outcome};
use crate::graphs::{deliver_nodes, take_nodes};
use crate::modules::{deliver_list, list_room};
use vgpu_protocol::cuda::{CUgraph, CUgraphEdgeData, CUgraphNode, CUresult};
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{AddNode, ListReply, ListRequest};

/// `cuGraphAddDependencies`, `cuGraphRemoveDependencies`, and the forms with edge data.
///
/// # Errors
/// What the client gets.
pub fn change(call: &mut Call<'_>) -> Outcome {
    let head = call.take::<AddNode>()?;
    let graph = CUgraph(head.graph);
    call.live(graph)?;
    let from = take_nodes(call, head.count)?;
    let to = take_nodes(call, head.count)?;
    let with_data = matches!(
        call.number(),
        number::cuGraphAddDependencies_v2 | number::cuGraphRemoveDependencies_v2
    );
    let edges = match with_data {
        true => call.take_list::<CUgraphEdgeData>(head.count as usize)?,
        false => Vec::new(),
    };
    call.done()?;
    let driver = call.driver();
    let (from_list, to_list, count) = (from.as_ptr(), to.as_ptr(), from.len());
    let data = edges.as_ptr();
    // SAFETY: graph and nodes are live, all lists have the same length.
    let result = unsafe {
        match call.number() {
            number::cuGraphAddDependencies => vgpu_driver::call!(
                driver,
                cuGraphAddDependencies(graph, from_list, to_list, count)
            ),
            number::cuGraphAddDependencies_v2 => vgpu_driver::call!(
                driver,
                cuGraphAddDependencies_v2(graph, from_list, to_list, data, count)
            ),
            number::cuGraphRemoveDependencies => vgpu_driver::call!(
                driver,
                cuGraphRemoveDependencies(graph, from_list, to_list, count)
            ),
            _ => vgpu_driver::call!(
                driver,
                cuGraphRemoveDependencies_v2(graph, from_list, to_list, data, count)
            ),
        }
    };
    call.result(result)
}

/// `cuGraphGetEdges`.
///
/// # Errors
/// What the client gets.
pub fn edges(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let graph = CUgraph(args.object);
    call.live(graph)?;
    let room = list_room(call, args.out)?;
    if room > 0 {
        call.worker.shared_range(args.extra, args.out.len)?;
    }
    let get = call
        .driver()
        .cuGraphGetEdges
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let none = std::ptr::null_mut();
    let mut count = 0_usize;
    // SAFETY: the graph is live; without lists only the number is asked for.
    call.result(unsafe { get(graph, none, none, &raw mut count) })?;
    if room > 0 {
        let mut from = vec![CUgraphNode::NULL; room.min(count)];
        let mut to = from.clone();
        count = from.len();
        if count > 0 {
            // SAFETY: both lists hold as many nodes as `count` says.
            call.result(unsafe { get(graph, from.as_mut_ptr(), to.as_mut_ptr(), &raw mut count) })?;
        }
        from.truncate(count);
        to.truncate(count);
        deliver_nodes(call, args.out.addr, graph, &from)?;
        deliver_nodes(call, args.extra, graph, &to)?;
    }
    call.reply(&ListReply {
        count: count as u64,
    })
}

/// The lists of an answer with edge data, one behind the other, and how many entries each has room
/// for.
fn lists_with_data(call: &Call<'_>, args: &ListRequest, lists: u64) -> Result<usize, CUresult> {
    let room = list_room(call, args.out)?;
    let bytes = args.out.len.checked_mul(lists);
    if room > 0 {
        let bytes = bytes.ok_or(CUresult::INVALID_VALUE)?;
        call.worker.shared_range(args.out.addr, bytes)?;
    }
    Ok(room)
}

/// Edge data as the words that travel.
fn words(data: &[CUgraphEdgeData]) -> Vec<u64> {
    let word = |edge: &CUgraphEdgeData| u64::from_le_bytes(edge.bytes);
    data.iter().map(word).collect()
}

/// `cuGraphGetEdges_v2`: sources, targets, data.
///
/// # Errors
/// What the client gets.
pub fn edges_with_data(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let graph = CUgraph(args.object);
    call.live(graph)?;
    let room = lists_with_data(call, &args, 3)?;
    let get = call
        .driver()
        .cuGraphGetEdges_v2
        .ok_or(CUresult::NOT_SUPPORTED)?;
    let none = std::ptr::null_mut();
    let mut count = 0_usize;
    // SAFETY: the graph is live; without lists only the number is asked for.
    call.result(unsafe { get(graph, none, none, std::ptr::null_mut(), &raw mut count) })?;
    count = count.min(room);
    let mut from = vec![CUgraphNode::NULL; count];
    let mut to = from.clone();
    let mut data = vec![CUgraphEdgeData::default(); count];
    if count > 0 {
        let (sources, targets) = (from.as_mut_ptr(), to.as_mut_ptr());
        // SAFETY: all lists hold as many entries as `count` says.
        call.result(unsafe { get(graph, sources, targets, data.as_mut_ptr(), &raw mut count) })?;
        from.truncate(count);
        to.truncate(count);
        data.truncate(count);
        let at = args.out;
        deliver_nodes(call, at.addr, graph, &from)?;
        deliver_nodes(call, at.addr + at.len, graph, &to)?;
        deliver_list(call, at.addr + 2 * at.len, &words(&data))?;
    }
    call.reply(&ListReply {
        count: count as u64,
    })
}

/// `cuGraphNodeGetDependencies_v2`, `cuGraphNodeGetDependentNodes_v2`: nodes, data.
///
/// # Errors
/// What the client gets.
pub fn neighbours_with_data(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let node = CUgraphNode(args.object);
    let graph = CUgraph(call.entry(node)?.owner);
    let room = lists_with_data(call, &args, 2)?;
    let driver = call.driver();
    let get = if call.number() == number::cuGraphNodeGetDependencies_v2 {
        driver.cuGraphNodeGetDependencies_v2
    } else {
        driver.cuGraphNodeGetDependentNodes_v2
    };
    let get = get.ok_or(CUresult::NOT_SUPPORTED)?;
    let mut count = 0_usize;
    let none = std::ptr::null_mut();
    // SAFETY: the node is live; without lists only the number is asked for.
    call.result(unsafe { get(node, none, std::ptr::null_mut(), &raw mut count) })?;
    count = count.min(room);
    let mut nodes = vec![CUgraphNode::NULL; count];
    let mut data = vec![CUgraphEdgeData::default(); count];
    if count > 0 {
        let list = nodes.as_mut_ptr();
        // SAFETY: both lists hold as many entries as `count` says.
        call.result(unsafe { get(node, list, data.as_mut_ptr(), &raw mut count) })?;
        nodes.truncate(count);
        data.truncate(count);
        deliver_nodes(call, args.out.addr, graph, &nodes)?;
        deliver_list(call, args.out.addr + args.out.len, &words(&data))?;
    }
    call.reply(&ListReply {
        count: count as u64,
    })
}

/// `cuGraphNodeGetDependencies`, `cuGraphNodeGetDependentNodes`.
///
/// # Errors
/// What the client gets.
pub fn neighbours(call: &mut Call<'_>) -> Outcome {
    let args = call.decode::<ListRequest>()?;
    let node = CUgraphNode(args.object);
    let graph = CUgraph(call.entry(node)?.owner);
    let room = list_room(call, args.out)?;
    let driver = call.driver();
    let get = if call.number() == number::cuGraphNodeGetDependencies {
        driver.cuGraphNodeGetDependencies
    } else {
        driver.cuGraphNodeGetDependentNodes
    };
    let get = get.ok_or(CUresult::NOT_SUPPORTED)?;
    let mut count = 0_usize;
    // SAFETY: the node is live; without a list only the number is asked for.
    call.result(unsafe { get(node, std::ptr::null_mut(), &raw mut count) })?;
    if room > 0 {
        let mut list = vec![CUgraphNode::NULL; room.min(count)];
        count = list.len();
        if count > 0 {
            // SAFETY: the list holds as many nodes as `count` says.
            call.result(unsafe { get(node, list.as_mut_ptr(), &raw mut count) })?;
        }
        list.truncate(count);
        deliver_nodes(call, args.out.addr, graph, &list)?;
    }
    call.reply(&ListReply {
        count: count as u64,
    })
}
