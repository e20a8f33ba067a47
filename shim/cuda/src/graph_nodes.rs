//! Nodes of graphs beyond those of [`graph`](crate::graph): events and conditions.

use crate::call;
use crate::client;
use crate::graph::{Place, add, add_with_reply};
use crate::{context, event, write};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use vgpu_protocol::cuda::*;
use vgpu_protocol::number::call as number;
use vgpu_protocol::wire::{self, ConditionalNode, Word};
use zerocopy::IntoBytes;

/// Most graphs of a conditional node.
const MAX_BODIES: u32 = 256;

/// A place in a graph for a node of the current context.
pub(crate) fn place(graph: CUgraph, dependencies: *const CUgraphNode, count: usize) -> Place {
    Place {
        graph,
        dependencies,
        count,
        ctx: CUcontext::NULL,
    }
}

// --- events ---

/// `cuGraphAddEventRecordNode`. The event is the driver's to answer for from now on.
///
/// # Safety
/// The dependencies have `count` entries.
pub unsafe fn cuGraphAddEventRecordNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        add(
            number::cuGraphAddEventRecordNode,
            node,
            place(graph, dependencies, count),
            &[event.as_bytes()],
        )?;
    }
    event::recorded_by_graphs(event);
    Ok(())
}

/// `cuGraphAddEventWaitNode`.
///
/// # Safety
/// The dependencies have `count` entries.
pub unsafe fn cuGraphAddEventWaitNode(
    node: *mut CUgraphNode,
    graph: CUgraph,
    dependencies: *const CUgraphNode,
    count: usize,
    event: CUevent,
) -> Result<(), CUresult> {
    // SAFETY: the caller's contract.
    unsafe {
        add(
            number::cuGraphAddEventWaitNode,
            node,
            place(graph, dependencies, count),
            &[event.as_bytes()],
        )
    }
}

/// `cuGraphEventRecordNodeSetEvent`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphEventRecordNodeSetEvent(
    node: CUgraphNode,
    event: CUevent,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuGraphEventRecordNodeSetEvent::Args {
        node: Word::of(node),
        event: Word::of(event),
    };
    let number = number::cuGraphEventRecordNodeSetEvent;
    call::call(client, number, &[args.as_bytes()], &mut [])?;
    event::recorded_by_graphs(event);
    Ok(())
}

/// `cuGraphExecEventRecordNodeSetEvent`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphExecEventRecordNodeSetEvent(
    exec: CUgraphExec,
    node: CUgraphNode,
    event: CUevent,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let args = wire::cuGraphExecEventRecordNodeSetEvent::Args {
        exec: Word::of(exec),
        node: Word::of(node),
        event: Word::of(event),
    };
    let number = number::cuGraphExecEventRecordNodeSetEvent;
    call::call(client, number, &[args.as_bytes()], &mut [])?;
    event::recorded_by_graphs(event);
    Ok(())
}

// --- conditions ---

/// `cuGraphConditionalHandleCreate`.
///
/// # Safety
/// `handle` is null or valid.
pub unsafe fn cuGraphConditionalHandleCreate(
    handle: *mut u64,
    graph: CUgraph,
    ctx: CUcontext,
    value: u32,
    flags: u32,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    if handle.is_null() {
        return Err(CUresult::INVALID_VALUE);
    }
    let ctx = if ctx.is_null() {
        context::required()?
    } else {
        ctx
    };
    let args = wire::cuGraphConditionalHandleCreate::Args {
        handle: [],
        graph: Word::of(graph),
        ctx: [],
        value: Word::of(value),
        flags: Word::of(flags),
    };
    let mut created = 0_u64;
    call::call(
        client,
        number::cuGraphConditionalHandleCreate,
        &[args.as_bytes(), ctx.as_bytes()],
        created.as_mut_bytes(),
    )?;
    write(handle, created)
}

/// A conditional node: its graph, and the graphs that it has, in an array that the program may read as long as the node lives.
type Body = (CUgraph, Box<[u64]>);

/// Conditional nodes.
#[derive(Debug, Default)]
struct Bodies(HashMap<CUgraphNode, Body>);

static BODIES: LazyLock<Mutex<Bodies>> = LazyLock::new(Mutex::default);

/// This process's conditional nodes.
fn bodies() -> MutexGuard<'static, Bodies> {
    BODIES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bodies {
    /// Takes a node out, and those in its graphs.
    fn take_node(&mut self, node: CUgraphNode) -> Vec<(CUgraphNode, Body)> {
        let Some(body) = self.0.remove(&node) else {
            return Vec::new();
        };
        let inner: Vec<_> = body
            .1
            .iter()
            .flat_map(|graph| self.take_graph(CUgraph(*graph)))
            .collect();
        let mut taken = vec![(node, body)];
        taken.extend(inner);
        taken
    }

    /// Takes the nodes of a graph out.
    fn take_graph(&mut self, graph: CUgraph) -> Vec<(CUgraphNode, Body)> {
        let of_graph = self.0.iter().filter(|(_, (of, _))| *of == graph);
        let nodes: Vec<CUgraphNode> = of_graph.map(|(node, _)| *node).collect();
        nodes
            .into_iter()
            .flat_map(|node| self.take_node(node))
            .collect()
    }
}

/// Makes a call that ends the nodes `ended`. They are out beforehand, since the driver may give their handles away before
/// this thread goes on; those that did not end come back.
fn end(
    number: u16,
    args: &[u8],
    ended: impl FnOnce(&mut Bodies) -> Vec<(CUgraphNode, Body)>,
) -> Result<(), CUresult> {
    let client = client::entered()?;
    let ended = ended(&mut bodies());
    let result = call::call(client, number, &[args], &mut []);
    if result.is_err() {
        bodies().0.extend(ended);
    }
    result
}

/// `cuGraphDestroy`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphDestroy(graph: CUgraph) -> Result<(), CUresult> {
    let args = wire::cuGraphDestroy::Args {
        graph: Word::of(graph),
    };
    end(number::cuGraphDestroy, args.as_bytes(), |bodies| {
        bodies.take_graph(graph)
    })
}

/// `cuGraphDestroyNode`.
///
/// # Safety
/// Takes no pointers.
pub unsafe fn cuGraphDestroyNode(node: CUgraphNode) -> Result<(), CUresult> {
    let args = wire::cuGraphDestroyNode::Args {
        node: Word::of(node),
    };
    end(number::cuGraphDestroyNode, args.as_bytes(), |bodies| {
        bodies.take_node(node)
    })
}

/// Adds a conditional node and tells the program its graphs.
///
/// # Safety
/// The dependencies have as many entries as they say.
pub(crate) unsafe fn add_conditional(
    node: *mut CUgraphNode,
    at: Place,
    params: &mut CUgraphNodeParams,
) -> Result<(), CUresult> {
    let [handle, shape, _, ctx, ..] = params.words;
    let (kind, size) = (shape as u32, (shape >> 32) as u32);
    if size == 0 || size > MAX_BODIES {
        return Err(CUresult::INVALID_VALUE);
    }
    let conditional = ConditionalNode { handle, kind, size };
    let mut reply = vec![0_u64; 1 + size as usize];
    let graph = at.graph;
    let at = Place {
        ctx: CUcontext(ctx),
        ..at
    };
    // SAFETY: the caller's contract.
    unsafe {
        add_with_reply(
            number::cuGraphAddNode_v2,
            node,
            at,
            &[conditional.as_bytes()],
            reply.as_mut_bytes(),
        )?;
    }
    let added = CUgraphNode(reply[0]);
    let mut array: Box<[u64]> = reply[1..].into();
    params.words[2] = array.as_mut_ptr() as u64;
    bodies().0.insert(added, (graph, array));
    write(node, added)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_bodies_go_with_their_node_and_its_graph() {
        let mut bodies = Bodies::default();
        let mut add = |node, graph, inner: &[u64]| {
            let entry = (CUgraph(graph), inner.into());
            bodies.0.insert(CUgraphNode(node), entry);
        };
        add(10, 1, &[2, 3]);
        add(20, 2, &[4]);
        add(40, 4, &[5]);
        add(11, 1, &[6]);
        add(90, 9, &[7]);
        let ended = bodies.take_node(CUgraphNode(10));
        let names = |bodies: &Bodies| {
            let mut names: Vec<u64> = bodies.0.keys().map(|node| node.0).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(&bodies), [11, 90]);
        // An end that failed.
        bodies.0.extend(ended);
        assert_eq!(names(&bodies), [10, 11, 20, 40, 90]);
        assert!(bodies.take_graph(CUgraph(8)).is_empty());
        assert_eq!(bodies.take_graph(CUgraph(1)).len(), 4);
        assert_eq!(names(&bodies), [90]);
    }
}
